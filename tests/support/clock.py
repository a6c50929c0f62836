"""The one clock of tests that need not sleep, and what others may be late by."""

from __future__ import annotations

import heapq
import itertools
import math
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proxy.net.watch import CallerConnection, Clock, Poll

# Beside other tests the cores are not ours: a process may stand still for so long.
BUSY_S = 2.0 if "PYTEST_XDIST_WORKER" in os.environ else 0.0
# A deadline holds within a tenth of itself and this.
SLACK_S = BUSY_S or 0.3
# How soon it is noticed that a caller left: what the contract allows.
NOTICED_S = 1.0 + BUSY_S

# Not 0, so that a moment is no duration. Fractions of powers of two are exact in floats of this
# size, so that moments compare equal.
START_S = 1024.0
WALL_S = 1_760_000_000.0


class VirtualClock(Clock):
    """Time passes only in waits, and at once; what was planned happens on the way.

    A wait that nothing could end fails the test, as does a busy loop.
    """

    def __init__(self) -> None:
        self.now = START_S
        self.waits = 0
        self._planned: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self.monotonic = lambda: self.now
        self.wall = lambda: WALL_S + self.now - START_S

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do it when so many seconds from now have passed in waits."""
        heapq.heappush(self._planned, (self.now + seconds, next(self._numbers), action))

    def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        CallerConnection(None).pause(self.now + seconds, self)

    def poll(self, poller: Poll, until: float) -> list[tuple[int, int]]:
        self.waits += 1
        assert self.waits < 100_000, "a busy loop"
        while not (events := poller.poll(0)):
            if self._planned and self._planned[0][0] <= max(until, self.now):
                moment, _, action = heapq.heappop(self._planned)
                self.now = max(self.now, moment)
                action()
            elif until <= self.now:
                break
            else:
                assert until < math.inf, "this wait would never end"
                self.now = until
        return events


@contextmanager
def caller_leaving(clock: VirtualClock, after_s: float) -> Iterator[CallerConnection]:
    """A caller who hangs up so many seconds from now."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        clock.after(after_s, theirs.close)
        yield CallerConnection(ours)
