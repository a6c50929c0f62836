"""Exchanges over a Transport, as its users make them, in as few words as possible."""

from __future__ import annotations

import time

from proxy.errors import UpstreamTimeout
from proxy.net.exchange import SocketReply
from proxy.net.transport import Transport
from proxy.net.watch import CLOCK, CallerConnection, Clock

WAIT_S = 20.0


def transport(
    url: str,
    *,
    proxy_url: str = "",
    ca_bundle: str = "",
    connect_timeout_s: float = 5.0,
    clock: Clock = CLOCK,
) -> Transport:
    return Transport(
        url,
        proxy_url=proxy_url,
        ca_bundle=ca_bundle,
        connect_timeout_s=connect_timeout_s,
        max_connections=16,
        clock=clock,
    )


def send(
    way: Transport, body: bytes = b"{}", *, key: str = "k", caller: CallerConnection | None = None
) -> SocketReply:
    head = way.head("POST", "/chat/completions", {"Authorization": f"Bearer {key}"})
    return way.send(
        head, body, caller=caller or CallerConnection(None), deadline=time.monotonic() + WAIT_S
    )


def read_all(reply: SocketReply, *, wait_s: float = WAIT_S) -> bytes:
    """The rest of the body, waited for `wait_s` in all."""
    until = time.monotonic() + wait_s
    if not reply.head(until):
        raise UpstreamTimeout("no head came")
    parts = []
    while data := reply.read(until):
        parts.append(data)
    if data is None:
        raise UpstreamTimeout("the body did not end")
    return b"".join(parts)


def fetch(way: Transport, body: bytes = b"{}", *, key: str = "k") -> tuple[int, bytes]:
    """One exchange from end to end."""
    reply = send(way, body, key=key)
    try:
        content = read_all(reply)
        return reply.status, content
    finally:
        reply.close()
