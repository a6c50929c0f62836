"""The stop-watch table: what may hang on the way to an upstream, against every deadline.

A `Deadline` is a gateway with its own settings; all of its cells run at once before it, one for
each `Fault` and kind of request. A further fault is a further line in `FAULTS`.
"""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.server.control.sockets import ask_all
from tests.support.clock import NOTICED_S, SLACK_S
from tests.support.gateway import CHAT, PATIENCE_S, Gateway, asked
from tests.support.rude import Dribble, FullBacklog
from tests.support.upstream import Upstream

# The names that the gateway's resolver says nothing about, and that have eight dead addresses.
SILENT, DEAD = "silent.test", "dead.test"

# `socket.getaddrinfo` in the gateway's process: there is no resolver of our own without root.
RESOLVER = f"""
import socket, threading

_getaddrinfo = socket.getaddrinfo


def getaddrinfo(host, port, *args, **options):
    if host == {SILENT!r}:
        threading.Event().wait()
    if host != {DEAD!r}:
        return _getaddrinfo(host, port, *args, **options)
    addresses = [f"127.0.0.{{number}}" for number in range(1, 9)]
    return [one for each in addresses for one in _getaddrinfo(each, port, *args, **options)]


socket.getaddrinfo = getaddrinfo
"""

KINDS: dict[str, Callable[[str], tuple[str, dict[str, Any]]]] = {
    "unary": lambda model: (CHAT, asked(model)),
    "stream": lambda model: (CHAT, asked(model, stream=True)),
    "completions-list": lambda model: (
        "/v1/completions", {"model": model, "prompt": ["a", "b"], "stream": True},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Deadline:
    """Limits of a gateway, and when a request under them is over, in seconds from its begin.

    `comment_s`: when a stream says its first word, if not with its end.
    """

    name: str
    over_s: float
    settings: Mapping[str, Any] = field(hash=False)
    comment_s: float = math.inf


# What must not be the one that ends a request has time for ever.
_EVER = 90
DEADLINES = [
    Deadline("connect-timeout", 2, {"connect-timeout": 2, "request-timeout": _EVER}),
    Deadline("request-timeout", 2, {"connect-timeout": _EVER, "request-timeout": 2}),
    # It begins when the request is sent: here none ever is.
    Deadline("first-byte-timeout", 3, {"connect-timeout": 3, "first-byte-timeout": 1}),
    Deadline(
        "commit-after-seconds",
        4,
        {"connect-timeout": 4, "streaming": {"commit-after-seconds": 2, "keepalive-seconds": 1}},
        comment_s=2,
    ),
    Deadline("caller-leaves", 1, {"connect-timeout": _EVER, "request-timeout": _EVER}),
    Deadline("sigterm", 5, {"connect-timeout": _EVER, "request-timeout": 5}),
]


@dataclass
class Site:
    """A provider's fields. `left` blocks until all connections to it are given up."""

    provider: dict[str, Any]
    left: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Fault:
    name: str
    make: Callable[[ExitStack], Site] = field(repr=False)


def _dribbling(words: bytes, provider: Callable[[int], dict[str, Any]]) -> Callable[..., Site]:
    """A server that says this, a byte at a time; `provider` is told its port."""

    def make(held: ExitStack) -> Site:
        server = held.enter_context(Dribble(words))
        return Site(provider(server.port), server.wait_for_connections)

    return make


def _dead_addresses(held: ExitStack) -> Site:
    port = held.enter_context(FullBacklog()).port
    return Site({"base-url": f"http://{DEAD}:{port}/v1"})


FAULTS = [
    Fault(
        "proxy-dribbles-connect",
        _dribbling(
            b"HTTP/1.1 200 OK\r\nX-Filler: " + b"x" * 9999,
            lambda port: {
                "base-url": "https://upstream.test/v1",
                "proxy-url": f"http://user:secret-word@127.0.0.1:{port}",
            },
        ),
    ),
    Fault(
        "proxy-dribbles-socks",
        _dribbling(
            b"\x05\x00\x05\x00\x00\x03\xff" + b"x" * 257,
            lambda port: {
                "base-url": "http://upstream.test/v1",
                "proxy-url": f"socks5h://user:secret-word@127.0.0.1:{port}",
            },
        ),
    ),
    Fault("tls-stalls", _dribbling(b"", lambda port: {"base-url": f"https://127.0.0.1:{port}/v1"})),
    Fault("silent-name-server", lambda _: Site({"base-url": f"http://{SILENT}/v1"})),
    Fault("eight-dead-addresses", _dead_addresses),
]


@dataclass(frozen=True)
class Cell:
    deadline: Deadline
    kind: str
    fault: Fault

    @property
    def model(self) -> str:
        """What tells it apart everywhere: in names, in requests' ids, in the log."""
        return f"{self.deadline.name}-{self.kind}-{self.fault.name}"


def all_cells() -> list[Cell]:
    return [
        Cell(deadline, kind, fault) for deadline in DEADLINES for kind in KINDS for fault in FAULTS
    ]


@dataclass(frozen=True)
class Seen:
    """What came of a cell, in seconds from its begin; of a leaver, from when it left."""

    said: bytes
    first_s: float
    over_s: float
    record: dict[str, str]


class Watch:
    """A gateway under one deadline, and its cells, all under way from the construction on."""

    def __init__(self, cells: Iterable[Cell], directory: Path) -> None:
        cells = list(cells)
        (self.deadline,) = {cell.deadline for cell in cells}
        directory.joinpath("sitecustomize.py").write_text(RESOLVER)
        with ExitStack() as held:
            self.sites = {cell: cell.fault.make(held) for cell in cells}
            well = held.enter_context(Upstream())
            providers = [
                {"models": [{"name": cell.model}], "name": cell.model, **site.provider}
                for cell, site in self.sites.items()
            ]
            providers.append(
                {"name": "well", "base-url": well.url, "models": [{"name": "well"}]},
            )
            config = {
                "request-retry": 0,
                **self.deadline.settings,
                "openai-compatibility": providers,
            }
            secrets = ["secret-word"]
            env = {"PYTHONPATH": str(directory)}
            self.gateway = held.enter_context(Gateway(config, env=env, secrets=secrets))
            pool = held.enter_context(ThreadPoolExecutor(len(cells)))
            self._all_stuck = threading.Event()
            self._futures: dict[Cell, Future[Seen]] = {
                cell: pool.submit(self._run, cell) for cell in cells
            }
            ends_together = self.deadline.name in ("caller-leaves", "sigterm")
            self._wait_stuck(len(cells) if ends_together else 1)
            began = time.monotonic()
            assert self.gateway.chat("well").status == 200
            self.well_s = time.monotonic() - began
            self._all_stuck.set()
            self.stopped_s = self._stop() if self.deadline.name == "sigterm" else 0.0
            self._held = held.pop_all()

    def close(self) -> None:
        self._held.close()

    def seen(self, cell: Cell) -> Seen:
        """What came of it; blocks until it is over."""
        return self._futures[cell].result()

    def facts(self) -> list[dict[str, Any]]:
        """The pool's on the clients, once all cells are over."""
        for future in self._futures.values():
            future.result()
        return self._facts()

    def _facts(self) -> list[dict[str, Any]]:
        (worker,) = ask_all(self.gateway.port, {"do": "status"}, timeout_s=PATIENCE_S)
        found: list[dict[str, Any]] = worker["clients"]
        return found

    def _wait_stuck(self, requests: int) -> None:
        """Block until so many requests have their clients."""
        until = time.monotonic() + PATIENCE_S
        while sum(client["in_flight"] for client in self._facts()) < requests:
            assert time.monotonic() < until

    def _stop(self) -> float:
        """How long the server took to end."""
        began = time.monotonic()
        self.gateway.terminate()
        assert self.gateway.wait_ended() == 0
        return time.monotonic() - began

    def _run(self, cell: Cell) -> Seen:
        path, body = KINDS[cell.kind](cell.model)
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nx-request-id: {cell.model}\r\n"
        head += f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        with self.gateway.connect() as sock:
            began = time.monotonic()
            sock.sendall(head.encode() + data)
            if self.deadline.name == "caller-leaves":
                return self._leave(cell, sock)
            said = sock.recv(4096)
            first_s = time.monotonic() - began
            while more := sock.recv(4096):
                said += more
            over_s = time.monotonic() - began
        return Seen(said, first_s, over_s, self.gateway.record_of(cell.model))

    def _leave(self, cell: Cell, sock: socket.socket) -> Seen:
        assert self._all_stuck.wait(PATIENCE_S)
        left_at = time.monotonic()
        sock.close()
        record = self.gateway.record_of(cell.model)
        self.sites[cell].left()
        return Seen(b"", 0.0, time.monotonic() - left_at, record)


def check(watch: Watch, cell: Cell) -> None:
    """The request is over in time, says so, and leaves nothing behind."""
    deadline, seen = cell.deadline, watch.seen(cell)
    if deadline.name == "caller-leaves":
        assert seen.record["end"] == "caller_gone"
        assert seen.over_s < NOTICED_S
        return
    assert in_time(seen.over_s, deadline.over_s), seen
    comments = deadline.comment_s < math.inf and cell.kind != "unary"
    assert in_time(seen.first_s, deadline.comment_s if comments else deadline.over_s), seen
    assert (b'"code":"504"' if comments else b'"code":"upstream_timeout"') in seen.said, seen
    assert seen.said.startswith(b"HTTP/1.1 200" if comments else b"HTTP/1.1 504"), seen
    assert seen.said.count(b": keep-alive\n\n") >= (2 if comments else 0), seen
    assert seen.record["attempts"] == "1"
    watch.sites[cell].left()


def in_time(took_s: float, limit_s: float) -> bool:
    return limit_s - 0.05 < took_s < limit_s * 1.1 + SLACK_S
