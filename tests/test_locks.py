"""The pool's lock is for choices only: never held while waiting, waking or watching a caller."""

from __future__ import annotations

import math
from collections.abc import Callable

from proxy.health import Effect
from proxy.lease import Lease
from proxy.watch import Bell, Caller, Clock, Poll
from tests.pool_tools import Desk, VirtualClock, make_client


class LockSeer(VirtualClock):
    """Fails at a wait that is begun with the pool's lock held."""

    desk: Desk

    def poll(self, poller: Poll, until: float) -> list[tuple[int, int]]:
        assert not self.desk.pool._lock.locked()
        return super().poll(poller, until)


class LockSeeingBell(Bell):
    """Fails when it is rung with the pool's lock held."""

    __slots__ = ("desk", "rung")

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.rung = 0

    def ring(self) -> None:
        assert not self.desk.pool._lock.locked()
        self.rung += 1
        super().ring()


def make_desk() -> tuple[Desk, LockSeer]:
    clock = LockSeer()
    clock.desk = Desk(make_client("a"), make_client("b"), clock=clock)
    return clock.desk, clock


def test_the_lock_is_free_during_a_wait_which_ends_by_hand_off() -> None:
    """Others go on meanwhile, and whoever is handed a client wakes at that moment."""
    desk, clock = make_desk()
    held = [desk.take(), desk.take()]
    began = clock.now
    clock.at(began + 1.0, held[0].release)
    lease = desk.pool.acquire(desk.ticket(), desk.routes["m"], math.inf)
    assert lease is not None
    assert clock.now == began + 1.0
    lease.release()
    held[1].release()
    desk.assert_idle()


def test_the_lock_is_free_while_waking() -> None:
    """By a release, a cooldown, a client disabled or enabled: a bell is a system call."""
    changes: list[Callable[[Desk, Lease], object]] = [
        lambda _, lease: lease.release(),
        lambda _, lease: lease.report(Effect.COOL, asked_s=60.0),
        lambda _, lease: lease.report(Effect.OUT),
        lambda desk, _: desk.pool.set_disabled("a", True),
    ]
    for change in changes:
        desk, _ = make_desk()
        held = [desk.take(), desk.take()]
        ticket = desk.ticket()
        desk.queue(ticket)
        ticket.bell = bell = LockSeeingBell(desk)
        change(desk, held[0])
        assert bell.rung == 1
        desk.pool.withdraw(ticket)
        for lease in held:
            lease.release()


def test_the_lock_is_free_while_a_caller_is_watched() -> None:
    """A caller's socket is looked at in the same wait, so outside of the lock as well."""
    desk, clock = make_desk()
    held = [desk.take(), desk.take()]

    class Watched(Caller):
        __slots__ = ()

        def join(self, poller: Poll) -> None:
            assert not desk.pool._lock.locked()
            super().join(poller)

        def pause(self, until: float, clock: Clock = clock) -> None:
            assert not desk.pool._lock.locked()
            super().pause(until, clock)

    clock.at(clock.now + 1.0, held[0].release)
    lease = desk.pool.acquire(desk.ticket("m", Watched(None)), desk.routes["m"], math.inf)
    assert lease is not None
    lease.release()
    held[1].release()
    desk.assert_idle()
