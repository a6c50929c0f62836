"""The gateway in somebody else's process: what it leaves alone, forks, other servers."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from flask import Flask

from proxy import Proxy
from tests.support.callers import read_all
from tests.support.commandline import wait_for
from tests.support.gateway import CHAT, PATIENCE_S, Gateway, asked, data_of, text_of
from tests.support.upstream import HANG, MODEL, Gate, Hold, Upstream, chunk, events, raw
from tests.support.wsgi import running, waitress_server, werkzeug_server

KEY = "sk-embedded-0123456789"


def config(upstream: Upstream, **more: Any) -> dict[str, Any]:
    provider = {"name": "up", "base-url": upstream.url, "api-keys": [KEY], "models": [MODEL]}
    return {"openai-compatibility": [provider], **more}


# Before the first request

# What a process is, as far as a library could change it.
STATE = """
import gc, json, logging, os, signal, sys, threading

def state():
    root = logging.getLogger()
    return {
        "fds": sorted(os.listdir("/proc/self/fd")),
        "threads": [thread.name for thread in threading.enumerate()],
        "tasks": len(os.listdir("/proc/self/task")),
        "switch interval": sys.getswitchinterval(),
        "affinity": sorted(os.sched_getaffinity(0)),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "root log": [root.level, root.disabled, list(map(repr, root.handlers))],
        "our log": [(log.level, log.propagate, len(log.handlers))
                    for log in map(logging.getLogger, ("proxy", "proxy.request"))],
        "log classes": repr(logging.getLoggerClass()),
        "signals": [repr(signal.getsignal(number)) for number in signal.valid_signals()],
        "gc": [gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()],
        "hooks": [repr(hook) for hook in (sys.excepthook, threading.excepthook, sys.gettrace())],
        "recursion": sys.getrecursionlimit(),
        "environ": dict(os.environ),
        "directory": os.getcwd(),
        "umask": os.umask(0o22),
    }

os.umask(0o22)
import flask
app = flask.Flask("theirs")
before = state()
"""

USES = {
    "import": "import proxy",
    "init_app": "import proxy; proxy.Proxy(CONFIG).init_app(app, url_prefix='/llm')",
    "create_app": "import proxy; app = proxy.create_app(CONFIG)",
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("use", USES)
def test_process_stays_as_it_was(upstream: Upstream, use: str, tmp_path: Path) -> None:
    """No descriptor, thread, signal handler or setting is touched, and no upstream is asked. A
    ledger makes no file.
    """
    providers = config(upstream)["openai-compatibility"]
    del providers[0]["models"]  # so that there would be something to ask for
    tree = {"openai-compatibility": providers, "demo": [{}], "debug": True}
    tree |= {"usage": True, "state-dir": str(tmp_path / "state")}
    code = f"{STATE}\nCONFIG = {tree!r}\n{USES[use]}\nafter = state()\n"
    code += "print(json.dumps({k: [before[k], after[k]] for k in before if before[k] != after[k]}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}
    assert upstream.connections == 0
    assert not list(tmp_path.iterdir())


# Servers without threads


@pytest.mark.long
def test_server_without_threads_is_warned_of_once(upstream: Upstream) -> None:
    """At the first request: gunicorn's sync worker cuts streams off at its `timeout`."""
    sync = {"GUNICORN_CMD_ARGS": "--worker-class sync --threads 1"}
    sync["PYTHONWARNINGS"] = "ignore"  # this worker ends with its listener open
    with Gateway(config(upstream), env=sync) as gateway:
        for _ in range(3):
            assert gateway.call("GET", "/v1/models").status == 200
        line = gateway.wait_for_line(lambda line: "wsgi.multithread" in line)
        assert "`timeout`" in line
        assert "proxy.worker.Worker" in line
        assert gateway.log.count("wsgi.multithread") == 1


@pytest.mark.long
def test_server_with_threads_is_not_warned_of(upstream: Upstream) -> None:
    """Nor is a test client, which is no server."""
    with Gateway(config(upstream)) as gateway:
        assert gateway.call("GET", "/v1/models").status == 200
    assert "wsgi.multithread" not in gateway.log


# Forks


@pytest.mark.long
def test_application_made_before_the_fork(upstream: Upstream) -> None:
    """gunicorn's `preload_app`: two workers share one application's beginnings, each serves.

    One request in flight is allowed per worker, so two streams at once are in two workers.
    """
    gate = Gate()
    end = events(chunk({"content": "b"}, finish="stop"), "[DONE]").body
    upstream.reply(KEY, *[events(chunk({"content": "a"}), Hold(gate), *end)] * 2)
    tree = config(upstream, **{"max-requests-in-flight": 1})
    preloading = {"GUNICORN_CMD_ARGS": "--preload"}
    with Gateway(tree, env=preloading, workers=2) as gateway:
        body = asked(MODEL, stream=True)
        with gateway.open("POST", CHAT, body) as one, until_served(gateway, body) as two:
            begun = [response.readline() + response.readline() for response in (one, two)]
            gate.set()
            rest = [response.read() for response in (one, two)]
        for first, last in zip(begun, rest, strict=True):
            data = data_of(first + last)
            assert (text_of(data), data[-1]) == ("ab", b"[DONE]")
        # A connection of each worker's own.
        assert len({received.connection for received in upstream.received(KEY)}) == 2
        assert gateway.call("GET", "/readyz").status == 200


@contextmanager
def until_served(gateway: Gateway, body: object) -> Iterator[Any]:
    """The first answer that is not the refusal of a worker that has enough to do."""
    for _ in range(500):
        with gateway.open("POST", CHAT, body) as response:
            if response.status != 503:
                assert response.status == 200
                yield response
                return
    raise AssertionError("one worker never served")


# Servers that are not gunicorn


class _Threading(ThreadingMixIn, WSGIServer):
    daemon_threads = False  # so that its close waits for them


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Not on the tests' output."""


@contextmanager
def wsgiref_server(app: Flask) -> Iterator[int]:
    with make_server("127.0.0.1", 0, app, _Threading, _Quiet) as server, running(server):
        yield server.server_port


SERVERS = {
    "wsgiref": wsgiref_server,
    "werkzeug": werkzeug_server,
    "waitress": waitress_server,
}
Serve = Callable[[Flask], Any]


@pytest.fixture(params=SERVERS)
def serve(request: pytest.FixtureRequest) -> Serve:
    return SERVERS[request.param]


@contextmanager
def embedded(upstream: Upstream, serve: Serve) -> Iterator[tuple[Proxy, int]]:
    """An application with a gateway at /llm on a server, and the server's port."""
    proxy = Proxy(config(upstream, **{"queue-timeout": 0}))
    app = Flask("theirs")
    proxy.init_app(app, url_prefix="/llm")
    try:
        with serve(app) as port:
            yield proxy, port
    finally:
        proxy.gateway.close()


def ask(port: int, *, stream: bool) -> socket.socket:
    body = json.dumps(asked(MODEL, stream=stream)).encode()
    head = f"POST /llm{CHAT} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    sock.sendall(head.encode() + body)
    return sock


@pytest.mark.parametrize("stream", [False, True])
def test_any_server_serves_it(upstream: Upstream, serve: Serve, stream: bool) -> None:
    """Plain WSGI is all that is needed."""
    with embedded(upstream, serve) as (_, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        connection.request("POST", f"/llm{CHAT}", json.dumps(asked(MODEL, stream=stream)))
        with connection.getresponse() as response:
            assert response.status == 200
            body = response.read()
        connection.close()
        if stream:
            assert text_of(data_of(body)) == "Hello there!"
        else:
            assert json.loads(body)["choices"][0]["message"]["content"] == "Hello there!"


def test_events_come_one_by_one(upstream: Upstream, serve: Serve) -> None:
    """The next one is not needed for the one before."""
    gates = [Gate(), Gate()]
    steps: list[Any] = [chunk({"content": "a"}), Hold(gates[0]), chunk({"content": "b"})]
    last = chunk({"content": "c"}, finish="stop")
    upstream.reply(KEY, events(*steps, Hold(gates[1]), last, "[DONE]"))
    with embedded(upstream, serve) as (_, port), ask(port, stream=True) as sock:
        file = sock.makefile("rb")
        for expected, gate in zip("abc", [*gates, Gate()], strict=True):
            line = next(line for line in file if line.startswith(b"data: "))
            assert text_of([line.removeprefix(b"data: ")]) == expected
            gate.set()
        file.close()


def test_stream_notices_at_its_next_write(upstream: Upstream, serve: Serve) -> None:
    """A caller who left: where the server offers no socket, some event later. The lease is free."""
    upstream.reply(KEY, events(*[chunk({"content": "a" * 1000})] * 20_000, HANG))
    with embedded(upstream, serve) as (proxy, port):
        with ask(port, stream=True) as sock:
            assert sock.recv(12).split(b" ")[1] == b"200"
        (received,) = upstream.received(KEY)
        assert received.wait_ended(PATIENCE_S).aborted
        wait_for(lambda: proxy.gateway.pool.snapshot()[0]["in_flight"] == 0)


@pytest.mark.parametrize("server", ["werkzeug", "waitress"])
def test_server_tells_of_a_caller_who_left(
    upstream: Upstream, server: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It offers its socket, or may be asked: no write is needed, unary requests included.

    To the server's log that is no fault.
    """
    for stream in (False, True):
        upstream.reply(KEY, events(chunk({"content": "a"}), HANG) if stream else raw(HANG))
        with embedded(upstream, SERVERS[server]) as (_, port):
            with ask(port, stream=stream) as sock:
                upstream.wait_for(1 + stream, KEY)
                got = b""
                while stream and b"\n\n" not in got.partition(b"\r\n\r\n")[2]:
                    got += sock.recv(65536)  # then there is nothing left to write
            assert upstream.received(KEY)[-1].wait_ended().aborted
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("sent", [b"", b'{"model"'])
def test_werkzeug_server_gives_up_a_slow_body(upstream: Upstream, sent: bytes) -> None:
    """A socket with a time-out reads as if nothing were there."""
    proxy = Proxy(config(upstream, **{"idle-timeout": 0.2}))
    app = Flask("theirs")
    proxy.init_app(app, url_prefix="/llm")
    head = f"POST /llm{CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"
    with (
        werkzeug_server(app) as port,
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock,
    ):
        sock.sendall(head.encode() + sent)
        answer = read_all(sock)
    proxy.gateway.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body_too_slow" in answer
