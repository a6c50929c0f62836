"""Servers without manners: they answer too early, or too slowly, or not at all."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time

from tests.support.server import Connection, FakeServer, PeerLeft


class RudeUpstream(FakeServer):
    """`answer` goes out behind the request's head; with `stays` the connection remains, unread.

    With `rest` the request is read whole, and `rest` goes out behind it; then the next request's
    turn comes. `left_at`: when a peer was seen to leave such a connection.
    """

    path = "/v1"

    def __init__(
        self,
        answer: bytes,
        *,
        stays: bool = False,
        rest: bytes = b"",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.busy = threading.Event()  # a request's head was read
        self.left = threading.Event()
        self.left_at = 0.0
        self._answer = answer
        self._stays = stays
        self._rest = rest
        super().__init__(tls=tls)

    def serve(self, connection: Connection) -> None:
        self._begin(connection)
        while self._rest:
            self._begin(connection)
        if self._stays:
            try:
                connection.wait()
            except PeerLeft:
                self.left_at = time.monotonic()
                self.left.set()
                raise
        connection.drop()

    def _begin(self, connection: Connection) -> None:
        """Answer to a request's head, and to the whole request if there is a rest to be sent."""
        head = connection.read_until(b"\r\n\r\n")
        self.busy.set()
        if self._answer:  # to send nothing fails too, if the peer has left by now
            connection.send(self._answer)
        if self._rest:
            length = re.search(rb"(?i)content-length: (\d+)", head)
            assert length
            connection.read_exactly(int(length[1]))
            connection.send(self._rest)


class Dribble(FakeServer):
    """Says `words` on each connection, a byte each `gap_s`, whatever it hears; then nothing."""

    def __init__(
        self, words: bytes = b"", *, gap_s: float = 0.1, tls: ssl.SSLContext | None = None
    ) -> None:
        self._words = words
        self._gap_s = gap_s
        super().__init__(tls=tls)

    def serve(self, connection: Connection) -> None:
        for at in range(len(self._words)):
            connection.wait(self._gap_s)
            connection.send(self._words[at : at + 1])
        connection.wait()


class FullBacklog:
    """A port where nobody answers: the kernel drops what knocks. Of all addresses, or of one."""

    def __init__(self, host: str = "", port: int = 0) -> None:
        self._socks = [socket.create_server((host, port), backlog=0)]
        self.port: int = self._socks[0].getsockname()[1]
        for _ in range(4):
            knocking = socket.socket()
            self._socks.append(knocking)
            knocking.setblocking(False)
            knocking.connect_ex((host or "127.0.0.1", self.port))

    def __enter__(self) -> FullBacklog:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._socks:
            sock.close()
