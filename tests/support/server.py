"""What all fake servers have in common: a listener, a thread for each connection, and their end.

A fake says in `serve` what it does with a `Connection`, whose waits also see the peer leave and the
server stop.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

T = TypeVar("T")
Server = TypeVar("Server", bound="FakeServer")

# For what takes no time on a machine that has some.
PATIENCE_S = 10.0

# Linux tells a peer's FIN by POLLRDHUP, whatever was left unread before it; elsewhere POLLHUP,
# which poll() always reports, has to do.
_LEFT = getattr(select, "POLLRDHUP", 0)
_GONE = _LEFT | select.POLLHUP | select.POLLERR


class Readable(Protocol):
    """What poll() can wait for."""

    def fileno(self) -> int: ...


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens at, until a server that is told of it does.

    It stays bound while this process lives, or the kernel would give it to somebody else meanwhile.
    That keeps no server from it: they ask for SO_REUSEADDR, as is done here.
    """
    sock = socket.socket(_family(host))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, 0))
    port: int = sock.getsockname()[1]
    sock.detach()
    return port


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class Over(Exception):
    """This connection has nothing more to do."""


class PeerLeft(Over):
    """The peer closed, reset, or half-closed its side."""


class ServerStopped(Over):
    """`FakeServer.close()` was called."""


class ServerFault(Exception):
    """A fake failed: what it was sent was malformed, a scripted answer raised, a thread hung."""


class Connection:
    """A connection's bytes, in no hurry: waits end by what they wait for, or raise `Over`.

    `number` counts a server's connections from 1. `stopped` becomes readable when it stops.
    """

    def __init__(self, sock: socket.socket, stopped: socket.socket, number: int = 0) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = number
        self._sock = sock
        self._stopped = stopped
        self._buffer = bytearray()

    def fileno(self) -> int:
        return self._sock.fileno()

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Do the server's part of the handshake; a peer that refuses us counts as gone."""
        try:
            self._sock = context.wrap_socket(
                self._sock, server_side=True, do_handshake_on_connect=False
            )
        except OSError as refused:  # the peer was gone before
            raise PeerLeft from refused
        self._attempt(self._sock.do_handshake, select.POLLIN)

    def read_until(self, end: bytes) -> bytes:
        """What comes before `end`, which is taken too."""
        while (at := self._buffer.find(end)) < 0:
            self._fill()
        return self.read_exactly(at + len(end))[:at]

    def read_exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._fill()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def take(self) -> bytes:
        """What is there by now, which may be nothing."""
        if not self._buffer:
            try:
                self._receive()
            except (BlockingIOError, ssl.SSLWantReadError):
                return b""
            except OSError as broken:
                raise PeerLeft from broken
        return self.read_exactly(len(self._buffer))

    def send(self, data: bytes) -> None:
        self.wait(0)
        left = memoryview(data)
        while left:
            left = left[self._attempt(partial(self._sock.send, left), select.POLLOUT) :]

    def wait(
        self, timeout_s: float | None = None, ready: int = 0, also: Readable | None = None
    ) -> None:
        """Wait for `ready`, or until `also` can be read or the time is over.

        Raises `PeerLeft` unless it waits for input: there reading itself tells, after what the peer
        sent before it left.
        """
        reading = bool(ready & select.POLLIN)
        poller = select.poll()
        poller.register(self._sock, ready if reading else ready | _LEFT)
        poller.register(self._stopped, select.POLLIN)
        if also:
            poller.register(also, select.POLLIN)
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_ms = None if until is None else max(0.0, until - time.monotonic()) * 1000
            seen = dict(poller.poll(left_ms))
            if self._stopped.fileno() in seen:
                raise ServerStopped
            happened = seen.get(self.fileno(), 0)
            if happened & _GONE and not reading:
                raise PeerLeft
            if seen or (until is not None and time.monotonic() >= until):
                return

    def close(self) -> None:
        """Send close_notify and FIN; unread bytes must go, or the kernel makes it a RST."""
        with suppress(OSError, ValueError):
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock.unwrap()
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            while self._sock.recv(65536):
                pass
        self._sock.close()

    def reset(self) -> None:
        """Close by a RST."""
        no_lingering = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 s
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
        self._sock.close()

    def drop(self) -> None:
        """Close without a word, whatever is still to be read."""
        self._sock.close()

    def _fill(self) -> None:
        self._attempt(self._receive, select.POLLIN)

    def _receive(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise PeerLeft
        self._buffer += data

    def _attempt(self, operation: Callable[[], T], ready: int) -> T:
        """Try, and wait for what it lacks, until it goes through."""
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                lacks = select.POLLIN
            except ssl.SSLWantWriteError:
                lacks = select.POLLOUT
            except BlockingIOError:
                lacks = ready
            except OSError as broken:
                raise PeerLeft from broken
            self.wait(None, lacks)


class FakeServer(ABC):
    """Serves on loopback, from its construction to `close()`. `tls`: see certificates.py.

    `host`: 127.0.0.1, or ::1.
    """

    scheme = "http"
    path = ""  # of its URL

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.connections = 0
        self.connections_open = 0
        self._tls = tls
        # guards all that changes here and in a fake; notified of every change
        self._changed = threading.Condition()
        self._faults: list[Exception] = []
        self._threads: list[threading.Thread] = []
        self._stopped, self._stop = socket.socketpair()
        self._listener = socket.create_server((host, 0), family=_family(host), backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        self.origin = f"{self.scheme}{'s' if tls else ''}://{name}:{self.port}"
        self.url = self.origin + self.path
        self._start(self._accept)

    def __enter__(self: Server) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, connection: Connection) -> None:
        """What comes before `serve`: TLS, if there is any."""
        if self._tls:
            connection.start_tls(self._tls)

    @abstractmethod
    def serve(self, connection: Connection) -> None:
        """All that happens on a connection, which is closed behind it.

        What it raises, but for `Over`, is raised by `close()` too.
        """

    def wait_reached(self) -> None:
        """Block until somebody has connected; raises TimeoutError."""
        self._wait(lambda: self.connections > 0, PATIENCE_S, "a connection")

    def wait_for_connections(self, still_open: int = 0, timeout_s: float = PATIENCE_S) -> None:
        """Block until at most `still_open` connections are open; raises TimeoutError."""
        self._wait(lambda: self.connections_open <= still_open, timeout_s, "connections to close")

    def close(self) -> None:
        """End every connection and thread; raises the first fault of `serve`. Idempotent."""
        if self._stop.fileno() < 0:
            return
        self._stop.shutdown(socket.SHUT_WR)
        for thread in self._threads:  # the first of them adds the others
            thread.join(PATIENCE_S)
        for sock in (self._listener, self._stop, self._stopped):
            sock.close()
        stuck = [thread.name for thread in self._threads if thread.is_alive()]
        if stuck or self._faults:
            cause = self._faults[0] if self._faults else None
            raise ServerFault("; ".join([*map(repr, self._faults), *stuck])) from cause

    def _wait(self, fulfilled: Callable[[], bool], timeout_s: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(fulfilled, timeout_s):
                raise TimeoutError(f"waited {timeout_s} s for {what}; {self._so_far()}")

    def _so_far(self) -> str:
        """What happened instead of what was waited for."""
        return f"{self.connections} connections, {self.connections_open} open"

    def _start(self, work: Callable[..., None], *args: object) -> None:
        name = f"{type(self).__name__} {len(self._threads)}"
        thread = threading.Thread(target=work, args=args, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(self._stopped, select.POLLIN)
        while self._stopped.fileno() not in dict(poller.poll()):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):  # gone before we looked
                continue
            with self._changed:
                self.connections += 1
                self.connections_open += 1
                self._changed.notify_all()
            self._start(self._run, Connection(sock, self._stopped, self.connections))

    def _run(self, connection: Connection) -> None:
        try:
            self.begin(connection)
            self.serve(connection)
        except Over:
            pass
        except Exception as fault:  # close() raises it
            with self._changed:
                self._faults.append(fault)
        finally:
            connection.close()
            with self._changed:
                self.connections_open -= 1
                self._changed.notify_all()
