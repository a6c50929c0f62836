"""Waiting for one thing while keeping an eye on the caller, without a second thread.

Every wait of a request (for an upstream, in the queue, in back-off) ends by data, by a moment on
the clock, or because the caller hung up. What is watched is owned elsewhere, and not closed here.
"""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from ..errors import CallerGone
from .lost import LOST
from .timed_socket import limit_io

# Linux and FreeBSD report a peer's half-close as an event of its own; elsewhere (macOS) the socket
# only becomes readable, and a peek tells its end from bytes of a next, pipelined request.
_RDHUP = getattr(select, "POLLRDHUP", 0)
_ENDED = _RDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR | select.POLLNVAL

# A server that offers no socket is asked about its caller so often, s.
LOOK_S = 0.5

# poll() takes a C int of milliseconds.
_MAX_POLL_MS = 2**31 - 1

Poll: TypeAlias = "select.poll"


class Clock:
    """Clock and poll. Tests substitute a virtual one that need not sleep."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def poll(self, poller: Poll, until: float) -> list[tuple[int, int]]:
        """The events of `poller`, or none at the monotonic moment `until`."""
        left_ms = (until - time.monotonic()) * 1000
        if 0 < left_ms < _MAX_POLL_MS:
            return poller.poll(left_ms)
        return poller.poll(0) if left_ms <= 0 else poller.poll()


CLOCK = Clock()


class CallerConnection:
    """The caller's connection, as far as the server shows it: tells when the caller hangs up.

    By its socket, or by `is_gone`, which is asked now and then. Without either
    (`CallerConnection(None)`) the caller never seems to leave.
    """

    __slots__ = ("_fd", "_is_gone", "_sock")

    def __init__(
        self, sock: socket.socket | None, is_gone: Callable[[], bool] | None = None
    ) -> None:
        self._sock = sock
        self._is_gone = is_gone
        self._fd = -1 if sock is None else sock.fileno()

    @classmethod
    def from_environ(cls, environ: Mapping[str, Any]) -> CallerConnection:
        """The caller of a WSGI request; of one over HTTP/2 none, as many share a socket."""
        if environ.get("SERVER_PROTOCOL", "").startswith("HTTP/2"):
            return cls(None)
        sock = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
        return cls(sock, environ.get("waitress.client_disconnected"))

    def poll(self, poller: Poll, until: float, clock: Clock) -> list[tuple[int, int]]:
        """The events of `poller`, for `check`, or none at the moment `until`; raises CallerGone."""
        if self._is_gone is None:
            return clock.poll(poller, until)
        while True:
            if self._is_gone():
                gone = CallerGone("the caller closed the connection")
                gone.server_knows = True
                raise gone
            look_at = clock.monotonic() + LOOK_S
            events = clock.poll(poller, min(until, look_at))
            if events or until <= look_at:
                return events

    def join(self, poller: Poll) -> None:
        """Have `poller` report the caller's end too, and notes of what was lost, where it can."""
        if LOST.fd >= 0 or LOST.open():
            poller.register(LOST.fd, select.POLLIN)
        if self._fd >= 0:
            poller.register(self._fd, _RDHUP or select.POLLIN)

    def check(self, events: list[tuple[int, int]], poller: Poll) -> None:
        """Raise CallerGone or ShuttingDown if these events say so; give back what was lost."""
        for fd, event in events:
            if fd == LOST.fd:
                LOST.answer()
            if fd != self._fd:
                continue
            if event & _ENDED or self._at_end():
                raise CallerGone("the caller closed the connection")
            # These are bytes of a pipelined request, which hide the caller's end from here on.
            poller.unregister(fd)
            self._fd = -1

    def raise_if_gone(self) -> None:
        """Raise CallerGone if the caller has left by now."""
        self.pause(-math.inf)

    def pause(self, until: float, clock: Clock = CLOCK) -> None:
        """Wait for nothing but the monotonic moment `until`; raises CallerGone."""
        poller = select.poll()
        self.join(poller)
        while events := self.poll(poller, until, clock):
            self.check(events, poller)

    def _at_end(self) -> bool:
        assert self._sock is not None
        try:
            return self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except (OSError, ValueError):  # a TLS socket takes no flags, so that bytes count as an end
            return True

    def limit_io(self, timeout_s: float, *, receive_until: float = math.inf) -> None:
        """Limit reads from and writes to the caller, as `limit_io` of sockets does."""
        if self._sock is not None:
            limit_io(self._sock, timeout_s, receive_until=receive_until)


class SocketWatch:
    """Waits for one upstream socket and the caller. One per exchange, used by one thread."""

    __slots__ = ("_caller", "_clock", "_fd", "_poll", "_writing")

    def __init__(self, sock: socket.socket, caller: CallerConnection, clock: Clock = CLOCK) -> None:
        self._fd = sock.fileno()
        self._caller = caller
        self._clock = clock
        self._writing = False
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        caller.join(self._poll)

    def wait(self, until: float, *, writing: bool = False) -> int:
        """The events on the upstream socket, 0 if none came until then; raises CallerGone."""
        if writing != self._writing:
            self._poll.modify(self._fd, select.POLLIN | (select.POLLOUT if writing else 0))
            self._writing = writing
        while events := self._caller.poll(self._poll, until, self._clock):
            fd, event = events[0]
            if fd == self._fd and len(events) == 1:
                return event
            self._caller.check(events, self._poll)
            for fd, event in events:
                if fd == self._fd:
                    return event
        return 0

    @staticmethod
    def readable(event: int) -> bool:
        """Whether a read would not block after this event."""
        return bool(event & _READABLE)
