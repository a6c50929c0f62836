"""A server that is slow to say anything: a byte at a time, and then nothing."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from types import TracebackType

# In tests that wait for a connection's begin or end.
PATIENCE_S = 10.0


class Dribble:
    """Says `words` on each connection, a byte each `gap_s`, whatever it hears; then nothing.

    With `tls` all that is inside TLS. Stays until its peer leaves, or the end of the test.
    """

    def __init__(
        self, words: bytes = b"", *, gap_s: float = 0.1, tls: ssl.SSLContext | None = None
    ) -> None:
        self._words = words
        self._gap_ms = gap_s * 1000
        self._tls = tls
        self._changed = threading.Condition()  # guards the next two; notified of every change
        self.connections = 0
        self._open = 0
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._stopped, self._stop = socket.socketpair()
        self._start(self._accept)

    def __enter__(self) -> Dribble:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        self._stopped.close()
        self._listener.close()

    def wait_reached(self) -> None:
        """Block until somebody has connected."""
        self._wait(lambda: self.connections > 0)

    def wait_left(self) -> None:
        """Block until whoever connected has left."""
        self._wait(lambda: self._open == 0)

    def _wait(self, is_so: object) -> None:
        with self._changed:
            assert self._changed.wait_for(is_so, PATIENCE_S)  # type: ignore[arg-type]

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="dribble")  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while self._comes(self._listener):
            sock, _ = self._listener.accept()
            with self._changed:
                self.connections += 1
                self._open += 1
                self._changed.notify_all()
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            held.enter_context(sock)
            if self._tls:
                sock.settimeout(PATIENCE_S)
                sock = held.enter_context(self._tls.wrap_socket(sock, server_side=True))
            self._dribble(sock)
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def _dribble(self, sock: socket.socket) -> None:
        left = self._words
        while True:
            came = self._comes(sock, self._gap_ms if left else None)
            if came is False or (came and not sock.recv(4096)):
                return
            sock.sendall(left[:1])
            left = left[1:]

    def _comes(self, sock: socket.socket, timeout_ms: float | None = None) -> bool | None:
        """Whether something came; False: the end of the test did; None: nothing within the time."""
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        poller.register(self._stopped, select.POLLIN)
        events = dict(poller.poll(timeout_ms))
        if self._stopped.fileno() in events:
            return False
        return True if events else None


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for sock in self._socks:
            sock.close()
