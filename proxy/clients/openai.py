"""The client for OpenAI's own dialect: bytes pass through, except names of functions."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ..config import ClientConfig
from ..errors import UpstreamInvalid, UpstreamRefusal
from ..net.exchange import SocketReply
from ..net.transport import Transport
from ..net.watch import CallerConnection
from ..version import USER_AGENT
from ..wire import call_ids
from ..wire import chat as wire
from ..wire.completions.request import SPEECH as COMPLETIONS
from ..wire.http import headers as header_fields
from ..wire.model_list import read_list, read_text
from .base import ChunkTranslator, Client, Reply, read_whole

log = logging.getLogger("proxy.clients")

# A model list of 10,000 entries is about 1.5 MB (OpenRouter's, with prices, in 2026).
MAX_LIST_BYTES = 32 * 1024 * 1024


class OpenAIClient(Client):
    """One key at an OpenAI-compatible provider.

    `strips_ids`: callers may have tool calls of other kinds of clients, whose ids carry thoughts.
    """

    def __init__(
        self, config: ClientConfig, transport: Transport, *, strips_ids: bool = False
    ) -> None:
        super().__init__(config)
        self._strips_ids = strips_ids
        self._transport = transport
        self._has_warned = False  # of streams that end without a finish_reason
        self._own_names = {name.lower() for name in config.headers}  # the caller's don't count
        key = config.key.reveal()
        lines = {"User-Agent": USER_AGENT}
        if key:
            lines["Authorization"] = f"Bearer {key}"
        own = header_fields.merged(lines, config.headers)
        self._list_head = transport.head("GET", "/models", own)
        lines["Content-Type"] = "application/json"
        lines = header_fields.merged(lines, config.headers)
        self._heads = {wire.HUB: transport.head("POST", "/chat/completions", lines)}
        if config.completions == "native":
            self._heads[COMPLETIONS] = transport.head("POST", "/completions", lines)
        self.speaks = self._heads.keys()

    def send(
        self,
        request: wire.ChatRequest,
        *,
        model: str,
        headers: Mapping[str, str],
        caller: CallerConnection,
        deadline: float,
    ) -> SocketReply:
        lines = "".join(
            [
                f"{name}: {value}\r\n"
                for name, value in headers.items()
                if name.lower() not in self._own_names
            ]
        )
        body = request.for_model(model)
        if self._strips_ids and request.speech == wire.HUB:
            body = call_ids.strip(body)
        head = self._heads[request.speech] + lines.encode("latin-1")
        return self._transport.send(head, body, caller=caller, deadline=deadline)

    def refusal(self, reply: Reply, body: bytes) -> UpstreamRefusal:
        refusal = wire.read_error(reply.status, body)
        in_body_s = refusal.retry_after_s
        now_s = self._transport.clock.wall()
        asked_s = header_fields.read_retry_after(reply.headers, now_s=now_s)
        if asked_s is not None:
            refusal.retry_after_s, in_body_s = asked_s, None
        refusal.passed_headers = header_fields.passed_with_hints(reply.headers, in_body_s)
        return refusal

    def answer(self, request: wire.ChatRequest, body: bytes) -> tuple[bytes, wire.Usage | None]:
        usage = wire.read_answer(body)
        return (wire.CallersNames(request.names).answer(body) if request.names else body), usage

    def chunks(self, request: wire.ChatRequest) -> ChunkTranslator:
        return wire.ChunkStream(
            lambda: wire.choices_asked(request.body),
            names=request.names,
            on_bare_end=self._warn_of_bare_end,
        )

    def _warn_of_bare_end(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning("%s ends streams with [DONE] but without any finish_reason", self.label)

    def list_models(self, *, caller: CallerConnection, deadline: float) -> list[str]:
        reply = self._transport.send(self._list_head, b"", caller=caller, deadline=deadline)
        try:
            body = read_whole(reply, deadline=deadline, max_bytes=MAX_LIST_BYTES)
            if reply.status != 200:
                raise self.refusal(reply, body)
        finally:
            reply.close()
        names = [name for one in read_list(body).entries if (name := read_text(one, "id", "name"))]
        if not names:
            raise UpstreamInvalid(f"{self.label}: the upstream's model list is empty")
        return list(dict.fromkeys(names))

    def close(self) -> None:
        self._transport.close()
