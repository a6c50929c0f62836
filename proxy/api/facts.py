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
from ..gateway import Gateway, check_model
from .exchange import Exchange

# Of itself the gateway tells whoever asks: no key is asked for, and none is told.


def healthz(exchange: Exchange) -> Response:
    return exchange.reply(b'{"status":"ok"}')


def readyz(exchange: Exchange) -> Response:
    if exchange.gateway.is_stopping:
        return exchange.reply(b'{"status":"shutting down"}', status=503)
    if exchange.gateway.pool.has_service():
        return exchange.reply(b'{"status":"ready"}')
    return exchange.reply(b'{"status":"no client in service"}', status=503)


def list_models(exchange: Exchange) -> Response:
    gateway, is_anthropics = exchange.gateway, _is_anthropics(exchange)
    caller = exchange.doorkeeper.admit(exchange.environ)
    entries = gateway.entries(exchange.connection, exchange.record)
    listed = [entry for entry in entries if _is_listed(gateway, entry, caller)]
    shown = [_facts(gateway, entry, is_anthropics) for entry in listed]
    told: dict[str, Any] = {"object": "list", "data": shown}
    if is_anthropics:  # all on one page, whatever page was asked for
        ends = [listed[0].alias, listed[-1].alias] if listed else [None, None]
        told = {"data": shown, "has_more": False, "first_id": ends[0], "last_id": ends[1]}
    return exchange.reply(msgspec.json.encode(told))


def show_model(exchange: Exchange, alias: str) -> Response:
    gateway, is_anthropics = exchange.gateway, _is_anthropics(exchange)
    caller = exchange.doorkeeper.admit(exchange.environ)
    check_model(caller, alias)
    entry = gateway.find(alias, exchange.connection, exchange.record)
    if not _is_listed(gateway, entry, caller):
        raise ModelNotFound(f"no client for the model {alias!r} can be used now", param="model")
    return exchange.reply(msgspec.json.encode(_facts(gateway, entry, is_anthropics)))


def _is_listed(gateway: Gateway, entry: Entry, caller: Caller) -> bool:
    return caller.may_use(entry.alias) and gateway.pool.is_listed(entry.routes)


def _facts(gateway: Gateway, entry: Entry, is_anthropics: bool) -> dict[str, str | int]:
    created = gateway.generation.registry.created
    if is_anthropics:
        at = datetime.fromtimestamp(created, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        names = {"id": entry.alias, "display_name": entry.alias}
        return {"type": "model", **names, "created_at": at}
    return {"id": entry.alias, "object": "model", "created": created, "owned_by": entry.owned_by}


def _is_anthropics(exchange: Exchange) -> bool:
    """Whether the caller speaks Anthropic's API, which is then the dialect of errors, too."""
    if "HTTP_ANTHROPIC_VERSION" not in exchange.environ:
        return False
    exchange.dialect = MESSAGES
    return True
