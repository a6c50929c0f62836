"""The endpoints: a row for each dialect that callers may speak, the models, and the gateway itself.

Errors are in the dialect's words on its path and below it, everywhere else in OpenAI's. A list of
models is Anthropic's for a caller who names a version of that API
(platform.claude.com/docs/en/api/models-list, 2026-11).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import Any, NamedTuple

import msgspec
from flask import Response

from ..clients.registry import Entry
from ..config import Caller
from ..dialects.base import Dialect
from ..dialects.chat import CHAT
from ..dialects.completions import COMPLETIONS
from ..dialects.embeddings import EMBEDDINGS
from ..dialects.messages import COUNT_TOKENS, MESSAGES
from ..dialects.responses import INPUT_TOKENS, RESPONSES
from ..errors import ModelNotFound
from ..gateway import Gateway, check_model
from ..request.waits import Waits
from ..version import __version__
from .exchange import Exchange

DIALECTS: dict[str, Dialect] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": COUNT_TOKENS,
    "/v1/responses": RESPONSES,
    "/v1/responses/input_tokens": INPUT_TOKENS,
}


def dialect_at(path: str) -> Dialect:
    """The dialect of a path, whatever prefix is before it."""
    for place, dialect in DIALECTS.items():
        if f"{place}/" in f"{path}/":
            return dialect
    return CHAT


class Route(NamedTuple):
    """`path`: werkzeug's rule below the prefix. `dialect`: that of errors, and of what is read."""

    path: str
    methods: tuple[str, ...]
    view: Callable[..., Response]
    dialect: Dialect = CHAT


def routes(gateway: Gateway) -> list[Route]:
    """Those of a gateway. In an application with paths of its own there are none for operators."""
    return [
        Route("/", ("GET",), _about),
        Route("/healthz", ("GET",), lambda exchange: exchange.reply(b'{"status":"ok"}')),
        Route("/readyz", ("GET",), _readyz),
        Route("/v1/models", ("GET",), _list_models),
        Route("/v1/models/<path:alias>", ("GET",), _show_model),
        *(Route(path, ("POST",), _answer, dialect) for path, dialect in DIALECTS.items()),
        *([Route("/metrics", ("GET",), _metrics)] if gateway.is_standalone else []),
    ]


# Of itself the gateway tells whoever asks: no key is asked for, and none is told.


def _about(exchange: Exchange) -> Response:
    paths = ["/v1/models", *DIALECTS, "/healthz", "/readyz"]
    paths += ["/metrics"] if exchange.gateway.is_standalone else []
    told = {"name": "poolproxy", "version": __version__, "endpoints": paths}
    return exchange.reply(msgspec.json.encode(told))


def _readyz(exchange: Exchange) -> Response:
    if exchange.gateway.is_stopping:
        return exchange.reply(b'{"status":"shutting down"}', status=503)
    if exchange.gateway.pool.has_service():
        return exchange.reply(b'{"status":"ready"}')
    return exchange.reply(b'{"status":"no client in service"}', status=503)


def _metrics(exchange: Exchange) -> Response:
    from prometheus_client import generate_latest  # nobody else needs it

    metrics: Any = exchange.gateway.metrics
    if not exchange.gateway.config.metrics.public:
        exchange.doorkeeper.admit_operator(exchange.environ)
    answer = exchange.reply(generate_latest(metrics))
    # prometheus.io/docs/instrumenting/exposition_formats, 2026-11
    answer.content_type = "text/plain; version=0.0.4; charset=utf-8"
    return answer


def _list_models(exchange: Exchange) -> Response:
    gateway, is_anthropics = exchange.gateway, _is_anthropics(exchange)
    caller = exchange.record.who = exchange.doorkeeper.admit(exchange.environ)
    waits = Waits(gateway.config, gateway.clock, arrived=exchange.record.arrived)
    entries = gateway.generation.registry.entries(exchange.connection, waits.deadline)
    listed = [entry for entry in entries if _is_listed(gateway, entry, caller)]
    shown = [_facts(gateway, entry, is_anthropics) for entry in listed]
    told: dict[str, Any] = {"object": "list", "data": shown}
    if is_anthropics:  # all on one page, whatever page was asked for
        ends = [listed[0].alias, listed[-1].alias] if listed else [None, None]
        told = {"data": shown, "has_more": False, "first_id": ends[0], "last_id": ends[1]}
    return exchange.reply(msgspec.json.encode(told))


def _show_model(exchange: Exchange, alias: str) -> Response:
    gateway, is_anthropics = exchange.gateway, _is_anthropics(exchange)
    caller = exchange.record.who = exchange.doorkeeper.admit(exchange.environ)
    check_model(caller, alias)
    waits = Waits(gateway.config, gateway.clock, arrived=exchange.record.arrived)
    entry = gateway.generation.registry.find(alias, exchange.connection, waits.deadline)
    if entry is None:
        raise waits.out_of_time()
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


def _answer(exchange: Exchange) -> Response:
    """To a request in a dialect."""
    gateway, record = exchange.gateway, exchange.record
    with ExitStack() as held:
        gateway.keep(record, held, exchange.environ)
        caller = exchange.doorkeeper.admit(exchange.environ)
        gateway.admit(caller, record, held)
        body = exchange.read_body()
        ask = exchange.dialect.read(body, exchange.upstream_headers(), exchange.query())
        ask.session = exchange.session() or ask.session
        found, headers = gateway.serve(ask, caller, exchange.connection, record=record, held=held)
        if isinstance(found, bytes) or found.is_opened:
            headers = {**headers, **exchange.attempt_headers()}
        return exchange.reply(found, headers=headers)
