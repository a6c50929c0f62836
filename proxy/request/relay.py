"""What a stream's body reads: an upstream's answer, several of them, or one that is in hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ..clients.base import ChunkTranslator, Reply
from ..config import Config
from ..dialects.base import Answer
from ..errors import UpstreamError, UpstreamRefusal, UpstreamTimeout
from ..net.watch import Clock
from ..wire.chat import Usage, read_named_error
from ..wire.sse import NamedEvent, SseDecoder

if TYPE_CHECKING:
    from .attempts import Attempts


class WholeRelay(NamedTuple):
    """In place of a relay where all chunks are in hand."""

    first: list[bytes]
    is_over: bool = True
    is_whole: bool = True

    def read(self, until: float) -> list[bytes] | None:
        raise AssertionError("what is over is not read")


class Relay:
    """An upstream's streamed answer, read as chunks. `first`: those that opening it has read.

    The upstream's answer `is_whole` only when its end was read too, which comes behind the
    stream's. `usage`: as far as it was told by now.
    """

    def __init__(
        self, reply: Reply, translator: ChunkTranslator, config: Config, clock: Clock, ahead: bytes
    ) -> None:
        self.is_over = False
        self.first: list[bytes] = []
        self._ahead = ahead  # what was read of the reply already
        self._translator = translator
        self._reply = reply
        self._decoder = SseDecoder(max_event_bytes=config.max_event_bytes)
        self._now = clock.monotonic
        self._idle_s = config.idle_timeout_s
        self._idle_at = math.inf  # unless an event comes; from the next read on
        self._failure: UpstreamError | None = None

    @property
    def usage(self) -> Usage | None:
        return self._translator.usage

    @property
    def is_whole(self) -> bool:
        return self._reply.is_whole

    def read(self, until: float) -> list[bytes] | None:
        """The chunks of one read, none for mere comments; None: nothing came until then.

        Raises UpstreamError after the chunks that came before it; UpstreamTimeout after
        `idle-timeout` without an event, for which the time that chunks are taken in does not count.
        """
        if self._failure is not None:
            raise self._failure
        if self._idle_at == math.inf:
            self._idle_at = self._now() + self._idle_s
        data = self._ahead or self._reply.read(min(until, self._idle_at))
        self._ahead = b""
        chunks = None if data is None else self._chunks(data)
        if self._idle_at <= until and self._now() >= self._idle_at and not self.is_over:
            limit = f"{self._idle_s:.3g} s (idle-timeout)"
            raise UpstreamTimeout(f"the upstream sent no event for {limit}")
        return chunks

    def _chunks(self, data: bytes) -> list[bytes]:
        translator = self._translator
        chunks: list[bytes] = []
        try:
            for event in self._decoder.feed(data) if data else self._decoder.finish():
                self._idle_at = math.inf
                if type(event) is NamedEvent and event.name == b"error":
                    raise self._told(event)
                translator.feed(event, chunks)
                if translator.is_over:
                    self.is_over = True
                    return chunks
            if not data:
                translator.finish(chunks)
                self.is_over = True
        except UpstreamError as error:
            self._failure = error
            if not chunks:
                raise
        return chunks

    def _told(self, data: bytes) -> UpstreamError:
        """The error in an event that is named so: in the upstream's words if it is one to it."""
        try:
            self._translator.feed(data, [])
        except UpstreamRefusal as error:
            return error
        except UpstreamError:
            pass
        return read_named_error(data)


class Series:
    """The streams of a request's prompts as one: each is opened where the one before it ended."""

    def __init__(self, attempts: Attempts, relay: Relayed) -> None:
        self.first: list[bytes] = relay.first
        self.is_over = False
        self._attempts = attempts
        self._relay: Relayed | None = relay  # the present prompt's stream, once it is open

    @property
    def is_whole(self) -> bool:
        return self._relay is not None and self._relay.is_whole

    def read(self, until: float) -> list[bytes] | None:
        """As `Relay.read`; opens the next prompt's stream where one ended: any ProxyError."""
        if self._relay is not None and self._relay.is_over:
            self._relay = None
            # Not before: the last chunks need not wait for the connection's end.
            self._attempts.begin_next()
        if self._relay is not None:
            chunks = self._relay.read(until)
        else:
            relay = self._attempts.go_on(until)
            assert not isinstance(relay, Answer)
            if relay is None:
                return None
            self._relay, chunks = relay, relay.first
        self.is_over = self._relay.is_over and self._attempts.is_last
        return chunks


Relayed: TypeAlias = Relay | Series | WholeRelay
