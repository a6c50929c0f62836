"""An upstream that answers at once or never, at a request's head, and leaves, stays or reads on."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import threading
import time
from types import TracebackType

_LEFT = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class RudeUpstream:
    """`answer` goes out behind the request's head; with `stays` the connection remains, unread.

    With `rest` the request is read whole, and `rest` goes out behind it; then the next request's
    turn comes. `left_at`: when a peer was seen to leave such a connection.
    """

    def __init__(
        self,
        answer: bytes,
        *,
        stays: bool = False,
        rest: bytes = b"",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.connections = 0
        self.busy = threading.Event()  # a request's head was read
        self.left = threading.Event()
        self.left_at = 0.0
        self._answer = answer
        self._stays = stays
        self._rest = rest
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/v1"
        self._stopped, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="rude upstream")
        self._thread.start()

    def __enter__(self) -> RudeUpstream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.close()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._stopped.close()
        self._listener.close()

    def _accept(self) -> None:
        while self._wait(self._listener, select.POLLIN):
            sock, _ = self._listener.accept()
            self.connections += 1
            sock.settimeout(10)
            # A close with unread bytes discards what Nagle's algorithm still holds back.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError), contextlib.closing(sock):
                self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        if self._tls:
            sock = self._tls.wrap_socket(sock, server_side=True)
        with sock:
            self._begin(sock)
            while self._rest:
                sock.sendall(self._rest)
                if not self._wait(sock, select.POLLIN):
                    return
                self._begin(sock)
            if self._stays and self._wait(sock, _LEFT):
                self.left_at = time.monotonic()
                self.left.set()

    def _begin(self, sock: socket.socket) -> None:
        """Answer to a request's head, and read what is behind it if there is a rest to be sent."""
        came = b""
        while b"\r\n\r\n" not in came:
            data = sock.recv(1000)
            if not data:
                raise ConnectionResetError
            came += data
        self.busy.set()
        if self._answer:  # to send nothing fails too, if the peer has left by now
            sock.sendall(self._answer)
        if self._rest:
            head, _, body = came.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            assert length
            left = int(length[1]) - len(body)
            while left > 0 and (data := sock.recv(min(left, 1 << 16))):
                left -= len(data)

    def _wait(self, sock: socket.socket, events: int) -> bool:
        """Whether `events` came, and not the end of the test."""
        poller = select.poll()
        poller.register(sock, events)
        poller.register(self._stopped, select.POLLIN)
        return self._stopped.fileno() not in dict(poller.poll())
