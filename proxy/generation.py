"""All that one configuration makes: clients, models, limits of callers, the log of requests.

A generation is immutable and swapped whole (`Gateway.adopt`). The gateway holds the present one; a
request keeps the one that it began with. What outlives a configuration, the pool and the limit of
requests in flight, is the gateway's.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple

from .clients import make_clients
from .clients.base import Client
from .clients.registry import Registry
from .config import Config, Secret
from .errors import CallerLimitReached, PoolError, RetryHint
from .net.watch import Clock
from .record.transcript import RequestLog

# Nobody knows when a request in flight will end: soon, as a rule.
_SOON = RetryHint(1.0)


class InFlightLimit:
    """A counter with a limit: takes a place, or raises at once. Never waits."""

    def __init__(self, refusal: type[PoolError], limit: int, what: str) -> None:
        self._refusal = refusal
        self._message = f"{limit} {what}"
        self._lock = threading.Lock()  # guards _left
        self._left = limit

    def __enter__(self) -> None:
        with self._lock:
            is_full = not self._left
            if not is_full:
                self._left -= 1
        if is_full:
            raise self._refusal(self._message, hint=_SOON)

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._left += 1


class Generation(NamedTuple):
    """What one configuration makes. Opens no socket and starts no thread."""

    config: Config
    clients: tuple[Client, ...]
    registry: Registry
    request_log: RequestLog | None
    limits: Mapping[str | Secret, InFlightLimit]  # of the callers that have one, by identity

    @classmethod
    def of(cls, config: Config, clock: Clock) -> Generation:
        """The generation that this configuration makes."""
        clients = tuple(make_clients(config, clock))
        return cls(
            config,
            clients,
            Registry(clients, secrets=config.secrets, clock=clock),
            RequestLog(config) if config.request_log else None,
            {
                caller.identity: InFlightLimit(
                    CallerLimitReached,
                    caller.max_concurrency,
                    "requests with this API key are in flight already (its max-concurrency)",
                )
                for caller in config.callers
                if caller.max_concurrency
            },
        )
