"""Sticky sessions: the same client each time, as far as it is free, and nothing else is worse.

The traps are those that other gateways fell into: an account that starves, two callers who share a
session, a session that pulls its requests into another tier, a table that grows.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import pytest

from proxy.clients.registry import Entry, Route
from proxy.pool import ClientPool, Effect, Ticket
from proxy.pool.client_lock import ClientLease, ClientLock
from proxy.pool.queue import MOST_AHEAD
from proxy.pool.tier import Tier
from tests.support.clock import VirtualClock
from tests.support.gateway import ROOT
from tests.support.pool import ANYBODY, DEFAULTS, Desk, FakeClient, make_client


def accounts(count: int, *, permits: int = 1, weights: Sequence[int] = (1,)) -> list[FakeClient]:
    return [
        make_client(f"c{at}", permits=permits, weight=weights[at % len(weights)])
        for at in range(count)
    ]


def named(number: int) -> bytes:
    return blake2b(f"s{number}".encode(), digest_size=8).digest()


def first_choice(desk: Desk, session: bytes) -> str:
    with desk.take(ticket=desk.ticket(session=session)) as lease:
        return lease.client.label


@pytest.mark.parametrize("count", [8, 16, 17, 100])
def test_a_session_stays_and_sessions_are_spread(count: int) -> None:
    """The same client each time, whatever else is asked; each has its share of the sessions."""
    desk = Desk(*accounts(count))
    chosen = {number: first_choice(desk, named(number)) for number in range(50 * count)}
    assert len(set(chosen.values())) == count
    for number in random.Random(1).sample(list(chosen), 200):
        assert first_choice(desk, named(number)) == chosen[number]
        desk.take().release()
    assert max(Counter(chosen.values()).values()) < 50 * 1.7


@pytest.mark.parametrize("count", [8, 20])
def test_sessions_are_spread_by_weight(count: int) -> None:
    """In proportion to it."""
    weights = [1, 2, 5]
    clients = accounts(count, permits=0, weights=weights)
    desk = Desk(*clients)
    found = Counter(first_choice(desk, named(number)) for number in range(500 * count))
    total = sum(client.config.weight for client in clients)
    by_weight = Counter[int]()
    for client in clients:
        by_weight[client.config.weight] += found[client.label]
    for weight in weights:
        share = sum(client.config.weight == weight for client in clients) * weight / total
        assert by_weight[weight] / (500 * count) == pytest.approx(share, rel=0.1)


@pytest.mark.parametrize("effect", [None, Effect.COOL, Effect.REST, Effect.OUT])
def test_a_session_has_an_order_of_its_own(effect: Effect | None) -> None:
    """Its client is busy, resting, cooling or out: the next in its order; then back to its own."""
    desk = Desk(*accounts(8))
    own = first_choice(desk, b"s")
    held = desk.lease_of(own)
    if effect is not None:
        held.report(effect, asked_s=10 if effect is Effect.COOL else None)
        held.release()
    found = {first_choice(desk, b"s") for _ in range(3)}
    assert len(found) == 1
    assert own not in found
    held.release()
    desk.clock.now += 60
    assert first_choice(desk, b"s") == own
    desk.assert_idle()


def kept(desk: Desk, session: bytes = b"s") -> bool | None:
    ticket = desk.ticket(session=session)
    with desk.take(ticket=ticket):
        return ticket.is_kept


@pytest.mark.parametrize("count", [1, 8, 40])
def test_whether_a_session_was_kept_is_told(count: int) -> None:
    """By its first client: its own, or another one in its place. Who has none is neither."""
    desk = Desk(*accounts(count))
    own = first_choice(desk, b"s")
    assert kept(desk) is True
    assert kept(desk, b"") is None
    held = desk.lease_of(own)
    if count > 1:
        assert kept(desk) is False
    waiting = desk.ticket(session=b"s")
    others = [desk.take() for _ in range(count - 1)]
    desk.queue(waiting)
    held.release()
    with desk.take(ticket=waiting) as lease:  # by hand-off
        assert (lease.client.label, waiting.is_kept) == (own, True)
    for lease in others:
        lease.release()
    desk.assert_idle()


def test_a_session_that_falls_into_another_tier_was_moved() -> None:
    """Although it has an own client there, too; what it tries after that changes nothing."""
    desk = Desk(make_client("paid"), make_client("free", priority=1))
    assert kept(desk) is True
    with desk.lease_of("free"):
        assert kept(desk) is False
    ticket = desk.ticket(session=b"s")
    desk.take(ticket=ticket).release()
    with desk.take(ticket=ticket) as lease:
        assert (lease.client.label, ticket.is_kept) == ("paid", True)


@pytest.mark.parametrize(("count", "most_moved"), [(8, 1 / 8), (50, 1 / 50)])
def test_few_sessions_move_when_a_client_goes(count: int, most_moved: float) -> None:
    """Only those that it had, and they come back with it."""
    clients = accounts(count, permits=0)
    desk = Desk(*clients)
    sessions = [named(number) for number in range(1000)]
    before = [first_choice(desk, session) for session in sessions]
    desk.adopt(*clients[1:])
    after = [first_choice(desk, session) for session in sessions]
    moved = sum(one != other for one, other in zip(before, after, strict=True))
    assert 0 < before.count("c0") <= moved <= before.count("c0") + 1000 * most_moved / 2
    desk.adopt(*clients)
    assert [first_choice(desk, session) for session in sessions] == before


@pytest.mark.long
def test_every_worker_and_host_chooses_the_same() -> None:
    """Nothing of the process is in it: neither the order of requests, nor Python's hash seed."""
    script = (
        "from tests.pool.test_sticky import *\n"
        "for count in (8, 50):\n"
        "    desk = Desk(*accounts(count))\n"
        "    print(*[first_choice(desk, named(number)) for number in range(200)])"
    )
    told = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout
    for count, line in zip((8, 50), told.splitlines(), strict=True):
        desk = Desk(*accounts(count))
        chosen = {number: first_choice(desk, named(number)) for number in reversed(range(200))}
        assert line.split() == [chosen[number] for number in range(200)]


@pytest.mark.parametrize(
    ("count", "orders", "first"),
    [
        (
            5,
            ["0 4 2 1 3", "3 2 1 4 0", "4 0 2 3 1", "4 2 1 3 0"],
            "0 3 2 1 3 4 1 4 2 3 4 4 2 2 1 4 1 2 1 4 0 0 3 2 4 3 1 2 2 1",
        ),
        (
            40,
            [
                *("7 5 26 16 22 8 2 28", "34 28 8 38 20 17 32 11"),
                *("22 25 2 28 2 31 10 24", "25 8 7 31 2 7 37 29"),
            ],
            "7 17 18 32 32 7 36 30 17 17 32 32 15 31 25 22 32 36 25 8 2 21 30 16 11 17 19 33 17 24",
        ),
    ],
)
def test_a_later_version_chooses_the_same(count: int, orders: list[str], first: str) -> None:
    """Else an update would move all sessions, and workers of both versions would not agree."""
    tier = Tier("m", 0)
    tier.locks = [ClientLock(client) for client in accounts(count, weights=[1, 2, 3])]

    def order(number: int) -> list[str]:
        return [lock.client.label[1:] for lock in tier.order(bytes(range(number, number + 8)))]

    assert [" ".join(order(number)) for number in range(0, 120, 30)] == orders
    assert " ".join(order(number)[0] for number in range(0, 120, 4)) == first


def test_models_have_sessions_of_their_own() -> None:
    """A session is scoped by alias: one account's cache of a model is none of another's."""
    pairs = (("m", "m"), ("n", "n"))
    desk = Desk(*[make_client(f"c{at}", permits=0, models=pairs) for at in range(8)])
    chosen = []
    for number in range(40):
        for alias in "mn":
            with desk.take(ticket=desk.ticket(alias, session=named(number))) as lease:
                chosen.append(lease.client.label)
    assert chosen[::2] != chosen[1::2]


def test_a_session_does_not_leave_the_tier_that_serves() -> None:
    """Trap: it was pinned to another tier, or falls into one, while the right one has a client."""
    free = [make_client(f"free{at}", priority=1) for at in range(3)]
    paid = [make_client(f"paid{at}") for at in range(3)]
    desk = Desk(*paid, *free)
    held = [desk.take() for _ in free]
    on_paid = {number: first_choice(desk, named(number)) for number in range(30)}
    assert set(on_paid.values()) == {"paid0", "paid1", "paid2"}, "sticky there, too"
    assert {number: first_choice(desk, named(number)) for number in on_paid} == on_paid
    held[0].release()
    for number in on_paid:
        assert first_choice(desk, named(number)) == held[0].client.label
    for lease in held[1:]:
        lease.release()
    desk.assert_idle()


def test_no_account_starves_for_its_sessions_or_for_others() -> None:
    """Trap: the round robin makes up for a busy session, and passes its client over no longer."""
    desk = Desk(*accounts(4, permits=0))
    own = first_choice(desk, b"s")
    found = Counter[str]()
    for _ in range(1000):
        found[first_choice(desk, b"s")] += 1
        for _ in range(4):
            with desk.take() as lease:
                found[lease.client.label] += 1
    assert found[own] == pytest.approx(1250, abs=MOST_AHEAD + 5)
    assert max(found.values()) - min(found.values()) <= MOST_AHEAD + 5
    for _ in range(5000):
        first_choice(desk, b"s")
    after = Counter[str]()
    for _ in range(4 * (MOST_AHEAD + 100)):
        with desk.take() as lease:
            after[lease.client.label] += 1
    assert after[own] >= 99


def test_what_sessions_chose_is_made_up_for_also_after_many_of_them() -> None:
    """Those that all clients had alike are no lead of anybody's."""
    desk = Desk(*accounts(3, permits=0))
    of_client = {first_choice(desk, named(number)): named(number) for number in range(50)}
    for session in [*of_client.values()] * (2 * MOST_AHEAD):
        first_choice(desk, session)
    favoured = next(iter(of_client))
    for _ in range(40):
        first_choice(desk, of_client[favoured])
    for _ in range(20):
        with desk.take() as lease:
            assert lease.client.label != favoured


def test_nothing_grows_with_sessions() -> None:
    """Trap: a table of sessions. There is none: what 20,000 more leave behind is nothing."""
    desk = Desk(*accounts(20, permits=0))
    for number in range(200):
        first_choice(desk, named(number))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(200, 3000):
            first_choice(desk, named(number))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000


def test_a_thousand_clients_have_their_share() -> None:
    """On the ring as well, and a heavy one too."""
    locks = [ClientLock(client) for client in accounts(1000, weights=[1])]
    heavy = ClientLock(make_client("heavy", weight=250))
    tier = Tier("m", 0)
    tier.locks = [heavy, *locks]
    sessions = [random.Random(number).randbytes(8) for number in range(20_000)]
    found = Counter(next(tier.order(session)).client.label for session in sessions)
    assert found["heavy"] / 20_000 == pytest.approx(0.2, rel=0.1)
    assert len(found) > 950


# The simulation


@dataclass
class Figures:
    """What came of it."""

    served: Counter[str] = field(default_factory=Counter)
    due: dict[str, float] = field(default_factory=dict)  # by weight among those that could serve
    own_free: int = 0  # turns whose session's own client was free
    own_kept: int = 0  # and served
    last_free: int = 0  # turns whose client of the turn before was free
    last_kept: int = 0
    waited: int = 0
    longest_gap_s: float = 0.0  # of a client that could have served

    def __str__(self) -> str:
        off = [self.served[label] / self.due[label] for label in self.due]
        kept = f"{self.own_kept / self.own_free:7.1%} / {self.last_kept / self.last_free:.1%}"
        return (
            f"kept, of own / last client free: {kept}; load by weight: {min(off):.3f} to "
            f"{max(off):.3f}; waited: {self.waited}; longest without: {self.longest_gap_s:.0f} s"
        )


class Simulation:
    """Four days of sessions of ten turns each, at accounts that take one request at a time.

    One request in 500 is refused for 20 s; the last account comes and goes; ten times 50
    sessions come at once.
    """

    SESSIONS, TURNS = 10_000, 10
    SERVED_S, THOUGHT_S, SPREAD_S = 1.0, 60.0, 400_000.0

    def __init__(self, *, sticky: bool) -> None:
        self.random = random.Random(7)
        self.sticky = sticky
        self.clock = VirtualClock()
        self.clients = accounts(8, weights=[1, 1, 2])
        self.pool = ClientPool((), clock=self.clock)
        self.figures = Figures()
        self.busy: set[str] = set()
        self.cools_until: dict[str, float] = {}
        self.idle_since: dict[str, float] = {}
        self.last: dict[int, str] = {}
        self.waiting: dict[Ticket, tuple[int, int]] = {}
        self.events: list[tuple[float, int, tuple[Any, ...]]] = []
        self.numbers = itertools.count()
        self.own = self._own_clients()
        self.present: list[FakeClient] = []
        self.adopt(self.clients)

    def _own_clients(self) -> dict[tuple[int, bool], str]:
        """Of each session, with and without the last account."""
        found = {}
        for is_there in (True, False):
            desk = Desk(*self.clients[: 8 if is_there else 7])
            for number in range(self.SESSIONS):
                found[number, is_there] = first_choice(desk, named(number))
        return found

    def adopt(self, clients: Sequence[FakeClient]) -> None:
        self.present = list(clients)
        self.routes = tuple(Route(client, "m") for client in clients)
        self.pool.adopt(clients, {"m": Entry("m", "p", self.routes)})
        self.idle_since = {one.label: self.clock.now for one in clients} | self.idle_since
        for client in self.clients[len(clients) :]:
            self.idle_since.pop(client.label)
        self.weights = {client.label: client.config.weight for client in clients}

    def at(self, moment: float, *event: object) -> None:
        heapq.heappush(self.events, (moment, next(self.numbers), event))

    def free(self) -> list[str]:
        return [label for label in self.able() if label not in self.busy]

    def able(self) -> list[str]:
        now = self.clock.now
        return [label for label in self.weights if self.cools_until.get(label, 0.0) <= now]

    def run(self) -> Figures:
        start, rand = self.clock.now, self.random
        for number in range(self.SESSIONS):
            is_rush, share = number < 500, rand.random()
            share = number // 50 / 10 if is_rush else share
            self.at(start + share * self.SPREAD_S, "ask", number, 0)
        for at in range(20):
            self.at(start + at * self.SPREAD_S / 20, "adopt", at % 2)
        while self.events:
            self.clock.now, _, (kind, *what) = heapq.heappop(self.events)
            if kind == "ask":
                number, turn = what
                session = named(number) if self.sticky else b""
                ticket = Ticket("m", ANYBODY, DEFAULTS, session=session)
                self.waiting[ticket] = (number, turn)
                self.ask(ticket, is_new=True)
            elif kind == "end":
                self.end(*what)
            elif kind == "adopt":
                self.adopt(self.clients[: 8 - what[0]])
            for ticket in list(self.waiting):
                if ticket.granted is not None or self.clock.now >= ticket.wakes_at:
                    self.ask(ticket)
            assert not (self.waiting and self.free()), "it waits while an account is free"
        assert not any(facts["in_flight"] for facts in self.pool.snapshot())
        return self.figures

    def ask(self, ticket: Ticket, *, is_new: bool = False) -> None:
        figures, (number, turn) = self.figures, self.waiting[ticket]
        free, last = self.free(), self.last.get(number)
        lease = self.pool.acquire(ticket, self.routes, -math.inf)
        if lease is None:
            figures.waited += is_new
            return
        del self.waiting[ticket]
        label, now = lease.client.label, self.clock.now
        if is_new:
            assert label in free
            own = self.own[number, len(self.present) == 8]
            figures.own_free += own in free
            figures.own_kept += own in free and own == label
            if last is not None:
                figures.last_free += last in free
                figures.last_kept += last in free and last == label
        self.last[number] = label
        self.busy.add(label)
        figures.served[label] += 1
        able = self.able()
        total = sum(self.weights[each] for each in able)
        for each in able:
            figures.due[each] = figures.due.get(each, 0.0) + self.weights[each] / total
        gap_s = now - self.idle_since[label]
        figures.longest_gap_s = max(figures.longest_gap_s, gap_s)
        self.at(now + self.random.expovariate(1 / self.SERVED_S), "end", lease, number, turn)

    def end(self, lease: ClientLease, number: int, turn: int) -> None:
        label, now = lease.client.label, self.clock.now
        self.busy.remove(label)
        if self.random.random() < 0.002:
            lease.report(Effect.COOL, asked_s=20.0)
            self.cools_until[label] = now + 20.0
            self.at(now + 20.0, "wake")
        else:
            lease.report(Effect.GOOD)
        lease.release()
        if label in self.idle_since:
            self.idle_since[label] = max(now, self.cools_until.get(label, 0.0))
        if turn + 1 < self.TURNS:
            self.at(now + self.random.expovariate(1 / self.THOUGHT_S), "ask", number, turn + 1)


@pytest.mark.long
def test_days_of_sessions(capsys: pytest.CaptureFixture[str]) -> None:
    """8 accounts, 10,000 sessions of 10 turns: they stay, the load is by weight, nobody starves."""
    sticky, plain = Simulation(sticky=True).run(), Simulation(sticky=False).run()
    with capsys.disabled():
        print(f"\nsticky:      {sticky}\nround robin: {plain}")
    assert sum(sticky.served.values()) == Simulation.SESSIONS * Simulation.TURNS
    assert sticky.own_kept >= 0.95 * sticky.own_free > 0
    assert sticky.last_kept >= 0.95 * sticky.last_free > 0
    for label, due in sticky.due.items():
        assert sticky.served[label] == pytest.approx(due, rel=0.1)
    assert 300 < sticky.waited <= plain.waited * 1.1
    assert sticky.longest_gap_s < 3600
