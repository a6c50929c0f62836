"""What a stream's body reads, whatever it comes from: a relay of chunks, and what opens one."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..errors import ProxyError
from ..wire.chat import Usage


class Relayed(Protocol):
    """A stream of chunks. `usage`: the tokens, as far as it told them by now."""

    @property
    def first(self) -> list[bytes]:
        """Its first chunks, which were read when it was opened."""

    @property
    def is_over(self) -> bool:
        """Whether all of it was read."""

    @property
    def is_whole(self) -> bool:
        """Whether the upstream's answer was read to its end, which comes behind the stream's."""

    @property
    def progress(self) -> int:
        """Grows while the stream is not idle: with data events, also those that give no chunk."""

    @property
    def usage(self) -> Usage | None: ...

    def read(self, until: float) -> list[bytes] | None:
        """As `Relay.read`; may raise any ProxyError where it needs a further upstream."""


class Opening(Protocol):
    """The attempts to open a stream (`Attempts`, `Series`)."""

    def advance(self, pause_at: float) -> Relayed | None:
        """The opened stream, or None when `pause_at` came first; raises ProxyError."""

    def interrupted(self, error: ProxyError) -> None:
        """The stream broke after it was opened."""

    def close(self, *, linger_s: float = ...) -> None:
        """Give back what is held; an upstream's answer gets `linger_s` to end. Idempotent."""


class WholeRelay(NamedTuple):
    """In place of a relay where all chunks are in hand."""

    first: list[bytes]
    usage: Usage | None
    is_over: bool = True
    is_whole: bool = True
    progress: int = 0

    def read(self, until: float) -> list[bytes] | None:
        raise AssertionError("what is over is not read")
