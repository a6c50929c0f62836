"""`python -m proxy` in processes of their own, away from the checkout.

`Shell` is a directory with a configuration and a place for control sockets; it runs commands to
their end, and `Instance` in it a server. No output may hold a key or a traceback.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import yaml

from proxy.cli import main
from tests.support.gateway import PATIENCE_S, START_S, environment
from tests.support.leaks import death_in, key_in

COMMAND = [sys.executable, "-W", "error", "-m", "proxy"]


def provider(name: str, url: str, *keys: str, **more: Any) -> dict[str, Any]:
    """An entry of `openai-compatibility`."""
    return {"name": name, "base-url": url, "api-keys": list(keys), **more}


class Done(NamedTuple):
    """A command that has ended."""

    status: int
    out: str
    err: str


class Shell:
    """Where commands run. `secrets`: what must not be printed."""

    def __init__(self, config: Mapping[str, Any] | str, *, secrets: tuple[str, ...] = ()) -> None:
        # Short, because a socket's address is.
        self._directory = tempfile.TemporaryDirectory(prefix="pp-")
        self.path = Path(self._directory.name)
        self.secrets = secrets
        self.write(config)

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    def write(self, config: Mapping[str, Any] | str) -> None:
        """Replace the configuration."""
        text = config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False)
        (self.path / "config.yaml").write_text(text)

    def read(self) -> str:
        """The configuration as it is."""
        return (self.path / "config.yaml").read_text()

    def environment(self, **more: str) -> dict[str, str]:
        return environment(XDG_RUNTIME_DIR=str(self.path), **more)

    def run(self, *arguments: str, **env: str) -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.path,
            env=self.environment(**env),
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        self.check_output(done.stdout + done.stderr)
        return Done(done.returncode, done.stdout, done.stderr)

    def run_here(self, *arguments: str, **env: str) -> Done:
        """Run a command that does not look at its process, without one of its own."""
        before = os.getcwd()
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment(**env), clear=True),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            os.chdir(self.path)
            try:
                status = main(arguments)
            finally:
                os.chdir(before)
        self.check_output(out.getvalue() + err.getvalue())
        return Done(status, out.getvalue(), err.getvalue())

    def check_output(self, text: str) -> None:
        """Fail if there is a key in it or a traceback."""
        assert not any(secret in text for secret in self.secrets), text
        assert not key_in(text), text
        assert "Traceback" not in text, text

    def sockets(self) -> list[str]:
        """The control sockets in place."""
        return sorted(path.name for path in self.path.glob("poolproxy-*/*.sock"))


class Instance:
    """`serve` with further arguments, until `stop`."""

    killed: int | None = None  # the worker that a test kills

    def __init__(self, shell: Shell, *arguments: str, workers: int = 2) -> None:
        self.shell = shell
        self._log_path = shell.path / "log"
        with self._log_path.open("wb") as log:
            # A session of its own, so that workers cannot outlive a killed master.
            self.process = subprocess.Popen(
                [*COMMAND, "serve", "--workers", str(workers), *arguments],
                cwd=shell.path,
                env=shell.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_for(lambda: len(shell.sockets()) == workers, self.log)
            found = re.search(r"^poolproxy on http://127\.0\.0\.1:(\d+)", self.log(), re.MULTILINE)
            assert found, self.log()
            self.port = int(found[1])
        except BaseException:
            self._kill()
            raise

    def log(self) -> str:
        return self._log_path.read_text()

    def command(self, *arguments: str) -> Done:
        """A command for this instance."""
        return self.shell.run(*arguments, "--port", str(self.port))

    def workers(self) -> dict[int, dict[str, Any]]:
        """What each worker says of itself, by pid."""
        done = self.command("status", "--json")
        return {} if done.status else {one["pid"]: one for one in json.loads(done.out)["workers"]}

    def chat(self, model: str) -> tuple[int, Any]:
        """The status and the body of a chat request on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            with connection.getresponse() as response:
                return response.status, json.loads(response.read())
        finally:
            connection.close()

    @contextmanager
    def open_stream(self, model: str) -> Iterator[http.client.HTTPResponse]:
        """A stream whose first chunk is here."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            messages = [{"role": "user", "content": "Hi"}]
            body = {"model": model, "messages": messages, "stream": True}
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            with connection.getresponse() as response:
                assert response.readline().startswith(b"data: ")
                yield response
        finally:
            connection.close()

    def stop(self) -> int:
        """End it; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(PATIENCE_S)
        finally:
            self._kill()
        log = self.log()
        self.shell.check_output(log)
        rest = "\n".join(line for line in log.splitlines() if f"(pid:{self.killed})" not in line)
        assert not (death := death_in(rest)), f"{death}\n{log}"
        return status

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def serving(shell: Shell, *arguments: str, workers: int = 2) -> Iterator[Instance]:
    """An instance that is stopped at the end, in good order."""
    instance = Instance(shell, *arguments, workers=workers)
    try:
        yield instance
    finally:
        status = instance.stop()
    assert status == 0


def wait_for(fulfilled: Callable[[], bool], explain: Callable[[], str] = str) -> None:
    """Look until it is so, at other processes that cannot tell us; raises TimeoutError."""
    until = time.monotonic() + START_S
    pause = threading.Event()
    while not fulfilled():
        if time.monotonic() > until:
            raise TimeoutError(explain())
        pause.wait(0.02)
