"""What the gateway tells of itself and of its models. These answers are OpenAI's or its own."""

from __future__ import annotations

import msgspec
from flask import Response

from ..clients.registry import Entry
from ..config import Caller
from ..errors import ModelNotFound
from ..gateway import check_model
from ..version import __version__
from .auth import Doorkeeper
from .exchange import Exchange


class Facts:
    """The endpoints at which nothing is served but facts. `paths`: those that callers may use."""

    def __init__(self, doorkeeper: Doorkeeper, paths: list[str]) -> None:
        self._gateway = doorkeeper.gateway
        self._doorkeeper = doorkeeper
        self._paths = paths

    # Of itself the gateway tells whoever asks: no key is asked for, and none is told.

    def about(self, exchange: Exchange) -> Response:
        told = {"name": "poolproxy", "version": __version__, "endpoints": self._paths}
        return exchange.reply(msgspec.json.encode(told))

    def healthz(self, exchange: Exchange) -> Response:
        return exchange.reply(b'{"status":"ok"}')

    def readyz(self, exchange: Exchange) -> Response:
        if self._gateway.is_stopping:
            return exchange.reply(b'{"status":"shutting down"}', status=503)
        if self._gateway.pool.has_service():
            return exchange.reply(b'{"status":"ready"}')
        return exchange.reply(b'{"status":"no client in service"}', status=503)

    def list_models(self, exchange: Exchange) -> Response:
        caller = self._doorkeeper.admit(exchange.environ)
        entries = self._gateway.entries(exchange.connection, exchange.record)
        shown = [self._facts(entry) for entry in entries if self._is_listed(entry, caller)]
        return exchange.reply(msgspec.json.encode({"object": "list", "data": shown}))

    def show_model(self, exchange: Exchange, alias: str) -> Response:
        caller = self._doorkeeper.admit(exchange.environ)
        check_model(caller, alias)
        entry = self._gateway.find(alias, exchange.connection, exchange.record)
        if not self._is_listed(entry, caller):
            raise ModelNotFound(f"no client for the model {alias!r} can be used now", param="model")
        return exchange.reply(msgspec.json.encode(self._facts(entry)))

    def _is_listed(self, entry: Entry, caller: Caller) -> bool:
        return caller.may_use(entry.alias) and self._gateway.pool.is_listed(entry.routes)

    def _facts(self, entry: Entry) -> dict[str, str | int]:
        return {
            "id": entry.alias,
            "object": "model",
            "created": self._gateway.generation.registry.created,
            "owned_by": entry.owned_by,
        }
