"""Chunks of chat, made of the events of another vendor's stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec

from ...errors import ProxyError

_encode = msgspec.json.Encoder().encode


class ChunkMaker(ABC):
    """One answer (a `ChunkTranslator`). `is_over`: the upstream's own end came, nothing follows.

    After an exception it is of no more use.
    """

    _head: bytes  # of each chunk, up to its choices: once the answer's id is known

    def __init__(self, *, model: str, created: int, include_usage: bool) -> None:
        self.is_over = False
        self._common = {"object": "chat.completion.chunk", "created": created, "model": model}
        self._include_usage = include_usage
        self._tail = b'],"usage":null}' if include_usage else b"]}"
        self._failure: ProxyError | None = None

    @abstractmethod
    def _take(self, data: bytes, chunks: list[bytes]) -> None:
        """Add the chunks that an event makes; raises UpstreamError."""

    @abstractmethod
    def _end(self, chunks: list[bytes]) -> None:
        """Add the last chunks; raises UpstreamTruncated if the answer is not whole."""

    def feed(self, events: Sequence[bytes]) -> list[bytes]:
        """The chunks for the `data:` fields of some events, in order.

        Raises UpstreamRefusal for an `error` event, UpstreamInvalid for one that can't be read: at
        once if no chunk came before it in `events`, else at the next call of `feed` or `finish`.
        """
        if self._failure is not None:
            raise self._failure
        chunks: list[bytes] = []
        try:
            for data in events:
                if self.is_over:
                    break
                self._take(data, chunks)
        except ProxyError as error:
            self._failure = error
            if not chunks:
                raise
        return chunks

    def finish(self) -> list[bytes]:
        """The upstream's stream ended. Raises UpstreamTruncated if that was before its own end."""
        if self._failure is not None:
            raise self._failure
        chunks: list[bytes] = []
        if not self.is_over:
            self._end(chunks)
        return chunks

    def _set_id(self, chunk_id: str) -> None:
        self._head = _encode({"id": chunk_id, **self._common})[:-1] + b',"choices":['

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return self._head + _encode(choice) + self._tail

    def _usage_chunk(self, usage: dict[str, Any]) -> bytes:
        return self._head + b'],"usage":' + _encode(usage) + b"}"
