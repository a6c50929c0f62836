"""Fake servers end with all that is theirs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from tests.support.outbound_proxies import HttpProxy, SocksProxy
from tests.support.rude import Dribble, RudeUpstream
from tests.support.server import PATIENCE_S, FakeServer
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
