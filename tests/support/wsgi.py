"""Servers of WSGI applications in this process that are not gunicorn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseServer
from typing import Any

import werkzeug.serving


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
