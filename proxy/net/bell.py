"""Waking the one thread that waits, in the queue for a client or for the end of a helper's task."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading

from .watch import CLOCK, CallerConnection, Clock

# What an eventfd takes: a count, eight bytes in the machine's order.
_ONE = (1).to_bytes(8, sys.byteorder)


class Bell:
    """Wakes the one thread that waits on it; ringing neither blocks nor gets lost."""

    __slots__ = ("_read_fd", "_write_fd", "pid")

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._read_fd = self._write_fd = -1  # for `__del__`, if no descriptor can be had
        if hasattr(os, "eventfd"):
            self._read_fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read_fd, self._write_fd = os.pipe()
            os.set_blocking(self._read_fd, False)
            os.set_blocking(self._write_fd, False)

    def ring(self) -> None:
        """Wake the waiter, or have its next wait end at once."""
        with contextlib.suppress(BlockingIOError):  # it has been rung already
            os.write(self._write_fd, _ONE)

    def wait(self, until: float, caller: CallerConnection, clock: Clock = CLOCK) -> bool:
        """Whether it rang before the monotonic moment `until`; raises CallerGone."""
        poller = select.poll()
        poller.register(self._read_fd, select.POLLIN)
        caller.join(poller)
        while True:
            events = caller.poll(poller, until, clock)
            if not events:
                return False
            caller.check(events, poller)
            if any(fd == self._read_fd for fd, _ in events):
                os.read(self._read_fd, 4096)
                return True

    def __del__(self) -> None:
        for fd in {self._read_fd, self._write_fd} - {-1}:
            os.close(fd)


_thread = threading.local()


def my_bell() -> Bell:
    """The calling thread's bell. A thread makes it at its first wait, a forked child anew."""
    bell: Bell | None = getattr(_thread, "bell", None)
    if bell is None or bell.pid != os.getpid():
        bell = _thread.bell = Bell()
    return bell
