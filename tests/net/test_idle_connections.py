"""Idle connections end when their owner is closed: their upstreams see it, and need not guess."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from proxy.clients import Client
from proxy.config import load_config
from proxy.gateway import Gateway
from proxy.net.transport import Transport
from proxy.net.watch import CallerConnection
from proxy.wire.chat import read_request
from tests.support.calls import WAIT_S, read_all, send
from tests.support.dialects import BY_KIND, Said
from tests.support.outbound_proxies import HttpProxy, SocksProxy
from tests.support.upstream import Upstream, chat

KEY = "key-0123456789"


def leave_idle(client: Client, model: str, count: int = 2) -> None:
    """Have the client keep so many connections: its requests are under way at the same time."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    request = read_request(json.dumps(body).encode())
    deadline = time.monotonic() + WAIT_S
    replies = [
        client.send(
            request, model=model, headers={}, caller=CallerConnection(None), deadline=deadline
        )
        for _ in range(count)
    ]
    for reply in replies:
        assert reply.head(deadline)
        while reply.read(deadline):
            pass
        assert reply.status == 200
        reply.close()


def gateway_to(upstream: Upstream, kind: str) -> Gateway:
    dialect = BY_KIND[kind]
    upstream.always(KEY, dialect.whole(Said("Hi")))
    return Gateway(load_config(dialect.client(upstream.origin, KEY, "m")))


@pytest.mark.parametrize("kind", BY_KIND)
def test_closed_client_has_no_connection(plain: Upstream, kind: str) -> None:
    """Whatever its dialect; until then they are kept."""
    (client,) = gateway_to(plain, kind).generation.clients
    leave_idle(client, BY_KIND[kind].model)
    assert plain.connections_open == 2
    client.close()
    plain.wait_for_connections(0)
    leave_idle(client, BY_KIND[kind].model)
    client.close()
    client.close()
    plain.wait_for_connections(0)


@pytest.mark.parametrize("kind", BY_KIND)
def test_closed_gateway_has_no_connection(plain: Upstream, kind: str) -> None:
    """However many it had."""
    gateway = gateway_to(plain, kind)
    leave_idle(gateway.generation.clients[0], BY_KIND[kind].model)
    gateway.close()
    plain.wait_for_connections(0)


WAYS: dict[str, Callable[[], Any]] = {
    "direct": contextlib.nullcontext,
    "http proxy": HttpProxy,
    "socks proxy": SocksProxy,
}


@pytest.mark.parametrize("kind", WAYS)
def test_closed_transport_has_no_connection(
    upstream: Upstream, make_way: Callable[..., Transport], kind: str
) -> None:
    """Not by being forgotten: somebody may hold them still."""
    with WAYS[kind]() as proxy:
        way = make_way(upstream.url, proxy_url=proxy.url if proxy else "")
        upstream.default = chat("Hi")
        replies = [send(way), send(way)]
        for reply in replies:
            read_all(reply)
            reply.close()
        held = list(way._idle)
        assert len(held) == 2
        assert upstream.connections_open == 2
        way.close()
        upstream.wait_for_connections(0)


def test_transport_that_is_left_keeps_no_connection(upstream: Upstream, way: Transport) -> None:
    """Nor that of an exchange which begins late: its client was lent before the change."""
    upstream.default = chat("Hi")
    early = send(way)
    assert read_all(early)
    way.leave()
    late = send(way)
    assert read_all(late)
    early.close()
    late.close()
    upstream.wait_for_connections(0)
