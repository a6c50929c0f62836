"""What callers ask for: a row for each dialect that they may speak, and the models.

Errors are in the dialect's words on its path and below it, everywhere else in OpenAI's.
"""

from __future__ import annotations

from contextlib import ExitStack

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
from .auth import Doorkeeper
from .exchange import EVENT_STREAM, Exchange
from .routes import Route

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


def routes(gateway: Gateway, doorkeeper: Doorkeeper) -> list[Route]:
    """These endpoints, for one gateway."""
    endpoints = _Endpoints(gateway, doorkeeper)
    return [
        Route("/v1/models", ("GET",), endpoints.list_models),
        Route("/v1/models/<path:alias>", ("GET",), endpoints.show_model),
        *(Route(path, ("POST",), endpoints.answer, dialect) for path, dialect in DIALECTS.items()),
    ]


class _Endpoints:
    def __init__(self, gateway: Gateway, doorkeeper: Doorkeeper) -> None:
        self._gateway = gateway
        self._doorkeeper = doorkeeper

    def answer(self, exchange: Exchange) -> Response:
        """A request in a dialect."""
        gateway, record = self._gateway, exchange.record
        with ExitStack() as held:
            exchange.keep_transcript(held)
            gateway.keep(record, held)
            caller = self._doorkeeper.admit(exchange.environ)
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

    def list_models(self, exchange: Exchange) -> Response:
        key = self._doorkeeper.admit(exchange.environ)
        entries = self._gateway.entries(exchange.caller, exchange.record)
        shown = [self._facts(entry) for entry in entries if self._is_listed(entry, key)]
        return exchange.reply(msgspec.json.encode({"object": "list", "data": shown}))

    def show_model(self, exchange: Exchange, alias: str) -> Response:
        key = self._doorkeeper.admit(exchange.environ)
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
