"""Where the cases play: a gateway with short waits, and what it says of itself."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.server.control.sockets import ask_all
from tests.support.gateway import PATIENCE_S, Gateway, Lot, Lots
from tests.support.upstream import Upstream, chunk

IDLE_TIMEOUT_S = 3
REQUEST_TIMEOUT_S = 8
HEAD_TIMEOUT_S = 20  # the server's, as shipped
MAX_BODY_BYTES = 32 * 1024 * 1024  # as shipped

# What a loaded machine may add to a time-out.
SLACK_S = 10.0


@dataclass(frozen=True)
class Place:
    """What a case plays with."""

    gateway: Gateway
    upstream: Upstream
    lots: Lots

    def connect(self, stack: contextlib.ExitStack, count: int) -> list[socket.socket]:
        """So many connections, closed with the stack."""
        return [stack.enter_context(self.gateway.connect()) for _ in range(count)]

    def lot(self) -> Lot:
        return self.lots.take()

    def send(self, stack: contextlib.ExitStack, *requests: bytes) -> list[socket.socket]:
        """A connection for each of these requests."""
        socks = self.connect(stack, len(requests))
        for sock, request in zip(socks, requests, strict=True):
            sock.sendall(request)
        return socks


def json_event(text: str) -> bytes:
    return b"data: " + json.dumps(chunk({"content": text})).encode() + b"\n\n"


def is_open(gateway: Gateway, sock: socket.socket) -> bool:
    """Whether the gateway's end of a caller's connection is there: who was cut may not know."""
    ends = [f"{port:04X}" for port in (gateway.port, sock.getsockname()[1])]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any([row[1][-4:], row[2][-4:], row[3]] == [*ends, _ESTABLISHED] for row in rows)


# tcp_states.h
_ESTABLISHED = "01"


def send_for_ever(sock: socket.socket, data: bytes) -> None:
    while True:
        sock.sendall(data)


def read_answer(sock: socket.socket) -> bytes:
    """One answer of JSON without nesting."""
    got = b""
    while not got.endswith(b"}"):
        got += sock.recv(1000)
    return got


def facts(gateway: Gateway) -> list[dict[str, Any]]:
    """The pool's, on every client."""
    (worker,) = ask_all(gateway.port, {"do": "status"}, timeout_s=PATIENCE_S)
    return list(worker["clients"])


def waiting(gateway: Gateway, lot: Lot) -> int:
    """How many wait for the lot's client."""
    label = f"{lot.upstream_name}/"  # each lot is a provider
    return sum(int(one["waiting"]) for one in facts(gateway) if one["client"].startswith(label))
