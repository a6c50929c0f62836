"""/v1/messages and its count_tokens: Anthropic's API, natively for Claude, else by way of chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

from ..errors import ProxyError
from ..wire.chat import HUB, HUB_COUNT, ChatRequest, Speech
from ..wire.chat.fields import too_deep
from ..wire.chat.request import check_filled, read_outer
from ..wire.claude import native as claude
from ..wire.messages import native
from ..wire.messages.answer import MessageStream, error_body, error_event, events_of, to_message
from ..wire.messages.request import MessagesRequest
from ..wire.sse import encode_named, named
from .base import Answer, Ask, Dialect, Writer, estimated

_HEADERS = ("anthropic-version", "anthropic-beta")


class MessagesAsk(Ask):
    """Its own and only prompt."""

    speech: ClassVar[Speech] = claude.MESSAGES

    def __init__(self, body: bytes, headers: Mapping[str, str], query: str = "") -> None:
        outer = read_outer(body)
        check_filled(outer.fields, "messages")
        general = {name: value for name, value in headers.items() if name not in _HEADERS}
        stream = outer.stream and self.hub_speech == HUB
        super().__init__(outer.model, general, stream=stream, session=outer.session)
        self.native_headers = headers
        self._outer = outer
        self._body = body
        self._query = query
        # By kind of client, and plainness.
        self._hubs: dict[tuple[str, bool], tuple[ChatRequest, list[str]]] = {}

    @cached_property
    def request_read(self) -> MessagesRequest:
        """The request's members; raises InvalidRequest."""
        return MessagesRequest(self._outer._replace(stream=self.stream), self.hub_speech)

    def request(self, at: int, kind: str, *, natively: bool) -> ChatRequest:
        return self._form(kind, natively, plain=False)

    def plain_request(self, at: int, kind: str, *, natively: bool) -> ChatRequest:
        return self._form(kind, natively, plain=True)

    def _form(self, kind: str, natively: bool, *, plain: bool) -> ChatRequest:
        if natively:
            body = (native.without_thoughts if plain else native.without_containers)(self._body)
            return ChatRequest(body, self.model, self.stream, speech=self.speech, query=self._query)
        if (kind, plain) not in self._hubs:
            try:
                self._hubs[kind, plain] = self.request_read.to_chat(kind, plain=plain)
            except RecursionError as error:
                raise too_deep() from error
        request, self.dropped = self._hubs[kind, plain]
        return request

    def whole(self, answers: Sequence[Answer]) -> bytes:
        (answer,) = answers
        if answer.is_native:
            return answer.body
        return to_message(answer.body, self.request_read.asked(answer.kind, self.model))

    def streamed(self, answer: Answer) -> tuple[list[bytes], bool]:
        return (events_of(answer.body), True) if answer.is_native else super().streamed(answer)

    def writer(self) -> MessagesWriter:
        return MessagesWriter(self)


class MessagesWriter(Writer):
    """Claude's own events, or those made of chat."""

    keep_alive = encode_named([named(b'{"type": "ping"}', b"ping")])

    def __init__(self, ask: MessagesAsk) -> None:
        self._ask = ask
        self._made: MessageStream | None = None  # of chat

    def begin(self, at: int, *, is_native: bool, kind: str = "") -> None:
        if is_native:
            self.feed = encode_named
        else:
            self._made = MessageStream(self._ask.request_read.asked(kind, self._ask.model))
            self.feed = self._made.feed

    def end(self) -> bytes:
        return b"" if self._made is None else self._made.end()

    def fail(self, error: ProxyError) -> bytes:
        return error_event(error, self._ask.headers.get("x-request-id", ""))


class CountAsk(MessagesAsk):
    """A request of which the tokens are counted: by Claude or Gemini, or roughly."""

    speech: ClassVar[Speech] = claude.COUNT
    hub_speech: ClassVar[Speech] = HUB_COUNT

    def whole(self, answers: Sequence[Answer]) -> bytes:
        return answers[0].body

    def unserved(self, error: ProxyError) -> tuple[Answer, dict[str, str]]:
        fields, read = self._outer.fields, ("system", "messages", "tools")
        return estimated(error, {name: fields[name] for name in read if name in fields})


MESSAGES = Dialect(MessagesAsk, error_body, _HEADERS, "request-id")
COUNT_TOKENS = MESSAGES._replace(read=CountAsk)
