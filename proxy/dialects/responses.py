"""/v1/responses: OpenAI's Responses, natively where a provider has them, else by way of chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import ClassVar

import msgspec

from ..errors import ProxyError, UpstreamRefusal
from ..wire.chat import HUB_COUNT, ChatRequest, Speech, chunks_of, error_body, read_object
from ..wire.chat.errors import stream_message
from ..wire.chat.request import read_outer
from ..wire.lenient_json import encode
from ..wire.responses import native
from ..wire.responses.answer import error_of
from ..wire.responses.request import COUNT, SPEECH, Translation, kept_by_the_vendor, to_chat
from ..wire.responses.stream import Events
from ..wire.responses.tools import Tools
from ..wire.sse import KEEP_ALIVE, encode_named, named
from .base import Answer, Ask, Dialect, Writer, estimated

# What of a request a model reads: its tokens are counted.
_PROMPT = ("instructions", "input", "tools")


class ResponsesAsk(Ask):
    """Its own and only prompt."""

    speech: ClassVar[Speech] = SPEECH

    def __init__(self, body: bytes, headers: Mapping[str, str], query: str = "") -> None:
        outer = read_outer(body)
        stream = outer.stream and self.speech == SPEECH
        super().__init__(outer.model, headers, stream=stream, session=outer.session)
        self._fields = outer.fields
        self._body = body
        self._made: dict[str, Translation] = {}  # by kind of client
        self._tools = Tools("")  # of the last of them

    def prompts(self, *, natively: bool) -> int:
        # Which of several clients has the conversation, nobody knows.
        refusal = kept_by_the_vendor(self._fields)
        if refusal and not (natively and self.clients == 1):
            raise refusal
        return 1

    def request(self, at: int, kind: str, *, natively: bool) -> ChatRequest:
        if natively:
            return self._native(native.without_containers(self._body))
        return self._translated(kind).request

    def plain_request(self, at: int, kind: str, *, natively: bool) -> ChatRequest | None:
        if natively:
            body = native.without_reasoning(self._body)
            return None if body is None else self._native(body)
        with suppress(RecursionError):
            if plain := self._translated(kind).plain():
                self.dropped = plain.dropped
                return plain.request
        return None

    def _native(self, body: bytes) -> ChatRequest:
        return ChatRequest(body, self.model, self.stream, speech=self.speech)

    def _translated(self, kind: str) -> Translation:
        if kind not in self._made:
            made = to_chat(self._body, kind, model=self.model, stream=self.stream)
            request = msgspec.structs.replace(made.request, speech=self.hub_speech)
            self._made[kind] = made._replace(request=request)
        made = self._made[kind]
        self._tools, self.dropped = made.tools, made.dropped
        return made

    def events(self, kind: str = "") -> Events:
        """What makes the answer of chat's, or of a failure before there was any."""
        return Events(self.model, self._fields, self._tools, kind)

    def whole(self, answers: Sequence[Answer]) -> bytes:
        (answer,) = answers
        if answer.is_native:
            return answer.body
        return self.events(answer.kind).whole(chunks_of(answer.body))

    def streamed(self, answer: Answer) -> tuple[list[bytes], bool]:
        is_native = answer.is_native
        return (native.events_of(answer.body), True) if is_native else super().streamed(answer)

    def writer(self) -> ResponsesWriter:
        return ResponsesWriter(self)


class ResponsesWriter(Writer):
    """The upstream's own events, or those made of chat."""

    keep_alive = KEEP_ALIVE

    def __init__(self, ask: ResponsesAsk) -> None:
        self._ask = ask
        self._events: Events | None = None  # of chat
        self._first = self._last = b""  # of the upstream's own events

    def begin(self, at: int, *, is_native: bool, kind: str = "") -> None:
        if is_native:
            self.feed = self._pass
        else:
            self._events = self._ask.events(kind)
            self.feed = self._events.feed

    def _pass(self, chunks: Sequence[bytes]) -> bytes:
        if chunks:
            self._first, self._last = self._first or chunks[0], chunks[-1]
        return encode_named(chunks)

    def end(self) -> bytes:
        return b"" if self._events is None else self._events.end()

    def fail(self, error: ProxyError) -> bytes:
        """`response.failed`, or the upstream's own event."""
        message = stream_message(error)
        if self._first and isinstance(error, UpstreamRefusal) and (sent := error.as_sent):
            name = " ".join(str(read_object(sent).get("type")).split())
            return encode_named([named(sent, name.encode())])
        response = read_object(self._first).get("response")
        if not isinstance(response, dict):
            return (self._events or self._ask.events()).fail(error, message)
        number = read_object(self._last).get("sequence_number")
        event = {
            "type": "response.failed",
            "response": {**response, "status": "failed", "error": error_of(error, message)},
            "sequence_number": number + 1 if isinstance(number, int) else 0,
        }
        return encode_named([named(encode(event), b"response.failed")])


class CountAsk(ResponsesAsk):
    """A request of which the tokens are counted: by Claude or Gemini, or roughly."""

    speech: ClassVar[Speech] = COUNT
    hub_speech: ClassVar[Speech] = HUB_COUNT

    def whole(self, answers: Sequence[Answer]) -> bytes:
        counted = read_object(answers[0].body)
        return encode({"object": "response.input_tokens", **counted})

    def unserved(self, error: ProxyError) -> tuple[Answer, dict[str, str]]:
        if kept_by_the_vendor(self._fields) is not None:
            raise error
        return estimated(error, {name: self._fields.get(name) for name in _PROMPT})


RESPONSES = Dialect(
    ResponsesAsk, error_body, below="no responses are kept here; send the whole input"
)
INPUT_TOKENS = RESPONSES._replace(read=CountAsk)
