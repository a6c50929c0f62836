"""What the gateway tells of itself and of its models.

These answers are OpenAI's or its own; a list of models is Anthropic's for a caller who names a
version of that API (platform.claude.com/docs/en/api/models-list, 2026-11).
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import msgspec
from flask import Response

from ..clients.registry import Entry
from ..config import Caller
from ..dialects.messages import MESSAGES
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
        is_anthropics = _is_anthropics(exchange)
        caller = self._doorkeeper.admit(exchange.environ)
        entries = self._gateway.entries(exchange.connection, exchange.record)
        listed = [entry for entry in entries if self._is_listed(entry, caller)]
        shown = [self._facts(entry, is_anthropics) for entry in listed]
        told: dict[str, Any] = {"object": "list", "data": shown}
        if is_anthropics:  # all on one page, whatever page was asked for
            ends = [listed[0].alias, listed[-1].alias] if listed else [None, None]
            told = {"data": shown, "has_more": False, "first_id": ends[0], "last_id": ends[1]}
        return exchange.reply(msgspec.json.encode(told))

    def show_model(self, exchange: Exchange, alias: str) -> Response:
        is_anthropics = _is_anthropics(exchange)
        caller = self._doorkeeper.admit(exchange.environ)
        check_model(caller, alias)
        entry = self._gateway.find(alias, exchange.connection, exchange.record)
        if not self._is_listed(entry, caller):
            raise ModelNotFound(f"no client for the model {alias!r} can be used now", param="model")
        return exchange.reply(msgspec.json.encode(self._facts(entry, is_anthropics)))

    def _is_listed(self, entry: Entry, caller: Caller) -> bool:
        return caller.may_use(entry.alias) and self._gateway.pool.is_listed(entry.routes)

    def _facts(self, entry: Entry, is_anthropics: bool) -> dict[str, str | int]:
        created = self._gateway.generation.registry.created
        if is_anthropics:
            at = datetime.fromtimestamp(created, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            names = {"id": entry.alias, "display_name": entry.alias}
            return {"type": "model", **names, "created_at": at}
        return {
            "id": entry.alias,
            "object": "model",
            "created": created,
            "owned_by": entry.owned_by,
        }


def _is_anthropics(exchange: Exchange) -> bool:
    """Whether the caller speaks Anthropic's API, which is then the dialect of errors, too."""
    if "HTTP_ANTHROPIC_VERSION" not in exchange.environ:
        return False
    exchange.dialect = MESSAGES
    return True
