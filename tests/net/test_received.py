"""What is received takes no more memory than it needs, at no moment."""

from __future__ import annotations

import socket
import time
import tracemalloc
from collections.abc import Callable

from proxy.net.received import RECV_BYTES
from proxy.net.timed_socket import TimedSocket, limit_io
from proxy.net.transport import Transport
from tests.support.calls import WAIT_S, send
from tests.support.gateway import PATIENCE_S
from tests.support.upstream import Gate, Hold, Upstream, raw

# Much more than a piece of a few bytes needs, and much less than a buffer.
LITTLE = RECV_BYTES // 12


def needed(receive: Callable[[], object]) -> int:
    """The bytes that were taken at most while something was received."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        receive()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return most - before


def test_of_an_upstream(upstream: Upstream, way: Transport) -> None:
    """malloc would have to find what a whole buffer takes for each piece of a stream."""
    gates = [Gate() for _ in range(5)]
    steps = [step for gate in gates for step in (Hold(gate), b"abc")]
    upstream.reply("k", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n", *steps))
    reply = send(way)
    until = time.monotonic() + WAIT_S
    assert reply.head(until)
    found = []
    for gate in gates:
        gate.set()
        found.append(needed(lambda: reply.read(until)))
    assert reply.is_whole
    reply.close()
    assert min(found) < LITTLE  # at other moments the upstream, in this process too, reads


def test_of_a_caller() -> None:
    """In the pieces of gunicorn, and in larger ones."""
    ours, peer = socket.socketpair()
    timed = TimedSocket.from_socket(ours)
    limit_io(timed, PATIENCE_S)
    with timed, peer:
        for size in (RECV_BYTES, 8192, RECV_BYTES):
            peer.sendall(b"abc")
            most = needed(lambda size=size: timed.recv(size))  # type: ignore[misc]
        assert most < LITTLE
        peer.sendall(b"x" * 2 * RECV_BYTES)
        assert len(timed.recv(2 * RECV_BYTES)) > RECV_BYTES // 2
        assert timed.recv(0) == b""
