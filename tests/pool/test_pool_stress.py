"""The pool under threads: nothing lent twice, nothing lost, nobody passed over.

Real threads and the real clock; callers leave, upstreams fail. What must hold is checked with the
pool's own books at moments when no thread can change them, and at the end.
"""

from __future__ import annotations

import contextlib
import math
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from proxy.errors import CallerGone, PoolError
from proxy.net.watch import CLOCK, CallerConnection
from proxy.pool import ClientPool, Effect, Ticket
from proxy.pool.client_lock import ClientLease as Lease
from proxy.pool.health import State
from proxy.pool.queue import Offer
from tests.support.pool import ANYBODY, Desk, make_client

# How long the threads of one test may take in all, on a loaded machine.
PATIENCE_S = 110.0


class Ledger:
    """What the threads hold by their own count, and how long they waited."""

    def __init__(self, desk: Desk) -> None:
        self._lock = threading.Lock()  # guards all below
        self._held = Counter[str]()
        self._permits = {
            label: client.config.max_concurrency or math.inf
            for label, client in desk.clients.items()
        }
        self.most = Counter[str]()
        self.leases = 0
        self.worst_wait_s = 0.0
        self.ends = Counter[str]()

    @contextlib.contextmanager
    def entry(self, lease: Lease, waited_s: float) -> Iterator[None]:
        label = lease.client.label
        with self._lock:
            self._held[label] += 1
            self.leases += 1
            self.most[label] = max(self.most[label], self._held[label])
            self.worst_wait_s = max(self.worst_wait_s, waited_s)
            assert self._held[label] <= self._permits[label], "lent beyond its permits"
        try:
            yield
        finally:
            with self._lock:
                self._held[label] -= 1

    def count(self, end: str) -> None:
        with self._lock:
            self.ends[end] += 1


def run_threads(
    count: int, work: Callable[[int], None], meeting: threading.Barrier | None = None
) -> None:
    """Run `work` in so many threads that begin together; the first error is raised here.

    An error breaks up the `meeting` of the others, so that they end too.
    """
    barrier = threading.Barrier(count)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            barrier.wait(PATIENCE_S)
            work(number)
        except BaseException as error:
            errors.append(error)
            if meeting is not None:
                meeting.abort()

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "a request waits for ever"
    if errors:
        raise errors[0]


@contextlib.contextmanager
def caller_that_leaves() -> Iterator[tuple[CallerConnection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield CallerConnection(ours), theirs


class CheckedPool(ClientPool):
    """Looks, at each lease, whether somebody who came earlier and could use it goes without."""

    def _lend_locked(self, offer: Offer, ticket: Ticket, now: float) -> Lease:
        lock = offer.lock
        for queue in self._queues.values():
            for other in queue.waiters if lock in queue.offers else ():
                if other.rank >= ticket.rank:
                    break
                state = queue.offers[lock].health.standing(now).state
                is_lendable = state in (State.READY, State.ON_TRIAL, State.RESTING)
                assert not (is_lendable and other.may_use(lock, now)), "passed over"
        return super()._lend_locked(offer, ticket, now)


def make_desk(queue_timeout_s: float = 60.0) -> Desk:
    pairs = (("m", "m"), ("n", "n"), ("o", "m"))
    return Desk(
        make_client("one", permits=1, models=pairs),
        make_client("two", permits=2, models=pairs),
        make_client("any", permits=0, models=pairs[:1]),
        clock=CLOCK,
        kind=CheckedPool,
        max_cooldown_s=0.02,
        max_retry_interval_s=60.0,
        queue_timeout_s=queue_timeout_s,
    )


EFFECTS = [Effect.GOOD] * 12 + [Effect.NONE, Effect.REST, Effect.COOL]


def one_request(desk: Desk, ledger: Ledger, dice: random.Random) -> int:
    """Some attempts of one request, with faults; how many leases it took."""
    alias = dice.choice("mmmmno")
    with contextlib.ExitStack() as held:
        caller = ANYBODY
        if leaves := dice.random() < 0.1:
            caller, theirs = held.enter_context(caller_that_leaves())
        ticket = desk.ticket(alias, caller)
        if leaves:
            theirs.close()  # before, or (for the pool sees it in waits only) in the queue
        held.callback(desk.pool.withdraw, ticket)
        for attempt in range(1, 3):
            began = time.monotonic()
            try:
                lease = desk.wait(ticket)
            except (CallerGone, PoolError) as error:
                ledger.count(type(error).__name__)
                return attempt - 1
            assert lease is not None
            with lease, ledger.entry(lease, time.monotonic() - began):
                effect = dice.choice(EFFECTS)
                lease.report(effect, asked_s=0.01 if effect is Effect.COOL else None)
                if dice.random() < 0.05:
                    time.sleep(0)  # let another thread in with the permit held
            if effect is Effect.GOOD:
                break
        ledger.count("ok")
        return attempt


def stress(threads: int, leases_each: int) -> Ledger:
    desk = make_desk()
    ledger = Ledger(desk)

    def work(number: int) -> None:
        dice, count = random.Random(number), 0
        for _ in range(10 * leases_each):
            count += one_request(desk, ledger, dice)
            if count >= leases_each:
                return
        raise AssertionError("too few leases were had")

    run_threads(threads, work)
    desk.assert_idle()
    assert ledger.most["one"] == 1
    assert ledger.most["two"] == 2
    assert sum(facts["served"] for facts in desk.pool.snapshot()) == ledger.leases
    return ledger


@pytest.mark.long
def test_nothing_is_lost_among_threads() -> None:
    """A small form of the exit test: 50 threads x 200 leases."""
    ledger = stress(50, 200)
    assert ledger.leases >= 50 * 200


@pytest.mark.slow
def test_50_threads_and_2000_leases_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Over clients with 1, 2 and unlimited permits, random faults and callers that vanish."""
    began = time.monotonic()
    ledger = stress(50, 2000)
    assert ledger.leases >= 50 * 2000
    with capsys.disabled():
        print(
            f"\n{ledger.leases} leases in {time.monotonic() - began:.1f} s, worst wait "
            f"{ledger.worst_wait_s * 1000:.0f} ms, most at once {dict(ledger.most)}, "
            f"ends {dict(ledger.ends)}"
        )


def serve_in_order(desk: Desk, count: int, aliases: str = "m") -> list[int]:
    """Waiters queue up one by one behind a full client; the ranks in the order of service."""
    permits = desk.clients["a"].config.max_concurrency
    full = [desk.take() for _ in range(permits)]
    served: list[tuple[int, int]] = []
    queued = [threading.Event() for _ in range(count)]
    tickets: list[Ticket] = [desk.ticket(aliases[n % len(aliases)]) for n in range(count)]

    def work(number: int) -> None:
        if number:
            assert queued[number - 1].wait(PATIENCE_S)
        ticket = tickets[number]
        assert desk.ask(ticket) is None
        queued[number].set()
        if number == count - 1:
            for held in full:
                held.release()
        lease = desk.wait(ticket)
        assert lease is not None
        with lease:
            served.append((lease.number, ticket.rank))

    run_threads(count, work)
    desk.assert_idle()
    return [rank for _, rank in sorted(served)]


@pytest.mark.parametrize("permits", [1, 2])
def test_waiting_threads_are_served_in_order_of_arrival(permits: int) -> None:
    """By direct hand-off: whichever thread the system wakes first."""
    pairs = (("m", "m"), ("n", "n"))
    for aliases in ("m", "mn"):
        desk = Desk(make_client("a", permits=permits, models=pairs), clock=CLOCK)
        ranks = serve_in_order(desk, 40, aliases)
        assert ranks == sorted(ranks)


def test_release_and_withdrawal_at_the_same_moment() -> None:
    """A hand-off meets a waiter that gives up: the permit is the next one's, every time."""
    desk = Desk(make_client("a"), clock=CLOCK)
    meeting = threading.Barrier(2)
    rounds = 500
    lent: list[Lease] = []
    waiting: list[Ticket] = []

    def work(number: int) -> None:
        for _ in range(rounds):
            if number == 0:
                lent.append(desk.take())
                waiting.append(desk.ticket())
                assert desk.ask(waiting[0]) is None
            meeting.wait(PATIENCE_S)
            if number == 0:
                lent.pop().release()
            else:
                desk.pool.withdraw(waiting.pop())
            meeting.wait(PATIENCE_S)
            if number == 0:
                desk.assert_idle()

    run_threads(2, work, meeting)


def test_one_trial_at_a_time_among_threads() -> None:
    """A cooldown ends as many ask at once: one goes through, the others wait for what it says."""
    desk = Desk(make_client("a", permits=0), clock=CLOCK, max_retry_interval_s=60.0)
    rounds, count = 20, 8
    meeting = threading.Barrier(count)
    trials = Counter[int]()
    under_way = Counter[str]()
    lock = threading.Lock()  # guards trials, under_way

    def work(number: int) -> None:
        for turn in range(rounds):
            if number == 0:
                desk.fail("a", Effect.COOL, asked_s=0.01)
            meeting.wait(PATIENCE_S)
            lease = desk.wait(desk.ticket())
            assert lease is not None
            with lock:
                trials[turn] += bool(lease.trials)
                under_way["leases"] += 1
                assert under_way["leases"] == 1 or trials[turn] == 0 or under_way["decided"]
            if lease.trials:
                with lock:
                    under_way["decided"] = 1
                lease.report(Effect.GOOD)
            with lock:
                under_way["leases"] -= 1
            lease.release()
            meeting.wait(PATIENCE_S)
            if number == 0:
                under_way["decided"] = 0

    run_threads(count, work, meeting)
    assert trials == dict.fromkeys(range(rounds), 1)
    desk.assert_idle()


@pytest.mark.slow
def test_100000_leases_with_meetings_at_the_critical_places(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Threads meet just before they release, withdraw, ask or disable, so that these collide."""
    desk = make_desk()
    ledger = Ledger(desk)
    threads, rounds, burst = 16, 210, 30
    meeting = threading.Barrier(threads)

    def work(number: int) -> None:
        dice = random.Random(1000 + number)
        for turn in range(rounds):
            meeting.wait(PATIENCE_S)
            for _ in range(burst):
                ticket = desk.ticket(dice.choice("mno"))
                one = desk.wait(ticket, 60.0)
                assert one is not None
                with one, ledger.entry(one, 0.0):
                    one.report(dice.choice([Effect.GOOD, Effect.GOOD, Effect.REST]))
            meeting.wait(PATIENCE_S)
            mine = desk.ticket("n")
            lease = desk.ask(mine)
            meeting.wait(PATIENCE_S)  # then release, or give up what may just be handed over
            if lease is not None:
                lease.release()
            elif turn % 2:
                desk.pool.withdraw(mine)
            else:
                lease = desk.wait(mine)
                assert lease is not None
                lease.release()
            meeting.wait(PATIENCE_S)
            if number == 0:
                desk.assert_idle()
            if number < 2:  # out of service and back, against each other and against requests
                desk.pool.set_disabled("two", number == 1)
                desk.pool.set_disabled("two", False)

    began = time.monotonic()
    run_threads(threads, work, meeting)
    desk.assert_idle()
    assert ledger.leases == threads * rounds * burst
    assert ledger.leases >= 100_000
    with capsys.disabled():
        print(f"\n{ledger.leases} leases in {time.monotonic() - began:.1f} s")
