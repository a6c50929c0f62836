"""Requests that follow each other at once on one connection are served by the same thread.

Without the way by the main thread, that is, which costs more than a short answer does. A worker
that counts shows it: it tells each request how many times a thread was given a connection.
"""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import PATIENCE_S, Gateway

WORKER = """
from proxy.worker import Worker

class Counting(Worker):
    handled = 0

    def handle(self, conn):
        self.handled += 1
        return super().handle(conn)

    def handle_request(self, req, conn):
        req.headers.append(("X-REQUEST-ID", str(self.handled)))
        return super().handle_request(req, conn)
"""

# A thread that waits for a request's head does so for 20 s.
SOON_S = 10.0


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """One thread for all connections."""
    (tmp_path / "counting.py").write_text(WORKER)
    env = {
        "GUNICORN_CMD_ARGS": "--worker-class counting.Counting --threads 1",
        "PYTHONPATH": os.fspath(tmp_path),
    }
    with Gateway({"demo": [{"name": "demo"}]}, env=env) as running:
        yield running


class Brisk:
    """A caller's connection."""

    def __init__(self, gateway: Gateway) -> None:
        self._connection = http.client.HTTPConnection(
            gateway.host, gateway.port, timeout=PATIENCE_S
        )

    def __enter__(self) -> Brisk:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self) -> int:
        """How many times a thread had been given a connection when this request was read."""
        self._connection.request("GET", "/healthz")
        response = self._connection.getresponse()
        response.read()
        assert response.status == 200
        return int(response.headers["x-request-id"])

    def go_on(self) -> None:
        """Ask without pause until a request was served without being handed to a thread anew.

        On a busy machine the one or other comes too late for that.
        """
        until = time.monotonic() + PATIENCE_S
        before = -1
        while (now := self.ask()) != before:
            assert time.monotonic() < until, f"{now} times a thread was given a connection"
            before = now


@pytest.mark.long
def test_thread_goes_on_with_the_connection(gateway: Gateway) -> None:
    """The next request does not wait for the main thread."""
    with Brisk(gateway) as caller:
        caller.go_on()


@pytest.mark.long
def test_thread_is_free_again_when_the_caller_pauses(gateway: Gateway) -> None:
    """It is the only one; the connection stays open, and goes on when it is alone again."""
    with Brisk(gateway) as first:
        for _ in range(10):  # the last request of some of these is a brisk one
            first.go_on()
            began = time.monotonic()
            with Brisk(gateway) as second:
                second.ask()
            assert time.monotonic() - began < SOON_S


@pytest.mark.long
def test_requests_in_one_piece_are_served_one_after_the_other(gateway: Gateway) -> None:
    """What came with a brisk request is not forgotten, nor waited for."""
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with gateway.connect() as sock:
        for count in (1, 1, 1, 1, 3, 1):
            sock.sendall(request * count)
            came = b""
            while came.count(b'{"status":"ok"}') < count:
                came += sock.recv(65536)
            assert came.count(b"HTTP/1.1 200 OK\r\n") == count
