"""Poolproxy: one OpenAI-compatible endpoint in front of a pool of LLM accounts.

The rooms, from the top layer down (docs/ARCHITECTURE.md has the whole map):

cli, server          the command `poolproxy`; gunicorn's process, never imported when embedded
app, extension       `create_app`, a WSGI application; `Proxy`, mounted in one
api                  Flask: environ in, response out
gateway, generation  serves one request; all that one configuration makes
request, record      a request's attempts, waits and stream; what is kept of it
pool, clients        who may use which client; the kinds of upstream
net                  sockets and the clock
dialects, wire       what callers speak; bytes to values and back
config, errors       the file made a `Config`; every failure, its status and its code
"""

from __future__ import annotations

import importlib
import typing

from .errors import ConfigError, ProxyError
from .version import __version__

if typing.TYPE_CHECKING:
    from .app import create_app
    from .extension import Proxy

__all__ = ["ConfigError", "Proxy", "ProxyError", "__version__", "create_app"]

_WITH_FLASK = {"Proxy": ".extension", "create_app": ".app"}


def __getattr__(name: str) -> object:
    """What needs Flask is imported when it is asked for: the gateway does without."""
    if name not in _WITH_FLASK:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_WITH_FLASK[name], __name__), name)
    return value
