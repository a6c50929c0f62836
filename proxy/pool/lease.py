"""A permit held."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from .client_lock import Ticket
from .health import Effect
from .queue import Offer

if TYPE_CHECKING:
    from .pool import ClientPool


class Lease:
    """The right to send one request with one client, until `release`. A context manager."""

    def __init__(
        self, pool: ClientPool, offer: Offer, ticket: Ticket, *, number: int, began: float
    ) -> None:
        self.client = offer.lock.client
        self.model = offer.name
        self._number = number
        self._began = began
        self._trials = offer.health.begin_trials(number, began)
        self._pool = pool
        self._offer = offer
        self._ticket = ticket
        self._is_held = True

    @property
    def is_trial(self) -> bool:
        """Whether it decides for others if the client is to be had again."""
        return bool(self._trials)

    def report(self, effect: Effect, *, asked_s: float | None = None) -> None:
        """Tell the client's health how it went; `asked_s`: the wait that the upstream asked for."""
        self._pool._report(self, effect, asked_s)

    def exclude(self) -> None:
        """This request has no more use for this client."""
        self._ticket.excluded.add(self._offer.lock)

    def release(self) -> None:
        """Give the permit back. Idempotent."""
        if self._is_held:
            self._pool._release(self)

    def _end_trials(self, now: float) -> None:
        """They are decided, or their place is the next request's."""
        for breaker in self._trials:
            breaker.end_trial(self._number, now)
        self._trials = ()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
