"""The virtual clock moves in waits only, and lets no test wait for ever."""

from __future__ import annotations

import itertools
import math

import pytest

from proxy.net.watch import CallerConnection
from tests.support.clock import VirtualClock


def test_what_is_planned_happens_in_order_on_the_way() -> None:
    """Each at its moment; what is due at the end of a wait happens in it."""
    clock, found = VirtualClock(), []
    began = clock.now
    for seconds in (3, 1, 2, 4):
        clock.after(seconds, lambda: found.append(clock.now - began))
    clock.sleep(3)
    assert (clock.now - began, found) == (3, [1, 2, 3])
    clock.sleep(0.5)
    assert (clock.now - began, found) == (3.5, [1, 2, 3])


def test_wait_that_nothing_ends_fails() -> None:
    """What is planned may end it."""
    clock = VirtualClock()
    clock.after(5, lambda: None)
    with pytest.raises(AssertionError, match="never end"):
        CallerConnection(None).pause(math.inf, clock)


def test_busy_loop_fails() -> None:
    """A wait for what is past lets no time pass."""
    clock = VirtualClock()
    with pytest.raises(AssertionError, match="busy"):
        any(clock.sleep(0) for _ in itertools.count())  # type: ignore[func-returns-value]
