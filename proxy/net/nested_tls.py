"""TLS within TLS: to an https upstream through an https proxy."""

from __future__ import annotations

import ssl
from typing import Any, cast

# RFC 8446 section 5.1: what one record holds.
RECORD_BYTES = 16 * 1024
# A record with what encryption adds to it (RFC 8446 section 5.2).
READ_BYTES = RECORD_BYTES + 256

_WOULD_BLOCK = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class NestedTls:
    """A TLS session inside a non-blocking TLS connection, with the methods of sockets.

    It raises SSLWantReadError and SSLWantWriteError as the outer connection does. What `send` took
    and the outer connection does not take yet is kept: `send` and `recv` pass it on first.
    """

    def __init__(self, outer: ssl.SSLSocket, context: ssl.SSLContext, host: str) -> None:
        self._outer = outer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._unsent = b""

    def do_handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._fetch()
            else:
                break
            finally:
                blocked = self._drain()
        if blocked:
            raise blocked

    def send(self, data: bytes | memoryview) -> int:
        """How much of it was taken: a record's worth at most."""
        if blocked := self._drain():
            raise blocked
        sent = self._tls.write(data[:RECORD_BYTES])
        self._drain()
        return sent

    def recv_into(self, buffer: memoryview, size: int) -> int:
        """How much came, 0 at the end of the connection."""
        while True:
            try:
                return cast("int", self._tls.read(size, buffer))  # as it is with a buffer
            except ssl.SSLWantReadError:
                self._fetch()
            except ssl.SSLEOFError:  # an end without close_notify, as SSLSocket has it
                return 0

    def pending(self) -> int:
        """What is held here, in either direction, that a poll of the descriptor does not see."""
        inside = self._tls.pending() + self._incoming.pending + self._outer.pending()
        return inside + self._outgoing.pending + len(self._unsent)

    def fileno(self) -> int:
        return self._outer.fileno()

    def setsockopt(self, *option: Any) -> None:
        self._outer.setsockopt(*option)

    def close(self) -> None:
        self._outer.close()

    def _fetch(self) -> None:
        """Take in what came; raises what blocks the outer connection, sending before reading."""
        blocked = self._drain()
        try:
            data = self._outer.recv(READ_BYTES)
        except _WOULD_BLOCK:
            if blocked:
                raise blocked from None
            raise
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _drain(self) -> Exception | None:
        """Send what is to go out; what kept it from going out whole."""
        self._unsent += self._outgoing.read()
        while self._unsent:
            try:
                sent = self._outer.send(self._unsent)
            except _WOULD_BLOCK as blocked:
                return blocked
            self._unsent = self._unsent[sent:]
        return None
