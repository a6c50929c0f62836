"""Servers of WSGI applications in this process that are not gunicorn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseServer
from typing import Any

import waitress.server
import werkzeug.serving
from waitress import wasyncore


@contextmanager
def running(server: BaseServer) -> Iterator[None]:
    """Have it serve, in a thread of its own, until the end."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def werkzeug_server(app: Any) -> Iterator[int]:
    """The application's port on werkzeug's server, whose threads have ended at the end."""
    server = werkzeug.serving.make_server("127.0.0.1", 0, app, threaded=True)
    assert isinstance(server, werkzeug.serving.ThreadedWSGIServer)
    server.daemon_threads = False  # so that its close waits for them
    with server, running(server):
        yield server.port


@contextmanager
def waitress_server(app: Any) -> Iterator[int]:
    """The application's port on waitress, which tells of callers who left."""
    sockets: dict[int, Any] = {}
    server = waitress.server.create_server(
        app, map=sockets, host="127.0.0.1", port=0, channel_request_lookahead=1
    )
    is_over = threading.Event()

    def serve() -> None:
        while not is_over.is_set():
            wasyncore.loop(timeout=0.05, map=sockets, count=1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(vars(server)["effective_port"])
    finally:
        is_over.set()
        thread.join()
        server.close()  # waits for its threads
        wasyncore.close_all(sockets)
