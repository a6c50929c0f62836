"""The endpoints: a row for each dialect that callers may speak, the models, and the gateway itself.

Errors are in the dialect's words on its path and below it, everywhere else in OpenAI's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import msgspec
from flask import Response

from ..dialects.base import Dialect
from ..dialects.chat import CHAT
from ..dialects.completions import COMPLETIONS
from ..dialects.embeddings import EMBEDDINGS
from ..dialects.messages import COUNT_TOKENS, MESSAGES
from ..dialects.responses import INPUT_TOKENS, RESPONSES
from ..version import __version__
from . import facts
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
    """`path`: a werkzeug rule, relative to the prefix. The view takes the `Exchange` and values.

    `dialect`: that of its errors, and of what it reads.
    """

    path: str
    methods: tuple[str, ...]
    view: Callable[..., Response]
    dialect: Dialect = CHAT


def routes() -> list[Route]:
    """All of them."""
    return [
        Route("/", ("GET",), _about),
        Route("/healthz", ("GET",), facts.healthz),
        Route("/readyz", ("GET",), facts.readyz),
        Route("/v1/models", ("GET",), facts.list_models),
        Route("/v1/models/<path:alias>", ("GET",), facts.show_model),
        *(Route(path, ("POST",), _answer, dialect) for path, dialect in DIALECTS.items()),
    ]


def _about(exchange: Exchange) -> Response:
    """To whoever asks."""
    paths = ["/v1/models", *DIALECTS, "/healthz", "/readyz"]
    told = {"name": "poolproxy", "version": __version__, "endpoints": paths}
    return exchange.reply(msgspec.json.encode(told))


def _answer(exchange: Exchange) -> Response:
    """To a request in a dialect."""
    gateway, record = exchange.gateway, exchange.record
    with ExitStack() as held:
        gateway.keep(record, held, exchange.environ)
        caller = exchange.doorkeeper.admit(exchange.environ)
        gateway.admit(caller, record, held)
        ask = exchange.dialect.read(
            exchange.read_body(), exchange.upstream_headers(), exchange.query()
        )
        body, headers = gateway.serve(ask, caller, exchange.connection, record=record, held=held)
        if isinstance(body, bytes) or body.is_opened:
            headers = {**headers, **exchange.attempt_headers()}
        return exchange.reply(body, headers=headers)
