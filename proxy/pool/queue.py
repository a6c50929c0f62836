"""Who is next: the clients that offer one model, their order, and the requests that wait for them.

Pure bookkeeping without locks, clocks or threads: `pool` calls it with its lock held and tells it
the time. The order is smooth weighted round robin by earliest virtual deadline (as in Envoy's EDF
scheduler): each client's `turn` moves on by 1/weight when it is chosen, and the smallest comes
next, in O(log n) where the classic form looks at every client each time. A client that was skipped
keeps its turn, so it is owed one; it does not save up more of them.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

from ..clients.base import Client
from ..clients.registry import Route
from .client_lock import ClientLock, Ticket
from .health import TRIAL_S, Health, Standing, State

_USABLE = (State.READY, State.ON_TRIAL)
_LENDABLE = (State.READY, State.ON_TRIAL, State.RESTING)
_rank = attrgetter("rank")
_numbers = itertools.count()


class Offer:
    """A client's offer of one alias."""

    __slots__ = ("entry", "health", "lock", "name", "queue", "step", "turn")

    def __init__(self, queue: ModelQueue, lock: ClientLock, name: str, turn: float) -> None:
        self.queue = queue
        self.lock = lock
        self.name = name
        self.step = 1 / lock.client.config.weight
        self.turn = turn * self.step
        self.entry = 0  # the number of its one valid entry in a heap; 0: parked; -1: retired
        if name not in lock.health:
            lock.health[name] = Health(lock.service)
        self.health = lock.health[name]
        self.health.offers.append(self)


_Heap = list[tuple[float, int, Offer]]


class Outlook(NamedTuple):
    """What a request that cannot be served now may hope for.

    `cooled_at` is only told of a request for which no client is in use or can be tried again.
    """

    changes_at: float  # the soonest end of a cooldown, a trial, or of being out of service
    tries_again: bool = False  # some client was tried and is free: after the back-off
    is_busy: bool = False  # some client is in use and will come free
    tried_since: float = -math.inf  # when the latest trial began that it waits for
    is_known: bool = True  # some client is in service at all
    cooled_at: float = math.inf  # the soonest end of a cooldown of those that it may use


class ModelQueue:
    """The offers of one alias, each in one of three heaps or parked at its lock.

    What its offer says when it comes to the top of `_ready` decides; so a change for the worse need
    not be told, a change for the better (`settle`) must.
    """

    def __init__(
        self, alias: str, routes: tuple[Route, ...], locks: dict[Client, ClientLock]
    ) -> None:
        self.alias = alias
        self.routes = routes
        self.number = next(_numbers)
        self.waiters: list[Ticket] = []  # by rank
        self.unlisted = [locks[route.client] for route in routes]  # those that don't know of them
        self.listed_rank = -1  # no lock lists this queue under a higher one
        self.mean_lease_s = 1.0
        self.waited_s = 0.0
        self._entries = itertools.count(1)
        self._now_turn = 0.0
        self._ready: _Heap = []  # by turn
        self._resting: _Heap = []  # by the moment at which it ends, as the next
        self._shut: _Heap = []  # cooling down, out of service
        self.offers = {
            locks[route.client]: Offer(
                # Spread over the first round, so that light ones do not come all at once.
                self,
                locks[route.client],
                route.name,
                (index + 0.5) / len(routes),
            )
            for index, route in enumerate(routes)
        }
        for offer in self.offers.values():
            self._put(self._ready, offer.turn, offer)

    def retire(self, now: float) -> None:
        """Leave the locks: another queue has taken this one's place, its waiters included."""
        for lock, offer in self.offers.items():
            lock.strike(self)
            offer.entry = -1
            offer.health.offers.remove(offer)
            lock.parked.pop(offer, None)
            if not offer.health.offers and offer.health.is_quiet(now):
                del lock.health[offer.name]
        self.waiters = []

    def is_idle(self, now: float) -> bool:
        """Whether nobody waits or is served, and nothing is under way: it may be forgotten."""
        return not self.waiters and all(
            offer.health.is_quiet(now)
            and not any(loan.model == offer.name for loan in lock.loans.values())
            for lock, offer in self.offers.items()
        )

    def take_over(self, old: ModelQueue, now: float) -> None:
        """The clients changed: keep turns, waiters and counts. A new one begins with the round."""
        for lock, offer in self.offers.items():
            before = old.offers.get(lock)
            offer.turn = before.turn if before else offer.turn + old._now_turn
            self._put(self._ready, offer.turn, offer)
        self._now_turn = old._now_turn
        self.mean_lease_s = old.mean_lease_s
        self.waited_s = old.waited_s
        waiters = old.waiters
        old.retire(now)
        for ticket in waiters:
            self.join(ticket)

    def best(self, ticket: Ticket, now: float) -> Offer | None:
        """The best client that this request can have now.

        Untried and healthy by turn; else untried and resting, the one rested soonest; else, after
        the back-off, tried before.
        """
        offer = self._next_healthy(ticket, now) or self._next_resting(ticket, now)
        if offer is None and ticket.tried and now >= ticket.tried_again_at:
            offer = min(self._tried(ticket, now), key=attrgetter("turn"), default=None)
        return offer

    def chosen(self, offer: Offer) -> None:
        """Move the offer's turn on."""
        self._now_turn = max(self._now_turn, offer.turn)
        offer.turn += offer.step
        if offer.entry > 0:
            self._put(self._ready, offer.turn, offer)

    def _next_healthy(self, ticket: Ticket, now: float) -> Offer | None:
        passed_over: _Heap = []
        found = None
        while self._ready and found is None:
            _, number, offer = self._ready[0]
            if number != offer.entry or not self._is_usable(offer, now):
                heapq.heappop(self._ready)
            elif offer.lock in ticket.tried or offer.lock in ticket.excluded:
                passed_over.append(heapq.heappop(self._ready))
            else:
                found = offer
        for entry in passed_over:
            heapq.heappush(self._ready, entry)
        return found

    def _is_usable(self, offer: Offer, now: float) -> bool:
        """Whether it is; if not, it is put where the change will be noticed."""
        standing = offer.health.standing(now)
        if standing.state in _USABLE and offer.lock.is_free:
            return True
        if standing.until == math.inf:
            offer.entry = 0
            offer.lock.parked[offer] = None
        elif standing.state is State.RESTING:
            self._put(self._resting, standing.until, offer)
        else:
            self._put(self._shut, standing.until, offer)
        return False

    def _next_resting(self, ticket: Ticket, now: float) -> Offer | None:
        """Linear in the clients that rest: the price of a bad day."""
        resting = [
            (standing.until, number, offer)
            for _, number, offer in self._resting
            if number == offer.entry
            and offer.lock not in ticket.tried
            and offer.lock not in ticket.excluded
            and offer.lock.is_free
            and (standing := offer.health.standing(now)).state is State.RESTING
        ]
        return min(resting)[2] if resting else None

    def _tried(self, ticket: Ticket, now: float) -> list[Offer]:
        """What the request tried before and could have again, were it not for the back-off."""
        return [
            self.offers[lock]
            for lock in ticket.tried
            if lock in self.offers
            and lock not in ticket.excluded
            and lock.is_free
            and self.offers[lock].health.standing(now).state in _LENDABLE
        ]

    def revive(self, now: float) -> None:
        """Settle what ended since the last call: cooldowns, rests, times out of service."""
        for heap in (self._shut, self._resting):
            while heap and heap[0][0] <= now:
                _, number, offer = heapq.heappop(heap)
                if number == offer.entry:
                    self.settle(offer)

    def settle(self, offer: Offer) -> None:
        """Something changed for this offer: look at it again at its turn."""
        if offer.entry >= 0:
            offer.turn = max(offer.turn, self._now_turn)
            self._put(self._ready, offer.turn, offer)

    def _put(self, heap: _Heap, key: float, offer: Offer) -> None:
        """Its older entries, wherever they are, no longer count; they are swept as they pile up."""
        offer.entry = next(self._entries)
        heapq.heappush(heap, (key, offer.entry, offer))
        if len(heap) > 2 * len(self.routes) + 8:
            heap[:] = [entry for entry in heap if entry[1] == entry[2].entry]
            heapq.heapify(heap)

    def join(self, ticket: Ticket) -> None:
        """Wait, in the order of rank. A ticket that waits already stays where it is."""
        index = self.position_of(ticket)
        if index < len(self.waiters) and self.waiters[index] is ticket:
            return
        self.waiters.insert(index, ticket)
        if index == 0:
            locks = list(self.offers) if ticket.rank < self.listed_rank else self.unlisted
            for lock in locks:
                lock.enlist(self, ticket.rank)
            self.unlisted = []
            self.listed_rank = ticket.rank

    def leave(self, ticket: Ticket) -> None:
        """Wait no longer."""
        index = self.position_of(ticket)
        if index < len(self.waiters) and self.waiters[index] is ticket:
            del self.waiters[index]

    def position_of(self, ticket: Ticket) -> int:
        """How many wait before this one."""
        return bisect.bisect_left(self.waiters, ticket.rank, key=_rank)

    def first_waiter(self, lock: ClientLock, now: float) -> Ticket | None:
        """The first in rank who could take this client now, if it can be lent at all."""
        if self.offers[lock].health.standing(now).state not in _LENDABLE:
            return None
        return next((ticket for ticket in self.waiters if ticket.may_use(lock, now)), None)

    def outlook(self, ticket: Ticket, now: float) -> Outlook:
        """What to wait for; only asked when `best` has just found nothing."""
        changes_at = self._shut[0][0] if self._shut else math.inf
        if self._tried(ticket, now):
            return Outlook(changes_at, tries_again=True)
        if any(
            _is_in_use(lock, standing)
            for lock, standing in self._in_service(now)
            if lock not in ticket.excluded
        ):
            passing = self._trials_pass_at(ticket, now)
            return Outlook(
                min([changes_at, *passing]),
                is_busy=True,
                tried_since=max(passing, default=-math.inf) - TRIAL_S,
            )
        ends = {lock: standing.until for lock, standing in self._in_service(now)}
        cooled_at = min(
            (until for lock, until in ends.items() if lock not in ticket.excluded),
            default=math.inf,
        )
        return Outlook(changes_at, is_known=bool(ends), cooled_at=cooled_at)

    def concerned_by(self, offer: Offer, now: float) -> list[Ticket]:
        """Who must look again now that this offer got worse: others need not be woken for it.

        That is who may have nothing else to wait for, or would sleep beyond its return.
        """
        returns_at = offer.health.standing(now).until
        is_busy = any(_is_in_use(lock, standing) for lock, standing in self._in_service(now))
        return [
            ticket
            for ticket in self.waiters
            if not is_busy or ticket.excluded or ticket.wakes_at > returns_at
        ]

    def _trials_pass_at(self, ticket: Ticket, now: float) -> list[float]:
        """When trials pass, for whose end the request waits."""
        return [
            standing.until
            for heap in (self._shut, self._resting)
            for _, number, offer in heap
            if number == offer.entry
            and offer.lock not in ticket.excluded
            and (standing := offer.health.standing(now)).state is State.TRYING
        ]

    def permits(self, now: float) -> float:
        """How many requests the clients in service take at once."""
        return sum(lock.permits or math.inf for lock, _ in self._in_service(now))

    def in_service_at(self, now: float) -> float | None:
        """When the first of the clients that are out of service is tried again; None: never."""
        moments = [
            offer.health.standing(now).until
            for lock, offer in self.offers.items()
            if not lock.is_disabled
        ]
        return min(moments, default=None)

    def _in_service(self, now: float) -> Iterator[tuple[ClientLock, Standing]]:
        for lock, offer in self.offers.items():
            standing = offer.health.standing(now)
            if not lock.is_disabled and standing.state is not State.OUT:
                yield lock, standing


def _is_in_use(lock: ClientLock, standing: Standing) -> bool:
    return standing.state is State.TRYING or (standing.state in _LENDABLE and not lock.is_free)
