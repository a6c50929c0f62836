"""Notes that finalizers make of what is still to be given back, and of the process's own end.

A finalizer runs wherever the garbage collector does, also in a thread that holds some lock. So it
only makes a note, and rings a bell that is in the poll set of every wait of a request
(`CallerConnection.join`): the request that wakes does what was noted, else the next one that asks
the pool for a client. The same bell ends all waits when the process is about to end (`stop`).
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable

from ..errors import ShuttingDown
from .bell import Bell

log = logging.getLogger("proxy")


class Lost:
    """The notes of one process, and the descriptor that reports them.

    Opens nothing before the first wait. A forked child starts with no notes: its parent has them.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew, as a forked child has to: without the parent's notes and descriptor."""
        self._lock = threading.Lock()  # held while the bell is made
        self.notes: deque[Callable[[], None]] = deque()
        self.is_stopping = False
        self.fd = -1
        self._bell: Bell | None = None

    def note(self, give_back: Callable[[], None]) -> None:
        """Have `give_back` called soon, in an ordinary frame. For finalizers: takes no lock."""
        self.notes.append(give_back)
        if self._bell is not None:
            self._bell.ring()

    def stop(self) -> None:
        """Have every wait of a request, now and from now on, end with ShuttingDown."""
        self.is_stopping = True
        if self.open() and self._bell:
            self._bell.ring()

    def open(self) -> bool:
        """Make `fd` if need be; False if the process can have no more descriptors."""
        with self._lock:
            if self._bell is None:
                try:
                    self._bell = Bell()
                except OSError:
                    return False
                self.fd = self._bell.fd
        return True

    def answer(self) -> None:
        """Do what was noted after a poll reported `fd`; raises ShuttingDown after `stop`."""
        assert self._bell is not None
        self._bell.hush()  # at first, so that no later note goes unseen
        self.give_back()
        if self.is_stopping:
            self._bell.ring()  # for all others
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
