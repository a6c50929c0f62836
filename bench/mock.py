"""The mock upstream: one process, one thread, raw sockets on epoll, answers made beforehand.

It must cost much less than what is measured, or it would set the pace. Therefore no HTTP library:
it knows the framing of requests (Content-Length and chunked) and nothing else of HTTP.

A burst is sent one chunk per `send`, going round all streams, never waiting: what arrives together
is up to the kernel and the reader, as with a real upstream. `python -m bench.mock` prints its port
and ends when its standard input does, so it never outlives the benchmark. With a PEM file of a
certificate and its key as argument it speaks TLS.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import re
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable

from bench import messages
from bench.limits import raise_open_files

_BACKLOG = 4096
# Buffers are kept and read into: a `recv` of this size would map and unmap memory every time.
_READ_BYTES = 1 << 18
_BUFFER = bytearray(_READ_BYTES)
# Gemini has the model in the path.
_PLAN = re.compile(rb'["/]bench-(unary|burst|claude|gemini|paced|mutex)(?:-(\d+))?[":]')
_CHUNKS = re.compile(rb'"max(?:_t|OutputT)okens":\s*(\d+)')
_KEY = re.compile(rb"\r\nauthorization:\s*([^\r]+)", re.IGNORECASE)
# How an upstream's answer begins and ends, and what its requests' first line has.
_SPEECH = {
    b"claude": (messages.claude_event, messages.claude_last_events, b"/v1/messages"),
    b"gemini": (messages.gemini_event, messages.gemini_last_events, b":streamGenerateContent"),
}
_CHAT_SPEECH = (messages.event, messages.last_events, b"/v1/chat/completions")
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
_END_OF_PROMPT = messages.END_OF_PROMPT.encode()

_BODY = messages.unary_answer()
_UNARY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_BODY)
) + _BODY
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
_TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
# Of a socket that is not ready, with TLS too.
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Speech:
    """Every chunk of an upstream's streams as it goes over the wire, made when first asked for."""

    def __init__(
        self, event: Callable[[int], bytes], last_events: Callable[[], bytes], path: bytes
    ) -> None:
        self.chunks: list[bytes] = []
        self.end = _http_chunk(last_events()) + b"0\r\n\r\n"
        self.path = path
        self._event = event

    def upto(self, count: int) -> _Speech:
        more = range(len(self.chunks), count)
        self.chunks.extend(_http_chunk(self._event(index)) for index in more)
        return self


class Connection:
    """One connection of a gateway: reads whole requests, writes answers and streams."""

    def __init__(self, sock: socket.socket, mock: Mock) -> None:
        self._sock = sock
        self._mock = mock
        self._store = bytearray()  # a request that came in pieces; kept for the next such one
        self._filled = 0
        self._missing = 0  # bytes of the request that are surely still to come
        self._unsent = b""
        self._speech = mock.chat
        self._key = b""  # of a stream that must be its only one
        self._sent_chunks = 0
        self._count = 0
        self._pace_s = 0.0

    def ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read()

    def tick(self, now: float) -> None:
        """Send the stream's next chunk, and say when the one after it is due."""
        if self._sock.fileno() < 0:
            return
        chunk = self._speech.chunks[self._sent_chunks]
        self._sent_chunks += 1
        if self._sent_chunks == self._count:
            self._let_key_go()
            self._send(chunk + self._speech.end)
        elif self._send(chunk):
            self._schedule(now)

    def _schedule(self, now: float) -> None:
        if self._pace_s:
            self._mock.at(now + self._pace_s, self)
        else:
            self._mock.soon(self)

    def _read(self) -> None:
        if self._filled:
            self._make_room()
            target = memoryview(self._store)[self._filled :]
        else:
            target = memoryview(_BUFFER)
        try:
            count = self._sock.recv_into(target)
        except _NOT_YET:
            return
        except OSError:
            count = 0
        if not count:
            self.close()
        elif not self._filled:
            data = bytes(target[:count])
            if not self._answer_whole(data, count):
                self._store[:count] = data
                self._filled = count
        else:
            self._filled += count
            self._missing -= count
            if self._missing <= 0 and self._answer_whole(self._store, self._filled):
                self._filled = 0

    def _make_room(self) -> None:
        wanted = self._filled + max(self._missing, _READ_BYTES)
        if len(self._store) < wanted:
            self._store.extend(bytes(wanted - len(self._store)))

    def _answer_whole(self, data: bytes | bytearray, end: int) -> bool:
        """Answer if `data[:end]` is a whole request; gateways don't pipeline: it is one at most."""
        head_end = data.find(b"\r\n\r\n", 0, end)
        if head_end < 0:
            return False
        if length := _LENGTH.search(data, 0, head_end):
            self._missing = head_end + 4 + int(length[1]) - end
            whole = self._missing <= 0
        else:
            chunked = _CHUNKED.search(data, 0, head_end)
            whole = not chunked or data.endswith(b"\r\n0\r\n\r\n", 0, end)
        if whole:
            self._answer(data, end)
        return whole

    def _answer(self, request: bytes | bytearray, end: int) -> None:
        plan = _PLAN.search(request, 0, end)
        speech = self._mock.speech.get(plan[1], self._mock.chat) if plan else self._mock.chat
        if request.startswith(b"GET /health "):  # of a router that looks whether it lives
            self._send(_UNARY)
        elif (
            plan is None
            or request.rfind(_END_OF_PROMPT, 0, end) < 0
            or request.find(speech.path, 0, request.find(b"\r\n")) < 0
        ):
            self._send(_BAD_REQUEST)
        elif plan[1] == b"unary":
            self._send(_UNARY)
        elif plan[1] == b"mutex" and not self._take_key(request):
            self._send(_TOO_MANY)
        else:
            count = _CHUNKS.search(request, 0, end)
            self._count = int(count[1]) if count else 1
            self._pace_s = int(plan[2] or 0) / 1000
            self._speech = speech.upto(self._count)
            self._sent_chunks = 0
            if self._send(_STREAM_HEAD):
                self.tick(time.monotonic())

    def _take_key(self, request: bytes | bytearray) -> bool:
        """Whether this is the only stream of its key; it is until its last chunk is sent."""
        key = _KEY.search(request)
        if key is None or key[1] in self._mock.busy_keys:
            return False
        self._key = bytes(key[1])
        self._mock.busy_keys.add(self._key)
        return True

    def _let_key_go(self) -> None:
        self._mock.busy_keys.discard(self._key)
        self._key = b""

    def _send(self, data: bytes) -> bool:
        """Send; False: the reader is slow, `_flush` goes on when it has caught up."""
        try:
            sent = self._sock.send(data)
        except _NOT_YET:
            sent = 0
        except OSError:
            self.close()
            return False
        if sent == len(data):
            return True
        self._unsent = data[sent:]
        self._mock.watch(self._sock, select.EPOLLIN | select.EPOLLOUT)
        return False

    def _flush(self) -> None:
        data, self._unsent = self._unsent, b""
        if self._send(data):
            self._mock.watch(self._sock, select.EPOLLIN)
            if self._sent_chunks < self._count:
                self._schedule(time.monotonic())

    def close(self) -> None:
        self._let_key_go()
        self._mock.forget(self._sock)
        self._sock.close()


class Mock:
    """The event loop: readiness, due chunks of paced streams, and bursts in turn."""

    def __init__(self, certificate: str | None) -> None:
        self.chat = _Speech(*_CHAT_SPEECH)
        self.speech = {name: _Speech(*parts) for name, parts in _SPEECH.items()}
        self.busy_keys: set[bytes] = set()
        self._tls: ssl.SSLContext | None = None
        if certificate:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._due: list[tuple[float, int, Connection]] = []
        self._burst: list[Connection] = []
        self._order = itertools.count()  # settles ties in the heap
        self._handlers[self._listener.fileno()] = self._accept
        self._epoll.register(self._listener, select.EPOLLIN)

    def run(self, until_closed: int) -> None:
        """Serve until the file descriptor `until_closed` can be read, as it can at its end."""
        self._epoll.register(until_closed, select.EPOLLIN)
        while True:
            for fd, events in self._epoll.poll(self._timeout()):
                if fd == until_closed:
                    return
                # A connection closed earlier in this turn has no handler any more.
                if handler := self._handlers.get(fd):
                    handler(events)
            burst, self._burst = self._burst, []
            now = time.monotonic()
            for connection in burst:
                connection.tick(now)
            while self._due and self._due[0][0] <= now:
                due, _, connection = heapq.heappop(self._due)
                connection.tick(due)

    def _timeout(self) -> float:
        if self._burst:
            return 0.0
        # A hundredth of a second is the shortest pace: half a millisecond late is close enough.
        return max(self._due[0][0] - time.monotonic(), 0.0005) if self._due else -1.0

    def at(self, due: float, connection: Connection) -> None:
        heapq.heappush(self._due, (due, next(self._order), connection))

    def soon(self, connection: Connection) -> None:
        self._burst.append(connection)

    def watch(self, sock: socket.socket, events: int) -> None:
        self._epoll.modify(sock, events)

    def forget(self, sock: socket.socket) -> None:
        if self._handlers.pop(sock.fileno(), None):
            self._epoll.unregister(sock)

    def _accept(self, _events: int) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:  # the first read shakes hands
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            self._handlers[sock.fileno()] = Connection(sock, self).ready
            self._epoll.register(sock, select.EPOLLIN)


def main() -> None:
    raise_open_files()
    gc.disable()  # no cycles are made here, and a collection would delay every stream at once
    mock = Mock(sys.argv[1] if len(sys.argv) > 1 else None)
    print(mock.port, flush=True)
    mock.run(until_closed=sys.stdin.fileno())


if __name__ == "__main__":
    main()
