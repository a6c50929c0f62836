"""/v1/messages and its count_tokens: Anthropic's API, natively for Claude, else by way of chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..errors import ProxyError
from ..wire.chat import HUB_COUNT, Speech
from ..wire.chat.errors import stream_message
from ..wire.chat.request import check_filled
from ..wire.claude import native
from ..wire.claude.api import VERSIONED
from ..wire.messages.answer import error_body, events_of
from ..wire.messages.request import decode, to_chat
from ..wire.sse import encode_named, named
from .base import Dialect
from .translated import TranslatedAsk, TranslatedWriter


class MessagesAsk(TranslatedAsk):
    speech: ClassVar[Speech] = native.MESSAGES
    without_reasoning = staticmethod(native.without_thoughts)
    native_events = staticmethod(events_of)
    decode = staticmethod(decode)
    to_chat = staticmethod(to_chat)
    read = ("system", "messages", "tools")

    def __init__(self, body: bytes, headers: Mapping[str, str], query: str = "") -> None:
        general = {name: value for name, value in headers.items() if name not in VERSIONED}
        super().__init__(body, general, query)
        check_filled(self.outer.fields, "messages")
        self.native_headers = headers

    def writer(self) -> MessagesWriter:
        return MessagesWriter(self)


class MessagesWriter(TranslatedWriter):
    keep_alive = encode_named([named(b'{"type": "ping"}', b"ping")])

    def fail(self, error: ProxyError) -> bytes:
        """An error event; official SDKs raise on it."""
        request_id = self._ask.headers.get("x-request-id", "")
        body = error_body(error, request_id, message=stream_message(error))
        return encode_named([named(body, b"error")])


class CountAsk(MessagesAsk):
    """A request of which the tokens are counted: by Claude or Gemini, or roughly."""

    speech: ClassVar[Speech] = native.COUNT
    hub_speech: ClassVar[Speech] = HUB_COUNT


MESSAGES = Dialect(MessagesAsk, error_body, VERSIONED, "request-id")
COUNT_TOKENS = MESSAGES._replace(read=CountAsk)
