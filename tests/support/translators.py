"""Feeds translators of streams as `Relay` does."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.clients.base import ChunkTranslator
from proxy.net.watch import CLOCK
from proxy.request.relay import Relay
from proxy.wire.sse import encode
from tests.support.pool import DEFAULTS


def fed(translator: ChunkTranslator, events: Iterable[bytes]) -> list[bytes]:
    """The chunks that these events make, up to the end mark of the upstream."""
    chunks: list[bytes] = []
    for event in events:
        if translator.is_over:
            break
        translator.feed(event, chunks)
    return chunks


def ended(translator: ChunkTranslator) -> list[bytes]:
    """The chunks that are due at the end of the upstream's answer."""
    chunks: list[bytes] = []
    if not translator.is_over:
        translator.finish(chunks)
    return chunks


class Pieces:
    """An upstream's answer, of which each read gives a piece."""

    status = 200
    is_whole = False

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.headers: dict[str, str] = {}
        self._left = iter(pieces)

    def open(self, until: float) -> bool:
        return True

    def head(self, until: float) -> bool:
        return True

    def read(self, until: float) -> bytes:
        return next(self._left, b"")

    def close(self, *, linger_s: float = 0.0) -> None:
        """There is nothing to give back."""


def relayed(translator: ChunkTranslator, events: Iterable[bytes]) -> Relay:
    """A relay whose first read has all of these events."""
    data = b"".join([encode([event]) for event in events])
    return Relay(Pieces([data]), translator, DEFAULTS, CLOCK, b"")
