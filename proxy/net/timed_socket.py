"""A caller's socket whose time-outs cost nothing until a read has to wait.

Servers set a time-out before and after each read. On an ordinary socket this is a system call, at
which the interpreter's lock changes hands. Here the time-out is only noted, and `recv` heeds it.
"""

from __future__ import annotations

import math
import select
import socket
import struct
import time
from ssl import SSLSocket
from typing import Any

from .lost import LOST
from .received import RECV_BYTES, received

# A body's first piece up to this size goes out with its head: copying costs less than a write.
MAX_JOINED_BYTES = 64 * 1024

# Bytes that may wait in the kernel for a peer's window (tcp(7), TCP_NOTSENT_LOWAT). Linux by itself
# lets megabytes wait and has room again when a third is taken, so that a slow caller seems to take
# nothing for minutes. Most answers are smaller, so that no thread waits for their readers.
MAX_UNSENT_BYTES = 64 * 1024

# A caller's kernel acknowledges reads in steps of a good part of its buffer: one that reads 40 KB
# a second shows progress every 2.4 to 3.2 s (Linux 6.18). A smaller limit would cut it off.
MIN_WRITE_TIMEOUT_S = 6.0

# The kernel reports room late: for a Unix socket once three quarters of its buffer are free.
_ROOM_LOOK_S = 1.0

_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_DONTWAIT = int(socket.MSG_DONTWAIT)  # to join enumerations takes longer than a small write
_MAX_RECORD_BYTES = 16 * 1024  # RFC 8446 section 5.1
_TIMEVAL = struct.Struct("ll")  # C's struct timeval


def limit_io(sock: socket.socket, timeout_s: float, *, receive_until: float = math.inf) -> None:
    """Limit reads and writes to `timeout_s` without progress, a `TimedSocket`'s to a moment too.

    TCP_USER_TIMEOUT would count on while the next segment does not fit into the peer's window. A
    time-out of Python's holds for a whole write, and each would poll first; TLS has nothing else:
    one for each record, and for reads.
    """
    if is_timed := isinstance(sock, TimedSocket):
        sock.receive_until, sock.receive_timeout_s = receive_until, timeout_s
        if sock.write_timeout_s == timeout_s:
            return
        sock.write_timeout_s = timeout_s
    write_s = max(timeout_s, MIN_WRITE_TIMEOUT_S)
    if _LOWAT is not None and sock.family in _TCP_FAMILIES:
        sock.setsockopt(socket.IPPROTO_TCP, _LOWAT, MAX_UNSENT_BYTES)
    if isinstance(sock, SSLSocket):
        sock.settimeout(write_s)
        if type(sock) is SSLSocket:
            sock.__class__ = LimitedTLSSocket
        return
    set_timeout(sock, socket.SO_SNDTIMEO, write_s)
    if not is_timed:
        set_timeout(sock, socket.SO_RCVTIMEO, timeout_s)
    if type(sock) is socket.socket:
        sock.__class__ = LimitedSocket


def set_timeout(sock: socket.socket, option: int, timeout_s: float) -> None:
    """Set SO_RCVTIMEO or SO_SNDTIMEO (socket(7))."""
    left_ms = max(1, math.ceil(timeout_s * 1000))  # 0 would be none
    value = _TIMEVAL.pack(left_ms // 1000, left_ms % 1000 * 1000)
    sock.setsockopt(socket.SOL_SOCKET, option, value)


class LimitedSocket(socket.socket):
    """Another server's socket with a limit on writes: its time begins anew with all that is taken.

    The limit is SO_SNDTIMEO, which the kernel by itself heeds once for each part of a write.
    """

    __slots__ = ()

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """As a socket's; raises TimeoutError when nothing was taken for so long."""
        try:  # as a rule there is room
            sent = self.send(data, flags | _DONTWAIT)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:], flags | _DONTWAIT)

    def _send_rest(self, left: memoryview, flags: int) -> None:
        value = self.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.size)
        seconds, micros = _TIMEVAL.unpack(value)
        timeout_s = seconds + micros / 1e6 or math.inf
        poller = select.poll()
        poller.register(self, select.POLLOUT)
        until = time.monotonic() + timeout_s
        while left:
            poller.poll(max(0, min(until - time.monotonic(), _ROOM_LOOK_S)) * 1000)
            try:
                left = left[self.send(left, flags) :]
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise TimeoutError("timed out") from None
            else:
                until = time.monotonic() + timeout_s


class LimitedTLSSocket(SSLSocket):
    """The same over TLS, where a time-out of Python's is for all that is given to a write."""

    def sendall(self, data: Any, flags: int = 0) -> None:
        left = memoryview(data)
        while left:
            super().sendall(left[:_MAX_RECORD_BYTES], flags)
            left = left[_MAX_RECORD_BYTES:]


class TimedSocket(LimitedSocket):
    """What is received on it has to come within its time-out, if it has one, and two more limits.

    By the moment `receive_until`, and within `receive_timeout_s`, which begins anew with each byte:
    alone it would let a trickle go on for ever.
    """

    receive_until = math.inf
    receive_timeout_s = math.inf
    write_timeout_s: float | None = None
    head_until: float | None = None  # the next request's, of which something may be here
    answered_at = -math.inf  # the last request on it
    is_brisk = False  # whether the present request followed at once
    _timeout_s: float | None = None
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

    def hold_head(self) -> None:
        """Keep the next write, a response's head, to go out with the next one, or at `flush`."""
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
            return self._receive(bufsize, flags)
        left_s = min(self.receive_timeout_s, self.receive_until - time.monotonic())
        if left_s <= 0:
            raise TimeoutError("timed out")
        try:  # as a rule something is there, or nothing would be asked for
            return self._receive(bufsize, _DONTWAIT)
        except BlockingIOError:
            if self._timeout_s == 0:
                raise
        self._wait(left_s if self._timeout_s is None else min(left_s, self._timeout_s))
        return self._receive(bufsize)

    def _receive(self, size: int, flags: int = 0) -> bytes:
        if 0 < size <= RECV_BYTES:
            return received(self.recv_into, size, flags)
        return super().recv(size, flags)

    def _wait(self, left_s: float) -> None:
        """Wait for bytes; raises TimeoutError, and ShuttingDown where they are a request's."""
        until = time.monotonic() + left_s
        poller = select.poll()
        poller.register(self, select.POLLIN)
        if self.receive_until < math.inf and (LOST.fd >= 0 or LOST.open()):
            poller.register(LOST.fd, select.POLLIN)
        while left_s > 0:
            fds = {fd for fd, _ in poller.poll(None if left_s == math.inf else left_s * 1000)}
            if self.fileno() in fds:
                return
            if fds:
                LOST.answer()
            left_s = until - time.monotonic()
        raise TimeoutError("timed out")
