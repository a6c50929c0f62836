"""A client's lock in the pool, with its permits, and a request's claim to one.

Pure bookkeeping without locks, clocks or threads: `pool` calls it with its lock held and tells it
the time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..clients.base import Client
from ..clients.registry import Route
from ..net.watch import Bell, CallerConnection
from .health import OUT_S, Breaker, Health, Standing, State

if TYPE_CHECKING:
    from .lease import Lease
    from .queue import ModelQueue, Offer


class Loan(NamedTuple):
    """What is known of a lease, until it is given back."""

    holder: object
    model: str
    began: float


class ClientLock:
    """A client's lock: its permits, its loans, its health, and who waits for it.

    The waiting are kept by queue, in a heap by the rank of each queue's first. Keys are lower
    bounds, put right when they come to the top; a queue without waiters is dropped there. So a
    request that begins or ceases to wait need not tell every client of its model.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.permits = client.config.max_concurrency
        self.in_flight = 0
        self.is_disabled = False
        self.service = Breaker(OUT_S)
        self.health: dict[str, Health] = {}  # by the upstream's name of the model
        self.parked: dict[Offer, None] = {}  # not to be used until the state of this lock changes
        self.loans: dict[int, Loan] = {}  # by the lease's number
        self.served = 0
        self.failed = 0
        self.cooldowns = 0
        self._ranks: dict[ModelQueue, int] = {}  # of each queue that is listed, its one valid key
        self._line: list[tuple[int, int, ModelQueue]] = []

    @property
    def is_free(self) -> bool:
        """Whether a permit is left."""
        return (self.permits == 0 or self.in_flight < self.permits) and not self.is_disabled

    @property
    def offers(self) -> list[Offer]:
        """The client's offers of all its models."""
        return [offer for health in self.health.values() for offer in health.offers]

    def standing(self, name: str, now: float) -> Standing:
        """What the client is fit for, for a model by the upstream's name."""
        health = self.health.get(name)
        return health.standing(now) if health else self.service.standing(now)

    @property
    def is_awaited(self) -> bool:
        """Whether anybody may be waiting for it."""
        return bool(self._line)

    def enlist(self, queue: ModelQueue, rank: int) -> None:
        """Requests of this rank or later wait in the queue for this lock, among others."""
        if rank < self._ranks.get(queue, math.inf):
            self._ranks[queue] = rank
            heapq.heappush(self._line, (rank, queue.number, queue))
            if len(self._line) > 2 * len(self._ranks) + 8:
                self._line = [(key, listed.number, listed) for listed, key in self._ranks.items()]
                heapq.heapify(self._line)

    def strike(self, queue: ModelQueue) -> None:
        """The queue is no more."""
        self._ranks.pop(queue, None)

    def first_waiter(self, now: float) -> Ticket | None:
        """The first in rank who could take this client now."""
        line, first = self._line, None
        looked_at = []
        while line and (first is None or line[0][0] < first.rank):
            rank, number, queue = line[0]
            if self._ranks.get(queue) != rank:
                heapq.heappop(line)
            elif not queue.waiters:
                heapq.heappop(line)
                del self._ranks[queue]
                queue.unlisted.append(self)
            elif (rank_now := queue.waiters[0].rank) > rank:
                heapq.heapreplace(line, (rank_now, number, queue))
                self._ranks[queue] = rank_now
                queue.listed_rank = max(queue.listed_rank, rank_now)
            else:
                looked_at.append(heapq.heappop(line))
                found = queue.first_waiter(self, now)
                if found is not None and (first is None or found.rank < first.rank):
                    first = found
        for entry in looked_at:
            heapq.heappush(line, entry)
        return first

    def facts(self, now: float) -> dict[str, Any]:
        """The state of the client, as plain data."""
        models = {}
        for name, health in self.health.items():
            standing = health.standing(now)
            facts: dict[str, Any] = {"state": standing.state.value, "failures": health.failures}
            if math.isfinite(standing.until):
                facts["for_s"] = round(standing.until - now, 3)
            models[name] = facts
        return {
            "client": self.client.label,
            "permits": self.permits,
            "in_flight": self.in_flight,
            "disabled": self.is_disabled,
            "served": self.served,
            "failed": self.failed,
            "cooldowns": self.cooldowns,
            "waiting": sum(len(queue.waiters) for queue in self._ranks),
            "models": models,
            "leases": [
                {"holder": loan.holder, "model": loan.model, "age_s": round(now - loan.began, 3)}
                for loan in self.loans.values()
            ],
        }


class Ticket:
    """A request's claim: its rank, what it has tried, and the lease that it was handed."""

    def __init__(
        self,
        rank: int,
        alias: str,
        caller: CallerConnection,
        *,
        retry_budget_s: float,
        holder: object,
    ) -> None:
        self.rank = rank
        self.holder = holder
        self.alias = alias
        self.caller = caller
        self.has_asked = False
        self.tried: dict[ClientLock, None] = {}
        self.excluded: set[ClientLock] = set()
        self.tried_again_at = -math.inf  # back-off: before it no client is tried twice
        self.retry_budget_s = retry_budget_s  # for waiting until a cooldown ends
        self.cooling_since: float | None = None
        self.queued_at: float | None = None
        self.queue_counts_from = -math.inf
        self.granted: Lease | None = None
        self.bell: Bell | None = None
        self.wakes_at = math.inf  # when its wait ends by itself

    def may_use(self, lock: ClientLock, now: float) -> bool:
        """Whether this request can be given this client now, as far as it is up to the request."""
        if lock in self.excluded:
            return False
        return lock not in self.tried or now >= self.tried_again_at

    def spend_retry_budget(self, now: float) -> None:
        """Take off what was waited for a cooldown since the last look."""
        if self.cooling_since is not None:
            self.retry_budget_s -= now - self.cooling_since
            self.cooling_since = None


def cooled_at(
    routes: Iterable[Route], locks: Mapping[Client, ClientLock], now: float
) -> float | None:
    """When the first client is to be had again for any request; None: none is in service."""
    standings = [
        lock.standing(route.name, now)
        for route in routes
        if not (lock := locks[route.client]).is_disabled
    ]
    moments = [
        standing.until if standing.state is State.COOLING else now
        for standing in standings
        if standing.is_open
    ]
    return min(moments, default=None)
