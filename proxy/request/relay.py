"""What a stream's body reads: an upstream's answer, several of them, or one that is in hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ..clients.base import ChunkTranslator, Reply
from ..dialects.base import Answer
from ..errors import UpstreamError, UpstreamRefusal
from ..wire.chat import Usage, read_named_error
from ..wire.sse import NamedEvent, SseDecoder

if TYPE_CHECKING:
    from .attempts import Attempts


class WholeRelay(NamedTuple):
    """In place of a relay where all chunks are in hand."""

    first: list[bytes]
    is_over: bool = True
    is_whole: bool = True
    progress: int = 0

    def read(self, until: float) -> list[bytes] | None:
        raise AssertionError("what is over is not read")


class Relay:
    """An upstream's streamed answer, read as chunks. `first`: those that opening it has read.

    `progress` grows while the stream is not idle. The upstream's answer `is_whole` only when its
    end was read too, which comes behind the stream's. `usage`: as far as it was told by now.
    """

    def __init__(
        self, reply: Reply, translator: ChunkTranslator, *, ahead: bytes = b"", max_event_bytes: int
    ) -> None:
        self.is_over = False
        self.progress = 0  # data events so far
        self.first: list[bytes] = []
        self._ahead = ahead  # what was read of the reply already
        self._translator = translator
        self._reply = reply
        self._decoder = SseDecoder(max_event_bytes=max_event_bytes)
        self._failure: UpstreamError | None = None

    @property
    def usage(self) -> Usage | None:
        return self._translator.usage

    @property
    def is_whole(self) -> bool:
        return self._reply.is_whole

    def read(self, until: float) -> list[bytes] | None:
        """The chunks of one read, none for mere comments; None: nothing came until then.

        Raises UpstreamError after the chunks that came before it.
        """
        if self._failure is not None:
            raise self._failure
        data: bytes | None = self._ahead
        if data:
            self._ahead = b""
        else:
            data = self._reply.read(until)
            if data is None:
                return None
        translator = self._translator
        chunks: list[bytes] = []
        try:
            for event in self._decoder.feed(data) if data else self._decoder.finish():
                self.progress += 1
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
        self.progress = 0  # data events of all prompts, and more
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
        if self._relay is None:
            self.progress += 1  # no upstream is idle: until it is open, attempts watch the time
            relay = self._attempts.go_on(until)
            assert not isinstance(relay, Answer)
            chunks = None if relay is None else relay.first
        else:
            relay, before = self._relay, self._relay.progress
            chunks = relay.read(until)
            self.progress += relay.progress - before
        if relay is not None:
            self._relay = relay
            self.is_over = relay.is_over and self._attempts.is_last
        return chunks


Relayed: TypeAlias = Relay | Series | WholeRelay
