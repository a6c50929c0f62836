"""The client for Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ClientConfig
from ..errors import UpstreamRefusal
from ..net.transport import Transport
from ..wire import chat as wire
from ..wire import reasoning
from ..wire.claude import api, native
from ..wire.claude.answer import ChatStream, to_chat
from ..wire.claude.request import to_count, to_request
from ..wire.http.headers import passed_with_hints
from .base import ChunkTranslator, RemoteClient, Reply


class ClaudeClient(RemoteClient):
    """One API key of Anthropic's."""

    models_path = api.MODELS_PATH
    read_page = staticmethod(api.read_page)
    speaks = frozenset((native.MESSAGES, native.COUNT, wire.HUB_COUNT))

    def __init__(self, config: ClientConfig, transport: Transport) -> None:
        headers = api.headers(config.key.reveal(), config.headers)
        # A caller of the same API may have its own version of it, and betas beside ours.
        fixed = {name.lower() for name in config.headers} - {"anthropic-beta"}
        defaults = {name: headers.pop(name) for name in {*api.VERSIONED} - fixed}
        super().__init__(config, transport, headers, defaults=defaults)
        self._own_names = fixed
        self._betas = api.betas(config.headers)

    def _passed(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        if self._betas and (asked := headers.get("anthropic-beta")):
            headers = {**headers, "anthropic-beta": ",".join([asked, *self._betas])}
        return super()._passed(headers)

    def _asked(self, request: wire.ChatRequest, model: str) -> tuple[str, bytes]:
        operation, dialect = request.speech
        path = api.COUNT_PATH if operation == "count" else api.MESSAGES_PATH
        if dialect == "messages":
            return f"{path}?{request.query}" if request.query else path, request.for_model(model)
        chat = reasoning.strip(request.body, [reasoning.THOUGHT])
        if operation == "count":
            return path, to_count(chat, model=model)
        return path, to_request(chat, model=model, stream=request.stream)

    def answer(self, request: wire.ChatRequest, body: bytes) -> tuple[bytes, wire.Usage | None]:
        if request.speech != wire.HUB:
            return body, native.read_answer(body, is_count=request.speech != native.MESSAGES)
        chat = to_chat(body, **self._made(request))
        return chat, wire.read_answer(chat)

    def chunks(self, request: wire.ChatRequest) -> ChunkTranslator:
        if request.speech == native.MESSAGES:
            return native.MessageEvents()
        return ChatStream(include_usage=request.wants_usage, **self._made(request))

    def _made(self, request: wire.ChatRequest) -> dict[str, Any]:
        """What an answer is to say that its upstream does not, and the request that it answers."""
        return {"model": request.model, "created": int(self._wall()), "request": request.body}

    def refusal(self, reply: Reply, body: bytes) -> UpstreamRefusal:
        facts = api.read_error(reply.status, reply.headers, body, now_s=self._wall())
        refusal = facts.refusal()
        refusal.as_sent = api.as_sent(body)
        refusal.passed_headers = passed_with_hints(reply.headers, refusal.retry_after_s)
        return refusal
