"""The client for Google's Gemini API (the service for API keys, v1beta)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from ..config import ClientConfig
from ..errors import UpstreamRefusal
from ..net.transport import Transport
from ..net.watch import CallerConnection
from ..wire import chat as wire
from ..wire import reasoning
from ..wire.chat.request import HUB_EMBED
from ..wire.gemini import answer, embed, events, models
from ..wire.gemini.request import path, to_count, to_request
from ..wire.http.headers import merged, passed_with_hints
from .base import ChunkTranslator, RemoteClient, Reply


class GeminiClient(RemoteClient):
    """One API key for Gemini."""

    models_path = models.PATH
    read_page = staticmethod(models.read_page)
    speaks = frozenset((wire.HUB_COUNT, HUB_EMBED))

    def __init__(self, config: ClientConfig, transport: Transport) -> None:
        key = {"x-goog-api-key": config.key.reveal()}
        super().__init__(config, transport, merged(key, config.headers))
        self._listed: tuple[str, ...] | None = None  # the models at the last look; None: never

    def substitutes(self, model: str) -> Sequence[str]:
        return models.preview_of(model, listed=self._listed)

    def _asked(self, request: wire.ChatRequest, model: str) -> tuple[str, bytes]:
        if request.speech == HUB_EMBED:
            return path(model, "batchEmbedContents"), embed.to_request(request.body, model=model)
        chat = reasoning.strip(request.body, [reasoning.THINKING])
        if request.speech == wire.HUB_COUNT:
            return path(model, "countTokens"), to_count(chat, model=model)
        method = "streamGenerateContent?alt=sse" if request.stream else "generateContent"
        return path(model, method), to_request(chat, model=model, stream=request.stream)

    def answer(self, request: wire.ChatRequest, body: bytes) -> tuple[bytes, wire.Usage | None]:
        if request.speech == wire.HUB_COUNT:
            return answer.to_count(body), None
        if request.speech == HUB_EMBED:
            return embed.to_hub(body, request=request.body, model=request.model)
        chat = answer.to_chat(body, **self._made(request))
        return chat, wire.read_answer(chat)

    def chunks(self, request: wire.ChatRequest) -> ChunkTranslator:
        return answer.ChatStream(include_usage=request.wants_usage, **self._made(request))

    def _made(self, request: wire.ChatRequest) -> dict[str, Any]:
        """What an answer is to say that its upstream does not, and the request that it answers."""
        made = {"model": request.model, "created": int(self._wall()), "request": request.body}
        return {**made, "reply_id": f"chatcmpl-{uuid.uuid4().hex}"}

    def list_models(self, *, caller: CallerConnection, deadline: float) -> list[str]:
        names = super().list_models(caller=caller, deadline=deadline)
        self._listed = tuple(names)
        return names

    def refusal(self, reply: Reply, body: bytes) -> UpstreamRefusal:
        facts = events.read_error(reply.status, reply.headers, body, now_s=self._wall())
        refusal = facts.refusal()
        refusal.passed_headers = passed_with_hints(reply.headers, refusal.retry_after_s)
        return refusal
