"""The gateway as it is shipped: real gunicorn on `gunicorn.conf.py`, in a process of its own.

`Gateway` runs it from its construction to `close()` and calls it over HTTP; `Lots` are models to be
used up, one a test, so that tests can share a gateway without meeting each other's cooldowns.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import openai

from tests.support.leaks import death_in, key_in
from tests.support.printed import Printed
from tests.support.upstream import Hold

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
CHAT = "/v1/chat/completions"
MESSAGES: Any = [{"role": "user", "content": "Hi"}]

# A loaded machine may be slow: what takes longer than this hangs.
PATIENCE_S = 20.0
# A program imports a lot before it does anything, and several may start at once.
START_S = 60.0

# What the shipped configuration reads from the environment, and gunicorn by itself.
_VARIABLES = (
    "ANTHROPIC_API_KEY",
    "GEMINI_API_KEY",
    "GUNICORN_CMD_ARGS",
    "OPENAI_API_KEY",
    "PORT",
    "PROXY_CONFIG",
    "WEB_CONCURRENCY",
)


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would configure a gateway, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    return {**kept, "PYTHONWARNINGS": "always::ResourceWarning", "PYTHONUNBUFFERED": "1", **more}


def run_to_end(
    *, command: Sequence[str] = tuple(COMMAND), **env: str
) -> subprocess.CompletedProcess[str]:
    """Start a gateway that is expected to give up by itself."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


def run_python(*arguments: str, cwd: Path = ROOT) -> str:
    """What Python prints; fails where it fails, warns or shows a traceback."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def curl(*arguments: str, data: str = "") -> str:
    """What curl prints; fails when curl does. `data` can be sent as `@-`."""
    command = ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE_S), *arguments]
    done = subprocess.run(command, input=data, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Lot(NamedTuple):
    """A model, its upstream's name for it, and the keys of the clients that serve nothing else."""

    model: str
    upstream_name: str
    keys: tuple[str, ...]

    @property
    def key(self) -> str:
        (only,) = self.keys
        return only


class Lots:
    """Providers to configure, each with a model of its own, and the lots not used up yet."""

    def __init__(
        self,
        base_url: str,
        counts: Mapping[int, int],
        *,
        renamed: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`counts`: how many lots by how many clients each; `options`: of every provider.

        `renamed`: what callers call `org/MODEL` is MODEL to the upstream.
        """
        self.providers: list[dict[str, Any]] = []
        self._left: dict[int, list[Lot]] = {}
        for clients, count in counts.items():
            self._left[clients] = lots = [_lot(clients, renamed) for _ in range(count)]
            self.providers += [_provider(lot, base_url, options or {}) for lot in lots]

    def take(self, clients: int = 1) -> Lot:
        """A model that no test has asked for; raises IndexError when all are used up."""
        return self._left[clients].pop()


def _lot(clients: int, renamed: bool) -> Lot:
    name = f"lot-{uuid.uuid4().hex[:12]}"
    keys = tuple(f"sk-{uuid.uuid4().hex}" for _ in range(clients))
    return Lot(f"org/{name}" if renamed else name, name, keys)


def _provider(lot: Lot, base_url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": lot.upstream_name,
        "base-url": base_url,
        "api-keys": list(lot.keys),
        "models": [{"name": lot.upstream_name, "alias": lot.model}],
        **options,
    }


@dataclass(frozen=True)
class Response:
    """A whole answer of the gateway; `headers` by lower-case name, repeated ones joined."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object; fails if this is not the envelope in JSON."""
        assert self.headers["content-type"].partition(";")[0] == "application/json", self
        found = self.json()["error"]
        assert set(found) >= {"message", "type", "param", "code"}, found
        assert isinstance(found["message"], str)
        return dict(found)

    @property
    def data(self) -> list[bytes]:
        """The payloads of a stream's events; fails at anything but `data:` lines and comments."""
        return data_of(self.body)

    @property
    def text(self) -> str:
        """What a stream's chunks say of their first choice."""
        return text_of(self.data)


def data_of(stream: bytes) -> list[bytes]:
    """The payloads of whole events in our own spelling, comments left out."""
    *blocks, rest = stream.split(b"\n\n")
    assert rest == b"", rest
    found = []
    for lines in (block.split(b"\n") for block in blocks if not block.startswith(b":")):
        assert all(line.startswith(b"data: ") for line in lines), lines
        found.append(b"\n".join([line.removeprefix(b"data: ") for line in lines]))
    return found


def text_of(data: Iterable[bytes]) -> str:
    """The text in the chunks of a stream's first choice."""
    chunks = [json.loads(one) for one in data if one != b"[DONE]"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk.get("choices")]
    return "".join(delta.get("content") or "" for delta in deltas)


class Reached(threading.Event):
    """For a `Hold`: nobody sets it, so the upstream hangs there, and `wait_reached` tells when."""

    def __init__(self) -> None:
        super().__init__()
        self._reached = threading.Event()

    def is_set(self) -> bool:
        self._reached.set()
        return False

    def wait_reached(self) -> None:
        """Block until an upstream came to this step; raises TimeoutError."""
        if not self._reached.wait(PATIENCE_S):
            raise TimeoutError("the upstream did not come so far")

    def hold(self) -> Hold:
        return Hold(self)


class Gateway:
    """A running gateway.

    Fails at its `close` if its log holds a traceback, a leak, a key, or the death of a worker.

    `config` is a file's, or a mapping of its shape, which gets a free port.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | Path,
        *,
        env: Mapping[str, str] | None = None,
        workers: int = 1,
        secrets: Iterable[str] = (),
        command: Sequence[str] = tuple(COMMAND),
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="gateway-")
        known = [*secrets]
        if isinstance(config, Mapping):
            known += _keys_in(config)
            path = Path(self._directory.name, "config.yaml")
            path.write_text(json.dumps({"port": 0, **config}))  # YAML as well
        else:
            path = config
        self.path = path
        self.killed: set[int] = set()  # workers that a test has killed
        self._secret = re.compile("|".join(map(re.escape, known)) or r"(?!)")
        settings = {"PROXY_CONFIG": str(path), "WEB_CONCURRENCY": str(workers), **(env or {})}
        # A session of its own, so that workers cannot outlive a killed master.
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(**settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self._printed = Printed(self._process.stdout)
        try:
            line = self._printed.wait_for(lambda line: "poolproxy on http" in line, START_S)
            found = re.search(r"http://([\w.:\[\]]+):(\d+)", line)
            assert found, line
            self.host, self.port = found[1].strip("[]"), int(found[2])
            self.url = f"http://{found[1]}:{self.port}"
            assert first_status(self.host, self.port, "/healthz") == 200
        except BaseException:
            self._kill()
            raise

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What it says

    @property
    def log(self) -> str:
        """All that it has printed so far."""
        return self._printed.text

    def wait_for_line(self, fits: Callable[[str], bool]) -> str:
        """Block until it prints a line that fits, or did; raises TimeoutError."""
        return self._printed.wait_for(fits, PATIENCE_S)

    def records(self) -> list[dict[str, str]]:
        """The log's lines on requests, as fields."""
        return [_fields(line) for line in self.log.splitlines() if " proxy.request " in line]

    def record_of(self, request_id: str) -> dict[str, str]:
        """Block until the request with this id is over, and return its line's fields."""
        return _fields(self.wait_for_line(lambda line: f" proxy.request id={request_id} " in line))

    # Calling it

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer to be read as it comes. A body of bytes goes as it is, else as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=START_S)
        try:
            connection.request(method, path, body, dict(headers or {}))
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """A whole answer; fails if there is a key in it."""
        with self.open(method, path, body, headers) as response:
            return self.whole(response)

    def whole(self, response: http.client.HTTPResponse) -> Response:
        """What `open` opened, read to its end."""
        fields: dict[str, str] = {}
        for name, value in ((name.lower(), value) for name, value in response.getheaders()):
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        found = Response(response.status, fields, response.read())
        self._check_secrets(f"{found.headers} {found.body.decode('latin-1')}")
        return found

    def chat(
        self, model: str, *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> Response:
        """A chat request."""
        return self.call("POST", CHAT, asked(model, **fields), headers)

    def connect(self) -> socket.socket:
        """A connection of one's own."""
        return socket.create_connection((self.host, self.port), timeout=PATIENCE_S)

    def exchange(self, request: bytes) -> Response:
        """The answer to these very bytes."""
        with self.connect() as sock:
            sock.sendall(request)
            response = http.client.HTTPResponse(sock)
            try:
                response.begin()
                return self.whole(response)
            finally:
                response.close()

    def sdk(self, **options: Any) -> openai.OpenAI:
        """The official SDK, without retries of its own."""
        return openai.OpenAI(**self.sdk_options(**options))

    def sdk_options(self, **options: Any) -> dict[str, Any]:
        """What points an SDK here."""
        usual = {"api_key": "none", "max_retries": 0, "timeout": PATIENCE_S}
        return {"base_url": f"{self.url}/v1", **usual, **options}

    # Its workers and its configuration

    def workers(self) -> set[int]:
        """The pids of the workers, by Linux's /proc."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return {int(pid) for pid in children.split()}

    def kill(self, worker: int) -> None:
        """Kill a worker, of whose death the log may tell."""
        self.killed.add(worker)
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)

    def write(self, config: Mapping[str, Any] | str) -> None:
        """Put another configuration in the place of its file."""
        if not isinstance(config, str):
            config = json.dumps({"port": 0, **config})
        draft = self.path.with_suffix(".new")
        draft.write_text(config)
        draft.replace(self.path)

    def hang_up(self) -> None:
        """Have it read its configuration now."""
        self._process.send_signal(signal.SIGHUP)

    def count_lines(self, part: str) -> int:
        """How many lines of its log so far hold these words."""
        return self._printed.count(part)

    # Its end

    def terminate(self) -> None:
        """Ask it to stop: what is under way may end."""
        self._process.send_signal(signal.SIGTERM)

    def wait_ended(self) -> int:
        """Block until it is gone; the exit status."""
        status = self._process.wait(PATIENCE_S)
        self._kill()
        return status

    def close(self) -> None:
        """Stop it and look through its log. Idempotent."""
        if self._process.returncode is None:
            self.terminate()
            try:
                self._process.wait(START_S)
            finally:
                self._kill()
        self._check_secrets(self.log)
        assert not (key := key_in(self.log)), f"a key is shown: {key}"
        lines = self.log.splitlines()
        rest = [line for line in lines if not any(f"(pid:{pid})" in line for pid in self.killed)]
        assert not (death := death_in("\n".join(rest))), f"{death}\n{self.log}"
        for bad in ("Traceback", "ResourceWarning"):
            assert bad not in self.log, self.log

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._printed.close()
        self._directory.cleanup()

    def _check_secrets(self, text: str) -> None:
        found = self._secret.search(text)
        assert not found, f"a key is shown: {text[max(0, found.start() - 200) : found.end()]}"


def first_status(host: str, port: int, path: str) -> int:
    """What a server answers that has begun to listen: a worker has to be there for that."""
    connection = http.client.HTTPConnection(host, port, timeout=START_S)
    try:
        connection.request("GET", path)
        with connection.getresponse() as response:
            return response.status
    finally:
        connection.close()


def asked(model: str, **fields: Any) -> dict[str, Any]:
    """A chat request's body."""
    return {"model": model, "messages": MESSAGES, **fields}


def _keys_in(config: Mapping[str, Any]) -> Iterator[str]:
    """The callers' and the upstreams' keys."""
    lists = [config.get("api-keys", ())]
    lists += [one.get("api-keys", ()) for one in config.get("openai-compatibility", ())]
    for entry in (entry for entries in lists for entry in entries):
        yield entry if isinstance(entry, str) else entry.get("key") or entry["api-key"]


_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')


def _fields(line: str) -> dict[str, str]:
    return {
        name: json.loads(value) if value.startswith('"') else value
        for name, value in _FIELD.findall(line)
    }
