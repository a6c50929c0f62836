"""A descriptor that reports: something is over, a client is free, something was lost."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .watch import CallerConnection, Clock

# What an eventfd takes: a count, eight bytes in the machine's order.
_ONE = (1).to_bytes(8, sys.byteorder)
# What a pipe holds at most by default (pipe(7)): one read empties it.
_PIPE_BYTES = 65536


class Bell:
    """Wakes whoever polls `fd`, a single thread as a rule. Ringing never blocks nor gets lost."""

    __slots__ = ("_write_fd", "fd", "pid")

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.fd = self._write_fd = -1  # for `__del__`, if no descriptor can be had
        if hasattr(os, "eventfd"):
            self.fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self.fd, self._write_fd = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write_fd, False)

    def ring(self, _over: object = None) -> None:
        """Have the present or the next poll end. A callback of futures, too."""
        try:  # noqa: SIM105 - finalizers call it: no more calls than are needed
            os.write(self._write_fd, _ONE)
        except BlockingIOError:
            pass  # it has been rung so often already

    def hush(self) -> None:
        """Ring no more, until the next `ring`."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, _PIPE_BYTES)

    def wait(self, until: float, caller: CallerConnection, clock: Clock) -> bool:
        """Whether it rang before the monotonic moment `until`; raises CallerGone."""
        has_rung = bool(caller.wait(caller.poller(self.fd), until, clock))
        if has_rung:
            self.hush()
        return has_rung

    def __del__(self) -> None:
        for fd in {self.fd, self._write_fd} - {-1}:
            os.close(fd)


_thread = threading.local()


def my_bell() -> Bell:
    """The calling thread's bell. A thread makes it at its first wait, a forked child anew."""
    bell: Bell | None = getattr(_thread, "bell", None)
    if bell is None or bell.pid != os.getpid():
        bell = _thread.bell = Bell()
    return bell
