"""A caller's connection whose time-outs cost nothing until something is waited for.

Servers set a time-out before and after whatever they read: with a socket's own each is a system
call, at which the interpreter's lock changes hands. Here it is noted, and heeded by `recv`.
"""

from __future__ import annotations

import math
import select
import socket
import time
from ssl import SSLSocket
from typing import Any

# A body's first piece up to this size goes out with its head: to copy it is cheaper than a write.
MAX_JOINED_BYTES = 64 * 1024

_HAS_USER_TIMEOUT = hasattr(socket, "TCP_USER_TIMEOUT")
_sendall = socket.socket.sendall
_TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def timeout_ms(timeout_s: float) -> int:
    """As options of sockets take it, of which 0 means none."""
    return max(1, math.ceil(timeout_s * 1000))


def limit_writes(sock: socket.socket, timeout_s: float) -> bool:
    """Whether this is an option of the socket now; else it is Python's time-out, for reads too.

    RFC 5482; tcp(7): TCP_USER_TIMEOUT counts from when data could not be sent, a closed window
    included. The socket stays blocking: with a time-out of Python's each write would poll first.
    """
    if not _HAS_USER_TIMEOUT or sock.family not in _TCP_FAMILIES or isinstance(sock, SSLSocket):
        socket.socket.settimeout(sock, timeout_s)
        return False
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms(timeout_s))
    return True


class TimedSocket(socket.socket):
    """What is received on it has to come within its time-out, if it has one, and two more limits.

    By the moment `receive_until`, and within `receive_timeout_s`, which begins anew with each byte:
    alone it would let a trickle go on for ever.
    """

    receive_until = math.inf
    receive_timeout_s = math.inf
    write_timeout_s: float | None = None
    answered_at = -math.inf  # the last request on it
    is_brisk = False  # whether the present request followed at once
    _timeout_s: float | None = None
    _blocks = True  # else writes have a time-out of Python's, which any read would wait out
    _head = b""

    @classmethod
    def from_socket(cls, sock: socket.socket) -> TimedSocket:
        """The same connection; `sock` has it no more."""
        sock.setblocking(True)
        return cls(sock.family, sock.type, sock.proto, fileno=sock.detach())

    def gettimeout(self) -> float | None:
        return self._timeout_s

    def settimeout(self, value: float | None, /) -> None:
        self._timeout_s = value

    def setblocking(self, flag: bool, /) -> None:
        self._timeout_s = None if flag else 0.0

    def limit(self, timeout_s: float, *, receive_until: float = math.inf) -> None:
        """Limit what is received as said above, and each write to `timeout_s`."""
        self.receive_until = receive_until
        self.receive_timeout_s = timeout_s
        if self.write_timeout_s != timeout_s:
            self.write_timeout_s = timeout_s
            self._blocks = limit_writes(self, timeout_s)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """As a socket's, but that its time-out begins anew whenever something was taken."""
        if self._blocks:
            _sendall(self, data, flags)
            return
        left = memoryview(data)
        while left:
            left = left[self.send(left, flags) :]

    def hold_head(self) -> None:
        """Keep the next write, a response's head, until the one behind it or `flush`.

        Both go out as one: servers write them apart, and the caller would wake up twice.
        """
        self.sendall = self._keep_head  # type: ignore[method-assign]

    def flush(self) -> None:
        """Nothing is kept any more."""
        self.__dict__.pop("sendall", None)
        head, self._head = self._head, b""
        if head:
            self.sendall(head)

    def _keep_head(self, data: Any, flags: int = 0, /) -> None:
        if data.startswith(b"HTTP/1.1 101"):  # what follows is another protocol's
            self.flush()
            self.sendall(data, flags)
        elif data.startswith(b"HTTP/1.1 1"):  # an interim one, such as 103
            super().sendall(data, flags)
        else:
            self._head = data
            self.sendall = self._send_with_head  # type: ignore[method-assign]

    def _send_with_head(self, data: Any, flags: int = 0, /) -> None:
        if len(data) <= MAX_JOINED_BYTES:
            data = self._head + data
            self._head = b""
        self.flush()
        self.sendall(data, flags)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        self.flush()
        return super().sendfile(file, offset, count)

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """As a socket's; raises TimeoutError when the first of these times is up."""
        if flags:
            return super().recv(bufsize, flags)
        left_s = min(self.receive_timeout_s, self.receive_until - time.monotonic())
        if left_s <= 0:
            raise TimeoutError("timed out")
        if self._blocks:  # as a rule something is there, or nothing would be asked for
            try:
                return super().recv(bufsize, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if self._timeout_s == 0:
                    raise
        self._wait(left_s if self._timeout_s is None else min(left_s, self._timeout_s))
        return super().recv(bufsize)

    def _wait(self, left_s: float) -> None:
        poller = select.poll()
        poller.register(self, select.POLLIN)
        if not poller.poll(None if left_s == math.inf else left_s * 1000):
            raise TimeoutError("timed out")
