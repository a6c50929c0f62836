"""What the dialects share that some clients speak themselves, and others get by way of chat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar, Final

import msgspec

from ..errors import InvalidRequest, ProxyError, UnsupportedParameter, UpstreamRefusal
from ..wire.chat import HUB, HUB_COUNT, ChatRequest, chunks_of
from ..wire.chat.deltas import DeltaReader, Translation
from ..wire.chat.fields import misfit, too_deep
from ..wire.chat.request import read_outer
from ..wire.lenient_json import decode_any, encode
from ..wire.sse import encode_named
from .base import Answer, Ask, Writer

BYTES_PER_TOKEN: Final = 4
MEDIUM_TOKENS: Final = 1600


class TranslatedAsk(Ask):
    """A request in a dialect that some clients speak. Its own and only prompt."""

    read: ClassVar[tuple[str, ...]]  # the members that a model reads
    # Reads what becomes another thing in chat; raises DecodeError.
    decode: Callable[[bytes], Any]
    # Takes what was read, `outer`, a kind of client; raises InvalidRequest, RecursionError.
    to_chat: Callable[..., Translation]
    # For clients that speak the dialect: the body without `every` thought of earlier turns, or
    # without those of other kinds of clients.
    without_reasoning: Callable[..., bytes]
    native_events: Callable[[bytes], list[bytes]]  # of a stream, for a whole answer of its own

    def __init__(self, body: bytes, headers: Mapping[str, str], query: str = "") -> None:
        outer = read_outer(body)
        stream = outer.stream and self.hub_speech == HUB
        super().__init__(outer.model, headers, stream=stream, session=outer.session)
        self.body = body
        self.outer = outer._replace(stream=stream)
        self._query = query
        self._made: dict[tuple[str, bool], Translation] = {}  # by kind of client and plainness

    @cached_property
    def _decoded(self) -> Any:
        try:
            return self.decode(self.outer.text)
        except msgspec.DecodeError as error:
            raise misfit(error) from error

    def translated(self, kind: str, *, plain: bool = False) -> Translation:
        """The request as chat for a kind of client, made once; raises InvalidRequest."""
        if (kind, plain) not in self._made:
            try:
                made = self.to_chat(self._decoded, self.outer, kind, plain=plain)
            except RecursionError as error:
                raise too_deep() from error
            request = msgspec.structs.replace(made.request, speech=self.hub_speech)
            self._made[kind, plain] = made._replace(request=request)
        return self._made[kind, plain]

    def events(self, kind: str) -> DeltaReader:
        """What makes the answer of that of a client of this kind."""
        return self.translated(kind).answer(self.model)

    def request(self, at: int, kind: str, *, natively: bool) -> ChatRequest:
        return self._form(kind, natively, plain=False)

    def plain_request(self, at: int, kind: str, *, natively: bool) -> ChatRequest | None:
        with suppress(InvalidRequest):  # nested too deeply to be looked through
            return self._form(kind, natively, plain=True)
        return None

    def _form(self, kind: str, natively: bool, *, plain: bool) -> ChatRequest:
        if natively:
            body = self.without_reasoning(self.body, every=plain)
            return ChatRequest(body, self.model, self.stream, speech=self.speech, query=self._query)
        request, self.dropped, _ = self.translated(kind, plain=plain)
        return request

    def whole(self, answers: Sequence[Answer]) -> bytes:
        (answer,) = answers
        if answer.is_native or self.hub_speech != HUB:
            return answer.body
        return self.events(answer.kind).whole(chunks_of(answer.body))

    def streamed(self, answer: Answer) -> tuple[list[bytes], bool]:
        is_native = answer.is_native
        return (self.native_events(answer.body), True) if is_native else super().streamed(answer)

    def unserved(self, error: ProxyError) -> tuple[Answer, dict[str, str]]:
        """A count of tokens where no client counts any, look-alikes included."""
        has_none = isinstance(error, UpstreamRefusal) and error.status in (404, 405, 501)
        is_none = has_none or isinstance(error, UnsupportedParameter)
        if self.hub_speech != HUB_COUNT or not is_none:
            raise error
        fields = self.outer.fields
        body = encode({name: fields[name] for name in self.read if name in fields})
        try:
            tokens = estimated_tokens(decode_any(body))
        except (msgspec.DecodeError, RecursionError):  # a number out of all range, for one
            tokens = estimated_tokens(body.decode())
        answer = Answer(b'{"input_tokens":%d}' % tokens, is_native=True)
        return answer, {"x-proxy-estimated": "true"}


class TranslatedWriter(Writer):
    """The upstream's own events, which `pass_on`, or those made of chat."""

    pass_on: Callable[[Sequence[bytes]], bytes] = staticmethod(encode_named)

    def __init__(self, ask: TranslatedAsk) -> None:
        self._ask = ask
        self._made: DeltaReader | None = None

    def begin(self, at: int, *, is_native: bool, kind: str = "") -> None:
        self._made = None if is_native else self._ask.events(kind)
        self.feed = self.pass_on if self._made is None else self._made.feed

    def end(self) -> bytes:
        return b"" if self._made is None else self._made.end()


def estimated_tokens(prompt: Any) -> int:
    """How many tokens a model may read in this data: a quarter of the bytes of compact JSON in
    UTF-8, rounded up, and 1,600 for each image or file, whose data does not count.

    English prose has four characters a token, other scripts more bytes and fewer characters; 1,600
    is about what the largest image takes at Anthropic (build-with-claude/vision, read 2026-11).
    """
    media = 0

    def without_media(found: Any, is_data: bool = False) -> Any:
        nonlocal media
        if isinstance(found, list):
            return [without_media(item) for item in found]
        if isinstance(found, dict):
            has_data = found.get("type") == "base64"
            return {
                name: without_media(value, is_data=has_data and name in ("data", "file_data"))
                for name, value in found.items()
            }
        if isinstance(found, str) and (is_data or found[:5].lower() == "data:"):
            media += 1
            return ""
        return found

    size = len(encode(without_media(prompt)))
    return -(-size // BYTES_PER_TOKEN) + MEDIUM_TOKENS * media
