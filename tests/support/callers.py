"""Callers with bad manners, by the dozen and by hand, and one with good manners who is measured."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from tests.support.gateway import CHAT, PATIENCE_S, Gateway, asked

# What `Others` asks: served by the gateway itself, so that nothing but the gateway is measured.
DEMO = "demo"
# Enough for a p95 to mean something, however short the case is.
SAMPLES = 40
PAUSE_S = 0.02


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    """A request's head with these lines."""
    first = f"{method} {path} HTTP/1.1"
    return "\r\n".join([first, "Host: localhost", *lines, "", ""]).encode()


def chat_request(model: str, request_id: str = "", *, stream: bool = False) -> bytes:
    """A whole chat request."""
    body = json.dumps(asked(model, stream=stream)).encode()
    lines = [f"x-request-id: {request_id}"] if request_id else []
    return head(CHAT, f"Content-Length: {len(body)}", *lines) + body


def fin(sock: socket.socket) -> None:
    sock.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


LEAVE: dict[str, Callable[[socket.socket], None]] = {
    "fin": fin,
    "reset": reset,
    "half-close": half_close,
}


def read_all(sock: socket.socket) -> bytes:
    """What comes until the end, by FIN or RST; raises TimeoutError when there is none."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(1 << 20):
            got += data
    return got


def statuses(answers: bytes) -> list[int]:
    """The statuses in what came on one connection."""
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


def trickle(socks: Iterable[socket.socket], data: bytes, *, gap_s: float, until: float) -> float:
    """Write a byte of `data` to each, round and round, until the other end has closed them all.

    Returns when that was; raises TimeoutError if it was not before the monotonic moment `until`.
    """
    poller = select.poll()
    left = {sock.fileno(): sock for sock in socks}
    for fd in left:
        poller.register(fd, select.POLLIN | select.POLLRDHUP)
    at = 0
    while left:
        if time.monotonic() > until:
            raise TimeoutError(f"{len(left)} connections go on")
        for fd in [fd for fd, _ in poller.poll(gap_s * 1000)]:
            poller.unregister(fd)
            del left[fd]
        for sock in left.values():
            with contextlib.suppress(ConnectionError):
                sock.send(data[at % len(data) :][:1])
        at += 1
    return time.monotonic()


class Others:
    """Somebody else's requests, one after the other on connections of their own, each timed."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._took_s: list[float] = []
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._ask, name="others", daemon=True)

    def __enter__(self) -> Others:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE_S * 2)
        assert not self._thread.is_alive()
        if self._failure:
            raise self._failure

    @property
    def took_s(self) -> Sequence[float]:
        """How long each took, in ascending order."""
        return sorted(self._took_s)

    @property
    def p95_s(self) -> float:
        return self.took_s[int(len(self._took_s) * 0.95)]

    def _ask(self) -> None:
        try:
            while not self._over.wait(PAUSE_S) or len(self._took_s) < SAMPLES:
                began = time.monotonic()
                answer = self._gateway.chat(DEMO)
                self._took_s.append(time.monotonic() - began)
                assert answer.status == 200
        except BaseException as failure:
            self._failure = failure
