"""The endpoints: a row for each dialect that callers may speak, the models, and the gateway itself.

Errors are in the dialect's words on its path and below it, everywhere else in OpenAI's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import msgspec
from flask import Response

from ..clients.registry import Entry
from ..config import Caller
from ..dialects.base import Dialect
from ..dialects.chat import CHAT
from ..dialects.completions import COMPLETIONS
from ..errors import ModelNotFound
from ..gateway import Gateway, check_model
from ..request.stream import StreamBody
from ..version import __version__
from .auth import Doorkeeper
from .exchange import EVENT_STREAM, Exchange

DIALECTS: dict[str, Dialect] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
}


def dialect_at(path: str) -> Dialect:
    """The dialect of a path, whatever prefix is before it."""
    for place, dialect in DIALECTS.items():
        if f"{place}/" in f"{path}/":
            return dialect
    return CHAT


class Route(NamedTuple):
    """`path`: a werkzeug rule, relative to the prefix. The view takes the `Exchange` and values.

    `dialect`: that of its errors, and of what it reads.
    """

    path: str
    methods: tuple[str, ...]
    view: Callable[..., Response]
    dialect: Dialect = CHAT


def routes(gateway: Gateway) -> list[Route]:
    """All of them, for one gateway."""
    endpoints = _Endpoints(gateway)
    return [
        Route("/", ("GET",), endpoints.about),
        Route("/healthz", ("GET",), endpoints.healthz),
        Route("/readyz", ("GET",), endpoints.readyz),
        Route("/v1/models", ("GET",), endpoints.list_models),
        Route("/v1/models/<path:alias>", ("GET",), endpoints.show_model),
        *(Route(path, ("POST",), endpoints.answer, dialect) for path, dialect in DIALECTS.items()),
    ]


class _Endpoints:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._doorkeeper = Doorkeeper(gateway.config)

    def _caller(self, exchange: Exchange) -> Caller:
        """Who calls, by the present configuration; raises InvalidKey, Refused."""
        config = self._gateway.config
        if config is not self._doorkeeper.config:
            self._doorkeeper = Doorkeeper(config)
        return self._doorkeeper.admit(exchange.environ)

    def answer(self, exchange: Exchange) -> Response:
        """A request in a dialect."""
        gateway, record = self._gateway, exchange.record
        with ExitStack() as held:
            exchange.keep_transcript(held)
            gateway.keep(record, held)
            caller = self._caller(exchange)
            gateway.admit(caller, record, held)
            ask = exchange.dialect.read(exchange.read_body(), exchange.upstream_headers())
            body, headers = gateway.serve(
                ask,
                caller,
                exchange.caller,
                record=record,
                held=held,
                transcript=exchange.transcript,
            )
            if not isinstance(body, StreamBody):
                return exchange.reply(body, headers={**headers, **exchange.attempt_headers()})
            if body.is_opened:
                headers = {**headers, **exchange.attempt_headers()}
            return exchange.reply(body, content_type=EVENT_STREAM, headers=headers)

    # Of itself the gateway tells whoever asks: no key is asked for, and none is told.

    def about(self, exchange: Exchange) -> Response:
        paths = ["/v1/models", *DIALECTS, "/healthz", "/readyz"]
        told = {"name": "poolproxy", "version": __version__, "endpoints": paths}
        return exchange.reply(msgspec.json.encode(told))

    def healthz(self, exchange: Exchange) -> Response:
        return exchange.reply(b'{"status":"ok"}')

    def readyz(self, exchange: Exchange) -> Response:
        if self._gateway.pool.has_service():
            return exchange.reply(b'{"status":"ready"}')
        return exchange.reply(b'{"status":"no client in service"}', status=503)

    def list_models(self, exchange: Exchange) -> Response:
        key = self._caller(exchange)
        entries = self._gateway.entries(exchange.caller, exchange.record)
        shown = [self._facts(entry) for entry in entries if self._is_listed(entry, key)]
        return exchange.reply(msgspec.json.encode({"object": "list", "data": shown}))

    def show_model(self, exchange: Exchange, alias: str) -> Response:
        key = self._caller(exchange)
        check_model(key, alias)
        entry = self._gateway.find(alias, exchange.caller, exchange.record)
        if not self._is_listed(entry, key):
            raise ModelNotFound(f"no client for the model {alias!r} can be used now", param="model")
        return exchange.reply(msgspec.json.encode(self._facts(entry)))

    def _is_listed(self, entry: Entry, key: Caller) -> bool:
        return key.may_use(entry.alias) and self._gateway.pool.is_listed(entry.routes)

    def _facts(self, entry: Entry) -> dict[str, str | int]:
        return {
            "id": entry.alias,
            "object": "model",
            "created": self._gateway.generation.registry.created,
            "owned_by": entry.owned_by,
        }
