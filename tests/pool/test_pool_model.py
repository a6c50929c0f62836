"""The pool against a simple model: whatever requests do, in whatever order, on a virtual clock.

The model knows no queue, heap or turn: only who holds what, what is shut until when, and who
waits. Every lease is checked against it, in the order of lending, and after every step nobody may
wait who could be served.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from hashlib import shake_128
from typing import Any, NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.errors import AllCoolingDown, NoClientFree, NoClientInService, PoolError
from proxy.pool import Effect, Ticket
from proxy.pool.client_lock import ClientLease as Lease
from tests.support.pool import Desk, FakeClient, make_client

QUEUE_TIMEOUT_S = 30.0
MAX_RETRY_INTERVAL_S = 5.0
MAX_COOLDOWN_S = 200.0
TRIAL_S = 2.0

OK, RESTING, TRYING, COOLING, OUT = "ok", "resting", "trying", "cooling", "out"


# How often each is drawn: what ends all service soon leaves little to be seen.
EFFECTS = [
    *[Effect.GOOD] * 6,
    *[Effect.BEGUN] * 3,
    *[Effect.COOL] * 6,
    *[Effect.REST] * 3,
    Effect.NONE,
    Effect.OUT,
    Effect.OUT_OF_MODEL,
]


@dataclass
class Barrier:
    """Shut for a time; then, where it has trials, half-open until one of them passes."""

    first_s: float
    most_s: float
    shut_at: float = -math.inf
    until: float = -math.inf
    failures: int = 0
    is_shut: bool = False
    trial: int | None = None  # the number of the lease that tries
    trial_began: float = -math.inf

    def shut(self, began: float, now: float, asked_s: float | None) -> None:
        if began < self.shut_at and asked_s is None:
            return
        wait_s = asked_s
        if began >= self.shut_at:
            if wait_s is None:
                wait_s = min(self.most_s, self.first_s * 2**self.failures)
            self.failures += 1
            self.shut_at = now
        assert wait_s is not None
        self.is_shut = True
        self.trial = None
        self.until = max(self.until, now + min(wait_s, MAX_COOLDOWN_S if asked_s else math.inf))

    def open(self, began: float) -> None:
        if began >= self.shut_at:
            self.is_shut, self.until = False, -math.inf

    def forget(self, began: float) -> None:
        if began >= self.shut_at:
            self.failures = 0

    def begin(self, lease: int, now: float) -> None:
        if self.is_shut and not self.passes(now):
            assert self.trial is None, "two trials at once"
            self.trial, self.trial_began = lease, now

    def passes(self, now: float) -> bool:
        """Whether the trial was not refused for so long that it counts as passed."""
        return self.trial is not None and now >= self.trial_began + TRIAL_S

    def end(self, lease: int, now: float) -> None:
        if self.trial == lease:
            self.is_shut = self.is_shut and not self.passes(now)
            self.trial = None


class Barriers(NamedTuple):
    """Those of a client and model; the first is the client's."""

    service: Barrier
    payment: Barrier
    quota: Barrier
    rest: Barrier

    @property
    def with_trials(self) -> tuple[Barrier, Barrier, Barrier]:
        return self.service, self.payment, self.quota


@dataclass(eq=False)
class Account:
    """A client."""

    permits: int
    priority: int = 0
    weight: int = 1
    held: set[int] = field(default_factory=set)
    most: int = 0  # held when the number of permits changed
    is_disabled: bool = False
    service: Barrier = field(default_factory=lambda: Barrier(60, 1800))
    barriers: dict[str, Barriers] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for alias in "mn":
            self.forget(alias)

    def forget(self, alias: str) -> None:
        """Begin anew with a model."""
        quota, rest = Barrier(1, MAX_COOLDOWN_S), Barrier(1, 60)
        self.barriers[alias] = Barriers(self.service, Barrier(60, 1800), quota, rest)

    def is_free(self) -> bool:
        return not self.is_disabled and (not self.permits or len(self.held) < self.permits)

    def dislike(self, label: str, alias: str, session: bytes) -> float:
        """How little a session is for it, of all in its tier; 0: there is no session."""
        if not session:
            return 0.0
        named = f"{label}\0{alias}".encode()
        odd = int.from_bytes(shake_128(named).digest(8), "big") >> 34 | 1
        return -math.log(int.from_bytes(session, "big") / SPAN * odd % 1.0) / self.weight

    def state(self, alias: str, now: float) -> tuple[str, float]:
        service, payment, quota, rest = self.barriers[alias]
        barriers = [(service, OUT), (payment, OUT), (quota, COOLING)]
        for name in (OUT, COOLING):
            ends = [b.until for b, kind in barriers if kind == name and b.is_shut and now < b.until]
            if ends:
                return name, max(ends)
        ends = [
            barrier.trial_began + TRIAL_S
            for barrier, _ in barriers
            if barrier.is_shut and barrier.trial is not None and not barrier.passes(now)
        ]
        if ends:
            return TRYING, max(ends)
        return (RESTING, rest.until) if now < rest.until else (OK, math.inf)


class FlagBell:
    """A bell of one request's own, that nobody waits on."""

    def __init__(self) -> None:
        self.is_rung = False

    def ring(self) -> None:
        self.is_rung = True


@dataclass(eq=False)
class Request:
    """One that waits or holds a lease."""

    ticket: Ticket
    alias: str
    tried: set[Account] = field(default_factory=set)
    excluded: set[Account] = field(default_factory=set)
    tried_again_at: float = -math.inf
    budget_s: float = MAX_RETRY_INTERVAL_S
    cooling_since: float | None = None
    queued_at: float | None = None
    counts_from: float = -math.inf
    lease: Lease | None = None
    account: Account | None = None  # of the lease
    barriers: Barriers | None = None  # for which it was lent


PAIRS = (("m", "m"), ("n", "n"))

PRIORITIES = st.lists(st.sampled_from([0, 0, 1, 5]), min_size=4, max_size=4)
SPAN = 2**64


class PoolMachine(RuleBasedStateMachine):
    """Random requests, failures, trials, waits, departures, disabled clients, configurations."""

    @initialize(
        permits=st.lists(st.sampled_from([1, 1, 2, 0]), min_size=1, max_size=4),
        weights=st.lists(st.integers(1, 5), min_size=4, max_size=4),
        priorities=PRIORITIES,
    )
    def open(self, permits: list[int], weights: list[int], priorities: list[int]) -> None:
        labels = "abcd"[: len(permits)]
        self.desk = self.make_desk(
            *[
                make_client(label, permits=count, weight=weight, priority=priority, models=PAIRS)
                for label, count, weight, priority in zip(
                    labels, permits, weights, priorities, strict=False
                )
            ],
            max_cooldown_s=MAX_COOLDOWN_S,
            max_retry_interval_s=MAX_RETRY_INTERVAL_S,
            queue_timeout_s=QUEUE_TIMEOUT_S,
        )
        self.accounts = {
            label: Account(count, priority, weight)
            for label, count, priority, weight in zip(
                labels, permits, priorities, weights, strict=False
            )
        }
        self.leaving: dict[str, Account] = {}
        self.waiting: list[Request] = []
        self.holding: list[Request] = []

    @property
    def now(self) -> float:
        return self.desk.clock.now

    # What depends on who keeps the books.

    def make_desk(self, *clients: FakeClient, **settings: Any) -> Desk:
        return Desk(*clients, **settings)

    def order(self, lease: Lease) -> int:
        """The place of a lease in the order of lending."""
        return lease.number

    def is_on_trial(self, lease: Lease) -> bool:
        return bool(lease.trials)

    def see_adopted(self, in_order: bool) -> None:
        """All who wait are served by then, if there is something for them."""

    def pass_time(self, seconds: float) -> None:
        self.desk.clock.now += seconds

    def remembered(self) -> set[str]:
        """The models of which the pool keeps what it knows of clients that are gone or ready."""
        return set(self.desk.pool.queue_facts())

    def forget(self, account: Account) -> None:
        """A client is no longer configured, and its leases go on."""
        for alias in self.remembered():
            if account.state(alias, self.now)[0] == OK:
                account.forget(alias)

    def part_with(self, label: str, account: Account) -> None:
        """A client is gone, and holds nothing any more."""

    def returning(self, label: str) -> Account:
        """One that was not configured, and holds nothing."""
        return Account(0)

    # What the model thinks.

    def may_have(self, request: Request, label: str) -> bool:
        account = self.accounts[label]
        return (
            account.is_free()
            and account not in request.excluded
            and (account not in request.tried or self.now >= request.tried_again_at)
            and account.state(request.alias, self.now)[0] in (OK, RESTING)
        )

    def preference(self, request: Request, label: str) -> tuple[int, int, float]:
        account = self.accounts[label]
        state, until = account.state(request.alias, self.now)
        if account in request.tried:
            return 3, -account.priority, 0.0
        if state == RESTING:
            return 2, -account.priority, until
        dislike = account.dislike(label, request.alias, request.ticket.session)
        return 1, -account.priority, dislike

    def verdict(self, request: Request) -> type[PoolError] | None:
        """The error that a request gets for which nothing is free; None: it waits."""
        if request.cooling_since is not None:
            request.budget_s -= self.now - request.cooling_since
            request.cooling_since = None
        served = {
            label: account
            for label, account in self.accounts.items()
            if not account.is_disabled and account.state(request.alias, self.now)[0] != OUT
        }
        known = {
            label: account for label, account in served.items() if account not in request.excluded
        }
        states = {label: account.state(request.alias, self.now) for label, account in known.items()}
        open_ones = [label for label, (state, _) in states.items() if state in (OK, RESTING)]
        if any(known[label].is_free() for label in open_ones):
            return None  # tried before: after the back-off
        if open_ones or any(state == TRYING for state, _ in states.values()):
            if request.queued_at is None:
                request.queued_at = self.now
            begun = [until - TRIAL_S for state, until in states.values() if state == TRYING]
            request.counts_from = max(request.counts_from, request.queued_at, *begun)
            return NoClientFree if self.now >= request.counts_from + QUEUE_TIMEOUT_S else None
        if not known and not request.excluded.issuperset(self.accounts.values()):
            return NoClientInService
        ends = [until for state, until in states.values() if state == COOLING]
        if min(ends, default=math.inf) - self.now > request.budget_s:
            return AllCoolingDown
        request.cooling_since = self.now
        return None

    # What the pool does, replayed in the model.

    def lend(self, request: Request, lease: Lease) -> None:
        label = lease.client.label
        assert self.may_have(request, label), "lent what was not to be had"
        for other in self.waiting:
            passed_over = other.ticket.rank < request.ticket.rank and self.may_have(other, label)
            assert not passed_over, "an earlier request was passed over"
        account = self.accounts[label]
        account.held.add(lease.number)
        request.barriers = account.barriers[request.alias]
        for barrier in request.barriers.with_trials:
            barrier.begin(lease.number, self.now)
        request.tried.add(account)
        request.lease, request.account = lease, account
        if request.cooling_since is not None:
            request.budget_s -= self.now - request.cooling_since
        request.cooling_since = request.queued_at = None
        if request in self.waiting:
            self.waiting.remove(request)
        self.holding.append(request)

    def replay_grants(self, before: int | None = None) -> None:
        """Take note of what was handed to those who wait, in the order in which it was lent."""
        granted = [
            (self.order(lease), request, lease)
            for request in self.waiting
            if (lease := request.ticket.granted) is not None
            and (before is None or self.order(lease) < before)
        ]
        for _, request, lease in sorted(granted, key=lambda grant: grant[0]):
            self.lend(request, lease)

    def ask(self, request: Request) -> None:
        if request.lease is not None:  # handed over in the meantime
            taken = self.desk.ask(request.ticket)
            assert taken is not None
            assert taken.number == request.lease.number
            request.lease = taken
            return
        if request in self.waiting:
            self.waiting.remove(request)
        lease, refusal = None, None
        try:
            lease = self.desk.ask(request.ticket)
        except PoolError as error:
            refusal = type(error)
        self.replay_grants(self.order(lease) if lease else None)
        if lease is not None:
            wishes = [
                self.preference(request, label)
                for label in self.accounts
                if self.may_have(request, label)
            ]
            assert self.preference(request, lease.client.label) == min(wishes)
            self.lend(request, lease)
            self.replay_grants()
            return
        expected = self.verdict(request)
        assert expected is refusal, (expected, refusal)
        if refusal is None:
            request.ticket.bell = FlagBell()  # type: ignore[assignment]
            self.waiting.append(request)
            self.waiting.sort(key=lambda other: other.ticket.rank)

    def wake(self, in_order: bool) -> None:
        """Have those look again who were rung, or whose wait is over by itself; nobody else."""
        for request in self.waiting[:] if in_order else self.waiting[::-1]:
            ticket = request.ticket
            if request.lease is None and (ticket.bell.is_rung or self.now >= ticket.wakes_at):  # type: ignore[union-attr]
                self.ask(request)
        for request in self.waiting:
            assert self.verdict(replace(request)) is None, "it sleeps though its wait is over"

    def end(self, request: Request) -> None:
        """Release the request's lease, or withdraw it where it was handed over unseen."""
        assert request.lease is not None
        assert request.account is not None
        assert request.barriers is not None
        request.account.held.remove(request.lease.number)
        for barrier in request.barriers.with_trials:
            barrier.end(request.lease.number, self.now)
        if not request.account.held:
            for label, one in list(self.leaving.items()):
                if one is request.account:
                    self.part_with(label, self.leaving.pop(label))
        self.holding.remove(request)
        if request.ticket.granted is not None:
            self.desk.pool.withdraw(request.ticket)
        else:
            request.lease.release()
        request.lease = None
        self.replay_grants()

    # The steps.

    @rule(
        aliases=st.text("mn", min_size=1, max_size=4),
        session=st.sampled_from([b"", b"s" * 8, b"t" * 8, b"u" * 8]),
    )
    def arrive(self, aliases: str, session: bytes) -> None:
        for alias in aliases:
            self.ask(Request(self.desk.ticket(alias, session=session), alias))

    @precondition(lambda self: self.waiting or self.holding)
    @rule(data=st.data())
    def ask_again(self, data: Any) -> None:
        unseen = [request for request in self.holding if request.ticket.granted is not None]
        if self.waiting or unseen:
            self.ask(data.draw(st.sampled_from(self.waiting + unseen)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave_the_queue(self, data: Any) -> None:
        request = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(request)
        self.desk.pool.withdraw(request.ticket)
        self.replay_grants()

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        self.end(data.draw(st.sampled_from(self.holding)))

    @precondition(lambda self: self.holding)
    @rule(
        data=st.data(),
        effect=st.sampled_from(EFFECTS),
        asked_s=st.sampled_from([None, 0.5, 3.0, 20.0, 1000.0]),
        in_order=st.booleans(),
    )
    def report(self, data: Any, effect: Effect, asked_s: float | None, in_order: bool) -> None:
        request = data.draw(st.sampled_from(self.holding))
        lease, barriers = request.lease, request.barriers
        began = lease.began
        if effect is Effect.GOOD or (effect is Effect.BEGUN and self.is_on_trial(lease)):
            for barrier in barriers.with_trials:
                barrier.open(began)
                barrier.end(lease.number, self.now)
                if effect is Effect.GOOD:
                    barrier.forget(began)
        if effect is Effect.GOOD:
            barriers.rest.open(began)
            barriers.rest.forget(began)
        elif effect is Effect.COOL:
            barriers.quota.shut(began, self.now, asked_s)
        elif effect is Effect.REST:
            barriers.rest.shut(began, self.now, None)
        elif effect is Effect.OUT:
            barriers.service.shut(began, self.now, None)
        elif effect is Effect.OUT_OF_MODEL:
            barriers.payment.shut(began, self.now, None)
        lease.report(effect, asked_s=asked_s)
        self.replay_grants()
        self.assert_nobody_waits_in_vain()
        self.wake(in_order)

    @precondition(lambda self: self.holding)
    @rule(
        data=st.data(),
        back_off_s=st.sampled_from([0.0, 0.5, 4.0]),
        is_excluded=st.booleans(),
    )
    def retry(self, data: Any, back_off_s: float, is_excluded: bool) -> None:
        request = data.draw(st.sampled_from(self.holding))
        if request.ticket.granted is not None:
            self.ask(request)
        if is_excluded:
            request.lease.exclude()
            request.excluded.add(request.account)
        request.tried_again_at = self.now + back_off_s
        request.lease.back_off(request.tried_again_at)
        self.end(request)
        self.ask(request)

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0, 10.0, 70.0]), in_order=st.booleans())
    def time_passes(self, seconds: float, in_order: bool) -> None:
        self.pass_time(seconds)
        self.wake(in_order)

    @precondition(lambda self: not any(one.is_disabled for one in self.accounts.values()))
    @rule(data=st.data(), in_order=st.booleans())
    def disable(self, data: Any, in_order: bool) -> None:
        label = data.draw(st.sampled_from(list(self.accounts)))
        self.accounts[label].is_disabled = True
        assert self.desk.pool.set_disabled(label, True)
        self.wake(in_order)

    @precondition(lambda self: any(one.is_disabled for one in self.accounts.values()))
    @rule()
    def enable(self) -> None:
        for label, account in self.accounts.items():
            account.is_disabled = False
            assert self.desk.pool.set_disabled(label, False)
            self.replay_grants()

    @rule(data=st.data(), alias=st.sampled_from(["", "m", "n"]), in_order=st.booleans())
    def reset(self, data: Any, alias: str, in_order: bool) -> None:
        """By hand; of a model nobody has asked for nothing is kept."""
        label = data.draw(st.sampled_from(list(self.accounts)))
        account = self.accounts[label]
        for each in self.remembered().intersection(alias or "mn"):
            for barrier in account.barriers[each][1:]:
                barrier.open(math.inf)
                barrier.forget(math.inf)
        if not alias:
            account.service.open(math.inf)
            account.service.forget(math.inf)
        assert self.desk.pool.reset(label, alias)
        self.replay_grants()
        self.assert_nobody_waits_in_vain()
        self.wake(in_order)

    @rule(
        permits=st.dictionaries(st.sampled_from("abcd"), st.sampled_from([1, 1, 2, 0]), min_size=1),
        weight=st.integers(1, 5),
        priorities=PRIORITIES,
        in_order=st.booleans(),
    )
    def adopt(
        self, permits: dict[str, int], weight: int, priorities: list[int], in_order: bool
    ) -> None:
        present, before = self.accounts, {**self.leaving, **self.accounts}
        self.accounts = {
            label: before.pop(label) if label in before else self.returning(label)
            for label in permits
        }
        chosen = dict(zip("abcd", priorities, strict=True))
        for label, account in self.accounts.items():
            account.permits, account.most = permits[label], len(account.held)
            account.priority, account.weight = chosen[label], weight
        self.leaving = {label: account for label, account in before.items() if account.held}
        for label in before.keys() - self.leaving.keys():
            self.part_with(label, before[label])
        for label in self.leaving.keys() & present.keys():
            self.forget(self.leaving[label])
        self.desk.adopt(
            *[
                make_client(
                    label, permits=count, weight=weight, priority=chosen[label], models=PAIRS
                )
                for label, count in permits.items()
            ]
        )
        self.replay_grants()
        self.see_adopted(in_order)
        self.assert_nobody_waits_in_vain()
        self.wake(in_order)

    # What always holds.

    @invariant()
    def assert_the_books_agree(self) -> None:
        for facts in self.desk.pool.snapshot():
            known = self.leaving if facts["leaving"] else self.accounts
            account = known[facts["client"]]
            assert facts["in_flight"] == len(account.held) == len(facts["leases"])
            assert not account.permits or len(account.held) <= max(account.permits, account.most)
        queues = self.desk.pool.queue_facts()
        for alias, queue in queues.items():
            assert queue["waiting"] == sum(request.alias == alias for request in self.waiting)

    @invariant()
    def assert_nobody_waits_in_vain(self) -> None:
        for request in self.waiting:
            assert not any(self.may_have(request, label) for label in self.accounts)

    def teardown(self) -> None:
        if not hasattr(self, "desk"):
            return
        for request in self.waiting[:]:
            self.waiting.remove(request)
            self.desk.pool.withdraw(request.ticket)
        for request in self.holding:
            if request.ticket.granted is not None:
                self.desk.pool.withdraw(request.ticket)
            elif request.lease is not None:
                request.lease.release()
        self.desk.assert_idle()


_SETTINGS = settings(
    max_examples=50,
    stateful_step_count=60,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

TestPoolModel = PoolMachine.TestCase
TestPoolModel.settings = _SETTINGS


@pytest.mark.slow
class TestPoolModelAtLength(PoolMachine.TestCase):  # type: ignore[misc,valid-type]
    """The same, with many more requests' lives."""

    settings = settings(_SETTINGS, max_examples=1000)
