"""The pool: who may use which client, and who waits for it.

Each client has a lock with `max-concurrency` permits; a lease is one permit held. A request asks
with a ticket and waits in order of arrival; a permit that comes free goes straight to the first
waiter who could use it, so that nobody overtakes.

Lock: one, `ClientPool._lock`, guards every slot, roster and ticket. It is held for choices only:
never while waiting, waking or logging.
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
from ..net.watch import CLOCK, Bell, Caller, Clock, my_bell
from .health import Effect
from .lease import Lease
from .queue import Offer, Roster
from .slot import Loan, Slot, Ticket, cooled_at

# How much the newest lease weighs in the running mean of lease times.
MEAN_WEIGHT = 0.1

# A model is left out of the list while every client cools down for longer than this.
MAX_LISTED_COOLDOWN_S = 60.0


# So many models' books are kept; beyond, those in which nothing stands are dropped: upstreams'
# lists of models change, and a process may run for months.
MAX_ROSTERS = 1000


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
        self._slots = {client: Slot(client) for client in clients}
        self._rosters: dict[str, Roster] = {}

    def ticket(
        self, alias: str, caller: Caller, *, holder: object = None, rank: int | None = None
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
        LOST.give_back()
        while True:
            rung: list[Bell] = []
            try:
                with self._lock:
                    # Critical section: take what was handed over or is free, else join the queue.
                    now = self._clock.monotonic()
                    roster = self._roster_locked(ticket, routes, now, rung)
                    lease = self._take_locked(roster, ticket, now, rung)
                    if lease is None:
                        wait_until = self._wait_until_locked(roster, ticket, now)
                        ticket.wakes_at = wait_until
                        ticket.bell = bell = my_bell()
                        roster.join(ticket)
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

    def _roster_locked(
        self, ticket: Ticket, routes: tuple[Route, ...], now: float, rung: list[Bell]
    ) -> Roster:
        """The alias's roster. Only a new request may bring a new one: an old one's are outdated."""
        old = self._rosters.get(ticket.alias)
        if old is not None and (ticket.has_asked or old.routes is routes):
            ticket.has_asked = True
            return old
        ticket.has_asked = True
        if old is None and len(self._rosters) >= MAX_ROSTERS:
            for idle in [one for one in self._rosters.values() if one.is_idle(now)]:
                idle.retire(now)
                del self._rosters[idle.alias]
        roster = self._rosters[ticket.alias] = Roster(ticket.alias, routes, self._slots)
        if old is not None:
            rung += _bells(old.waiters)
            roster.take_over(old, now)
            for slot in roster.offers:
                self._serve_locked(slot, now, rung)
        return roster

    def _take_locked(
        self, roster: Roster, ticket: Ticket, now: float, rung: list[Bell]
    ) -> Lease | None:
        roster.revive(now)
        lease = ticket.granted
        while lease is None and (offer := roster.best(ticket, now)) is not None:
            # What came free by the passing of time alone may be owed to one who came earlier.
            first = offer.slot.first_waiter(now) if offer.slot.is_awaited else None
            if first is not None and first.rank < ticket.rank:
                self._hand_over_locked(offer.slot, first, now, rung)
            else:
                lease = self._lend_locked(offer, ticket, now)
        if lease is not None and ticket.bell is not None:
            self._leave_locked(roster, ticket, now)
        return lease

    def _leave_locked(self, roster: Roster, ticket: Ticket, now: float) -> None:
        roster.leave(ticket)
        ticket.granted = ticket.bell = None
        if ticket.queued_at is not None:
            roster.waited_s += now - ticket.queued_at
            ticket.queued_at = None
        ticket.spend_retry_budget(now)

    def _lend_locked(self, offer: Offer, ticket: Ticket, now: float) -> Lease:
        slot = offer.slot
        offer.roster.chosen(offer)
        number = next(self._lease_numbers)
        lease = Lease(self, offer, ticket, number=number, began=now)
        if lease._trials:  # who waits looks for when they pass, also where no permit is left
            self._settle_locked(slot)
        slot.in_flight += 1
        slot.loans[number] = Loan(ticket.holder, offer.name, now)
        ticket.tried[slot] = None
        return lease

    def _wait_until_locked(self, roster: Roster, ticket: Ticket, now: float) -> float:
        """When to look again at the latest; raises PoolError when there is nothing to wait for."""
        outlook = roster.outlook(ticket, now)
        ticket.spend_retry_budget(now)
        try:
            if outlook.tries_again:
                return min(ticket.tried_again_at, outlook.changes_at)
            if outlook.is_busy:
                end = self._queue_end(roster, ticket, now, tried_since=outlook.tried_since)
                # One that it tried may come free, and find nobody who may have it, before that.
                back_off_at = ticket.tried_again_at if ticket.tried_again_at > now else math.inf
                return min(end, outlook.changes_at, back_off_at)
            if not outlook.is_known:
                raise NoClientInService(
                    f"no client for {ticket.alias!r} is in service: upstreams refuse their keys",
                    hint=_hint(roster.in_service_at(now), now),
                )
            if outlook.cooled_at - now > ticket.retry_budget_s:
                raise AllCoolingDown(
                    f"every client for {ticket.alias!r} is cooling down (rate limits)",
                    hint=_hint(outlook.cooled_at, now),
                )
        except PoolError:
            self._leave_locked(roster, ticket, now)
            raise
        ticket.cooling_since = now
        return outlook.changes_at

    def _queue_end(
        self, roster: Roster, ticket: Ticket, now: float, *, tried_since: float
    ) -> float:
        """When the request is refused; who waits for a trial has all of the time from its begin."""
        if ticket.queued_at is None:
            ticket.queued_at = now
        ticket.queue_counts_from = max(ticket.queue_counts_from, ticket.queued_at, tried_since)
        end = ticket.queue_counts_from + self._queue_timeout_s
        if now >= end:
            turns = (roster.place_of(ticket) + 1) / roster.permits(now)
            raise NoClientFree(
                f"all clients for {ticket.alias!r} were busy for {self._queue_timeout_s:.3g} s "
                "(queue-timeout)",
                hint=RetryHint(min(60.0, max(1.0, roster.mean_lease_s * turns))),
            )
        return end

    def withdraw(self, ticket: Ticket) -> None:
        """The request waits no longer; what it was handed meanwhile goes to the next."""
        rung: list[Bell] = []
        with self._lock:
            now = self._clock.monotonic()
            lease = ticket.granted
            if (roster := self._rosters.get(ticket.alias)) is not None:
                self._leave_locked(roster, ticket, now)
            if lease is not None:
                self._take_back_locked(lease, now, rung)
        _ring(rung)

    def _serve_locked(self, slot: Slot, now: float, rung: list[Bell]) -> None:
        """Hand the slot's free permits to those who wait for them, in the order of arrival."""
        while slot.is_free and slot.is_awaited:
            ticket = slot.first_waiter(now)
            if ticket is None:
                return
            self._hand_over_locked(slot, ticket, now, rung)

    def _hand_over_locked(self, slot: Slot, ticket: Ticket, now: float, rung: list[Bell]) -> None:
        roster = self._rosters[ticket.alias]
        ticket.granted = self._lend_locked(roster.offers[slot], ticket, now)
        roster.leave(ticket)
        if ticket.bell is not None:
            rung.append(ticket.bell)

    def _unpark_locked(self, slot: Slot, now: float, rung: list[Bell]) -> None:
        self._serve_locked(slot, now, rung)
        if slot.is_free:  # else nothing changed for newcomers
            parked, slot.parked = slot.parked, {}
            for offer in parked:
                offer.roster.settle(offer)

    def _take_back_locked(self, lease: Lease, now: float, rung: list[Bell]) -> None:
        slot = lease._offer.slot
        lease._is_held = False
        if lease._trials:
            self._end_trials_locked(lease, now)
        slot.in_flight -= 1
        del slot.loans[lease._number]
        if slot.parked or slot.is_awaited:
            self._unpark_locked(slot, now, rung)

    def _end_trials_locked(self, lease: Lease, now: float) -> None:
        lease._end_trials(now)
        self._settle_locked(lease._offer.slot)

    def _settle_locked(self, slot: Slot) -> None:
        for offer in slot.offers:
            offer.roster.settle(offer)

    def _release(self, lease: Lease) -> None:
        rung: list[Bell] = []
        with self._lock:
            # Critical section: the permit comes free and goes to the first who waits for it.
            if lease._is_held:
                now = self._clock.monotonic()
                lease._offer.slot.served += 1
                roster = lease._offer.roster
                roster.mean_lease_s += MEAN_WEIGHT * (now - lease._began - roster.mean_lease_s)
                self._take_back_locked(lease, now, rung)
        if rung:
            _ring(rung)

    def _report(self, lease: Lease, effect: Effect, asked_s: float | None) -> None:
        slot, health = lease._offer.slot, lease._offer.health
        is_good = effect in (Effect.GOOD, Effect.BEGUN)
        if is_good and not lease._trials and (effect is Effect.BEGUN or not health.failures):
            return  # the usual case: nothing to decide, nothing to forget
        if effect is Effect.NONE:
            return
        rung: list[Bell] = []
        with self._lock:
            # Critical section: the client's state changes, and with it what waiters may hope for.
            now = self._clock.monotonic()
            before = health.standing(now), slot.service.standing(now)
            health.apply(
                effect, began=lease._began, now=now, asked_s=asked_s, most_s=self._max_cooldown_s
            )
            if is_good:
                self._end_trials_locked(lease, now)
                self._unpark_locked(slot, now, rung)
            else:
                slot.failed += 1
                slot.cooldowns += effect is Effect.COOL
                after = health.standing(now), slot.service.standing(now)
                if after != before and effect is not Effect.REST:
                    dimmed = slot.offers if effect is Effect.OUT else health.offers
                    rung += _dim_locked(dimmed, now)
        _ring(rung)

    def set_disabled(self, label: str, disabled: bool) -> bool:
        """Take a client out of service by hand, or put it back; whether there is one so named."""
        rung: list[Bell] = []
        with self._lock:
            slots = [slot for slot in self._slots.values() if slot.client.label == label]
            for slot in slots:
                slot.is_disabled = disabled
                now = self._clock.monotonic()
                if disabled:
                    rung += _dim_locked(slot.offers, now)
                else:
                    self._unpark_locked(slot, now, rung)
                    # It may be on trial, or cooling down: those who wait did not reckon with it.
                    for offer in slot.offers:
                        rung += _bells(offer.roster.waiters)
        _ring(rung)
        return bool(slots)

    def cooled_in(self, alias: str, routes: tuple[Route, ...]) -> float | None:
        """Seconds until a client for this model is not cooling down; None: none is in service."""
        with self._lock:
            now = self._clock.monotonic()
            roster = self._rosters.get(alias)
            moment = cooled_at(roster.routes if roster else routes, self._slots, now)
        return None if moment is None else max(0.0, moment - now)

    def is_listed(self, alias: str, routes: tuple[Route, ...]) -> bool:
        """Whether a request for this model has a chance soon."""
        with self._lock:
            now = self._clock.monotonic()
            moment = cooled_at(routes, self._slots, now)
        return moment is not None and moment - now <= MAX_LISTED_COOLDOWN_S

    def has_service(self) -> bool:
        """Whether any client is in service."""
        LOST.give_back()
        with self._lock:
            now = self._clock.monotonic()
            return any(
                not slot.is_disabled and slot.service.standing(now).is_open
                for slot in self._slots.values()
            )

    def snapshot(self) -> list[dict[str, Any]]:
        """The state of every client, as plain data: counts, seconds, states by model."""
        LOST.give_back()
        with self._lock:
            now = self._clock.monotonic()
            return [slot.facts(now) for slot in self._slots.values()]

    def queue_facts(self) -> dict[str, dict[str, float]]:
        """By alias: requests waiting now, and seconds waited in all."""
        LOST.give_back()
        with self._lock:
            return {
                alias: {"waiting": len(roster.waiters), "waited_s": round(roster.waited_s, 3)}
                for alias, roster in self._rosters.items()
            }


def _dim_locked(offers: Iterable[Offer], now: float) -> list[Bell]:
    """Put these, which got worse, where they are looked at; the bells of who must look again."""
    concerned: list[Ticket] = []
    for offer in offers:
        offer.roster.settle(offer)
        concerned += offer.roster.concerned_by(offer, now)
    return _bells(concerned)


def _bells(tickets: Iterable[Ticket]) -> list[Bell]:
    return [ticket.bell for ticket in tickets if ticket.bell is not None]


def _hint(moment: float | None, now: float) -> RetryHint:
    return RetryHint(None if moment is None or moment == math.inf else moment - now)


def _ring(bells: list[Bell]) -> None:
    for bell in bells:
        bell.ring()
