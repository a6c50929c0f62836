"""OpenAI's endpoints: /v1/models, /v1/chat/completions, /v1/completions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import msgspec
from flask import Response

from ..clients.registry import Entry
from ..config import Caller
from ..errors import ModelNotFound, ProxyError
from ..gateway import Gateway
from ..net import shortage
from ..request.attempts import Answer
from ..request.call import Asked, Source
from ..request.stream import StreamBody
from ..wire.chat import ChatRequest, read_request
from .auth import Doorkeeper, check_model
from .exchange import EVENT_STREAM, Exchange
from .routes import Route


def routes(gateway: Gateway, doorkeeper: Doorkeeper) -> list[Route]:
    """These endpoints, for one gateway."""
    endpoints = _Endpoints(gateway, doorkeeper)
    return [
        Route("/v1/models", ("GET",), endpoints.list_models),
        Route("/v1/models/<path:alias>", ("GET",), endpoints.show_model),
        Route("/v1/chat/completions", ("POST",), endpoints.chat_completions),
        Route("/v1/completions", ("POST",), endpoints.completions),
    ]


class _Endpoints:
    def __init__(self, gateway: Gateway, doorkeeper: Doorkeeper) -> None:
        self._gateway = gateway
        self._doorkeeper = doorkeeper

    def chat_completions(self, exchange: Exchange) -> Response:
        return self._answer(exchange, self._chat)

    def completions(self, exchange: Exchange) -> Response:
        return self._answer(exchange, self._complete)

    def _answer(
        self, exchange: Exchange, serve: Callable[[Exchange, Caller, ExitStack], Response]
    ) -> Response:
        record = exchange.record
        with ExitStack() as held:
            exchange.keep_transcript(held)
            held.callback(lambda: record.close(self._gateway.clock.monotonic()))
            try:
                key = self._doorkeeper.admit(exchange.environ)
                record.caller = key.name
                self._gateway.admit(key, held)
                return serve(exchange, key, held)
            except Exception as error:
                known = error if isinstance(error, ProxyError) else shortage.recognised(error)
                if known is not None:
                    record.status = known.status
                    record.end = known.code or str(known.status)
                raise

    def _chat(self, exchange: Exchange, key: Caller, held: ExitStack) -> Response:
        request = read_request(exchange.read_body())
        asked = self._asked(exchange, request, key)
        return self._reply(exchange, *self._gateway.chat(asked, held))

    def _complete(self, exchange: Exchange, key: Caller, held: ExitStack) -> Response:
        request = read_request(exchange.read_body(), needs_messages=False)
        asked = self._asked(exchange, request, key)
        return self._reply(exchange, *self._gateway.complete(asked, held))

    def _asked(self, exchange: Exchange, request: ChatRequest, key: Caller) -> Asked:
        exchange.record.model = request.model
        exchange.record.stream = request.stream
        if exchange.transcript is not None:
            exchange.transcript.begin()
        check_model(key, request.model)
        return Asked(request, exchange.upstream_headers(), exchange.caller, exchange.record)

    def _reply(self, exchange: Exchange, answer: Answer | StreamBody, source: Source) -> Response:
        exchange.record.status = 200
        headers = {**source.headers, **exchange.attempt_headers()}
        if isinstance(answer, Answer):
            exchange.record.bytes_out = len(answer.body)
            return exchange.reply(answer.body, headers=headers)
        if not answer.is_opened:  # committed by a comment: nobody has answered yet
            headers = {}
        return exchange.reply(answer, content_type=EVENT_STREAM, headers=headers)

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
            "created": self._gateway.registry.created,
            "owned_by": entry.owned_by,
        }
