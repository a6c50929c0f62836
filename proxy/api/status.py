"""What the gateway says of itself: /, /healthz, /readyz. No key is asked for, and none is told."""

from __future__ import annotations

import msgspec
from flask import Response

from ..gateway import Gateway
from ..version import __version__
from .endpoints import DIALECTS
from .exchange import Exchange
from .routes import Route

_ABOUT = msgspec.json.encode(
    {
        "name": "poolproxy",
        "version": __version__,
        "endpoints": ["/v1/models", *DIALECTS, "/healthz", "/readyz"],
    }
)


def routes(gateway: Gateway) -> list[Route]:
    """These endpoints, for one gateway."""

    def about(exchange: Exchange) -> Response:
        return exchange.reply(_ABOUT)

    def healthz(exchange: Exchange) -> Response:
        return exchange.reply(b'{"status":"ok"}')

    def readyz(exchange: Exchange) -> Response:
        if gateway.pool.has_service():
            return exchange.reply(b'{"status":"ready"}')
        return exchange.reply(b'{"status":"no client in service"}', status=503)

    return [
        Route("/", ("GET",), about),
        Route("/healthz", ("GET",), healthz),
        Route("/readyz", ("GET",), readyz),
    ]
