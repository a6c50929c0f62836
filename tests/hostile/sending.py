"""Cases of callers that send nothing, slowly, or wrongly."""

from __future__ import annotations

import contextlib
import json
import time

from tests.hostile.place import (
    HEAD_TIMEOUT_S,
    MAX_BODY_BYTES,
    REQUEST_TIMEOUT_S,
    SLACK_S,
    Place,
    read_answer,
)
from tests.support.callers import DEMO, chat_request, half_close, head, read_all, statuses, trickle
from tests.support.gateway import CHAT

# Many connections


def idle_keep_alive(place: Place) -> None:
    """2,000 that ask, fifty at a time, and stay: all are still good for another request."""
    request = head("/healthz", method="GET")
    with contextlib.ExitStack() as stack:
        crowds = [place.connect(stack, 50) for _ in range(40)]
        for crowd in crowds * 2:
            for sock in crowd:
                sock.sendall(request)
            for sock in crowd:
                assert read_answer(sock).startswith(b"HTTP/1.1 200")


def silent_connections(place: Place) -> None:
    """2,000 that never send a byte take no thread, and are closed."""
    with contextlib.ExitStack() as stack:
        socks = place.connect(stack, 2000)
        for sock in socks:
            sock.settimeout(HEAD_TIMEOUT_S + SLACK_S)
            assert sock.recv(1) == b""


def first_bytes(place: Place) -> None:
    """3,300 of one byte each, for as long as a head may take: no thread waits for the rest."""
    with contextlib.ExitStack() as stack:
        socks = place.send(stack, *[b"P"] * 3300)
        for sock in socks:
            sock.settimeout(HEAD_TIMEOUT_S + SLACK_S)
            assert sock.recv(1) == b""


def stays_after_refusal(place: Place) -> None:
    """Whose connection is over and who does not close it: it lingers, but not where all others
    come in.
    """
    with contextlib.ExitStack() as stack:
        socks = place.send(stack, *[b"NOT HTTP\r\n\r\n"] * 50)
        for sock in socks:
            assert statuses(read_all(sock)) == [400]
        assert place.gateway.call("GET", "/healthz").status == 200


# Slow writers


def slow_head(place: Place) -> None:
    """A byte now and then, for ever: slowloris."""
    with contextlib.ExitStack() as stack:
        socks = place.send(stack, *[head("/", method="GET")[:-2]] * 300)
        until = time.monotonic() + HEAD_TIMEOUT_S + SLACK_S
        trickle(socks, b"X-Filler: x\r\n", gap_s=0.5, until=until)


def slow_body(place: Place) -> None:
    """All of `max-requests-in-flight` could not be held so: nobody is waited for that long."""
    check_slow_body(place, [head(CHAT, "Content-Length: 10000")] * 300, b"[[[[")


def slow_chunked_body(place: Place) -> None:
    """The same in chunks of one byte."""
    check_slow_body(place, [head(CHAT, "Transfer-Encoding: chunked")] * 100, b"1\r\n[\r\n")


def check_slow_body(place: Place, heads: list[bytes], data: bytes) -> None:
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        socks = place.send(stack, *heads)
        over = trickle(socks, data, gap_s=0.5, until=began + REQUEST_TIMEOUT_S + SLACK_S)
        assert over - began >= REQUEST_TIMEOUT_S - 1
        for sock in socks:
            assert statuses(read_all(sock)) == [408]


def stalled_body(place: Place) -> None:
    """Nothing comes at all."""
    requests = [head(CHAT, "Content-Length: 100"), head(CHAT, "Transfer-Encoding: chunked")]
    with contextlib.ExitStack() as stack:
        for sock in place.send(stack, *(request + b"1" for request in requests * 20)):
            assert statuses(read_all(sock)) == [408]


# Clumsy writers


def pipelining(place: Place) -> None:
    """All answers, in order; streams among them."""
    lots = [place.lot() for _ in range(3)]
    requests = [chat_request(lot.model, lot.model, stream=True) for lot in lots]
    last = head("/nowhere", "Connection: close", method="GET")
    with place.gateway.connect() as sock:
        sock.sendall(head("/healthz", method="GET") * 20 + b"".join(requests) + last)
        assert statuses(read_all(sock)) == [200] * 23 + [404]
    with place.gateway.connect() as sock:  # and gone with all of them unanswered
        sock.sendall(b"".join(requests) + last)


def large_body(place: Place) -> None:
    """What is just allowed is served; a byte more is refused before it is sent."""
    start, end = b'{"model":"demo","messages":[{"role":"user","content":"', b'"}]}'
    body = start + b"x" * (MAX_BODY_BYTES - len(start) - len(end)) + end
    with contextlib.ExitStack() as stack:
        for sock in place.connect(stack, 2):
            sock.sendall(head(CHAT, f"Content-Length: {len(body)}", "Connection: close"))
            sock.sendall(body)
            assert statuses(read_all(sock)) == [200]
        (sock,) = place.send(stack, head(CHAT, f"Content-Length: {len(body) + 1}"))
        assert statuses(sock.recv(1000)) == [413]


def lying_length(place: Place) -> None:
    """More, less, or other than comes: refused, and never taken for another's request."""
    body = json.dumps({"model": DEMO, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    lies = [
        [f"Content-Length: {len(body) + 5}"],
        ["Content-Length: 5"],
        ["Content-Length: 0"],
        ["Content-Length: -1"],
        ["Content-Length: +5"],
        ["Content-Length: 1_0"],
        ["Content-Length: abc"],
        ["Content-Length: "],
        ["Content-Length: 99999999999999999999"],
        [f"Content-Length: {len(body)}", "Content-Length: 5"],
        [f"Content-Length: {len(body)}, 5"],
        [f"Content-Length: {len(body)}", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding: xchunked"],
    ]
    for lines in lies:
        with place.gateway.connect() as sock:
            sock.sendall(head(CHAT, *lines) + body)
            half_close(sock)
            found = statuses(read_all(sock))
            assert found, lines
            assert all(400 <= status < 502 for status in found), (lines, found)


def cut_chunks(place: Place) -> None:
    """A chunked body that ends anywhere but at its end."""
    body = json.dumps({"model": DEMO, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    pieces = [body[at : at + 9] for at in range(0, len(body), 9)]
    framed = (
        b"".join(b"%x;a=b\r\n%b\r\n" % (len(one), one) for one in pieces) + b"0\r\nA: b\r\n\r\n"
    )
    request = head(CHAT, "Transfer-Encoding: chunked", "Connection: close")
    with place.gateway.connect() as sock:
        sock.sendall(request + framed)
        assert statuses(read_all(sock)) == [200]
    with contextlib.ExitStack() as stack:
        cuts = [request + framed[:at] for at in range(len(framed))]
        for at, sock in enumerate(place.send(stack, *cuts)):
            half_close(sock)
            assert statuses(read_all(sock)) == [400], framed[:at]


def deep_json(place: Place) -> None:
    """10,000 levels, anywhere."""
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        deep = opening * 10_000 + b"1" + closing * 10_000
        for body in (
            deep,
            opening * 10_000,
            b'{"model":"demo","messages":' + deep + b"}",
            b'{"model":"demo","messages":[{"role":"user","content":"Hi"}],"x":' + deep + b"}",
        ):
            answer = place.gateway.call("POST", CHAT, body)
            assert (answer.status, answer.error["code"]) == (400, "invalid_request")


def head_and_options(place: Place) -> None:
    """Neither has a body, and the connection goes on after both, on every path."""
    paths = ("/", "/healthz", "/readyz", "/v1/models", f"/v1/models/{DEMO}")
    posts = (CHAT, "/v1/completions")
    expected = [
        *((path, {"HEAD": 200, "OPTIONS": 204, "TRACE": 405, "PUT": 405}) for path in paths),
        *((path, {"HEAD": 405, "OPTIONS": 204, "GET": 405, "DELETE": 405}) for path in posts),
        ("/nowhere", {"HEAD": 404, "OPTIONS": 404, "POST": 404}),
    ]
    last = head("/", "Connection: close", method="GET")
    for path, methods in expected:
        for method, status in methods.items():
            with place.gateway.connect() as sock:
                sock.sendall(head(path, method=method) + last)
                answers = read_all(sock)
            assert statuses(answers) == [status, 200], (method, path, answers)
            if method in ("HEAD", "OPTIONS") and status < 500 and path != "/nowhere":
                assert answers.count(b"\r\n\r\nHTTP/1.1 200") == 1, (method, path, answers)
