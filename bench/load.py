"""The load generator: callers on keep-alive connections, in one process on raw sockets and epoll.

Every caller sends its next request when the answer before is whole. Every answer is checked to its
last byte; one that is wrong, cut or missing is a loss, counted by its reason, and never counts as
work done. One that is not whole `give_up_s` after it was due is a loss, too, though it might have
come later. `python -m bench.load` reads a `Scenario` as JSON from standard input and writes an
`Outcome` as JSON to standard output.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import re
import select
import socket
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus

from bench import messages
from bench.limits import raise_open_files

# One buffer for all reads: a `recv` of this size would map and unmap memory every time.
_BUFFER = bytearray(1 << 18)
_VIEW = memoryview(_BUFFER)
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:\s*close", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Scenario:
    """What to send. `requests` and `seconds` both end the run, whichever comes first."""

    port: int
    model: str  # of several models the name before their numbers
    callers: int
    seconds: float = 0.0  # start no new request after this; 0 = no limit
    requests: int = 0  # at most so many; 0 = no limit
    due_s: float = 0.0  # what the upstream's pace makes all of it last
    give_up_s: float = 20.0  # an answer that isn't whole so long after it was due is a loss
    body_bytes: int = 1024
    stream: bool = False
    chunks: int = 1
    dialect: str = messages.CHAT  # others of streams only
    models: int = 0  # that callers ask for in turn; 0: the one
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def last_s(self) -> float:
        """How long the run takes at most."""
        return self.seconds + self.due_s + self.give_up_s


@dataclass(frozen=True)
class Outcome:
    """What came back."""

    whole: int
    losses: dict[str, int]
    elapsed_s: float
    median_ms: float  # of whole answers, request sent to last byte
    longest_ms: float  # the same
    p99_ms: float
    first_event_ms: float  # median from request sent to first event; streams only
    peak_streams: int  # most streams that were running at once
    cpu_s: float  # of this process meanwhile

    @property
    def lost(self) -> int:
        return sum(self.losses.values())

    @property
    def per_second(self) -> float:
        return self.whole / self.elapsed_s if self.elapsed_s else 0.0


class Run:
    """The event loop and the counters of one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.requests = [_request(scenario, model) for model in models_of(scenario)]
        self.losses: Counter[str] = Counter()
        self.took_s: list[float] = []
        self.first_s: list[float] = []
        self.open_streams = self.peak_streams = 0
        self.poll = select.epoll()
        self.callers: dict[int, Caller] = {}
        self._issued = 0
        self._no_more_at = float("inf")
        self._known_good: bytes | None = None  # the last body found right: most are equal to it

    def __call__(self) -> Outcome:
        start, cpu_start_s = time.perf_counter(), time.process_time()
        if self.scenario.seconds:
            self._no_more_at = start + self.scenario.seconds
        give_up_at = start + self.scenario.last_s
        for number in range(self.scenario.callers):
            Caller(self, self.requests[number % len(self.requests)]).next_request()
        while self.callers and (left := give_up_at - time.perf_counter()) > 0:
            for fd, events in self.poll.poll(left):
                if caller := self.callers.get(fd):
                    caller.ready(events)
        self._no_more_at = 0.0
        for caller in list(self.callers.values()):
            caller.lose(f"not finished within {self.scenario.give_up_s:g} s of its due time")
        cpu_s = time.process_time() - cpu_start_s
        return self._outcome(time.perf_counter() - start, cpu_s)

    def may_issue(self) -> bool:
        """Whether one more request is to be sent; counts it."""
        limit = self.scenario.requests
        if (limit and self._issued >= limit) or time.perf_counter() >= self._no_more_at:
            return False
        self._issued += 1
        return True

    def fault(self, status: int, body: bytes) -> str | None:
        """What is wrong with an answer; None: nothing."""
        if body == self._known_good and status == HTTPStatus.OK:
            return None
        if status != HTTPStatus.OK:
            fault: str | None = f"status {status}"
        elif self.scenario.stream:
            fault = messages.stream_fault(self.scenario.dialect, body, chunks=self.scenario.chunks)
        else:
            fault = messages.unary_fault(body)
        if fault is None:
            self._known_good = body
        return fault

    def _outcome(self, elapsed_s: float, cpu_s: float) -> Outcome:
        return Outcome(
            whole=len(self.took_s),
            losses=dict(self.losses),
            elapsed_s=elapsed_s,
            median_ms=statistics.median(self.took_s or [0.0]) * 1000,
            longest_ms=max(self.took_s, default=0.0) * 1000,
            p99_ms=sorted(self.took_s or [0.0])[int(len(self.took_s) * 0.99)] * 1000,
            first_event_ms=statistics.median(self.first_s or [0.0]) * 1000,
            peak_streams=self.peak_streams,
            cpu_s=cpu_s,
        )


class Caller:
    """One caller and its connection."""

    def __init__(self, run: Run, request: bytes) -> None:
        self._run = run
        self._request = request
        self._sock: socket.socket | None = None
        self._unsent = memoryview(b"")
        self._received = bytearray()
        self._head_end = 0  # 0: the answer's head is not here yet
        self._status = 0
        self._end: int | None = None  # where the answer ends; None: with its last chunk
        self._sent_at = self._first_at = 0.0
        self._answers = 0  # on this connection

    def next_request(self) -> None:
        """Send the next request on the connection there is, else on a new one; or stop."""
        if self._run.may_issue():
            self._begin()
        else:
            self._disconnect()

    def _begin(self) -> None:
        self._received.clear()
        self._head_end, self._end, self._first_at = 0, None, 0.0
        self._unsent = memoryview(self._request)
        self._sent_at = time.perf_counter()
        if self._sock is None:
            self._connect()
        else:
            self._write()

    def _connect(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect_ex(("127.0.0.1", self._run.scenario.port))
        self._sock, self._answers = sock, 0
        self._run.callers[sock.fileno()] = self
        self._run.poll.register(sock, select.EPOLLIN | select.EPOLLOUT)

    def _disconnect(self) -> None:
        if self._sock is not None:
            del self._run.callers[self._sock.fileno()]
            self._sock.close()
            self._sock = None

    def ready(self, events: int) -> None:
        if events & select.EPOLLOUT and self._unsent:
            self._write()
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and self._sock:
            self._read(self._sock)

    def _write(self) -> None:
        assert self._sock is not None
        had_to_wait = len(self._unsent) < len(self._request) or not self._answers
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the read that follows tells why
        self._unsent = self._unsent[sent:]
        if self._unsent:
            self._run.poll.modify(self._sock, select.EPOLLIN | select.EPOLLOUT)
        elif had_to_wait:
            self._run.poll.modify(self._sock, select.EPOLLIN)

    def _read(self, sock: socket.socket) -> None:
        try:
            data = _VIEW[: sock.recv_into(_BUFFER)]
        except BlockingIOError:
            return
        except ConnectionRefusedError:
            self.lose("refused")
            return
        except OSError:
            data = _VIEW[:0]
        if not data:
            self._ended()
            return
        self._received += data
        if not self._head_end and not self._read_head():
            return
        if not self._first_at and self._run.scenario.stream and b"data:" in self._received:
            self._first_event()
        if self._whole():
            self._finish()

    def _read_head(self) -> bool:
        blank_line = self._received.find(b"\r\n\r\n")
        if blank_line < 0:
            return False
        self._head_end = blank_line + 4
        self._status = int(self._received[9:12])
        length = _LENGTH.search(self._received, 0, self._head_end)
        if length:
            self._end = self._head_end + int(length[1])
        elif not _CHUNKED.search(self._received, 0, self._head_end):
            self._end = sys.maxsize  # with the connection
        return True

    def _first_event(self) -> None:
        self._first_at = time.perf_counter()
        self._run.open_streams += 1
        self._run.peak_streams = max(self._run.peak_streams, self._run.open_streams)

    def _whole(self) -> bool:
        if self._end is None:
            return self._received.endswith(_LAST_CHUNK)
        return len(self._received) >= self._end

    def _ended(self) -> None:
        """The connection ended: with the answer, between two answers, or too early."""
        if self._end == sys.maxsize:
            self._finish()
        elif not self._received and self._answers:
            # An idle connection may be closed at any time (RFC 9112, 9.3.1): on with a new one.
            self._disconnect()
            self._begin()
        else:
            self.lose("cut" if self._received else "no answer")

    def _finish(self) -> None:
        now = time.perf_counter()
        body = self._received[self._head_end :]
        fault = self._run.fault(self._status, bytes(body) if self._end else _dechunked(body))
        if fault:
            self.lose(fault)
            return
        self._run.took_s.append(now - self._sent_at)
        if self._first_at:
            self._run.first_s.append(self._first_at - self._sent_at)
        self._close_stream()
        self._answers += 1
        if self._end == sys.maxsize or _CLOSE.search(self._received, 0, self._head_end):
            self._disconnect()
        self.next_request()

    def lose(self, reason: str) -> None:
        """Count the request as lost and go on with a new connection."""
        self._run.losses[reason] += 1
        self._close_stream()
        self._disconnect()
        self.next_request()

    def _close_stream(self) -> None:
        if self._first_at:
            self._run.open_streams -= 1
            self._first_at = 0.0


def _dechunked(body: bytearray) -> bytes:
    """The content of a whole chunked body (RFC 9112, 7.1); empty if the framing is wrong."""
    parts, position = [], 0
    with contextlib.suppress(ValueError):
        while size := int(body[position : (line_end := body.index(b"\r\n", position))], 16):
            position = line_end + 2
            parts.append(body[position : position + size])
            position += size + 2
        return b"".join(parts)
    return b""


def models_of(scenario: Scenario) -> list[str]:
    """The models that a scenario asks for."""
    if not scenario.models:
        return [scenario.model]
    return [f"{scenario.model}-{number:05}" for number in range(scenario.models)]


def _request(scenario: Scenario, model: str) -> bytes:
    body = messages.request(
        scenario.dialect,
        model,
        stream=scenario.stream,
        chunks=scenario.chunks,
        body_bytes=scenario.body_bytes,
    )
    headers = {
        "Host": f"127.0.0.1:{scenario.port}",
        "Authorization": f"Bearer {messages.CALLER_KEY}",
        "User-Agent": "bench",
        "Accept": "*/*",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **scenario.headers,
    }
    lines = [
        f"POST {messages.PATHS[scenario.dialect]} HTTP/1.1",
        *(f"{k}: {v}" for k, v in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def main() -> None:
    raise_open_files()
    gc.disable()  # a collection would delay every caller at once, and the process is short-lived
    outcome = Run(Scenario(**json.load(sys.stdin)))()
    json.dump(dataclasses.asdict(outcome), sys.stdout)


if __name__ == "__main__":
    main()
