"""Locks: held wherever what they guard is used, and for nothing that takes its time.

The pool's is for choices only: never held while waiting, waking or watching a caller. That it is
held for every choice is seen to by `tests.support.pool.guard` in all tests that use a desk.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import proxy
from proxy.errors import NoClientInService
from proxy.net.bell import Bell
from proxy.net.watch import CallerConnection, Clock, Poll
from proxy.pool import Effect, Lease, Ticket
from tests.support.clock import VirtualClock
from tests.support.pool import Desk, make_client


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

    def ring(self, _over: object = None) -> None:
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
    clock.after(1.0, held[0].release)
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
        desk = Desk(make_client("a", permits=2))
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

    class Watched(CallerConnection):
        __slots__ = ()

        def join(self, poller: Poll) -> None:
            assert not desk.pool._lock.locked()
            super().join(poller)

        def pause(self, until: float, clock: Clock = clock) -> None:
            assert not desk.pool._lock.locked()
            super().pause(until, clock)

    clock.after(1.0, held[0].release)
    lease = desk.pool.acquire(desk.ticket("m", Watched(None)), desk.routes["m"], math.inf)
    assert lease is not None
    lease.release()
    held[1].release()
    desk.assert_idle()


def test_the_lock_is_free_between_one_client_and_the_next() -> None:
    """While their facts are gathered, of which there may be a hundred thousand."""
    desk, _ = make_desk()
    lock, taken = desk.pool._lock, []

    class Counted:
        def __enter__(self) -> None:
            lock.__enter__()
            taken.append(1)

        def __exit__(self, *raised: Any) -> None:
            lock.__exit__(*raised)

    desk.pool._lock = Counted()  # type: ignore[assignment]
    assert len(desk.pool.snapshot()) == 2
    assert len(taken) >= 1 + 2


# What a lock guards is said where it is made

PACKAGE = Path(proxy.__file__).parent
MAKING = re.compile(r"self\.(\w+) = threading\.Lock\(\)  # guards (all below|_\w+(?:, _\w+)*)")
MAKERS = ("__init__", "_begin", "forget")  # nobody else has the object yet


class Guarded:
    """A class with a lock: what it guards, and where that is used without it."""

    def __init__(self, name: str, node: ast.ClassDef, lines: list[str]) -> None:
        self.name = f"{name}:{node.name}"
        self.names: set[str] = set()
        self.lock = ""
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name in MAKERS:
                self._read_maker(method, lines)
        self.strays = [
            f"{self.name}.{method.name}, line {stray}"
            for method in node.body
            if isinstance(method, ast.FunctionDef) and self.lock
            if method.name not in MAKERS and not method.name.endswith("_locked")
            for stray in self._strays(method)
        ]

    def _read_maker(self, method: ast.FunctionDef, lines: list[str]) -> None:
        for number in range(method.lineno, (method.end_lineno or 0) + 1):
            if (made := MAKING.search(lines[number - 1])) is None:
                continue
            self.lock = made[1]
            self.names = set(re.findall(r"_\w+", made[2])) or {
                node.attr
                for node in ast.walk(method)
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
                if node.lineno > number
            }

    def _strays(self, node: ast.AST) -> Iterator[int]:
        if isinstance(node, ast.With) and any(
            ast.unparse(item.context_expr) == f"self.{self.lock}" for item in node.items
        ):
            return
        if isinstance(node, ast.Attribute) and node.attr in self.names:
            yield node.lineno
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("_locked"):
            yield node.lineno
        for child in ast.iter_child_nodes(node):
            yield from self._strays(child)


def guarded_classes() -> list[Guarded]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                one = Guarded(str(path.relative_to(PACKAGE)), node, text.splitlines())
                found += [one] if one.lock else []
    return found


def test_what_a_lock_guards_is_used_with_it_only() -> None:
    """In every class that says so; a method named `_locked` is called with it."""
    classes = guarded_classes()
    assert not [stray for one in classes for stray in one.strays]
    assert {
        "gateway.py:Places",
        "net/helpers.py:HelperThreads",
        "net/names.py:Names",
        "net/transport.py:Transport",
        "pool/pool.py:ClientPool",
    } <= {one.name for one in classes}
    [pool] = [one for one in classes if one.name == "pool/pool.py:ClientPool"]
    assert pool.names == {"_lines", "_leaving", "_queues", "_is_stopping"}


def test_every_lock_says_what_it_is_for() -> None:
    """On its line, by a comment."""
    for path in PACKAGE.rglob("*.py"):
        for line in path.read_text().splitlines():
            if "threading.Lock()" in line:
                assert "  # " in line, f"{path.name}: {line}"


# Who has to look again is woken


def woken(desk: Desk, ticket: Ticket) -> LockSeeingBell:
    """A bell for one that waits already."""
    assert ticket.bell is not None
    ticket.bell = bell = LockSeeingBell(desk)
    return bell


def test_who_waits_is_woken_when_the_worker_ends() -> None:
    """To be told so, and to go to another one."""
    desk = Desk(make_client("a"))
    held = desk.take()
    ticket = desk.ticket()
    desk.queue(ticket)
    bell = woken(desk, ticket)
    desk.pool.dismiss()
    assert bell.rung == 1
    desk.pool.withdraw(ticket)
    held.release()


def test_who_is_served_by_a_newcomer_is_woken() -> None:
    """A back-off, a cooldown and a trial end by time alone: whoever comes by hands over."""
    for ends in ("back-off", "cooldown", "trial"):
        desk = Desk(make_client("a", permits=2))
        waiting, trial = desk.ticket(), None
        if ends == "back-off":
            desk.take(ticket=waiting).release()
            waiting.tried_again_at = desk.clock.now + 1
        else:
            desk.fail("a", Effect.COOL, asked_s=1)
        if ends == "trial":
            desk.clock.now += 1
            trial = desk.take()
        desk.queue(waiting)
        bell = woken(desk, waiting)
        desk.clock.now += 2
        newcomer = desk.ticket()
        lease = desk.ask(newcomer)
        assert bell.rung == 1, ends
        desk.pool.withdraw(newcomer)
        for each in (lease, trial, desk.take(ticket=waiting)):
            if each is not None:
                each.release()
        desk.assert_idle()


def test_who_waits_is_woken_when_the_clients_of_its_model_change() -> None:
    """It looks again: another may be free now."""
    desk = Desk(make_client("a"), make_client("b"))
    both, desk.routes["m"] = desk.routes["m"], desk.routes["m"][:1]
    held, waiting = desk.take(), desk.ticket()
    desk.queue(waiting)
    bell = woken(desk, waiting)
    desk.routes["m"] = both
    newcomer = desk.ticket()
    desk.queue(newcomer)
    assert bell.rung >= 1
    desk.pool.withdraw(newcomer)
    held.release()
    desk.take(ticket=waiting).release()
    desk.assert_idle()


@pytest.mark.parametrize("effect", [Effect.GOOD, Effect.BEGUN])
def test_who_waits_for_a_trial_is_woken_when_it_passes(effect: Effect) -> None:
    """And a newcomer need not wait, though another has just seen the trial go on."""
    desk = Desk(make_client("a", permits=5))
    desk.fail("a", Effect.COOL, asked_s=1)
    desk.clock.now += 1
    trial, waiting = desk.take(), desk.ticket()
    desk.queue(waiting)
    bell = woken(desk, waiting)
    trial.report(effect)
    assert bell.rung == 1
    for lease in (desk.take(), desk.take(ticket=waiting), trial):
        lease.release()
    desk.assert_idle()


@pytest.mark.parametrize("earlier", [Effect.NONE, Effect.COOL, Effect.OUT_OF_MODEL])
def test_who_waits_for_another_model_is_told_that_the_key_is_refused(earlier: Effect) -> None:
    """A 401 is the client's: a wait for any model of it ends, and at once."""
    desk = Desk(make_client("a", models=(("m", "m"), ("n", "n"))))
    held, waiting = desk.take("m"), desk.ticket("n")
    held.report(earlier)
    desk.queue(waiting)
    bell = woken(desk, waiting)
    held.report(Effect.OUT)
    assert bell.rung == 1
    with pytest.raises(NoClientInService):
        desk.ask(waiting)
    held.release()
    desk.assert_idle()


@pytest.mark.parametrize("effect", [Effect.COOL, Effect.OUT_OF_MODEL])
def test_who_waits_for_another_model_is_not_woken_by_what_is_the_models(effect: Effect) -> None:
    """A quota, a bill: nothing changed for it."""
    desk = Desk(make_client("a", models=(("m", "m"), ("n", "n"))))
    held, waiting = desk.take("m"), desk.ticket("n")
    desk.queue(waiting)
    bell = woken(desk, waiting)
    held.report(effect, asked_s=60.0)
    assert bell.rung == 0
    held.release()
    desk.take(ticket=waiting).release()


def test_a_refusal_wakes_only_those_whose_outlook_it_changes() -> None:
    """Not all that wait for the model: those who wake in time by themselves sleep on."""
    desk = Desk(*[make_client(label) for label in "abcd"])
    held = {lease.client.label: lease for lease in [desk.take() for _ in "abcd"]}
    tickets = [desk.ticket() for _ in range(50)]
    desk.queue(*tickets)
    bells = [woken(desk, ticket) for ticket in tickets]

    def rung_by(label: str, asked_s: float) -> int:
        before = sum(bell.rung for bell in bells)
        held[label].report(Effect.COOL, asked_s=asked_s)
        return sum(bell.rung for bell in bells) - before

    assert rung_by("a", 60.0) == 0, "`queue-timeout` is sooner"
    assert rung_by("b", 5.0) == 50
    desk.queue(*tickets)  # they look, and know of it
    bells[:] = [woken(desk, ticket) for ticket in tickets]
    assert rung_by("c", 6.0) == 0, "they look again before"
    assert rung_by("d", 70.0) == 50, "nobody else is left to wait for"
    for ticket in tickets:
        desk.pool.withdraw(ticket)
    for lease in held.values():
        lease.release()
    desk.assert_idle()
