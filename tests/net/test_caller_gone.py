"""A caller who leaves is noticed within a second at every stage, and the upstream let go."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from proxy.errors import CallerGone
from proxy.net.transport import Transport
from proxy.net.watch import CallerConnection
from tests.support.calls import WAIT_S, fetch, read_all, send
from tests.support.certificates import Authority
from tests.support.clock import NOTICED_S
from tests.support.rude import RudeUpstream
from tests.support.upstream import Gate, Hold, Reply, Step, Upstream, raw

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def holding(*steps: Step) -> Reply:
    return raw(*steps, Hold(Gate()))


STAGES: dict[str, Callable[[], Reply]] = {
    "before the status line": holding,
    "in the status line": lambda: holding(b"HTTP/1.1 2"),
    "in the headers": lambda: holding(b"HTTP/1.1 200 OK\r\nContent-"),
    "after an interim answer": lambda: holding(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "behind the headers": lambda: holding(HEAD),
    "in a chunk size": lambda: holding(HEAD, b"1"),
    "behind a chunk size": lambda: holding(HEAD, b"1f\r"),
    "in a chunk": lambda: holding(HEAD, b"9\r\ndata: "),
    "behind a chunk": lambda: holding(HEAD, b"9\r\ndata: a\n\n\r"),
    "in mid-stream": lambda: holding(HEAD, b"9\r\ndata: a\n\n\r\n"),
    "in the last chunk": lambda: holding(HEAD, b"9\r\ndata: a\n\n\r\n0\r\n"),
    "in a unary body": lambda: holding(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
    "while data never pauses": lambda: raw(HEAD, *[b"1000\r\n" + b"x" * 4096 + b"\r\n"] * 300_000),
}
WAYS: dict[str, Callable[[socket.socket], None]] = {
    "closed": socket.socket.close,
    "half closed": lambda peer: peer.shutdown(socket.SHUT_WR),
}


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end of the caller's connection, and the caller's own."""
    ours, peer = socket.socketpair()
    with ours, peer:
        yield ours, peer


class Leaving(threading.Thread):
    """Leaves as soon as `ready()` returned."""

    def __init__(self, ready: Callable[[], object], leave: Callable[[], None]) -> None:
        super().__init__()
        self._ready = ready
        self._leave = leave
        self.left_at = 0.0
        self.start()

    def run(self) -> None:
        self._ready()
        self.left_at = time.monotonic()
        self._leave()


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("stage", STAGES)
def test_gone_caller_is_noticed(
    upstream: Upstream,
    way: Transport,
    pair: tuple[socket.socket, socket.socket],
    stage: str,
    how: str,
) -> None:
    """Plain and TLS 1.3; a half-closed caller counts as gone."""
    ours, peer = pair
    upstream.reply("k", STAGES[stage]())
    leaving = Leaving(upstream.wait_for, lambda: WAYS[how](peer))
    reply = send(way, caller=CallerConnection(ours))
    try:
        with pytest.raises(CallerGone):
            read_all(reply)
    finally:
        reply.close()
    assert time.monotonic() - leaving.left_at < NOTICED_S
    [received] = upstream.received("k")
    received.wait_ended()
    assert received.aborted
    assert received.ended is not None
    assert received.ended - leaving.left_at < NOTICED_S
    leaving.join()


@pytest.mark.parametrize("is_tls", [False, True])
def test_gone_caller_is_noticed_while_its_request_goes_out(
    authority: Authority,
    make_way: Callable[..., Transport],
    pair: tuple[socket.socket, socket.socket],
    is_tls: bool,
) -> None:
    """32 MiB to an upstream that does not read."""
    ours, peer = pair
    with RudeUpstream(b"", stays=True, tls=authority.server() if is_tls else None) as rude:
        leaving = Leaving(rude.busy.wait, peer.close)
        reply = send(make_way(rude.url), b"x" * (32 << 20), caller=CallerConnection(ours))
        with contextlib.closing(reply), pytest.raises(CallerGone):
            reply.head(time.monotonic() + WAIT_S)
        assert time.monotonic() - leaving.left_at < NOTICED_S
        assert rude.left.wait(5)
        assert rude.left_at - leaving.left_at < NOTICED_S
        leaving.join()


def test_caller_who_left_before_is_noticed(
    upstream: Upstream, way: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    """At the first wait."""
    ours, peer = pair
    upstream.reply("k", holding())
    peer.close()
    reply = send(way, caller=CallerConnection(ours))
    with contextlib.closing(reply), pytest.raises(CallerGone):
        reply.head(time.monotonic() + WAIT_S)


def test_pipelining_caller_is_served(
    upstream: Upstream, way: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Bytes of a next request are no end."""
    ours, peer = pair
    peer.sendall(b"POST / HTTP/1.1\r\n")
    reply = send(way, b'{"model":"m"}', caller=CallerConnection(ours))
    assert read_all(reply)
    reply.close()


def test_lingering_does_not_need_the_caller(
    upstream: Upstream, way: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Its stream has ended when the connection is still to be saved."""
    ours, peer = pair
    gate = Gate()
    upstream.reply("k", raw(HEAD, b"9\r\ndata: a\n\n\r\n", Hold(gate), b"0\r\n\r\n"))
    reply = send(way, caller=CallerConnection(ours))
    assert reply.head(time.monotonic() + WAIT_S)
    assert reply.read(time.monotonic() + WAIT_S)
    peer.close()
    gate.set()
    reply.close(linger_s=10.0)
    fetch(way, b'{"model":"m"}')
    assert upstream.connections == 1
