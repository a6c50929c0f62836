"""Streams on their way to the caller: the WSGI body that owns lease and reply until `close()`.

Two phases. Before the first chunk only comments were written, if anything, and attempts go on;
after it nothing is retried. A failure then becomes the dialect's error event in place of its end,
so that no half answer looks whole.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from ..errors import CallerGone, ProxyError, ShuttingDown
from ..net import shortage
from ..net.lost import LOST
from .attempts import Attempts
from .relay import Relayed


class StreamBody:
    """A WSGI body. Iterated and closed once, by the server; `close()` frees all that it holds."""

    def __init__(
        self, attempts: Attempts, relay: Relayed | None, first: bytes, held: ExitStack
    ) -> None:
        """Of a stream that is opened already, `relay`, and `first` for the caller."""
        writer, config = attempts.call.writer, attempts.config
        assert writer is not None
        self.tap: Callable[[bytes], None] | None = None  # is told each write
        self._attempts = attempts
        self._relay = relay  # once it is opened
        self._writer = writer
        self._first = first  # not written yet
        self._record = attempts.call.record
        self._held = held
        # Without a keep-alive nobody waits for one.
        keepalive_s = config.streaming.keepalive_seconds if writer.keep_alive else 0
        self._keepalive_s = keepalive_s or math.inf
        self._now = attempts.clock.monotonic
        self._end = "caller_gone"
        self._is_committed = relay is not None
        self._is_over = self._is_closed = False

    @property
    def is_opened(self) -> bool:
        """Whether an upstream's first chunks are in hand; else a comment commits the answer."""
        return self._relay is not None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._is_over:
            raise StopIteration
        try:
            data = self._next_write()
        except CallerGone as error:
            self.close()
            if error.server_knows:
                return self._writer.keep_alive  # what we raise would be a fault to its log
            # By its number servers know that it is no fault.
            raise ConnectionResetError(errno.ECONNRESET, "the caller hung up") from error
        except (ProxyError, *shortage.SIGNS) as fault:
            known = fault if isinstance(fault, ProxyError) else shortage.recognised(fault)
            if known is None:
                raise
            known.__traceback__ = known.__cause__ = known.__context__ = None  # or frames keep it
            self._is_over = True
            data = self._failed(known)
        self._record.bytes_out += len(data)
        if self.tap is not None:
            self.tap(data)
        if self._is_over:
            self._record.leave()  # who has the end may ask again at once
            relay = self._relay
            # The end of the upstream's answer may come behind its stream: it is worth a wait then.
            if relay is None or relay.is_whole or not relay.is_over:
                self.close()  # the client is free again, however slowly the caller takes the end
        return data

    def close(self) -> None:
        """Close the reply, release the lease, log the request. Idempotent."""
        self._is_closed = self._is_over = True
        self._record.end = self._record.end or self._end
        self._held.close()

    def __del__(self) -> None:
        # werkzeug's server forgets close() when a caller resets its connection (serving.py,
        # `execute`: reading what is left of the request comes first, and raises). A hook of the
        # embedding application may have put this body into a cycle: then the collector finds it.
        if not self._is_closed:
            LOST.note(self._close_lost)

    def _close_lost(self) -> None:
        self._record.is_lost = True
        self._record.end = self._record.end or self._end
        try:
            self._attempts.close(linger_s=0.0)  # who does this for another has no time for it
        finally:
            self.close()

    def _failed(self, error: ProxyError) -> bytes:
        if self._relay is not None:
            self._attempts.interrupted(error)
        self._end = error.code or str(error.status)  # as the caller was told 200
        return self._writer.fail(error)

    def _next_write(self) -> bytes:
        """The next data, a keep-alive when it is due, or the end; the caller has all before it."""
        if LOST.is_stopping:  # it may have been too busy to wait, and to learn of it
            raise ShuttingDown
        now, relay = self._now(), self._relay
        if relay is None:
            if self._is_committed:
                self._relay = relay = self._attempts.advance(now + self._keepalive_s)
            if relay is None:
                self._is_committed = True
                return self._writer.keep_alive
            now = self._now()
            self._first = self._writer.feed(relay.first)
        if self._record.first_event is None:
            self._record.first_event = now
        data, self._first = self._first, b""
        keepalive_at = now + self._keepalive_s
        while not data and not relay.is_over and now < keepalive_at:
            if chunks := relay.read(keepalive_at):
                data = self._writer.feed(chunks)
            if not data:
                now = self._now()
        if relay.is_over:
            self._is_over = True
            data += self._writer.end()
            self._end = "ok"
            return data
        return data or self._writer.keep_alive
