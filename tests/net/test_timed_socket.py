"""A server's socket that has deadlines of its own is a socket like any other in all else."""

from __future__ import annotations

import math
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.net import timed_socket
from proxy.net.received import RECV_BYTES
from proxy.net.timed_socket import LimitedSocket, TimedSocket, limit_io, set_timeout
from tests.support.gateway import PATIENCE_S

Pair = tuple[TimedSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The server's end, and the caller's."""
    ours, theirs = socket.socketpair()
    timed = TimedSocket.from_socket(ours)
    limit_io(timed, PATIENCE_S)
    with timed, theirs:
        yield timed, theirs


@pytest.fixture
def writes() -> Iterator[Pair]:
    """The same, where each read of the caller's takes what one write has sent."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    with TimedSocket.from_socket(ours) as timed, theirs:
        yield timed, theirs


@pytest.mark.long
def test_flags_of_a_read_hold(pair: Pair) -> None:
    """Peeked bytes stay; who does not want to wait is told so at once; the end is no error."""
    ours, peer = pair
    peer.sendall(b"abc")
    assert ours.recv(1, socket.MSG_PEEK) == b"a"
    assert ours.recv(10, socket.MSG_DONTWAIT) == b"abc"
    with pytest.raises(BlockingIOError):
        ours.recv(10, socket.MSG_DONTWAIT)
    peer.close()
    assert ours.recv(10, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""


# What is sent


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def came(peer: socket.socket) -> list[bytes]:
    """What each write so far has sent."""
    found: list[bytes] = []
    while True:
        try:
            found.append(peer.recv(1000))
        except BlockingIOError:
            return found


@pytest.mark.parametrize(
    ("body", "sent"), [(b"1234", [HEAD + b"1234"]), (b"12345", [HEAD, b"12345"])]
)
def test_head_waits_for_what_is_behind_it(
    writes: Pair, monkeypatch: pytest.MonkeyPatch, body: bytes, sent: list[bytes]
) -> None:
    """Both are one write, unless joining them costs more. What comes later is one of its own."""
    monkeypatch.setattr(timed_socket, "MAX_JOINED_BYTES", 4)
    ours, peer = writes
    ours.hold_head()
    ours.sendall(HEAD)
    assert came(peer) == []
    ours.sendall(body)
    assert came(peer) == sent
    ours.sendall(b"more")
    ours.flush()
    assert came(peer) == [b"more"]


def test_head_with_nothing_behind_it_goes_out_at_the_end(writes: Pair) -> None:
    """Once."""
    ours, peer = writes
    ours.hold_head()
    ours.sendall(HEAD)
    ours.flush()
    ours.flush()
    ours.sendall(b"next")
    assert came(peer) == [HEAD, b"next"]


def test_interim_head_does_not_wait(writes: Pair) -> None:
    """The final one behind it does; after a 101 another protocol begins (RFC 9110 section 15.2)."""
    ours, peer = writes
    ours.hold_head()
    ours.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    assert came(peer) == [b"HTTP/1.1 103 Early Hints\r\n\r\n"]
    ours.sendall(HEAD)
    assert came(peer) == []
    ours.flush()
    assert came(peer) == [HEAD]
    ours.hold_head()
    ours.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    ours.sendall(b"frame")
    assert came(peer) == [b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"frame"]


def test_head_goes_before_a_file(pair: Pair, tmp_path: Path) -> None:
    """It is not sent by `sendall`."""
    ours, peer = pair
    (tmp_path / "file").write_bytes(b"0123456789")
    ours.hold_head()
    ours.sendall(HEAD)
    with (tmp_path / "file").open("rb") as file:
        assert ours.sendfile(file, 2, 5) == 5
    assert peer.recv(1000) == HEAD + b"23456"


def timeval(sock: socket.socket, option: int) -> tuple[int, int]:
    """Seconds and microseconds."""
    found: tuple[int, int] = struct.unpack("ll", sock.getsockopt(socket.SOL_SOCKET, option, 16))
    return found


@pytest.mark.parametrize(
    ("given_s", "set_to"), [(7.25, (7, 252_000)), (0.0001, (0, 10_000)), (60.0, (60, 0))]
)
def test_limit_is_one_of_the_kernels(given_s: float, set_to: tuple[int, int]) -> None:
    """In its ticks, of 10 ms at most; 0 would be none."""
    with socket.socket() as sock:
        set_timeout(sock, socket.SO_RCVTIMEO, given_s)
        seconds, micros = timeval(sock, socket.SO_RCVTIMEO)
    assert 0 <= (set_to[0] - seconds) * 1_000_000 + set_to[1] - micros < 10_000
    assert (seconds, micros) != (0, 0)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_writes_of_another_servers_socket_are_limited(family: int) -> None:
    """No shorter than kernels acknowledge, and without megabytes that wait unseen."""
    with socket.socket(family) as sock:
        limit_io(sock, 1.0)
        assert timeval(sock, socket.SO_SNDTIMEO) == (6, 0)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 64 * 1024
        assert type(sock) is LimitedSocket
        limit_io(sock, 9.0)
        assert timeval(sock, socket.SO_SNDTIMEO) == (9, 0)


def test_limit_is_set_anew_when_it_changes(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request sets its own, and most are the same; that of reads is only noted."""
    asked: list[float] = []
    monkeypatch.setattr(timed_socket, "set_timeout", lambda *given: asked.append(given[-1]))
    ours, _ = pair
    limit_io(ours, PATIENCE_S, receive_until=1.0)
    assert (ours.receive_timeout_s, ours.receive_until) == (PATIENCE_S, 1.0)
    limit_io(ours, 7.0)
    limit_io(ours, 7.0)
    assert (ours.receive_timeout_s, ours.receive_until) == (7.0, math.inf)
    assert asked == [7.0]


BODY = bytes(range(256)) * 4096 * 4


@pytest.mark.parametrize("timeout_s", [None, PATIENCE_S])
def test_body_larger_than_all_buffers_arrives_whole(pair: Pair, timeout_s: float | None) -> None:
    """However slowly it is taken, with a limit and without."""
    ours, peer = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 0))
    if timeout_s is not None:
        set_timeout(ours, socket.SO_SNDTIMEO, timeout_s)
    found = bytearray()

    def read() -> None:
        while len(found) < len(BODY) and (data := peer.recv(1 << 20)):
            found.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    ours.sendall(BODY)
    reader.join(PATIENCE_S)
    assert found == BODY


def test_write_of_which_nothing_is_taken_fails(pair: Pair) -> None:
    """When its time is up; what it had taken before does not count."""
    ours, _ = pair
    set_timeout(ours, socket.SO_SNDTIMEO, 0.05)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="timed out"):
        ours.sendall(BODY)
    assert 0.04 <= time.monotonic() - began < PATIENCE_S


# What is received


def test_time_out_is_noted_and_no_option() -> None:
    """As `socket` has it: None is none, 0 does not wait."""
    ours, theirs = socket.socketpair()
    with theirs, TimedSocket.from_socket(ours) as timed:
        assert timed.gettimeout() is None
        timed.settimeout(2.5)
        assert timed.gettimeout() == 2.5
        timed.setblocking(True)
        assert timed.gettimeout() is None
        timed.setblocking(False)
        assert timed.gettimeout() == 0.0
        with pytest.raises(BlockingIOError):
            timed.recv(1)


@pytest.mark.parametrize(
    "limits",
    [
        {"_timeout_s": 0.02},
        {"receive_timeout_s": 0.02},
        {"receive_until": 0.02},
        {"_timeout_s": 0.02, "receive_timeout_s": PATIENCE_S},
        {"_timeout_s": PATIENCE_S, "receive_timeout_s": 0.02},
    ],
    ids=str,
)
def test_first_limit_that_is_over_ends_a_read(pair: Pair, limits: dict[str, Any]) -> None:
    """Whosever it is; what comes before it is returned."""
    ours, peer = pair
    ours.receive_timeout_s = math.inf
    began = time.monotonic()
    for name, value in limits.items():
        setattr(ours, name, began + value if name == "receive_until" else value)
    with pytest.raises(TimeoutError, match="timed out"):
        ours.recv(10)
    assert 0.01 <= time.monotonic() - began < PATIENCE_S
    if "receive_until" not in limits:
        peer.sendall(b"late")
        assert ours.recv(10) == b"late"


def test_read_after_its_moment_takes_nothing(pair: Pair) -> None:
    """A trickle does not go on for ever: what is there by then counts no more."""
    ours, peer = pair
    peer.sendall(b"x")
    ours.receive_until = time.monotonic()
    with pytest.raises(TimeoutError):
        ours.recv(10)


@pytest.mark.parametrize("until_s", [PATIENCE_S, math.inf])
def test_read_ends_with_what_comes(pair: Pair, until_s: float) -> None:
    """Or with the end of the connection."""
    ours, peer = pair
    ours.receive_until = time.monotonic() + until_s
    for said, found in ((b"abc", b"abc"), (b"", b"")):
        later = threading.Timer(0.02, peer.sendall if said else peer.shutdown, [said or 1])
        later.start()
        assert ours.recv(10) == found
        later.join()


@pytest.mark.parametrize("size", [0, 1, RECV_BYTES, RECV_BYTES + 1])
def test_read_takes_no_more_than_is_asked_for(pair: Pair, size: int) -> None:
    """Also where that is more than one of our buffers holds."""
    ours, peer = pair
    sent = b"x" * (RECV_BYTES + 2)
    peer.sendall(sent)
    assert 0 <= size - len(ours.recv(size)) < max(size, 1)
    assert len(ours.recv(10)) > 0
