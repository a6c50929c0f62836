"""Fake servers end with all that is theirs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from bench import targets
from tests.support.outbound_proxies import HttpProxy, SocksProxy
from tests.support.rude import Dribble, RudeUpstream
from tests.support.server import PATIENCE_S, FakeServer, free_port
from tests.support.upstream import Upstream

FAKES: list[Callable[[], FakeServer]] = [
    Upstream,
    HttpProxy,
    SocksProxy,
    Dribble,
    lambda: RudeUpstream(b"", stays=True),
]


@pytest.mark.parametrize("make", FAKES)
def test_end_leaves_neither_thread_nor_connection(make: Callable[[], FakeServer]) -> None:
    """Though a peer is still there."""
    before = set(threading.enumerate())
    server = make()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as peer:
        server.wait_reached()
        server.close()
        assert peer.recv(1) == b""
    assert server.connections_open == 0
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("find", [free_port, targets.free_port], ids=["fake", "target"])
def test_free_port_is_nobodys_but_a_servers(find: Callable[[], int]) -> None:
    """No other socket is given it, nobody answers there, and a server may have it, repeatedly."""
    port = find()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)) as server:
            socket.create_connection(("127.0.0.1", port)).close()
            server.accept()[0].close()
