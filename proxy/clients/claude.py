"""The client for Anthropic's Messages API."""

from __future__ import annotations

from ..config import ClientConfig
from ..errors import UpstreamRefusal
from ..net.transport import Transport
from ..wire import call_ids
from ..wire import chat as wire
from ..wire.claude import api, errors
from ..wire.claude.names import CallersNames
from ..wire.claude.reply import to_chat
from ..wire.claude.request import to_request
from ..wire.claude.stream import ChatStream
from ..wire.http.headers import passed_with_hints
from ..wire.model_list import ModelPage
from .base import ChunkTranslator, Reply
from .remote import RemoteClient


class ClaudeClient(RemoteClient):
    """One API key of Anthropic's."""

    models_path = api.MODELS_PATH

    def __init__(self, config: ClientConfig, transport: Transport) -> None:
        super().__init__(config, transport, api.headers(config.key.reveal(), config.headers))

    def _asked(self, request: wire.ChatRequest, model: str) -> tuple[str, bytes]:
        chat = call_ids.strip(request.body, [call_ids.THOUGHT])
        return api.MESSAGES_PATH, to_request(chat, model=model, stream=request.stream)

    def answer(self, request: wire.ChatRequest, body: bytes) -> tuple[bytes, wire.Usage | None]:
        names = CallersNames(lambda: request.body)
        chat = to_chat(body, model=request.model, created=int(self._wall()), names=names)
        return chat, wire.read_answer(chat)

    def chunks(self, request: wire.ChatRequest) -> ChunkTranslator:
        return ChatStream(
            model=request.model,
            created=int(self._wall()),
            include_usage=request.wants_usage,
            names=CallersNames(lambda: request.body),
        )

    def refusal(self, reply: Reply, body: bytes) -> UpstreamRefusal:
        facts = errors.read_error(reply.status, reply.headers, body, now_s=self._wall())
        refusal = facts.refusal()
        refusal.passed_headers = passed_with_hints(reply.headers, refusal.retry_after_s)
        return refusal

    def _page(self, body: bytes) -> ModelPage:
        return api.read_page(body)
