"""Behind a real nginx: with its defaults (`proxy_pass` and nothing else), and as we ship it.

Default proxy settings mean buffering on and HTTP/1.0 to the gateway. What we ship is also tried
with the lines that are commented out in it: TLS with HTTP/2, and the gateway at a Unix socket.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.clock import NOTICED_S
from tests.support.commandline import wait_for
from tests.support.gateway import (
    CHAT,
    PATIENCE_S,
    ROOT,
    Gateway,
    Lot,
    Lots,
    Reached,
    Response,
    asked,
)
from tests.support.gateway import text_of as text_in
from tests.support.nginx import Nginx, require_nginx
from tests.support.server import free_port
from tests.support.upstream import (
    HANG,
    Gate,
    Hold,
    Received,
    Upstream,
    chat,
    chunk,
    error,
    events,
    garbage,
    raw,
)

require_nginx()

DEFAULTS = """
server {{
    listen 127.0.0.1:{{port}};
    location / {{ proxy_pass http://127.0.0.1:{gateway_port}; }}
}}
"""

MIB = 1024 * 1024

# More than `max-retry-interval`: the gateway does not wait for it.
A_MINUTE = {"Retry-After": "60"}


SERVER = "    server 127.0.0.1:8317;"
LISTEN = "    listen 80;"


def shipped(gateway_port: int, **others: str) -> str:
    """deploy/nginx.conf with other addresses, and with `others` of its lines, by how they begin."""
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    changes = {
        SERVER: f"    server 127.0.0.1:{gateway_port};",
        LISTEN: "    listen 127.0.0.1:{port};",
        **others,
    }
    for ours, here in changes.items():
        text, count = re.subn(rf"^{re.escape(ours)}.*$", here, text, flags=re.MULTILINE)
        assert count == 1, ours
    return text


def over_tls(gateway_port: int, certificate: Path) -> str:
    """With TLS, and nothing else; the file has the key, too."""
    return shipped(
        gateway_port,
        **{
            LISTEN: "",
            "    # listen 443 ssl http2;": "    listen 127.0.0.1:{port} ssl http2;",
            "    # ssl_certificate ": f"    ssl_certificate {certificate};",
            "    # ssl_certificate_key ": f"    ssl_certificate_key {certificate};",
        },
    )


@pytest.fixture(scope="module")
def lots(upstream: Upstream) -> Lots:
    return Lots(upstream.url, {1: 60})


@pytest.fixture(scope="module")
def unix_path() -> Iterator[Path]:
    """Where the gateway listens, too: short, because a socket's address is."""
    with tempfile.TemporaryDirectory(prefix="pp-", dir="/tmp") as folder:
        yield Path(folder, "http")


@pytest.fixture(scope="module")
def gateway(lots: Lots, unix_path: Path) -> Iterator[Gateway]:
    """One of its own: what is behind nginx has its own connections."""
    binds = {"GUNICORN_CMD_ARGS": f"--bind 127.0.0.1:0 --bind unix:{unix_path}"}
    config = {"request-retry": 0, "openai-compatibility": lots.providers}
    with Gateway(config, env=binds) as running:
        yield running


@pytest.fixture(scope="module")
def certificate(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority.write_server(tmp_path_factory.mktemp("tls") / "server.pem")


@pytest.fixture
def lot(lots: Lots) -> Lot:
    return lots.take()


class Front:
    """What callers see of an nginx in front of a gateway."""

    def __init__(
        self, nginx: Nginx, gateway: Gateway, context: ssl.SSLContext | None = None
    ) -> None:
        self.nginx = nginx
        self.gateway = gateway
        self._context = context  # None: in the clear

    @contextmanager
    def open(self, path: str, body: object, **headers: str) -> Iterator[http.client.HTTPResponse]:
        """An answer to a POST, to be read as it comes; bytes go as they are, else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.nginx.port, timeout=PATIENCE_S)
        connection.sock = self.connect()
        try:
            connection.request("POST", path, content, headers)
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def post(self, path: str, body: object, **headers: str) -> Response:
        with self.open(path, body, **headers) as response:
            return self.gateway.whole(response)

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.nginx.port), timeout=PATIENCE_S)
        if self._context is not None:
            return self._context.wrap_socket(sock, server_hostname="localhost")
        return sock


@pytest.fixture(scope="module", params=["defaults", "shipped", "unix", "tls"])
def front(
    request: pytest.FixtureRequest,
    gateway: Gateway,
    unix_path: Path,
    certificate: Path,
    authority: Authority,
) -> Iterator[Front]:
    servers = {
        "defaults": DEFAULTS.format(gateway_port=gateway.port),
        "shipped": shipped(gateway.port),
        "unix": shipped(
            gateway.port, **{SERVER: "", "    # server unix:": f"server unix:{unix_path};"}
        ),
        "tls": over_tls(gateway.port, certificate),
    }
    with Nginx(servers[request.param]) as nginx:
        yield Front(nginx, gateway, authority.client() if request.param == "tls" else None)


@pytest.fixture(scope="module")
def shipped_front(gateway: Gateway) -> Iterator[Front]:
    with Nginx(shipped(gateway.port)) as nginx:
        yield Front(nginx, gateway)


# Both


def test_events_pass_one_by_one(front: Front, upstream: Upstream, lot: Lot) -> None:
    """Our headers alone turn buffering off: the upstream sends no event before the one before it
    has come to the caller.
    """
    texts = ["a", "b" * 10_000, "c", "d"]
    gates = [Gate() for _ in texts]
    steps = [
        step
        for text, gate in zip(texts, gates, strict=True)
        for step in (chunk({"content": text}), Hold(gate))
    ]
    upstream.reply(lot.key, events(*steps, chunk({}, finish="stop"), "[DONE]"))
    with front.open(CHAT, asked(lot.model, stream=True)) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"
        for text, gate in zip(texts, gates, strict=True):
            event = response.readline() + response.readline()
            assert text_in([event.removeprefix(b"data: ").rstrip()]) == text
            gate.set()
        assert response.read().endswith(b"data: [DONE]\n\n")


@pytest.mark.long
def test_comments_pass_at_once(upstream: Upstream) -> None:
    """Keep-alives too, and what commits a stream: nginx must see something in time."""
    lots = Lots(upstream.url, {1: 1})
    lot = lots.take()
    gate = Gate()
    upstream.reply(
        lot.key, events(chunk({"content": "a"}, finish="stop"), "[DONE]").after(Hold(gate))
    )
    streaming = {"commit-after-seconds": 0.1, "keepalive-seconds": 0.1}
    tree = {"streaming": streaming, "openai-compatibility": lots.providers}
    with (
        Gateway(tree) as gateway,
        Nginx(DEFAULTS.format(gateway_port=gateway.port)) as nginx,
        Front(nginx, gateway).open(CHAT, asked(lot.model, stream=True)) as response,
    ):
        for _ in range(3):
            assert response.readline() + response.readline() == b": keep-alive\n\n"
        gate.set()
        assert response.read().endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_errors_pass_as_json(front: Front, upstream: Upstream, lot: Lot, stream: bool) -> None:
    """Ours and the upstream's, with their hints; none becomes a page of nginx's."""
    body = asked(lot.model, stream=stream)
    upstream.reply(lot.key, error(400, "No.", code="bad"), error(503), error(429, headers=A_MINUTE))
    refused = front.post(CHAT, body)
    assert (refused.status, refused.error["message"]) == (400, "No.")
    assert front.post(CHAT, body).error["type"] == "server_error"
    limited = front.post(CHAT, body)
    assert limited.status == 429
    assert (limited.headers["retry-after"], limited.headers["x-should-retry"]) == ("60", "true")
    for path, given, status in ((CHAT, b"{", 400), ("/none", body, 404), ("/v1/models", body, 405)):
        answer = front.post(path, given)
        assert (answer.status, bool(answer.error)) == (status, True)


def test_upstream_that_is_gone_is_502_of_ours(front: Front, upstream: Upstream, lot: Lot) -> None:
    """The gateway's own 502 is not replaced either."""
    upstream.reply(lot.key, garbage())
    answer = front.post(CHAT, asked(lot.model))
    assert (answer.status, answer.error["type"]) == (502, "upstream_error")


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("begun", [False, True], ids=["silent", "begun"])
def test_caller_leaves_nginx(
    front: Front, upstream: Upstream, lot: Lot, stream: bool, begun: bool
) -> None:
    """The upstream's connection ends within a second, and the client's one permit is free."""
    reached = Reached()
    if stream:
        first = events(chunk({"content": "a"}), reached.hold())
        reply = first if begun else first.after(reached.hold())
    else:
        whole = chat("a").wire_bytes()
        reply = raw(whole[: -10 if begun else 10], reached.hold())
    upstream.reply(lot.key, reply)
    body = json.dumps(asked(lot.model, stream=stream)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with front.connect() as sock:
        sock.sendall(head.encode() + body)
        if stream and begun:
            assert sock.recv(12) == b"HTTP/1.1 200"
        reached.wait_reached()
        left_at = time.monotonic()
    received = ended(upstream, lot)
    assert received.aborted
    assert received.ended is not None
    assert received.ended - left_at < NOTICED_S
    again = front.post(CHAT, asked(lot.model))
    assert again.status == 200
    assert (
        int(front.gateway.record_of(again.headers["x-request-id"])["waited_ms"]) < NOTICED_S * 1000
    )


def ended(upstream: Upstream, lot: Lot) -> Received:
    (received,) = upstream.received(lot.key)
    return received.wait_ended(PATIENCE_S)


# HTTP/2


class Curl:
    """A caller over HTTP/2, through an nginx with TLS."""

    def __init__(self, front: Front, ca: Path, body: object, *more: str) -> None:
        self.process = subprocess.Popen(
            [
                *("curl", "--http2", "--silent", "--no-buffer", "--include"),
                *("--max-time", str(PATIENCE_S), "--cacert", str(ca), "--data", json.dumps(body)),
                *more,
                f"https://localhost:{front.nginx.port}{CHAT}",
            ],
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Curl:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def rest(self) -> bytes:
        """What is left of the answer, to its end; fails if curl does."""
        assert self.process.stdout is not None
        left = self.process.stdout.read()
        assert self.process.wait(PATIENCE_S) == 0
        return left

    def line(self) -> bytes:
        """The next line of the answer, head and body."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def head(self) -> list[bytes]:
        """The answer's head; fails if it is not HTTP/2."""
        lines = [self.line().rstrip()]
        while lines[-1]:
            lines.append(self.line().rstrip())
        assert lines[0].startswith(b"HTTP/2 "), lines
        return lines


@pytest.fixture(scope="module")
def tls_front(gateway: Gateway, certificate: Path, authority: Authority) -> Iterator[Front]:
    with Nginx(over_tls(gateway.port, certificate)) as nginx:
        yield Front(nginx, gateway, authority.client())


def test_events_pass_one_by_one_over_http2(
    tls_front: Front, ca_bundle: Path, upstream: Upstream, lot: Lot
) -> None:
    """As over HTTP/1.1: none waits for the next."""
    gates = [Gate(), Gate()]
    steps = [step for gate in gates for step in (chunk({"content": "a"}), Hold(gate))]
    upstream.reply(lot.key, events(*steps, chunk({}, finish="stop"), "[DONE]"))
    with Curl(tls_front, ca_bundle, asked(lot.model, stream=True)) as caller:
        assert b"content-type: text/event-stream; charset=utf-8" in caller.head()
        for gate in gates:
            event = caller.line() + caller.line()
            assert text_in([event.removeprefix(b"data: ").rstrip()]) == "a"
            gate.set()
        assert caller.rest().endswith(b"data: [DONE]\n\n")


def test_caller_over_http2_leaves(
    tls_front: Front, ca_bundle: Path, upstream: Upstream, lot: Lot
) -> None:
    """It is noticed within a second, as any other."""
    reached = Reached()
    upstream.reply(lot.key, events(chunk({"content": "a"}), reached.hold()))
    with Curl(tls_front, ca_bundle, asked(lot.model, stream=True)) as caller:
        caller.head()
        assert caller.line().startswith(b"data: ")
        reached.wait_reached()
        left_at = time.monotonic()
    received = ended(upstream, lot)
    assert received.aborted
    assert received.ended is not None
    assert received.ended - left_at < NOTICED_S


def test_errors_and_large_bodies_pass_over_http2(
    tls_front: Front, ca_bundle: Path, upstream: Upstream, lot: Lot
) -> None:
    """A body larger than a window of HTTP/2, and an error of the upstream's."""
    upstream.reply(lot.key, error(400, "No.", code="bad"))
    messages = [{"role": "user", "content": "x" * 100_000}]
    with Curl(tls_front, ca_bundle, asked(lot.model, messages=messages)) as caller:
        assert caller.head()[0].split()[1] == b"400"
        answer = json.loads(caller.rest())
    assert answer["error"]["message"] == "No."
    assert json.loads(upstream.received(lot.key)[0].body)["messages"] == messages


# As shipped


def test_large_bodies_pass(shipped_front: Front, upstream: Upstream, lot: Lot) -> None:
    """Of `max-body-size`, 32 MiB, to the byte."""
    head = (
        json.dumps({"model": lot.model, "stream": False})[:-1] + ', "messages": [{"role": "user",'
    )
    start, end = f'{head} "content": "'.encode(), b'"}]}'
    body = start + b"x" * (32 * MIB - len(start) - len(end)) + end
    assert len(body) == 32 * MIB
    assert shipped_front.post(CHAT, body).status == 200
    assert upstream.received(lot.key)[0].body == body


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_too_large_bodies_are_refused_in_json(shipped_front: Front, framing: str) -> None:
    """By nginx, in our words, before it has the whole of it."""
    how = "Content-Length: 33554433" if framing == "length" else "Transfer-Encoding: chunked"
    with shipped_front.connect() as sock:
        sock.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{how}\r\n\r\n".encode())
        if framing == "chunked":
            sock.sendall(b"%x\r\nx" % (32 * MIB + 1))  # nginx looks at its first byte
        response = http.client.HTTPResponse(sock)
        response.begin()
        answer = shipped_front.gateway.whole(response)
        response.close()
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")


LONG = b"x" * 20_000

# What nginx refuses by itself, and its status.
REFUSED = {
    "no request": (b"NOT HTTP\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "a broken length": (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
    "a long line": (b"GET /" + LONG + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    "a long field": (b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + LONG + b"\r\n\r\n", 431),
    "long fields": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: %b\r\n" % LONG[:8000] * 9 + b"\r\n",
        431,
    ),
    "a field too long for the gateway": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + LONG[:9000] + b"\r\n\r\n",
        431,
    ),
    "a line too long for the gateway": (
        b"GET /" + LONG[:6000] + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        414,
    ),
    "a method": (b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    "a coding": (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        501,
    ),
    "a version": (b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", 505),
    "its own page": (b"GET /nginx-error HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nginx_refuses_is_refused_in_json(shipped_front: Front, name: str) -> None:
    """Whoever refuses it: a caller need not know that there are two."""
    request, status = REFUSED[name]
    with shipped_front.connect() as sock:
        sock.sendall(request)
        response = http.client.HTTPResponse(sock)
        response.begin()
        answer = shipped_front.gateway.whole(response)
        response.close()
    assert (answer.status, answer.error["type"]) == (status, "invalid_request_error")


@pytest.mark.parametrize("status", [500, 503])
def test_what_nginx_cannot_do_is_told_in_json(gateway: Gateway, status: int) -> None:
    """By whatever an operator adds, such as a limit of requests."""
    servers = shipped(gateway.port).replace("location / {", f"location / {{ return {status};")
    with Nginx(servers) as nginx:
        answer = Front(nginx, gateway).post(CHAT, asked("any"))
    assert (answer.status, answer.error["type"]) == (status, "server_error")


def test_silent_gateway_is_a_504_in_json(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """Later than the gateway itself would say so."""
    upstream.reply(lot.key, raw(HANG))
    servers = shipped(gateway.port).replace("proxy_read_timeout 630s;", "proxy_read_timeout 1s;")
    with Nginx(servers) as nginx:
        answer = Front(nginx, gateway).post(CHAT, asked(lot.model))
    assert (answer.status, answer.error["code"]) == (504, "gateway_timeout")


@pytest.mark.parametrize("size", [5_000, 60_000])
def test_long_answer_headers_pass(
    shipped_front: Front, upstream: Upstream, lot: Lot, size: int
) -> None:
    """As much as the gateway takes of an upstream."""
    reply = chat("a")
    upstream.reply(lot.key, replace(reply, headers=[*reply.headers, ("openai-note", "x" * size)]))
    answer = shipped_front.post(CHAT, asked(lot.model))
    assert (answer.status, len(answer.headers["openai-note"])) == (200, size)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc/net/tcp")
def test_connections_to_the_gateway_are_reused(shipped_front: Front, lot: Lot) -> None:
    """Unary answers, streams and errors all leave theirs for the next request."""
    assert shipped_front.post(CHAT, asked(lot.model)).status == 200
    before = ports_to(shipped_front.gateway.port)
    for stream in (False, True) * 3:
        assert shipped_front.post(CHAT, asked(lot.model, stream=stream)).status == 200
        assert shipped_front.post("/none", b"").status == 404
    assert ports_to(shipped_front.gateway.port) <= before  # some may be forgotten meanwhile


def ports_to(port: int) -> set[str]:
    """The local ports of all connections to a port, those that ended lately included."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {local for _, local, remote, *_ in rows if remote == f"0100007F:{port:04X}"}


def test_what_nginx_tells_the_gateway(upstream: Upstream) -> None:
    """The caller's address and scheme are nginx's word, not the caller's."""
    with Nginx(shipped(upstream.port)) as nginx, upstream_front(nginx) as connection:
        for _ in range(2):
            forged = {
                "X-Forwarded-For": "6.6.6.6",
                "X-Forwarded-Proto": "https",
                "Host": "ai.example:8080",
            }
            connection.request("POST", "/v1/chat/completions?x=1", json.dumps(asked("any")), forged)
            with connection.getresponse() as response:
                assert response.status == 200
                response.read()
    one, two = upstream.received()[-2:]
    assert one.connection == two.connection
    assert (one.query, one.header["host"]) == ("x=1", "ai.example:8080")
    assert one.header["x-forwarded-for"] == "127.0.0.1"
    assert one.header["x-forwarded-proto"] == "http"
    assert "connection" not in one.header


@contextmanager
def upstream_front(nginx: Nginx) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=PATIENCE_S)
    try:
        yield connection
    finally:
        connection.close()


@pytest.mark.long
def test_record_has_the_address_of_nginxs_caller(
    shipped_front: Front, gateway: Gateway, lot: Lot
) -> None:
    """And nginx's own for whoever is no trusted proxy; what a caller claims counts for nothing."""
    claim = {"X-Forwarded-For": "6.6.6.6"}
    answer = shipped_front.post(CHAT, asked(lot.model), **claim)
    assert gateway.record_of(answer.headers["x-request-id"])["addr"] == "127.0.0.1"
    in_front = DEFAULTS.replace(
        "proxy_pass", "proxy_set_header X-Forwarded-For 192.0.2.7; proxy_pass"
    )
    for trusted, address in ((["127.0.0.1"], "192.0.2.7"), (["192.0.2.0/24"], "127.0.0.1")):
        config = {"trusted-proxies": trusted, "demo": [{"name": "demo"}]}
        with Gateway(config) as other, Nginx(in_front.format(gateway_port=other.port)) as nginx:
            answer = Front(nginx, other).post(CHAT, asked("demo"), **claim)
            assert other.record_of(answer.headers["x-request-id"])["addr"] == address


def test_forwarded_headers_stay_here(front: Front, upstream: Upstream, lot: Lot) -> None:
    """Upstreams learn nothing of callers, and a forged scheme disturbs nothing."""
    forged = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Proto": "https",
        "Forwarded": "for=6.6.6.6",
    }
    assert front.post(CHAT, asked(lot.model), **forged).status == 200
    names = set(upstream.received(lot.key)[0].header)
    assert not [name for name in names if "forwarded" in name or name in ("via", "x-real-ip")]


def test_open_gateway_is_not_opened_by_nginx(shipped_front: Front, lot: Lot) -> None:
    """Callers from elsewhere know it by a name that is not this machine's: configure keys."""
    answer = shipped_front.post(CHAT, asked(lot.model), Host="ai.example")
    assert (answer.status, answer.error["code"]) == (403, "forbidden")


def test_nginx_alone_answers_in_json() -> None:
    """While the gateway is down, SDKs read an error object."""
    with Nginx(shipped(free_port())) as nginx, upstream_front(nginx) as connection:
        connection.request("POST", CHAT, b"{}")
        with connection.getresponse() as response:
            assert (response.status, response.headers["Content-Type"]) == (502, "application/json")
            assert json.loads(response.read())["error"]["code"] == "gateway_unreachable"


# Two instances

TALK = [{"role": "user", "content": "Count to ten."}]
SEVERAL = {"demo": [{"name": "demo", "delay-ms": 1}, {"name": "few", "max-concurrency": 1}]}
SEVERAL["demo"][1] |= {"delay-ms": 30, "models": [{"name": "few"}]}


class Load:
    """Callers who ask through nginx, one request after the other, until the end of the `with`."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._is_over = threading.Event()
        self.ends: list[str] = []  # of answers and streams: how each ended
        self._threads = [
            threading.Thread(target=self._run, args=(body,))
            for body in ({"model": "demo"}, {"model": "demo", "stream": True}, {"model": "few"})
            for _ in range(3)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _run(self, body: dict[str, Any]) -> None:
        while not self._is_over.is_set():
            try:
                self.ends.append(self._ask({**body, "messages": TALK}))
            except (OSError, http.client.HTTPException) as error:
                self.ends.append(repr(error))

    def _ask(self, body: dict[str, Any]) -> str:
        answer = self._front.post(CHAT, body)
        if answer.status != 200:
            return f"{answer.status} {answer.error['code']}"
        if "stream" in body and answer.data[-1] != b"[DONE]":
            return f"stream {answer.data[-1]!r}"
        return "ok"


@pytest.mark.long
def test_rolling_restart_of_two_instances() -> None:
    """Callers see no fault but the 503 of those who waited for a client, with a hint; nginx says
    nothing of its own: a request that an instance does not take goes to the other.
    """
    ports = [free_port(), free_port()]
    servers = shipped(ports[0]).replace(
        f"server 127.0.0.1:{ports[0]};",
        "".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports),
    )
    with ExitStack() as held:
        running = [held.enter_context(Gateway({**SEVERAL, "port": port})) for port in ports]
        nginx = held.enter_context(Nginx(servers))
        with Load(Front(nginx, running[0])) as load:
            for _ in range(2):
                for at, port in enumerate(ports):
                    running[at].terminate()
                    assert running[at].wait_ended() == 0
                    running[at].close()
                    known = len(load.ends)
                    running[at] = held.enter_context(Gateway({**SEVERAL, "port": port}))
                    wait_for(lambda known=known: len(load.ends) > known + 30)  # type: ignore[misc]
            for gateway in running:
                gateway.wait_for_line(lambda line: "proxy.request" in line and "end=ok" in line)
    assert set(load.ends) <= {"ok", "503 server_shutting_down"}
