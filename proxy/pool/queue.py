"""Who is next: the clients that offer one model, their order, and the requests that wait for them.

Pure bookkeeping without locks, clocks or threads: the pool calls it with its own lock held and
passes the time. The order is smooth weighted round robin by earliest virtual deadline (as in
Envoy's EDF scheduler). Each client has a `turn`, which moves on by 1/weight when the client is
chosen; the smallest turn comes next, in O(log n) where the classic form looks at every client each
time. A client that was skipped keeps its turn, so it is owed one; it does not save up more of them.
Each tier has turns of its own. A session's client is charged a turn too, out of its order, so that
requests without a session make up for it, at most for `MOST_AHEAD` turns.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

from ..clients.registry import Route
from .client_lock import ClientLock, Ticket
from .health import Standing, State
from .tier import Tier

# So many clients an error says something of.
MOST_TOLD = 8

# So many turns of a client that sessions chose may be ahead of its tier's: when they have ended it
# is not passed over for longer.
MOST_AHEAD = 64

_USABLE = (State.READY, State.ON_TRIAL)
_LENDABLE = (State.READY, State.ON_TRIAL, State.RESTING)
_rank = attrgetter("rank")
_numbers = itertools.count()


class Line:
    """The way from a client back to its models: its offers, and the queues that wait for it.

    The queues stand in a heap by the rank of each one's first waiter. Keys are lower bounds, put
    right when they come to the top; a queue without waiters is dropped there. So a request that
    begins or ceases to wait need not tell every client of its model.
    """

    def __init__(self, lock: ClientLock) -> None:
        self.lock = lock
        self.offers_by_name: dict[str, list[Offer]] = {}  # by the upstream's name of the model
        self.parked: dict[Offer, None] = {}  # not to be used until the state of the lock changes
        self._ranks: dict[ModelQueue, int] = {}  # of each queue that is listed, its one valid key
        self._heap: list[tuple[int, int, ModelQueue]] = []

    @property
    def offers(self) -> list[Offer]:
        """The client's offers of all its models."""
        return [offer for offers in self.offers_by_name.values() for offer in offers]

    @property
    def is_awaited(self) -> bool:
        """Whether anybody may be waiting for the client."""
        return bool(self._heap)

    @property
    def waiting(self) -> int:
        """How many requests wait for the client, among others."""
        return sum(len(queue.waiters) for queue in self._ranks)

    def enlist(self, queue: ModelQueue, rank: int) -> None:
        """Note that requests of this rank or later wait in the queue."""
        if rank < self._ranks.get(queue, math.inf):
            self._ranks[queue] = rank
            heapq.heappush(self._heap, (rank, queue.number, queue))
            if len(self._heap) > 2 * len(self._ranks) + 8:
                self._heap = [(key, listed.number, listed) for listed, key in self._ranks.items()]
                heapq.heapify(self._heap)

    def strike(self, queue: ModelQueue, offer: Offer) -> None:
        """Forget a queue that is no more, and its offer."""
        self._ranks.pop(queue, None)
        self.parked.pop(offer, None)
        self.offers_by_name[offer.name].remove(offer)

    def first_waiter(self, now: float) -> Ticket | None:
        """The first in rank who could take this client now."""
        heap, first = self._heap, None
        looked_at = []
        while heap and (first is None or heap[0][0] < first.rank):
            rank, number, queue = heap[0]
            if self._ranks.get(queue) != rank:
                heapq.heappop(heap)
            elif not queue.waiters:
                heapq.heappop(heap)
                del self._ranks[queue]
                queue.unlisted.append(self)
            elif (rank_now := queue.waiters[0].rank) > rank:
                heapq.heapreplace(heap, (rank_now, number, queue))
                self._ranks[queue] = rank_now
                queue.listed_rank = max(queue.listed_rank, rank_now)
            else:
                looked_at.append(heapq.heappop(heap))
                found = queue.first_waiter(self.lock, now)
                if found is not None and (first is None or found.rank < first.rank):
                    first = found
        for entry in looked_at:
            heapq.heappush(heap, entry)
        return first


class Offer:
    """A client's offer of one alias."""

    __slots__ = ("entry", "health", "line", "lock", "name", "queue", "step", "tier", "turn")

    def __init__(self, queue: ModelQueue, tier: Tier, line: Line, name: str, turn: float) -> None:
        self.queue = queue
        self.tier = tier
        self.line = line
        self.lock = line.lock
        self.name = name
        tier.locks.append(self.lock)
        self.step = 1 / self.lock.client.config.weight
        self.turn = turn * self.step
        self.entry = 0  # the number of its one valid entry in a heap; 0: parked; -1: retired
        self.health = self.lock.health[name]
        line.offers_by_name.setdefault(name, []).append(self)

    @property
    def place(self) -> tuple[int, float]:
        """The lower, the sooner it is the client's turn."""
        return self.tier.place, self.turn


_Heap = list[tuple[Any, int, Offer]]


class ModelQueue:
    """The offers of one alias, each in one of three heaps or parked at its line.

    An offer's health decides when the offer comes to the top of `_ready`. So a change for the worse
    need not be told; a change for the better must (`settle`).

    `offered` are the clients that `routes` names, as far as they are still configured, and the
    upstream's name for the model at each.
    """

    def __init__(
        self, alias: str, routes: tuple[Route, ...], offered: Iterable[tuple[Line, str]]
    ) -> None:
        self.alias = alias
        self.routes = routes
        self.number = next(_numbers)
        self.waiters: list[Ticket] = []  # by rank
        self.listed_rank = -1  # no line lists this queue under a higher one
        self.mean_lease_s = 1.0
        self._entries = itertools.count(1)
        self._tiers: dict[int, Tier] = {}  # by place
        self._ready: _Heap = []  # by place
        self._resting: _Heap = []  # by the moment at which it ends, as the next
        self._shut: _Heap = []  # cooling down, out of service
        self.offers: dict[ClientLock, Offer] = {}
        for index, (line, name) in enumerate(offered):
            # Spread over the first round, so that light ones do not come all at once.
            turn = (index + 0.5) / len(routes)
            place = -line.lock.client.config.priority
            tier = self._tiers.setdefault(place, Tier(alias, place))
            self.offers[line.lock] = Offer(self, tier, line, name, turn)
        self.unlisted = [offer.line for offer in self.offers.values()]  # know of no waiters yet
        for offer in self.offers.values():
            self._put(self._ready, offer.place, offer)

    def retire(self, now: float) -> None:
        """Leave the lines: another queue has taken this one's place, its waiters included."""
        for lock, offer in self.offers.items():
            offer.entry = -1
            offer.line.strike(self, offer)
            if not offer.line.offers_by_name[offer.name] and offer.health.is_quiet(now):
                del lock.health[offer.name], offer.line.offers_by_name[offer.name]
        # Offers that keep the queue which keeps them would live until a garbage collection.
        self.offers, self.unlisted, self.waiters = {}, [], []
        self._ready = self._resting = self._shut = []

    def is_idle(self, now: float) -> bool:
        """Whether nobody waits or is served, and nothing is under way: it may be forgotten."""
        return not self.waiters and all(
            offer.health.is_quiet(now)
            and not any(lease.model == offer.name for lease in lock.leases.values())
            for lock, offer in self.offers.items()
        )

    def take_over(self, old: ModelQueue, now: float) -> None:
        """Keep another's turns, waiters and counts. A new client begins with the present round."""
        for place, tier in self._tiers.items():
            tier.turn = old._tiers[place].turn if place in old._tiers else 0.0
        for lock, offer in self.offers.items():
            before = old.offers.get(lock)
            stays = before is not None and before.tier.place == offer.tier.place
            offer.turn = before.turn if before and stays else offer.turn + offer.tier.turn
            self._put(self._ready, offer.place, offer)
        self.mean_lease_s = old.mean_lease_s
        waiters = old.waiters
        old.retire(now)
        for ticket in waiters:
            self.join(ticket)

    def best(self, ticket: Ticket, now: float) -> Offer | None:
        """The best client that this request can have now.

        Untried and healthy by turn, or the first in the session's order; else untried and resting,
        the one rested soonest; else, after the back-off, tried before. Each by tiers.
        """
        offer = self._next_healthy(ticket, now)
        if offer is not None and ticket.session:
            offer = self._preferred(offer, ticket, now)
        offer = offer or self._next_resting(ticket, now)
        if offer is None and ticket.tried and now >= ticket.tried_again_at:
            offer = min(self.tried(ticket, now), key=attrgetter("place"), default=None)
        return offer

    def chosen(self, offer: Offer, ticket: Ticket) -> None:
        """Move the offer's turn on, and its tier's unless a session chose it."""
        tier = offer.tier
        if ticket.session:
            if ticket.is_kept is None:
                home = ticket.home or next(self._order(self._tiers[min(self._tiers)], ticket))
                ticket.is_kept = offer.lock is home
            offer.turn = min(offer.turn, tier.turn + MOST_AHEAD * offer.step)
        else:
            tier.turn = max(tier.turn, offer.turn)
        offer.turn += offer.step
        if offer.entry > 0:
            self._put(self._ready, offer.place, offer)

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

    def _preferred(self, usual: Offer, ticket: Ticket, now: float) -> Offer:
        """Of the clients that could be had in place of this one, the first in a session's order."""
        tier = usual.tier
        tier.turn = max(tier.turn, usual.turn)
        for lock in self._order(tier, ticket) if len(tier.locks) > 1 else ():
            if lock.is_free and lock not in ticket.tried and lock not in ticket.excluded:
                offer = self.offers[lock]
                if offer.health.standing(now).state in _USABLE:
                    return offer
        return usual

    def _order(self, tier: Tier, ticket: Ticket) -> Iterator[ClientLock]:
        """The tier's clients as the session prefers them; that of the first one is its home."""
        for lock in tier.order(ticket.session) if len(tier.locks) > 1 else tier.locks:
            if ticket.home is None and tier.place == min(self._tiers):
                ticket.home = lock
            yield lock

    def _is_usable(self, offer: Offer, now: float) -> bool:
        """Whether it is; if not, it is put where the change will be noticed."""
        standing = offer.health.standing(now)
        if standing.state in _USABLE and offer.lock.is_free:
            return True
        if standing.until == math.inf:
            offer.entry = 0
            offer.line.parked[offer] = None
        elif standing.state is State.RESTING:
            self._put(self._resting, standing.until, offer)
        else:
            self._put(self._shut, standing.until, offer)
        return False

    def _next_resting(self, ticket: Ticket, now: float) -> Offer | None:
        """Linear in the clients that rest: the price of a bad day."""
        resting = [
            (offer.tier.place, standing.until, number, offer)
            for _, number, offer in self._resting
            if number == offer.entry
            and offer.lock not in ticket.tried
            and offer.lock not in ticket.excluded
            and offer.lock.is_free
            and (standing := offer.health.standing(now)).state is State.RESTING
        ]
        return min(resting)[3] if resting else None

    def tried(self, ticket: Ticket, now: float) -> list[Offer]:
        """What the request tried before and could have again, but for its back-off."""
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
            offer.turn = max(offer.turn, offer.tier.turn)
            self._put(self._ready, offer.place, offer)

    def _put(self, heap: _Heap, key: float | tuple[int, float], offer: Offer) -> None:
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
            if ticket.rank < self.listed_rank:
                self.unlisted = [offer.line for offer in self.offers.values()]
            for line in self.unlisted:
                line.enlist(self, ticket.rank)
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

    def changes_at(self, now: float) -> float:
        """The soonest end of a cooldown, a trial, or a time out of service, since `revive`."""
        return self._shut[0][0] if self._shut else math.inf

    def is_busy(self, ticket: Ticket | None, now: float) -> bool:
        """Whether a client is in use that will come free for this request; None: for anybody."""
        return any(
            standing.state is State.TRYING or (standing.state in _LENDABLE and not lock.is_free)
            for lock, standing in self.in_service(now)
            if ticket is None or lock not in ticket.excluded
        )

    def concerned_by(self, offer: Offer, now: float) -> list[Ticket]:
        """The waiters who must look again now that this offer got worse.

        They may have nothing else to wait for, or would sleep beyond its return.
        """
        returns_at = offer.health.standing(now).until
        is_busy = self.is_busy(None, now)
        return [
            ticket
            for ticket in self.waiters
            if not is_busy or ticket.excluded or ticket.wakes_at > returns_at
        ]

    def trials_pass_at(self, ticket: Ticket, now: float) -> list[float]:
        """The moments at which the trials pass that this request waits for."""
        return [
            standing.until
            for heap in (self._shut, self._resting)
            for _, number, offer in heap
            if number == offer.entry
            and offer.lock not in ticket.excluded
            and (standing := offer.health.standing(now)).state is State.TRYING
        ]

    def why(self, now: float) -> str:
        """Why no client serves: of many the first few are told."""
        whys = {offer.lock: offer.lock.why(offer.name, now) for offer in self.offers.values()}
        told = [f"{lock.client.label} {why}" for lock, why in whys.items() if why]
        more = [f"and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
        return f" ({', '.join([*told[:MOST_TOLD], *more])})" if told else ""

    def permits(self, now: float) -> float:
        """How many requests the clients in service take at once."""
        return sum(lock.permits or math.inf for lock, _ in self.in_service(now))

    def in_service_at(self, ticket: Ticket, now: float) -> float | None:
        """When the first of its clients that are out of service is tried again; None: never."""
        moments = [
            offer.health.standing(now).until
            for lock, offer in self.offers.items()
            if not lock.is_disabled and lock not in ticket.excluded
        ]
        return min(moments, default=None)

    def in_service(self, now: float) -> Iterator[tuple[ClientLock, Standing]]:
        """The clients that take requests now or after a cooldown, and how each stands."""
        for lock, offer in self.offers.items():
            standing = offer.health.standing(now)
            if not lock.is_disabled and standing.state is not State.OUT:
                yield lock, standing
