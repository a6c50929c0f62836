"""/v1/responses: OpenAI's Responses, natively where a provider has them, else by way of chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..errors import ProxyError, UpstreamRefusal
from ..wire.chat import HUB_COUNT, Speech, error_body, read_object
from ..wire.chat.errors import stream_message
from ..wire.lenient_json import encode
from ..wire.responses import native
from ..wire.responses.answer import Events, error_of
from ..wire.responses.request import COUNT, SPEECH, decode, kept_by_the_vendor, to_chat
from ..wire.responses.tools import Tools
from ..wire.sse import KEEP_ALIVE, encode_named, named
from .base import Answer, Dialect
from .translated import TranslatedAsk, TranslatedWriter


class ResponsesAsk(TranslatedAsk):
    speech: ClassVar[Speech] = SPEECH
    without_reasoning = staticmethod(native.without_reasoning)
    native_events = staticmethod(native.events_of)
    decode = staticmethod(decode)
    to_chat = staticmethod(to_chat)
    read = ("instructions", "input", "tools")

    def prompts(self, *, natively: bool) -> int:
        # Which of several clients has the conversation, nobody knows.
        refusal = kept_by_the_vendor(self.outer.fields)
        if refusal and not (natively and self.clients == 1):
            raise refusal
        return 1

    def writer(self) -> ResponsesWriter:
        return ResponsesWriter(self)


class ResponsesWriter(TranslatedWriter):
    keep_alive = KEEP_ALIVE
    _ask: ResponsesAsk
    _made: Events | None
    _first = _last = b""  # of the upstream's own events

    def pass_on(self, chunks: Sequence[bytes]) -> bytes:
        if chunks:
            self._first, self._last = self._first or chunks[0], chunks[-1]
        return encode_named(chunks)

    def fail(self, error: ProxyError) -> bytes:
        """`response.failed`, or the upstream's own event."""
        message = stream_message(error)
        if self._first and isinstance(error, UpstreamRefusal) and (sent := error.as_sent):
            name = " ".join(str(read_object(sent).get("type")).split())
            return encode_named([named(sent, name.encode())])
        response = read_object(self._first).get("response")
        if not isinstance(response, dict):
            made = self._made or Events(self._ask.model, self._ask.outer.fields, Tools(""))
            return made.fail(error, message)
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
        return encode({"object": "response.input_tokens", **read_object(super().whole(answers))})

    def unserved(self, error: ProxyError) -> tuple[Answer, dict[str, str]]:
        if kept_by_the_vendor(self.outer.fields) is not None:
            raise error
        return super().unserved(error)


RESPONSES = Dialect(
    ResponsesAsk, error_body, below="no responses are kept here; send the whole input"
)
INPUT_TOKENS = RESPONSES._replace(read=CountAsk)
