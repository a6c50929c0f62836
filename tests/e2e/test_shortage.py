"""A gateway that can have no more descriptors, threads or memory, for a while, under load.

Callers get 503 with a hint, or wait; no client is blamed; all are served afterwards.
"""

from __future__ import annotations

import http.client
import json
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.server.control.sockets import ask_all
from tests.support.commandline import wait_for
from tests.support.gateway import CHAT, PATIENCE_S, Gateway, asked, run_python
from tests.support.upstream import Received, Reply, Upstream, as_asked

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits of another process are Linux's prlimit"
)

KEYS = [f"sk-shortage-{number}" for number in range(3)]
CALLERS = 8  # more than there are permits: some of them wait for a client
TIMES = [2.0, pytest.param(10.0, marks=pytest.mark.slow)]


def configured(url: str, keys: list[str]) -> dict[str, Any]:
    provider = {"name": "p", "base-url": url, "api-keys": keys, "models": ["m"]}
    return {"openai-compatibility": [provider]}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    with Gateway(configured(upstream.url, KEYS), secrets=KEYS) as running:
        yield running


class Load:
    """Callers on kept connections, each asking again and again; their answers by kind."""

    def __init__(self, gateway: Gateway, **fields: Any) -> None:
        self.answers: Counter[str] = Counter()  # guarded by _lock
        self._lock = threading.Lock()
        self._gateway = gateway
        self._body = json.dumps(asked("m", **fields)).encode()
        self._connections = [
            http.client.HTTPConnection(gateway.host, gateway.port, timeout=PATIENCE_S)
            for _ in range(CALLERS)
        ]

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def ask_for(self, seconds: float) -> Counter[str]:
        """Each asks at least once, and goes on for so long."""
        self.answers.clear()
        until = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._ask, args=(connection, until))
            for connection in self._connections
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.answers

    def _ask(self, connection: http.client.HTTPConnection, until: float) -> None:
        while True:
            connection.request("POST", CHAT, self._body)
            response = connection.getresponse()
            kind = kind_of(response, response.read())
            with self._lock:
                self.answers[kind] += 1
            if time.monotonic() >= until:
                return


def kind_of(response: http.client.HTTPResponse, body: bytes) -> str:
    """`ok`, or an error's code; with what is missing where it should be complete."""
    if response.status == 200 and (b"[DONE]" in body or b'"choices"' in body):
        return "ok"
    last = body.strip().rpartition(b"\n")[2].removeprefix(b"data: ")
    code = str(json.loads(last)["error"]["code"])
    if response.status == 503 and response.headers["x-should-retry"] != "true":
        return f"{code} without a hint"
    return code if response.status in (200, 503) else f"{response.status} {code}"


def closing(received: Received) -> Reply:
    """An answer after which the next request needs a connection of its own."""
    return as_asked("Hello")(received).with_headers({"Connection": "close"})


def fill(gateway: Gateway, held: ExitStack) -> None:
    """Take all descriptors that are left, by silent connections, until nobody is let in."""
    for _ in range(500):
        held.enter_context(gateway.connect())
        if "callers have to wait" in gateway.log:
            return
    wait_for(lambda: "callers have to wait" in gateway.log)  # they wait to be accepted, too


def worker_of(gateway: Gateway) -> int:
    (pid,) = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
    return int(pid)


@contextmanager
def limited(pid: int, kind: int, value: int) -> Iterator[None]:
    """The process's soft limit, put back at the end."""
    soft, hard = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (value, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, (soft, hard))


def assert_blameless(gateway: Gateway) -> None:
    """No client has failed, nothing is held, and all are served."""
    (found,) = ask_all(gateway.port, {"do": "status"})
    for client in found["clients"]:
        assert client["in_flight"] == 0
        assert client["models"]["m"] == {"state": "ready", "failures": 0}, client
    for _ in KEYS:
        assert gateway.chat("m").status == 200


@pytest.mark.long
@pytest.mark.parametrize("seconds", TIMES)
@pytest.mark.parametrize("is_stream", [False, True], ids=["unary", "stream"])
def test_no_descriptor_is_to_be_had(
    gateway: Gateway, upstream: Upstream, is_stream: bool, seconds: float
) -> None:
    """Neither for a connection to an upstream, nor for a thread's first wait in the queue."""
    upstream.default = closing
    worker = worker_of(gateway)
    load = Load(gateway, stream=is_stream)
    with ExitStack() as held:
        held.callback(load.close)
        assert set(load.ask_for(0.0)) == {"ok"}
        most = max(int(path.name) for path in Path(f"/proc/{worker}/fd").iterdir())
        held.enter_context(limited(worker, resource.RLIMIT_NOFILE, most + 1))
        fill(gateway, held)
        assert set(load.ask_for(seconds)) == {"server_out_of_resources"}
        held.pop_all().close()
    assert "requests are refused" in gateway.log
    assert gateway.log.count("requests are refused") <= 2
    assert_blameless(gateway)


# A process that asks itself: a server and its threads would need memory for themselves.
SCRIPT = """
import json, resource, sys
from proxy.app import create_app

app = create_app(json.loads(sys.argv[1]))
caller = app.test_client()

def ask(is_stream):
    request = {"model": "m", "stream": is_stream, "messages": [{"role": "user", "content": "Hi"}]}
    answer = caller.post("/v1/chat/completions", data=json.dumps(request))
    return [answer.status_code, answer.headers.get("x-should-retry"), answer.get_data()[-500:]]

found = [ask(False), ask(True)]
with open("/proc/self/statm") as file:
    size = int(file.read().split()[0]) * resource.getpagesize()
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[2]), hard))
found += [ask(False), ask(True), ask(False)]
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
states = app.extensions["proxy"]["proxy"].gateway.pool.snapshot()
found += [ask(False), ask(True)]
print(json.dumps([found, states], default=bytes.decode))
"""


def asked_for_little(config: dict[str, Any], margin_bytes: int) -> list[tuple[int, str]]:
    """Statuses and codes, or ends, of a unary and a streamed request before, and so on."""
    printed = run_python("-c", SCRIPT, json.dumps(config), str(margin_bytes))
    found, states = json.loads(printed)
    for client in states:
        assert client["in_flight"] == client["failed"] == 0
        assert client["models"]["m"] == {"state": "ready", "failures": 0}
    kinds = []
    for status, may_retry, body in found:
        code = next((code for code in ("server_out_of_resources", "[DONE]") if code in body), "")
        assert code != "server_out_of_resources" or status != 503 or may_retry == "true"
        kinds.append((status, code))
    return kinds


@pytest.mark.long
def test_no_memory_is_to_be_had(upstream: Upstream) -> None:
    """For large answers, whole or an event of a stream; the process serves on."""
    large = as_asked("x" * (24 << 20))
    for key in KEYS:
        upstream.reply(key, *[as_asked("small")] * 2 + [large] * 3)
    found = asked_for_little(configured(upstream.url, KEYS[:1]), 6 << 20)
    served = [(200, ""), (200, "[DONE]")]
    refused = [(status, "server_out_of_resources") for status in (503, 200, 503)]
    assert found == served + refused + served  # the stream's first event, of a few bytes, has left


def test_no_thread_is_to_be_had(upstream: Upstream) -> None:
    """Whatever needs one, for a stack of 8 MB, is refused; what needs none is served."""
    url = upstream.url.replace("127.0.0.1", "localhost")
    upstream.default = closing
    found = asked_for_little(configured(url, KEYS), 4 << 20)
    assert [found[:2], found[-2:]] == [[(200, ""), (200, "[DONE]")]] * 2
    assert {code for _, code in found} <= {"", "[DONE]", "server_out_of_resources"}
