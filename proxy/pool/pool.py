"""The pool: who may use which client, and who waits for it.

Each client has a lock with `max-concurrency` permits; a lease is one permit held. A request asks
with a ticket and waits in order of arrival; a permit that comes free goes straight to the first
waiter who could use it, so that nobody overtakes.

The books of all of this, every client lock, queue and ticket, are guarded by one mutex,
`ClientPool._lock`. It is held for choices only: never while waiting, waking or logging.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterable
from typing import Any

from ..clients.base import Client
from ..clients.registry import Route
from ..errors import AllCoolingDown, NoClientFree, NoClientInService, PoolError, RetryHint
from ..net.lost import LOST
from ..net.watch import CLOCK, Bell, CallerConnection, Clock, my_bell
from .client_lock import ClientLock, Loan, Ticket, cooled_at
from .health import Effect
from .lease import Lease
from .queue import ModelQueue, Offer

# How much the newest lease weighs in the running mean of lease times.
MEAN_WEIGHT = 0.1

# A model is left out of the list while every client cools down for longer than this.
MAX_LISTED_COOLDOWN_S = 60.0


# So many models' books are kept; beyond, those in which nothing stands are dropped: upstreams'
# lists of models change, and a process may run for months.
MAX_QUEUES = 1000


class ClientPool:
    """All clients, and all requests that wait for one."""

    def __init__(
        self,
        clients: Iterable[Client],
        *,
        max_cooldown_s: float,
        max_retry_interval_s: float,
        queue_timeout_s: float,
        clock: Clock = CLOCK,
    ) -> None:
        self._max_cooldown_s = max_cooldown_s
        self._max_retry_interval_s = max_retry_interval_s
        self._queue_timeout_s = queue_timeout_s
        self._clock = clock
        self._ranks = itertools.count()
        self._lease_numbers = itertools.count()
        self._lock = threading.Lock()  # guards all below, and whatever they hold
        self._locks = {client: ClientLock(client) for client in clients}
        self._queues: dict[str, ModelQueue] = {}

    def ticket(
        self,
        alias: str,
        caller: CallerConnection,
        *,
        holder: object = None,
        rank: int | None = None,
    ) -> Ticket:
        """A place in the order of arrival, for one request; `holder` names it in the snapshot.

        `rank`: the place of an earlier ticket of the same request, which waits no longer.
        """
        return Ticket(
            next(self._ranks) if rank is None else rank,
            alias,
            caller,
            retry_budget_s=self._max_retry_interval_s,
            holder=holder,
        )

    def acquire(self, ticket: Ticket, routes: tuple[Route, ...], until: float) -> Lease | None:
        """The right to use the best client for this request; None when `until` came first.

        After None the request still waits: call again, or `withdraw`. Blocks until a client is
        free, or raises: CallerGone; NoClientFree after `queue-timeout`; AllCoolingDown when no
        cooldown ends within what is left of `max-retry-interval`; NoClientInService.
        """
        if LOST.notes:
            LOST.give_back()
        while True:
            rung: list[Bell] = []
            try:
                with self._lock:
                    # Critical section: take what was handed over or is free, else join the queue.
                    now = self._clock.monotonic()
                    queue = self._queue_locked(ticket, routes, now, rung)
                    lease = self._take_locked(queue, ticket, now, rung)
                    if lease is None:
                        wait_until = self._wait_until_locked(queue, ticket, now)
                        ticket.wakes_at = wait_until
                        ticket.bell = bell = my_bell()
                        queue.join(ticket)
            finally:
                if rung:
                    _ring(rung)
            if lease is not None:
                return lease
            if now >= until:
                return None
            try:
                bell.wait(min(until, wait_until), ticket.caller, self._clock)
            except BaseException:  # a worker's abort too must not strand what was handed over
                self.withdraw(ticket)
                raise

    def _queue_locked(
        self, ticket: Ticket, routes: tuple[Route, ...], now: float, rung: list[Bell]
    ) -> ModelQueue:
        """The alias's queue. Only a new request may bring a new one: an old one's are outdated."""
        old = self._queues.get(ticket.alias)
        if old is not None and (ticket.has_asked or old.routes is routes):
            ticket.has_asked = True
            return old
        ticket.has_asked = True
        if old is None and len(self._queues) >= MAX_QUEUES:
            for idle in [one for one in self._queues.values() if one.is_idle(now)]:
                idle.retire(now)
                del self._queues[idle.alias]
        queue = self._queues[ticket.alias] = ModelQueue(ticket.alias, routes, self._locks)
        if old is not None:
            rung += _bells(old.waiters)
            queue.take_over(old, now)
            for lock in queue.offers:
                self._serve_locked(lock, now, rung)
        return queue

    def _take_locked(
        self, queue: ModelQueue, ticket: Ticket, now: float, rung: list[Bell]
    ) -> Lease | None:
        queue.revive(now)
        lease = ticket.granted
        while lease is None and (offer := queue.best(ticket, now)) is not None:
            # What came free by the passing of time alone may be owed to one who came earlier.
            first = offer.lock.first_waiter(now) if offer.lock.is_awaited else None
            if first is not None and first.rank < ticket.rank:
                self._hand_over_locked(offer.lock, first, now, rung)
            else:
                lease = self._lend_locked(offer, ticket, now)
        if lease is not None and ticket.bell is not None:
            self._leave_locked(queue, ticket, now)
        return lease

    def _leave_locked(self, queue: ModelQueue, ticket: Ticket, now: float) -> None:
        queue.leave(ticket)
        ticket.granted = ticket.bell = None
        if ticket.queued_at is not None:
            queue.waited_s += now - ticket.queued_at
            ticket.queued_at = None
        ticket.spend_retry_budget(now)

    def _lend_locked(self, offer: Offer, ticket: Ticket, now: float) -> Lease:
        lock = offer.lock
        offer.queue.chosen(offer)
        number = next(self._lease_numbers)
        lease = Lease(self, offer, ticket, number=number, began=now)
        if lease._trials:  # who waits looks for when they pass, also where no permit is left
            self._settle_locked(lock)
        lock.in_flight += 1
        lock.loans[number] = Loan(ticket.holder, offer.name, now)
        ticket.tried[lock] = None
        return lease

    def _wait_until_locked(self, queue: ModelQueue, ticket: Ticket, now: float) -> float:
        """When to look again at the latest; raises PoolError when there is nothing to wait for."""
        outlook = queue.outlook(ticket, now)
        ticket.spend_retry_budget(now)
        try:
            if outlook.tries_again:
                return min(ticket.tried_again_at, outlook.changes_at)
            if outlook.is_busy:
                end = self._queue_end(queue, ticket, now, tried_since=outlook.tried_since)
                # One that it tried may come free, and find nobody who may have it, before that.
                back_off_at = ticket.tried_again_at if ticket.tried_again_at > now else math.inf
                return min(end, outlook.changes_at, back_off_at)
            if not outlook.is_known:
                raise NoClientInService(
                    f"no client for {ticket.alias!r} is in service: upstreams refuse their keys",
                    hint=_hint(queue.in_service_at(now), now),
                )
            if outlook.cooled_at - now > ticket.retry_budget_s:
                raise AllCoolingDown(
                    f"every client for {ticket.alias!r} is cooling down (rate limits)",
                    hint=_hint(outlook.cooled_at, now),
                )
        except PoolError:
            self._leave_locked(queue, ticket, now)
            raise
        ticket.cooling_since = now
        return outlook.changes_at

    def _queue_end(
        self, queue: ModelQueue, ticket: Ticket, now: float, *, tried_since: float
    ) -> float:
        """When the request is refused; who waits for a trial has all of the time from its begin."""
        if ticket.queued_at is None:
            ticket.queued_at = now
        ticket.queue_counts_from = max(ticket.queue_counts_from, ticket.queued_at, tried_since)
        end = ticket.queue_counts_from + self._queue_timeout_s
        if now >= end:
            turns = (queue.position_of(ticket) + 1) / queue.permits(now)
            raise NoClientFree(
                f"all clients for {ticket.alias!r} were busy for {self._queue_timeout_s:.3g} s "
                "(queue-timeout)",
                hint=RetryHint(min(60.0, max(1.0, queue.mean_lease_s * turns))),
            )
        return end

    def withdraw(self, ticket: Ticket) -> None:
        """The request waits no longer; what it was handed meanwhile goes to the next."""
        rung: list[Bell] = []
        with self._lock:
            now = self._clock.monotonic()
            lease = ticket.granted
            if (queue := self._queues.get(ticket.alias)) is not None:
                self._leave_locked(queue, ticket, now)
            if lease is not None:
                self._take_back_locked(lease, now, rung)
        _ring(rung)

    def _serve_locked(self, lock: ClientLock, now: float, rung: list[Bell]) -> None:
        """Hand the lock's free permits to those who wait for them, in the order of arrival."""
        while lock.is_free and lock.is_awaited:
            ticket = lock.first_waiter(now)
            if ticket is None:
                return
            self._hand_over_locked(lock, ticket, now, rung)

    def _hand_over_locked(
        self, lock: ClientLock, ticket: Ticket, now: float, rung: list[Bell]
    ) -> None:
        queue = self._queues[ticket.alias]
        ticket.granted = self._lend_locked(queue.offers[lock], ticket, now)
        queue.leave(ticket)
        if ticket.bell is not None:
            rung.append(ticket.bell)

    def _unpark_locked(self, lock: ClientLock, now: float, rung: list[Bell]) -> None:
        self._serve_locked(lock, now, rung)
        if lock.is_free:  # else nothing changed for newcomers
            parked, lock.parked = lock.parked, {}
            for offer in parked:
                offer.queue.settle(offer)

    def _take_back_locked(self, lease: Lease, now: float, rung: list[Bell]) -> None:
        lock = lease._offer.lock
        lease._is_held = False
        if lease._trials:
            self._end_trials_locked(lease, now)
        lock.in_flight -= 1
        del lock.loans[lease._number]
        if lock.parked or lock.is_awaited:
            self._unpark_locked(lock, now, rung)

    def _end_trials_locked(self, lease: Lease, now: float) -> None:
        lease._end_trials(now)
        self._settle_locked(lease._offer.lock)

    def _settle_locked(self, lock: ClientLock) -> None:
        for offer in lock.offers:
            offer.queue.settle(offer)

    def _release(self, lease: Lease) -> None:
        rung: list[Bell] = []
        with self._lock:
            # Critical section: the permit comes free and goes to the first who waits for it.
            if lease._is_held:
                now = self._clock.monotonic()
                lease._offer.lock.served += 1
                queue = lease._offer.queue
                queue.mean_lease_s += MEAN_WEIGHT * (now - lease._began - queue.mean_lease_s)
                self._take_back_locked(lease, now, rung)
        if rung:
            _ring(rung)

    def _report(self, lease: Lease, effect: Effect, asked_s: float | None) -> None:
        lock, health = lease._offer.lock, lease._offer.health
        is_good = effect in (Effect.GOOD, Effect.BEGUN)
        if is_good and not lease._trials and (effect is Effect.BEGUN or not health.failures):
            return  # the usual case: nothing to decide, nothing to forget
        if effect is Effect.NONE:
            return
        rung: list[Bell] = []
        with self._lock:
            # Critical section: the client's state changes, and with it what waiters may hope for.
            now = self._clock.monotonic()
            before = health.standing(now), lock.service.standing(now)
            health.apply(
                effect, began=lease._began, now=now, asked_s=asked_s, most_s=self._max_cooldown_s
            )
            if is_good:
                self._end_trials_locked(lease, now)
                self._unpark_locked(lock, now, rung)
            else:
                lock.failed += 1
                lock.cooldowns += effect is Effect.COOL
                after = health.standing(now), lock.service.standing(now)
                if after != before and effect is not Effect.REST:
                    dimmed = lock.offers if effect is Effect.OUT else health.offers
                    rung += _dim_locked(dimmed, now)
        _ring(rung)

    def set_disabled(self, label: str, disabled: bool) -> bool:
        """Take a client out of service by hand, or put it back; whether there is one so named."""
        rung: list[Bell] = []
        with self._lock:
            locks = [lock for lock in self._locks.values() if lock.client.label == label]
            for lock in locks:
                lock.is_disabled = disabled
                now = self._clock.monotonic()
                if disabled:
                    rung += _dim_locked(lock.offers, now)
                else:
                    self._unpark_locked(lock, now, rung)
                    # It may be on trial, or cooling down: those who wait did not reckon with it.
                    for offer in lock.offers:
                        rung += _bells(offer.queue.waiters)
        _ring(rung)
        return bool(locks)

    def cooled_in(self, alias: str, routes: tuple[Route, ...]) -> float | None:
        """Seconds until a client for this model is not cooling down; None: none is in service."""
        with self._lock:
            now = self._clock.monotonic()
            queue = self._queues.get(alias)
            moment = cooled_at(queue.routes if queue else routes, self._locks, now)
        return None if moment is None else max(0.0, moment - now)

    def is_listed(self, alias: str, routes: tuple[Route, ...]) -> bool:
        """Whether a request for this model has a chance soon."""
        with self._lock:
            now = self._clock.monotonic()
            moment = cooled_at(routes, self._locks, now)
        return moment is not None and moment - now <= MAX_LISTED_COOLDOWN_S

    def has_service(self) -> bool:
        """Whether any client is in service."""
        LOST.give_back()
        with self._lock:
            now = self._clock.monotonic()
            return any(
                not lock.is_disabled and lock.service.standing(now).is_open
                for lock in self._locks.values()
            )

    def snapshot(self) -> list[dict[str, Any]]:
        """The state of every client, as plain data: counts, seconds, states by model."""
        LOST.give_back()
        with self._lock:
            now = self._clock.monotonic()
            return [lock.facts(now) for lock in self._locks.values()]

    def queue_facts(self) -> dict[str, dict[str, float]]:
        """By alias: requests waiting now, and seconds waited in all."""
        LOST.give_back()
        with self._lock:
            return {
                alias: {"waiting": len(queue.waiters), "waited_s": round(queue.waited_s, 3)}
                for alias, queue in self._queues.items()
            }


def _dim_locked(offers: Iterable[Offer], now: float) -> list[Bell]:
    """Put these, which got worse, where they are looked at; the bells of who must look again."""
    concerned: list[Ticket] = []
    for offer in offers:
        offer.queue.settle(offer)
        concerned += offer.queue.concerned_by(offer, now)
    return _bells(concerned)


def _bells(tickets: Iterable[Ticket]) -> list[Bell]:
    return [ticket.bell for ticket in tickets if ticket.bell is not None]


def _hint(moment: float | None, now: float) -> RetryHint:
    return RetryHint(None if moment is None or moment == math.inf else moment - now)


def _ring(bells: list[Bell]) -> None:
    for bell in bells:
        bell.ring()
