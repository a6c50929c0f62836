"""`create_app`: the gateway as a WSGI application of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from flask import Flask

from .api import make_error_handler
from .config import Config
from .extension import Proxy


def create_app(
    config: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None,
) -> Flask:
    """The application, with the endpoints at its root; `config` as for `Proxy`."""
    app = Flask("poolproxy", static_folder=None)
    proxy = Proxy(config)
    proxy.init_app(app)
    # What Flask finds wrong before it comes to a route, a malformed `Host` for one.
    app.register_error_handler(Exception, make_error_handler(proxy.gateway))
    return app
