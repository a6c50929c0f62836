"""The kinds of upstream client, a module each, and the registry of the models they offer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from ..config import ClientConfig, Config
from ..net.transport import Transport
from ..net.watch import CLOCK, Clock
from .base import Client
from .claude import ClaudeClient
from .demo import DemoClient
from .gemini import GeminiClient
from .openai import OpenAIClient

__all__ = ["Client", "make_clients"]


def make_clients(
    config: Config, clock: Clock = CLOCK, before: Iterable[Client] = ()
) -> list[Client]:
    """Make a client for each in the configuration. Those of one upstream share connections.

    Clients of a configuration `before` pass on their transports, where these have not changed.
    """
    kept = {one.transport.facts: one.transport for one in before if one.transport}
    is_mixed = any(client.kind in ("gemini", "claude") for client in config.clients)

    @cache
    def transport(base_url: str, proxy_url: str, ca_bundle: str) -> Transport:
        made = Transport(
            base_url,
            proxy_url=proxy_url,
            ca_bundle=ca_bundle,
            connect_timeout_s=config.connect_timeout_s,
            max_connections=config.max_requests_in_flight,
            clock=clock,
        )
        return kept.get(made.facts, made)

    def make(client: ClientConfig) -> Client:
        if client.kind == "demo":
            return DemoClient(client, clock)
        way = transport(client.base_url, client.proxy_url, client.ca_bundle)
        if client.kind == "gemini":
            return GeminiClient(client, way)
        if client.kind == "claude":
            return ClaudeClient(client, way)
        return OpenAIClient(client, way, strips_ids=is_mixed)

    return [make(client) for client in config.clients]
