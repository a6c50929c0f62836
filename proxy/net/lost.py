"""Notes that finalizers make of what is still to be given back, and of the process's own end.

A finalizer runs wherever the garbage collector does, also in a thread that holds a lock of ours, of
the logging module or of a library. If it took a lock, that thread could wait for itself. So a
finalizer only makes a note, which takes no lock. A note writes to a descriptor that is in the poll
set of every wait of a request (`CallerConnection.join`): the request that wakes does what was
noted. If no request waits, the next one that asks the pool for a client does it.

The same descriptor ends all waits when the process is about to end (`stop`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable

from ..errors import ShuttingDown

# What a pipe holds at most by default (pipe(7)): one read empties it.
_PIPE_BYTES = 65536

log = logging.getLogger("proxy")


class Lost:
    """The notes of one process, and the descriptor that reports them.

    Opens nothing before the first wait. A forked child starts with no notes: its parent has them.
    A request looks at `notes` and calls `give_back` only if there are any.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()  # held while the pipe is made
        self.notes: deque[Callable[[], None]] = deque()
        self.is_stopping = False
        self.fd = self._write_fd = -1

    def forget(self) -> None:
        """Start anew in a forked child, without the parent's notes and pipe."""
        fds = {self.fd, self._write_fd} - {-1}
        self._begin()
        for fd in fds:
            os.close(fd)

    def note(self, give_back: Callable[[], None]) -> None:
        """Have `give_back` called soon, in an ordinary frame. For finalizers: takes no lock."""
        self.notes.append(give_back)
        if self._write_fd >= 0:
            try:  # noqa: SIM105 - no more calls than are needed
                os.write(self._write_fd, b"\0")
            except OSError:
                pass  # the pipe is full: it has been written to already

    def stop(self) -> None:
        """Have every wait of a request, now and from now on, end with ShuttingDown."""
        self.is_stopping = True
        if self.open():
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full
            os.write(self._write_fd, b"\0")

    def open(self) -> bool:
        """Make `fd` if need be; False if the process can have no more descriptors."""
        with self._lock, contextlib.suppress(OSError):
            if self.fd < 0:
                fd, self._write_fd = os.pipe()
                os.set_blocking(fd, False)
                os.set_blocking(self._write_fd, False)
                self.fd = fd
        return self.fd >= 0

    def answer(self) -> None:
        """Do what was noted after a poll reported `fd`. The first that wakes empties the pipe.

        Raises ShuttingDown after `stop`, and leaves the pipe as it is for all others.
        """
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, _PIPE_BYTES)  # first, so that no later note goes unseen
        self.give_back()
        if self.is_stopping:
            self._wake()
            raise ShuttingDown

    def give_back(self) -> None:
        """Do what was noted, if anything. Not to be called with a lock held."""
        while self.notes:
            try:
                give_back = self.notes.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                give_back()
            except Exception:  # it must not become an error of whoever happened to come
                log.exception("what a lost request held could not all be given back")


LOST = Lost()

os.register_at_fork(after_in_child=LOST.forget)
