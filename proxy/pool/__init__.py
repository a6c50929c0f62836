"""The pool: who may use which client, and who waits for one.

Each client has a lock with `max-concurrency` permits; a lease is one permit held. A request asks
with a ticket and waits in the order of arrival. A permit that comes free goes straight to the first
waiter who could use it, so that nobody overtakes. The rest of the program imports from here only.

The nouns, from the request inwards:

- `Pool`, lends clients (here, `ClientPool`: to the threads of one process);
- `Ticket`, a request's claim: its rank, and what it has tried;
- `Lease`, the right to send one request with one client;
- `ClientLock`, a client's permits, by the leases that hold them;
- `Line`, the queues that wait for a client;
- `ModelQueue`, the waiters for one model, and the order of its clients: round robin by weight;
- `Tier`, the clients of one priority, and a session's order of them;
- `Offer`, a client's place in that order;
- `Health`, what a client is fit for with one model, made of a `Breaker` for each kind of failure;
- `State` and `Standing`, that fitness and when it ends; `Effect`, how an attempt changes it.

    READY ──429──> COOLING ──time──> ON_TRIAL ──request──> TRYING ──2xx, or 2 s──> READY
      │               ^                                      ├──429──> COOLING, longer
      │               │                                      └──undecided──> ON_TRIAL
      ├──5xx, transport──> RESTING ──time──> READY
      └──401 (client), 402 (client and model)──> OUT ──time──> ON_TRIAL

Order of locks: `ClientPool._lock` is the innermost. Whoever holds it takes no other lock, and
neither waits, wakes, logs nor calls back. Client locks are books, not locks of the interpreter's:
one mutex guards them all, so that a choice among them and the hand-off to a waiter are one step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from ..clients.base import Client
from ..clients.registry import Entry, Route
from ..config import Config
from ..net.watch import CallerConnection
from .client_lock import ClientLease as Lease
from .client_lock import Ticket
from .health import Effect, doubling
from .pool import ClientPool

__all__ = ["ClientPool", "Effect", "Lease", "Pool", "Ticket", "doubling"]


class Pool(Protocol):
    """Lends clients to requests. All methods may be called by any thread."""

    def adopt(self, clients: Iterable[Client], entries: Mapping[str, Entry]) -> int:
        """Take over a new configuration's clients, and its models by alias.

        A client that stays, by `Client.identity`, keeps its lock: permits in use, health, counters.
        Fewer permits come into force as leases end. A client that is gone is lent to nobody; its
        leases end as they would have. Waiters keep their rank, and look again at once. Returns how
        many leases of clients that are gone are still to end.
        """

    def ticket(
        self,
        alias: str,
        caller: CallerConnection,
        config: Config,
        *,
        holder: object = None,
        rank: int | None = None,
        session: bytes = b"",
    ) -> Ticket:
        """A place in the order of arrival, for one request; `holder` names it in the snapshot.

        `rank`: the place of an earlier ticket of the same request, which waits no longer.
        `session`: a digest of 8 bytes that tells its caller's session from all others; b"": none.
        """

    def acquire(self, ticket: Ticket, routes: tuple[Route, ...], until: float) -> Lease | None:
        """The right to use the best client for this request; None when `until` came first.

        After None the request still waits: call again, or `withdraw`. Blocks until a client is
        free, or raises: CallerGone; NoClientFree after `queue-timeout`; AllCoolingDown when no
        cooldown ends within what is left of `max-retry-interval`; NoClientInService; ModelNotFound
        when a new configuration has left the model out; ShuttingDown.
        """

    def withdraw(self, ticket: Ticket) -> None:
        """End the request's wait, if it waits; what it was handed meanwhile goes to the next."""

    def dismiss(self) -> None:
        """Have all who wait, now or later, end with ShuttingDown: the process is about to end."""

    def cooled_in(self, alias: str, routes: tuple[Route, ...]) -> float | None:
        """Seconds until a client for this model is not cooling down; None: none is in service."""

    def is_listed(self, routes: tuple[Route, ...]) -> bool:
        """Whether a request for the model of these routes has a chance soon."""

    def has_service(self) -> bool:
        """Whether any client is in service."""

    def set_disabled(self, label: str, disabled: bool) -> bool:
        """Take a client out of service by hand, or put it back; whether there is one so named."""

    def reset(self, label: str, alias: str = "") -> bool:
        """End a client's cooldowns, rests and times out of service; whether there is one so named.

        `alias`: those of this model alone, without what is wrong with the client as a whole.
        """

    def snapshot(self) -> list[dict[str, Any]]:
        """The state of every client, as plain data: counts, seconds, states by model."""

    def queue_facts(self) -> dict[str, dict[str, int]]:
        """By alias: requests waiting now."""
