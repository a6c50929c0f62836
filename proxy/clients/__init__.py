"""The kinds of upstream client, a module each, and the registry of the models they offer."""

from __future__ import annotations

from ..config import ClientConfig, Config
from ..net.transport import Transport
from ..net.watch import CLOCK, Clock
from .base import Client
from .claude import ClaudeClient
from .demo import DemoClient
from .gemini import GeminiClient
from .openai import OpenAIClient

__all__ = ["Client", "make_clients"]


def make_clients(config: Config, clock: Clock = CLOCK) -> list[Client]:
    """Make a client for each in the configuration. Those of one upstream share connections."""
    transports: dict[tuple[str, str, str], Transport] = {}

    def transport(client: ClientConfig) -> Transport:
        key = (client.base_url, client.proxy_url, client.ca_bundle)
        if key not in transports:
            transports[key] = Transport(
                client.base_url,
                proxy_url=client.proxy_url,
                ca_bundle=client.ca_bundle,
                connect_timeout_s=config.connect_timeout_s,
                max_connections=config.max_requests_in_flight,
                clock=clock,
            )
        return transports[key]

    def make(client: ClientConfig) -> Client:
        if client.kind == "demo":
            return DemoClient(client, clock)
        if client.kind == "gemini":
            return GeminiClient(client, transport(client))
        if client.kind == "claude":
            return ClaudeClient(client, transport(client))
        return OpenAIClient(client, transport(client), strips_ids=is_mixed)

    is_mixed = any(client.kind in ("gemini", "claude") for client in config.clients)
    return [make(client) for client in config.clients]
