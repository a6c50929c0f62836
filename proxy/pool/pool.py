"""The pool of one process: lends clients in the order of arrival, over locks, lines and queues.

All books are guarded by one mutex, `ClientPool._lock`. It is held for choices only: never while
waiting, waking or logging.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from ..clients.base import Client
from ..clients.registry import Entry, Route
from ..errors import (
    AllCoolingDown,
    ModelNotFound,
    NoClientFree,
    NoClientInService,
    ProxyError,
    RetryHint,
    ShuttingDown,
)
from ..net.bell import Bell, my_bell
from ..net.lost import LOST
from ..net.watch import CLOCK, Clock
from .client_lock import ClientLease, ClientLock, Ticket
from .health import TRIAL_S, Effect, State
from .queue import Line, ModelQueue, Offer

log = logging.getLogger("proxy.pool")

# How much the newest lease weighs in the running mean of lease times.
MEAN_WEIGHT = 0.1

# A model is left out of the list while every client cools down for longer than this.
MAX_LISTED_COOLDOWN_S = 60.0

# So many models' books are kept; beyond, those in which nothing stands are dropped: upstreams'
# lists of models change, and a process may run for months.
MAX_QUEUES = 1000


class ClientPool:
    """All clients, and all requests that wait for one. Public methods may be called by any thread.

    Its books are this process's own. `SharedPool` overrides those methods that lend.
    """

    _new_queue: Callable[..., ModelQueue] = ModelQueue

    def __init__(self, clients: Iterable[Client] = (), *, clock: Clock = CLOCK) -> None:
        self._clock = clock
        self._ranks: Iterator[int] = itertools.count()
        self._lease_numbers = itertools.count()
        self._rung: deque[Bell] = deque()  # to be rung once the lock is free
        self._lock = threading.Lock()  # guards all below, and whatever they hold
        self._lines: dict[str, Line] = {}  # of the configured clients, by their identity
        self._leaving: dict[str, ClientLock] = {}  # no longer configured, and still in use
        self._queues: dict[str, ModelQueue] = {}
        self._is_stopping = False
        self.adopt(clients, {})

    def adopt(self, clients: Iterable[Client], entries: Mapping[str, Entry]) -> int:
        """Take over a new configuration's clients, and its models by alias.

        A client that stays, by `Client.identity`, keeps its lock: permits in use, health, counters.
        Fewer permits come into force as leases end. A client that is gone is lent to nobody; its
        leases end as they would have. Waiters keep their rank, and look again at once. Returns how
        many leases of clients that are gone are still to end.
        """
        with self._lock:
            # Critical section: one configuration's clients take the place of another's.
            now = self._clock.monotonic()
            before, self._lines = self._lines, {}
            for client in clients:
                line = before.pop(client.identity, None)
                if line is None:
                    lock = self._leaving.pop(client.identity, None)
                    line = Line(lock or ClientLock(client))
                line.lock.client, line.lock.permits = client, client.config.max_concurrency
                self._lines[client.identity] = line
            self._leaving |= {key: line.lock for key, line in before.items() if line.lock.leases}
            for queue in list(self._queues.values()):
                entry = entries.get(queue.alias)
                # Gone, or of a list that is not there yet.
                kept = [
                    Route(line.lock.client, name)
                    for line, name in self._offered_locked(queue.routes)
                    if line.lock.client.config.models is None
                ]
                routes = entry.routes if entry else tuple(kept)
                if routes or queue.waiters:
                    self._open_queue_locked(queue.alias, routes, now)
                else:
                    queue.retire(now)
                    del self._queues[queue.alias]
            for line in self._lines.values():
                self._serve_locked(line, now)
            draining = sum([len(lock.leases) for lock in self._leaving.values()])
        self._ring()
        return draining

    def acquire(
        self, ticket: Ticket, routes: tuple[Route, ...], until: float
    ) -> ClientLease | None:
        """The right to use the best client for this request; None when `until` came first.

        After None the request still waits: call again, or `withdraw`. Blocks until a client is
        free, or raises: CallerGone; NoClientFree after `queue-timeout`; AllCoolingDown when no
        cooldown ends within what is left of `max-retry-interval`; NoClientInService; ModelNotFound
        when a new configuration has left the model out; ShuttingDown; and of a pool that others
        share StateUnavailable.
        """
        if LOST.notes:
            LOST.give_back()
        while (lease := self._ask(ticket, routes)) is None:
            if self._clock.monotonic() >= until:
                return None
            assert ticket.bell is not None
            try:
                ticket.bell.wait(min(until, ticket.wakes_at), ticket.caller, self._clock)
            except BaseException:  # a worker's abort too must not strand what was handed over
                self.withdraw(ticket)
                raise
        return lease

    def _ask(self, ticket: Ticket, routes: tuple[Route, ...]) -> ClientLease | None:
        """Ask the books for a lease. None: the ticket waits for its bell, or until `wakes_at`.

        Raises what `acquire` raises, except CallerGone.
        """
        try:
            with self._lock:
                # Critical section: take what was handed over or is free, else join the queue.
                now = self._clock.monotonic()
                queue = self._queue_locked(ticket, routes, now)
                lease = self._take_locked(queue, ticket, now)
                if lease is None:
                    ticket.wakes_at = self._wait_until_locked(queue, ticket, now)
                    ticket.bell = my_bell()
                    queue.join(ticket)
        finally:
            if self._rung:
                self._ring()
        return lease

    def _queue_locked(self, ticket: Ticket, routes: tuple[Route, ...], now: float) -> ModelQueue:
        """The alias's queue. Only a new request may bring a new one: an old one's are outdated."""
        old = self._queues.get(ticket.alias)
        is_new, ticket.has_asked = not ticket.has_asked, True
        if ticket.rank < 0:
            ticket.rank = next(self._ranks)
        if old is not None:
            if not is_new or old.routes is routes or self._are_outdated_locked(routes):
                return old
        elif len(self._queues) >= MAX_QUEUES:
            for idle in [one for one in self._queues.values() if one.is_idle(now)]:
                idle.retire(now)
                del self._queues[idle.alias]
        queue = self._open_queue_locked(ticket.alias, routes, now)
        for offer in queue.offers.values():
            self._serve_locked(offer.line, now)
        return queue

    def _open_queue_locked(self, alias: str, routes: tuple[Route, ...], now: float) -> ModelQueue:
        """A new queue, in the place of an old one if there is one."""
        old = self._queues.get(alias)
        queue = self._queues[alias] = self._new_queue(alias, routes, self._offered_locked(routes))
        if old is not None:
            self._rung += _bells(old.waiters)
            queue.take_over(old, now)
        return queue

    def _offered_locked(self, routes: tuple[Route, ...]) -> list[tuple[Line, str]]:
        """The clients of these routes that are configured, and their names for the model."""
        lines = [(self._lines.get(route.client.identity), route.name) for route in routes]
        return [(line, name) for line, name in lines if line is not None]

    def _are_outdated_locked(self, routes: tuple[Route, ...]) -> bool:
        """Whether they are an earlier configuration's."""
        clients = {line.lock.client for line, _ in self._offered_locked(routes)}
        return clients != {route.client for route in routes}

    def _take_locked(self, queue: ModelQueue, ticket: Ticket, now: float) -> ClientLease | None:
        queue.revive(now)
        lease = ticket.granted
        while lease is None and (offer := queue.best(ticket, now)) is not None:
            # What came free by the passing of time alone may be owed to one who came earlier.
            first = offer.line.first_waiter(now) if offer.line.is_awaited else None
            if first is not None and first.rank < ticket.rank:
                self._hand_over_locked(offer.lock, first, now)
            else:
                lease = self._lend_locked(offer, ticket, now)
        if lease is not None and ticket.bell is not None:
            self._leave_locked(queue, ticket, now)
        return lease

    def _leave_locked(self, queue: ModelQueue | None, ticket: Ticket, now: float) -> None:
        if queue is not None:
            queue.leave(ticket)
        ticket.granted = ticket.bell = ticket.queued_at = None
        ticket.count_cooldown(now)

    def _lend_locked(self, offer: Offer, ticket: Ticket, now: float) -> ClientLease:
        lock, number = offer.lock, next(self._lease_numbers)
        offer.queue.chosen(offer, ticket)
        lease = ClientLease(lock, ticket, offer.name, number, now, self._release, self._report)
        if lease.trials:  # who waits looks for when they pass, also where no permit is left
            _settle(offer.line)
        return lease

    def _wait_until_locked(self, queue: ModelQueue, ticket: Ticket, now: float) -> float:
        """When to look again at the latest; only asked when nothing is to be had now.

        Raises PoolError, ModelNotFound when there is nothing to wait for, ShuttingDown.
        """
        ticket.count_cooldown(now)
        try:
            if self._is_stopping:
                raise ShuttingDown
            if queue.tried(ticket, now):
                return min(ticket.tried_again_at, queue.changes_at(now))
            if queue.is_busy(ticket, now):
                passing = queue.trials_pass_at(ticket, now)
                begun = max(passing, default=-math.inf) - TRIAL_S
                end = self._queue_end(queue, ticket, now, tried_since=begun)
                # One that it tried may come free, and find nobody who may have it, before that.
                back_off_at = ticket.tried_again_at if ticket.tried_again_at > now else math.inf
                return min(end, queue.changes_at(now), back_off_at, *passing)
            if not queue.offers:
                raise ModelNotFound(
                    f"the model {ticket.alias!r} does not exist any more; see /v1/models",
                    param="model",
                )
            excluded = ticket.excluded
            ends = [one.until for lock, one in queue.in_service(now) if lock not in excluded]
            if not ends and not excluded.issuperset(queue.offers):
                raise NoClientInService(
                    f"no client for {ticket.alias!r} is in service: upstreams refuse their keys, "
                    f"or they were disabled by hand{queue.why(now)}",
                    hint=_hint(queue.in_service_at(ticket, now), now),
                )
            cooled_at = min(ends, default=math.inf)
            if cooled_at - now > ticket.config.max_retry_interval_s - ticket.cooled_s:
                raise AllCoolingDown(
                    f"every client for {ticket.alias!r} is cooling down (rate limits) for longer "
                    f"than is left of max-retry-interval{queue.why(now)}",
                    hint=_hint(cooled_at, now),
                )
        except ProxyError:
            self._leave_locked(queue, ticket, now)
            raise
        ticket.cooling_since = now
        return queue.changes_at(now)

    def _queue_end(
        self, queue: ModelQueue, ticket: Ticket, now: float, *, tried_since: float = -math.inf
    ) -> float:
        """When the request is refused; who waits for a trial has all of the time from its begin."""
        if ticket.queued_at is None:
            ticket.queued_at = now
        ticket.queue_counts_from = max(ticket.queue_counts_from, ticket.queued_at, tried_since)
        timeout_s = ticket.config.queue_timeout_s
        if now >= (end := ticket.queue_counts_from + timeout_s):
            ahead = queue.position_of(ticket) if ticket.ahead is None else ticket.ahead
            turns = (ahead + 1) / queue.permits(now)
            raise NoClientFree(
                f"all clients for {ticket.alias!r} were busy for {timeout_s:.3g} s "
                f"(queue-timeout){queue.why(now)}",
                hint=RetryHint(min(60.0, max(1.0, queue.mean_lease_s * turns))),
            )
        return end

    def withdraw(self, ticket: Ticket) -> None:
        """End the request's wait, if it waits; what it was handed meanwhile goes to the next."""
        if ticket.bell is None:  # it neither waits, nor was handed anything unseen
            return
        with self._lock:
            now = self._clock.monotonic()
            lease = ticket.granted
            self._leave_locked(self._queues.get(ticket.alias), ticket, now)
            if lease is not None:
                self._take_back_locked(lease, now)
        self._ring()

    def dismiss(self) -> None:
        """Have all who wait, now or later, end with ShuttingDown: the process is about to end."""
        with self._lock:
            self._is_stopping = True
            for queue in self._queues.values():
                self._rung += _bells(queue.waiters)
        self._ring()

    def _serve_locked(self, line: Line, now: float) -> None:
        """Hand the client's free permits to those who wait for them, in the order of arrival."""
        while line.is_awaited and line.lock.is_free:
            ticket = line.first_waiter(now)
            if ticket is None:
                return
            self._hand_over_locked(line.lock, ticket, now)

    def _hand_over_locked(self, lock: ClientLock, ticket: Ticket, now: float) -> None:
        queue = self._queues[ticket.alias]
        ticket.granted = self._lend_locked(queue.offers[lock], ticket, now)
        queue.leave(ticket)
        if ticket.bell is not None:
            self._rung.append(ticket.bell)

    def _unpark_locked(self, line: Line, now: float) -> None:
        self._serve_locked(line, now)
        if line.lock.is_free:  # else nothing changed for newcomers
            parked, line.parked = line.parked, {}
            for offer in parked:
                offer.queue.settle(offer)

    def _take_back_locked(self, lease: ClientLease, now: float) -> None:
        lock = lease.lock
        line = self._lines.get(lock.client.identity) or Line(lock)
        lease.is_held = False
        if lease.trials:
            lease.end_trials(now)
            _settle(line)
        del lock.leases[lease.number]
        if self._leaving and not lock.leases:
            self._leaving.pop(lock.client.identity, None)
        if line.parked or line.is_awaited:
            self._unpark_locked(line, now)

    def _release(self, lease: ClientLease) -> None:
        with self._lock:
            # Critical section: the permit comes free and goes to the first who waits for it.
            if lease.is_held:
                now = self._clock.monotonic()
                lease.lock.served += 1
                lease.lock.answered += lease.is_answered
                if (queue := self._queues.get(lease.ticket.alias)) is not None:
                    queue.mean_lease_s += MEAN_WEIGHT * (now - lease.began - queue.mean_lease_s)
                self._take_back_locked(lease, now)
        if self._rung:
            self._ring()

    def _report(
        self, lease: ClientLease, effect: Effect, asked_s: float | None, cause: str
    ) -> None:
        lock, health = lease.lock, lease.health
        is_good = effect in (Effect.GOOD, Effect.BEGUN)
        if is_good and not lease.trials and (effect is Effect.BEGUN or not health.failures):
            return  # the usual case: nothing to decide, nothing to forget
        if effect is Effect.NONE:
            return
        with self._lock:
            # Critical section: the client's state changes, and with it what waiters may hope for.
            now = self._clock.monotonic()
            line = self._lines.get(lock.client.identity) or Line(lock)
            before = health.standing(now), lock.service.standing(now)
            was_out, was_shut_by = health.is_out, health.shut_by(now)
            most_s = lease.ticket.config.max_cooldown_s
            health.apply(
                effect, began=lease.began, now=now, asked_s=asked_s, most_s=most_s, cause=cause
            )
            is_out, until = health.is_out, health.standing(now).until
            is_whole = effect is Effect.OUT or was_shut_by is lock.service
            if is_good:
                lease.end_trials(now)
                _settle(line)
                self._unpark_locked(line, now)
            else:
                lock.failed, lock.last_error = lock.failed + 1, (now, cause)
                after = health.standing(now), lock.service.standing(now)
                if after != before and effect is not Effect.REST:
                    of_model = line.offers_by_name.get(lease.model, [])
                    self._rung += _dim(line.offers if effect is Effect.OUT else of_model, now)
        self._ring()
        if is_out != was_out:
            who = lease.client.label if is_whole else f"{lease.client.label}, {lease.model!r},"
            if is_out:
                log.warning("%s is out of service for %.0f s: %r", who, until - now, cause)
            elif was_shut_by is not None:
                log.warning("%s is back in service after %.0f s", who, now - was_shut_by.since)

    def _ring(self) -> None:
        """Ring all whose turn a choice made it, each once; without the lock."""
        while self._rung:
            with suppress(IndexError):  # another thread was quicker
                self._rung.popleft().ring()

    def set_disabled(self, label: str, disabled: bool) -> bool:
        """Take a client out of service by hand, or put it back; whether there is one so named."""
        return self._change(label, disabled)

    def reset(self, label: str, alias: str = "") -> bool:
        """End a client's cooldowns, rests and times out of service; whether there is one so named.

        `alias`: those of this model alone, without what is wrong with the client as a whole.
        """
        return self._change(label, None, alias)

    def _change(self, label: str, disabled: bool | None, alias: str = "") -> bool:
        """Change by hand how a client stands, and have all who wait for it look again."""
        with self._lock:
            now = self._clock.monotonic()
            found = [one for one in self._lines.values() if one.lock.client.label == label]
            for line in found:
                if disabled is not None:
                    line.lock.is_disabled = disabled
                elif not alias:
                    line.lock.service.open(began=math.inf)
                for offer in line.offers if disabled is None else ():
                    if alias in ("", offer.queue.alias):
                        offer.health.reset()
                _settle(line)
                self._unpark_locked(line, now)
                # It may be on trial, or cooling down: those who wait did not reckon with it.
                for offer in line.offers:
                    self._rung += _bells(offer.queue.waiters)
        self._ring()
        return bool(found)

    def cooled_in(self, alias: str, routes: tuple[Route, ...]) -> float | None:
        """Seconds until a client for this model is not cooling down; None: none is in service."""
        with self._lock:
            now = self._clock.monotonic()
            queue = self._queues.get(alias)
            standings = [
                line.lock.standing(name, now)
                for line, name in self._offered_locked(queue.routes if queue else routes)
                if not line.lock.is_disabled
            ]
        waits_s = [
            max(0.0, one.until - now) if one.state is State.COOLING else 0.0
            for one in standings
            if one.state is not State.OUT
        ]
        return min(waits_s, default=None)

    def is_listed(self, routes: tuple[Route, ...]) -> bool:
        """Whether a request for the model of these routes has a chance soon."""
        cooled_in_s = self.cooled_in("", routes)
        return cooled_in_s is not None and cooled_in_s <= MAX_LISTED_COOLDOWN_S

    def has_service(self) -> bool:
        """Whether any client is in service."""
        LOST.give_back()
        with self._lock:
            now = self._clock.monotonic()
            return any(
                not line.lock.is_disabled and line.lock.service.standing(now).state is not State.OUT
                for line in self._lines.values()
            )

    def snapshot(self) -> list[dict[str, Any]]:
        """The state of every client, as plain data: counts, seconds, states by model."""
        LOST.give_back()
        with self._lock:
            now = self._clock.monotonic()
            told = [(line.lock, line.waiting, False) for line in self._lines.values()]
            told += [(lock, 0, True) for lock in self._leaving.values()]
        found = []
        for lock, waiting, leaving in told:  # each by itself: there may be thousands of models
            with self._lock:
                found.append(lock.facts(now, waiting=waiting, leaving=leaving))
        return found

    def queue_facts(self) -> dict[str, dict[str, int]]:
        """By alias: requests waiting now."""
        LOST.give_back()
        with self._lock:
            return {alias: {"waiting": len(one.waiters)} for alias, one in self._queues.items()}

    def open(self) -> None:
        """Begin with what a process has to do for the pool beside requests. Idempotent."""

    def close(self) -> None:
        """End that, and give back all that the process holds. Idempotent."""


def _settle(line: Line) -> None:
    """Have all offers of the client looked at again at their turn."""
    for offer in line.offers:
        offer.queue.settle(offer)


def _dim(offers: Iterable[Offer], now: float) -> list[Bell]:
    """Re-queue offers that got worse; the bells of the waiters who must look again."""
    concerned: list[Ticket] = []
    for offer in offers:
        offer.queue.settle(offer)
        concerned += offer.queue.concerned_by(offer, now)
    return _bells(concerned)


def _bells(tickets: Iterable[Ticket]) -> list[Bell]:
    return [ticket.bell for ticket in tickets if ticket.bell is not None]


def _hint(moment: float | None, now: float) -> RetryHint:
    return RetryHint(None if moment is None or moment == math.inf else moment - now)
