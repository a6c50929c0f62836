"""A server's socket that has deadlines of its own is a socket like any other in all else."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from proxy.net.timed_socket import TimedSocket
from tests.support.gateway import PATIENCE_S

Pair = tuple[TimedSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The server's end, and the caller's."""
    ours, theirs = socket.socketpair()
    timed = TimedSocket.from_socket(ours)
    timed.limit(PATIENCE_S)
    with timed, theirs:
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
