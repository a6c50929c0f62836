"""One exchange with an upstream, non-blocking from the opening of its connection to its end.

Every wait sees data, silence and a caller who left (`watch`), and can be resumed after a pause.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from .. import errors
from ..wire.http.answer import AnswerReader
from ..wire.http.content_coding import Inflater, inflater
from . import shortage
from .opening import Channel, Opening
from .received import received
from .watch import CallerConnection

if TYPE_CHECKING:
    from .transport import Transport

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


class SocketReply:
    """One exchange on a connection: its opening, the request's way out, the answer's way in.

    A connection that has served before, and ends before any byte of the answer, is replaced once.
    """

    status = 0

    def __init__(
        self, transport: Transport, parts: list[bytes], *, caller: CallerConnection, deadline: float
    ) -> None:
        self.headers: dict[str, str] = {}
        self._transport = transport
        self._parts = parts
        self._caller = caller
        self._deadline = deadline
        self._reader = AnswerReader()
        self._inflater: Inflater | None = None
        self._behind_head = b""  # content that came with it
        self._opening: Opening | None = None
        self._is_held = False  # whether there is a connection, and it is ours
        self._unsent: list[memoryview] = []
        self._take(fresh=False)

    def _take(self, *, fresh: bool) -> None:
        taken = self._transport.take(caller=self._caller, deadline=self._deadline, fresh=fresh)
        if isinstance(taken, Opening):
            self._opening = taken
        else:
            self._begin(taken, is_reused=True)

    def open(self, until: float) -> bool:
        if self._opening is not None:
            if not self._opening.advance(until):
                return False
            opening, self._opening = self._opening, None
            self._begin(opening.take(), is_reused=False)
        return True

    def _begin(self, channel: Channel, *, is_reused: bool) -> None:
        self._is_reused = is_reused
        self._is_held = True
        self._sock = cast("socket.socket", channel)  # or what has its methods
        # Of TLS: how much it holds that a poll of the descriptor does not see.
        self._pending: Callable[[], int] | None = getattr(self._sock, "pending", None)
        self._poll = self._caller.poller(self._sock.fileno())
        self._polls_for_room = False
        self._unsent = [memoryview(part) for part in self._parts]
        self._is_cut = False  # the upstream took only a part of the request

    def head(self, until: float) -> bool:
        while not self.status:
            if not self.open(until):
                return False
            try:
                data = self._converse(until)
            except OSError as error:
                self._renew(error)
                continue
            if data is None:
                return False
            if not data:
                self._renew(None)
                continue
            self._behind_head = self._reader.feed(data)
            if self._reader.status:
                self._begin_body()
        return True

    def _begin_body(self) -> None:
        self.status = self._reader.status
        self.headers = self._reader.headers
        if (coding := self.headers.get("content-encoding")) is None:
            return
        try:
            self._inflater = inflater(coding)
        except errors.UpstreamInvalid:
            if self.status < 300:
                raise
            # An error's status counts, even if its body cannot be read.

    def _renew(self, error: OSError | None) -> None:
        """Take a fresh connection if the old one had merely gone stale."""
        broken = self._broken("closed the connection without a whole answer", error)
        is_ours = isinstance(broken, errors.OutOfResources)
        if is_ours or not self._is_reused or self._reader.started:
            raise broken from error
        self.close()
        self._take(fresh=True)

    def _broken(self, what: str, error: OSError | None) -> errors.ProxyError:
        """The caller's error for a connection that ended: the upstream's fault, or our own want."""
        want = None if error is None else shortage.recognised(error)
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
        told = f" ({reason})" if reason else ""
        return want or errors.UpstreamReset(f"{self._transport.host} {what}{told}")

    def _converse(self, until: float) -> bytes | None:
        """As `_receive`, while the rest of the request goes out."""
        look_until = None  # at the clock, before the next write
        while self._unsent:
            if look_until is not None:
                event = self._wait(look_until, for_room=True)
                if not event and look_until == until:
                    return None
                # An early answer is taken before the rest of the request is out. But the rest does
                # not wait for an answer: what was readable may have been a TLS session ticket.
                if event & ~select.POLLOUT and (data := self._receive(0.0)) is not None:
                    return data
            try:
                sent = self._sock.send(self._unsent[0])
            except _WOULD_BLOCK:
                look_until = until
                continue
            except OSError as error:
                if self._is_reused and not self._reader.started:
                    raise
                if want := shortage.recognised(error):
                    raise want from error
                # The upstream refuses the rest; an answer that says why may still come.
                self._unsent.clear()
                self._is_cut = True
                break
            self._unsent[0] = self._unsent[0][sent:]
            if not self._unsent[0]:
                del self._unsent[0]
            # OpenSSL 4 reads nothing more once a write has failed, so look first what came.
            look_until = None if type(self._sock) is socket.socket else 0.0
        return self._receive(until)

    def _receive(self, until: float) -> bytes | None:
        """What came, b"" at the end of the connection, or None if nothing came until then.

        Polls first, because a `recv` that finds nothing would cost a switch of threads.
        """
        may_be_buffered = self._pending is not None and self._pending() > 0
        if may_be_buffered:
            self._caller.raise_if_gone()
        for_room = False
        while may_be_buffered or self._wait(until, for_room=for_room):
            may_be_buffered = False
            try:
                return received(self._sock.recv_into)
            except ssl.SSLWantWriteError:
                for_room = True
            except _WOULD_BLOCK:  # a TLS record that is not whole yet, or no data at all
                for_room = False
        return None

    def _wait(self, until: float, *, for_room: bool) -> int:
        """What a poll says of the connection, 0 if nothing by then; raises CallerGone.

        `for_room`: to write, besides bytes to read.
        """
        if for_room != self._polls_for_room:
            self._poll.modify(self._sock, select.POLLIN | (select.POLLOUT if for_room else 0))
            self._polls_for_room = for_room
        events = self._caller.wait(self._poll, until, self._transport.clock)
        return events[0][1] if events else 0

    def read(self, until: float) -> bytes | None:
        assert self.status, "read() comes after head()"
        reader = self._reader
        content, self._behind_head = self._behind_head, b""
        data: bytes | None = b""
        while True:
            if self._inflater is not None and (content or self._inflater.has_more):
                content = self._inflate(content)
            if content:
                return content
            if reader.fault is not None:
                raise reader.fault
            if reader.is_whole:
                if self._inflater is not None:
                    self._inflater.end()
                return b""
            if data and self._transport.clock.monotonic() >= until:
                return None
            try:
                if self._unsent and self.status < 300:
                    data = self._converse(until)
                else:  # the rest of a refused request need not be sent (RFC 9112 section 9.3)
                    data = self._receive(until)
            except OSError as error:
                raise self._broken("broke the connection in mid-answer", error) from error
            if data is None:
                return None
            if data:
                content = reader.feed(data)
            else:
                reader.end()

    def _inflate(self, data: bytes) -> bytes:
        undo = self._inflater
        assert undo is not None
        try:
            return undo.feed(data)
        except errors.UpstreamError:
            if self.status < 300:
                raise
            self._inflater = None  # the rest of an error's body is taken as it is
            return undo.rest

    @property
    def is_whole(self) -> bool:
        return self._reader.is_whole and not self._behind_head

    def close(self, *, linger_s: float = 0.0) -> None:
        if self._opening is not None:
            self._opening.close()
            self._opening = None
        if not self._is_held:
            return
        if linger_s and self.status and not self.is_whole:
            self._linger(linger_s)
        self._is_held = False
        if self._is_reusable():
            self._transport.give_back(self._sock)
            return
        if self._unsent or not self.is_whole:
            # A RST ends the upstream's work at once. A FIN would wait behind what the upstream has
            # not read yet, and many servers take it for half a close only.
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._sock.close()

    def _is_reusable(self) -> bool:
        reader = self._reader
        if not self.is_whole or not reader.keep_alive or self._unsent or self._is_cut:
            return False
        if self._inflater is not None and (self._inflater.has_more or self._inflater.excess):
            return False
        # The collector may have closed it, with all that it was lost with.
        return not reader.excess and self._sock.fileno() >= 0

    def _linger(self, linger_s: float) -> None:
        self._caller = CallerConnection(None)
        self._poll = self._caller.poller(self._sock.fileno())
        self._polls_for_room = False
        now = self._transport.clock.monotonic
        until = now() + linger_s
        # After an error the connection is closed; all that counts of the answer came before.
        with contextlib.suppress(errors.UpstreamError, errors.ShuttingDown):
            while now() < until and self.read(until):
                pass
