"""The client for OpenAI's own dialect: bytes pass through, except names of functions."""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

import msgspec

from ..config import ClientConfig
from ..errors import UpstreamRefusal
from ..net.transport import Transport
from ..wire import chat as wire
from ..wire import reasoning
from ..wire.chat.request import EMBED
from ..wire.completions import SPEECH as COMPLETIONS
from ..wire.http import headers as header_fields
from ..wire.lenient_json import encode
from ..wire.model_list import ModelPage, read_list, read_text
from ..wire.responses import native
from ..wire.responses.request import SPEECH as RESPONSES
from .base import ChunkTranslator, RemoteClient, Reply

log = logging.getLogger("proxy.clients")


class OpenAIClient(RemoteClient):
    """One key at an OpenAI-compatible provider.

    `strips_ids`: callers may have tool calls of other kinds of clients, whose ids carry thoughts.
    """

    models_path = "/models"

    @staticmethod
    def read_page(body: bytes) -> ModelPage:
        names = [read_text(entry, "id", "name") for entry in read_list(body)[0]]
        return ModelPage(list(filter(None, names)), None)

    def __init__(
        self, config: ClientConfig, transport: Transport, *, strips_ids: bool = False
    ) -> None:
        key = config.key.reveal()
        ours = {"Authorization": f"Bearer {key}"} if key else {}
        super().__init__(config, transport, header_fields.merged(ours, config.headers))
        self._strips_ids = strips_ids
        self._takes_options = True  # `stream_options`, as far as is known
        self._is_openais = urlsplit(config.base_url).hostname == "api.openai.com"
        self._has_warned = False  # of streams that end without a finish_reason
        self._paths = {wire.HUB: "/chat/completions", EMBED: "/embeddings"}
        if config.completions == "native":
            self._paths[COMPLETIONS] = "/completions"
        if config.responses == "native":
            self._paths[RESPONSES] = "/responses"
        self.speaks = self._paths.keys()

    def _asked(self, request: wire.ChatRequest, model: str) -> tuple[str, bytes]:
        may_ask = self._may_ask(request)
        if request.is_made and (self._is_openais or not may_ask):
            request = _made_for(request, is_openais=self._is_openais, may_ask=may_ask)
        body = request.for_model(model, asks_usage=may_ask and self.config.ask_usage)
        if self._strips_ids and request.speech == wire.HUB:
            body = reasoning.strip(body)
        return self._paths[request.speech], body

    def refusal(self, reply: Reply, body: bytes) -> UpstreamRefusal:
        refusal = wire.read_error(reply.status, body)
        in_body_s = refusal.retry_after_s
        asked_s = header_fields.read_retry_after(reply.headers, now_s=self._wall())
        if asked_s is not None:
            refusal.retry_after_s, in_body_s = asked_s, None
        refusal.passed_headers = header_fields.passed_with_hints(reply.headers, in_body_s)
        return refusal

    def answer(self, request: wire.ChatRequest, body: bytes) -> tuple[bytes, wire.Usage | None]:
        if request.speech == RESPONSES:
            return body, native.read_response(body)
        usage = wire.read_answer(body, of_embeddings=request.speech == EMBED)
        return (wire.CallersNames(request.names).answer(body) if request.names else body), usage

    def chunks(self, request: wire.ChatRequest) -> ChunkTranslator:
        if request.speech == RESPONSES:
            return native.ResponseEvents()
        if request.is_taken_back and self._takes_options:  # and taken now: it was about that
            self._takes_options = False
            log.warning("%s takes no `stream_options`: its streams do not tell usage", self.label)
        return wire.ChunkStream(
            lambda: wire.choices_asked(request.body),
            names=request.names,
            on_bare_end=self._warn_of_bare_end,
            hides_usage=self.config.ask_usage and not request.wants_usage,
        )

    def second_form(
        self, request: wire.ChatRequest, refusal: UpstreamRefusal
    ) -> wire.ChatRequest | None:
        """Without the wish for usage, if that was ours, and the refusal names it."""
        is_ours = request.is_made or (self.config.ask_usage and not request.wants_usage)
        if not (is_ours and self._may_ask(request)) or refusal.status not in (400, 422):
            return None
        told = refusal.body or b""
        if b"stream_options" not in told and b"include_usage" not in told:
            return None
        return msgspec.structs.replace(request, is_taken_back=True)

    def _may_ask(self, request: wire.ChatRequest) -> bool:
        """Whether a stream may be asked to tell its usage, which those of Responses do unasked."""
        tells = request.stream and request.speech in (wire.HUB, COMPLETIONS)
        return tells and self._takes_options and not request.is_taken_back

    def _warn_of_bare_end(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning("%s ends streams with [DONE] but without any finish_reason", self.label)


def _made_for(request: wire.ChatRequest, *, is_openais: bool, may_ask: bool) -> wire.ChatRequest:
    """A request made of another dialect. OpenAI's own API refuses words of servers like it
    (platform.openai.com/docs/api-reference/chat/create, read 2026-11).
    """
    fields = wire.read_fields(request.body)
    if is_openais:
        if (most := fields.pop("max_tokens", None)) is not None:
            fields["max_completion_tokens"] = most
        fields.pop("top_k", None)
    if not may_ask:
        fields.pop("stream_options", None)
    return msgspec.structs.replace(request, body=encode(fields))
