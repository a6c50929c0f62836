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

    __slots__ = ("_fd", "_is_gone", "_is_hidden", "_sock")

    def __init__(
        self, sock: socket.socket | None, is_gone: Callable[[], bool] | None = None
    ) -> None:
        self._sock = sock
        self._is_gone = is_gone
        self._fd = -1 if sock is None else sock.fileno()
        self._is_hidden = False

    @classmethod
    def from_environ(cls, environ: Mapping[str, Any]) -> CallerConnection:
        """The caller of a WSGI request; of one over HTTP/2 none, as many share a socket."""
        if environ.get("SERVER_PROTOCOL", "").startswith("HTTP/2"):
            return cls(None)
        sock = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
        return cls(sock, environ.get("waitress.client_disconnected"))

    def poller(self, fd: int = -1) -> Poll:
        """What `wait` polls: for bytes on `fd`, if there is one, and as `join` says."""
        poller = select.poll()
        if fd >= 0:
            poller.register(fd, select.POLLIN)
        self.join(poller)
        return poller

    def join(self, poller: Poll) -> None:
        """Have `poller` report the caller's end too, and notes of what was lost, where it can."""
        if LOST.fd >= 0 or LOST.open():
            poller.register(LOST.fd, select.POLLIN)
        if self._fd >= 0 and not self._is_hidden:
            poller.register(self._fd, _RDHUP or select.POLLIN)

    def wait(self, poller: Poll, until: float, clock: Clock) -> list[tuple[int, int]]:
        """The events of others in `poller`, or none at the moment `until`; raises CallerGone."""
        while True:
            look_at = until
            if self._is_gone is not None:
                if self._is_gone():
                    gone = CallerGone("the caller closed the connection")
                    gone.server_knows = True
                    raise gone
                look_at = min(until, clock.monotonic() + LOOK_S)
            events = clock.poll(poller, look_at)
            if len(events) == 1 and events[0][0] != LOST.fd and events[0][0] != self._fd:
                return events  # as a rule
            others = self.check(events, poller)
            if others or not (events or look_at < until):
                return others

    def check(self, events: list[tuple[int, int]], poller: Poll) -> list[tuple[int, int]]:
        """Those of others; raises CallerGone, ShuttingDown if these say so; does what was noted."""
        others = []
        for fd, event in events:
            if fd == LOST.fd:
                LOST.answer()
            elif fd != self._fd:
                others.append((fd, event))
            elif event & _ENDED or self._at_end():
                raise CallerGone("the caller closed the connection")
            else:  # bytes of a pipelined request, which hide the caller's end from here on
                poller.unregister(fd)
                self._is_hidden = True
        return others

    def raise_if_gone(self) -> None:
        """Raise CallerGone if the caller has left by now."""
        self.pause(-math.inf)

    def pause(self, until: float, clock: Clock = CLOCK) -> None:
        """Wait for nothing but the monotonic moment `until`; raises CallerGone."""
        self.wait(self.poller(), until, clock)

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
