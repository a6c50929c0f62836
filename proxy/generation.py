"""All that one configuration makes: clients, models, the log of requests.

A generation is immutable and swapped whole (`Gateway.adopt`). The gateway holds the present one; a
request keeps the one that it began with. What outlives a configuration, the pool and the places of
requests in flight, is the gateway's.
"""

from __future__ import annotations

from typing import NamedTuple

from .clients import make_clients
from .clients.base import Client
from .clients.registry import Registry
from .config import Config
from .net.watch import Clock
from .record.transcript import RequestLog


class Generation(NamedTuple):
    """What one configuration makes. Opens no socket and starts no thread."""

    config: Config
    clients: tuple[Client, ...]
    registry: Registry
    request_log: RequestLog | None

    @classmethod
    def of(cls, config: Config, clock: Clock, before: Generation | None = None) -> Generation:
        """The generation that this configuration makes.

        It takes over idle connections and providers' lists of models of the one `before`.
        """
        clients = tuple(make_clients(config, clock, before.clients if before else ()))
        registry = before and before.registry
        return cls(
            config,
            clients,
            Registry(clients, secrets=config.secrets, clock=clock, before=registry),
            RequestLog(config) if config.request_log else None,
        )
