"""A client's lock and its permits, and a request's two papers: its ticket and its lease.

Pure bookkeeping without locks, clocks or threads: the pool calls it with its own lock held and
passes the time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any

from ..clients.base import Client
from ..config import Config
from ..net.bell import Bell
from ..net.watch import CallerConnection
from .health import OUT_S, Breaker, Effect, Health, Standing, State


class ClientLock:
    """A client's lock: its permits, the leases that hold them, and its health by model.

    It outlives its client object: where a new configuration has the same client, the lock stays.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.permits = client.config.max_concurrency
        self.leases: dict[int, ClientLease] = {}  # one a permit in use; by the lease's number
        self.elsewhere: int | None = None  # permits in use by processes that share it; None: none
        self.is_disabled = False
        self.service = Breaker(OUT_S)
        # By the upstream's name of the model.
        self.health: dict[str, Health] = defaultdict(partial(Health, self.service))
        self.served = 0  # leases that have ended
        self.answered = 0  # those of them that ended with a whole answer
        self.failed = 0
        self.last_error: tuple[float, str] | None = None  # when, and the upstream's words

    @property
    def is_free(self) -> bool:
        """Whether a permit is left."""
        in_use = len(self.leases) + (self.elsewhere or 0)
        return (not self.permits or in_use < self.permits) and not self.is_disabled

    def standing(self, name: str, now: float) -> Standing:
        """What the client is fit for; `name` is the upstream's for the model."""
        health = self.health.get(name)
        return health.standing(now) if health else self.service.standing(now)

    def why(self, name: str, now: float) -> str:
        """Why the client does not serve the model now, and for how long; "": it does."""
        standing = self.standing(name, now)
        if self.is_disabled:
            return "is disabled by hand"
        if standing.until < math.inf:
            return f"is {standing.state.value} for {standing.until - now:.3g} s"
        return "" if self.is_free else f"is in use (max-concurrency: {self.permits})"

    def facts(self, now: float, *, waiting: int, leaving: bool = False) -> dict[str, Any]:
        """The state of the client, as plain data."""
        models: dict[str, dict[str, Any]] = {}
        # Under "" what is wrong with the client as a whole.
        for name, health in [("", Health(self.service)), *self.health.items()]:
            facts: dict[str, Any] = {"state": State.READY.value, "failures": health.failures}
            if facts["failures"]:  # else nothing was ever wrong, or nothing is any more
                standing = health.standing(now)
                facts["state"] = standing.state.value
                if math.isfinite(standing.until):
                    facts["for_s"] = round(standing.until - now, 3)
                if breaker := health.shut_by(now):
                    facts |= {"since_s": round(now - breaker.since, 3), "cause": breaker.cause}
            if name or facts["failures"]:
                models[name] = facts
        if self.is_disabled:
            models[""] = {"state": "disabled", "failures": 0}
        at, cause = self.last_error or (now, "")
        return {
            "client": self.client.label,
            "kind": self.client.config.kind,
            "permits": self.permits,
            "in_flight": len(self.leases),
            "elsewhere": self.elsewhere,
            "disabled": self.is_disabled,
            "leaving": leaving,
            "served": self.served,
            "answered": self.answered,
            "failed": self.failed,
            "last_error": {"age_s": round(now - at, 3), "cause": cause} if cause else None,
            "waiting": waiting,
            "models": models,
            "leases": [
                {
                    "holder": lease.ticket.holder,
                    "model": lease.model,
                    "age_s": round(now - lease.began, 3),
                }
                for lease in self.leases.values()
            ],
        }


@dataclass(eq=False, slots=True)
class Ticket:
    """A request's claim: its rank, what it has tried, and the lease that it was handed.

    `config`: that under which the request began. `holder` names it in the snapshot. `rank`: that of
    an earlier ticket of the same request, which waits no longer. `session`: 8 bytes that tell its
    caller's session from all others; b"": none.
    """

    alias: str
    caller: CallerConnection
    config: Config
    _: KW_ONLY
    holder: object = None
    rank: int = -1  # in the order of arrival; -1: it has not come yet
    session: bytes = b""
    number: int = 0  # of the shared books, while the request asks them
    ahead: int | None = None  # so many wait before it, where those books know
    cooled_s: float = 0.0  # of `max-retry-interval`, what was waited for cooldowns
    has_asked: bool = False
    home: ClientLock | None = None  # of its session, where that was looked for
    is_kept: bool | None = None  # whether the first client was that one; None: no session
    tried: dict[ClientLock, None] = field(default_factory=dict)
    excluded: set[ClientLock] = field(default_factory=set)
    tried_again_at: float = -math.inf  # back-off: before it no client is tried twice
    cooling_since: float | None = None
    queued_at: float | None = None
    queue_counts_from: float = -math.inf
    granted: ClientLease | None = None
    bell: Bell | None = None  # while the request waits, or has not seen `granted`
    wakes_at: float = math.inf  # when its wait ends by itself

    def may_use(self, lock: ClientLock, now: float) -> bool:
        """Whether this request can be given this client now, as far as it is up to the request."""
        if lock in self.excluded:
            return False
        return lock not in self.tried or now >= self.tried_again_at

    def count_cooldown(self, now: float) -> None:
        """Count what was waited for a cooldown since the last look."""
        if self.cooling_since is not None:
            self.cooled_s += now - self.cooling_since
            self.cooling_since = None


@dataclass(eq=False, slots=True)
class ClientLease:
    """One permit of a client's lock: the right to send one request with it, until `release`."""

    lock: ClientLock
    ticket: Ticket
    model: str  # the upstream's name for it
    number: int
    began: float
    _give_back: Callable[[ClientLease], None]
    _tell: Callable[[ClientLease, Effect, float | None, str], None]
    client: Client = field(init=False)
    health: Health = field(init=False)
    trials: tuple[Breaker, ...] = field(init=False)
    is_held: bool = True
    is_answered: bool = False
    lent_us: int = 0  # on the clock of the shared books
    watched: str = "-"  # there: whether a success says something, `t` on trial, `w` failed before

    def __post_init__(self) -> None:
        self.client = self.lock.client
        self.health = self.lock.health[self.model]
        self.trials = self.health.begin_trials(self.number, self.began)
        self.lock.leases[self.number], self.ticket.tried[self.lock] = self, None

    def report(self, effect: Effect, *, asked_s: float | None = None, cause: str = "") -> None:
        """Tell the client's health how it went.

        `asked_s`: the wait that the upstream asked for; `cause`: its words, without secrets.
        """
        self.is_answered = effect is Effect.GOOD
        self._tell(self, effect, asked_s, cause)

    def exclude(self) -> None:
        """Never lend this client to this request again."""
        self.ticket.excluded.add(self.lock)

    def back_off(self, until: float) -> None:
        """Lend this request no client for a second time before this monotonic moment."""
        self.ticket.tried_again_at = until

    def release(self) -> None:
        """Give the permit back, to the first who waits for it. Idempotent."""
        if self.is_held:
            self._give_back(self)

    def end_trials(self, now: float) -> None:
        """End the trials that this lease began: they are decided, or the next request's turn."""
        for breaker in self.trials:
            breaker.end_trial(self.number, now)
        self.trials = ()

    def __enter__(self) -> ClientLease:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()
