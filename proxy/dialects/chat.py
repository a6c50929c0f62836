"""/v1/chat/completions: the hub itself, so that nothing is translated."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import msgspec

from ..errors import ProxyError
from ..wire.chat import HUB, ChatRequest, error_body, error_event, read_request, without_reasoning
from ..wire.sse import DONE, KEEP_ALIVE, encode
from .base import Ask, Dialect, Writer

_END = encode([DONE])


class ChatWriter(Writer):
    """Chunks as they are."""

    keep_alive = KEEP_ALIVE
    feed = staticmethod(encode)

    def __init__(self) -> None:
        self._is_begun = False

    def begin(self, at: int, *, is_native: bool, kind: str = "") -> None:
        self._is_begun = True

    def end(self) -> bytes:
        return _END

    def fail(self, error: ProxyError) -> bytes:
        """An error event; where nothing but comments came before it, `code` is its status."""
        code = (self._is_begun and error.code) or str(error.status)
        return encode([error_event(error, code=code)])


class ChatAsk(Ask):
    """A chat request. `writer`: that of its stream, if it is not as over HTTP."""

    speech = HUB

    def __init__(
        self,
        body: bytes,
        headers: Mapping[str, str],
        query: str = "",
        writer: ChatWriter | None = None,
    ) -> None:
        self._request = asked = read_request(body)
        super().__init__(asked.model, headers, stream=asked.stream, session=asked.session)
        self._writer = writer

    @property
    def wants_usage(self) -> bool:
        return self._request.wants_usage

    def request(self, at: int, kind: str, *, natively: bool) -> ChatRequest:
        return self._request

    def plain_request(self, at: int, kind: str, *, natively: bool) -> ChatRequest | None:
        with suppress(msgspec.DecodeError, RecursionError):  # of what is not as chat has it
            if body := without_reasoning(self._request.body):
                return msgspec.structs.replace(self._request, body=body)
        return None

    def writer(self) -> ChatWriter:
        return self._writer or ChatWriter()


CHAT = Dialect(ChatAsk, error_body)
