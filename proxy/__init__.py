"""Poolproxy: one OpenAI-compatible endpoint in front of a pool of LLM accounts.

The rooms, from the top layer down (docs/ARCHITECTURE.md has the whole map):

cli, server          the command `poolproxy`; gunicorn's process, never imported when embedded
app, extension       `create_app`, a WSGI application; `Proxy`, mounted in one
calls, signals       the pool from Python; by which an application follows its calls
api                  Flask: environ in, response out
gateway, generation  serves one request; all that one configuration makes
reload               has a configuration read again when its files change
request, record      a request's attempts, waits and stream; what is kept of it
pool, clients        who may use which client; the kinds of upstream
net                  sockets and the clock
dialects, wire       what callers speak; bytes to values and back
config, errors       the file made a `Config`; every failure, its status and its code
"""

from __future__ import annotations

import importlib
import typing

from .errors import (
    AllCoolingDown,
    CallerError,
    CallerGone,
    CallerLimitReached,
    ConfigError,
    InvalidRequest,
    ModelNotFound,
    ModelsUnknown,
    NoClientFree,
    NoClientInService,
    OutOfResources,
    PoolError,
    ProxyError,
    Refused,
    RetryHint,
    ShuttingDown,
    TooManyInFlight,
    UnsupportedParameter,
    UpstreamAuthentication,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRefusal,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamTruncated,
    UpstreamUnreachable,
)
from .version import __version__

if typing.TYPE_CHECKING:
    from .app import create_app
    from .calls import Stream
    from .config import Caller
    from .extension import Proxy
    from .record.call import Attempt, Call, Times
    from .wire.chat import Usage

__all__ = [
    "AllCoolingDown", "Attempt", "Call", "Caller", "CallerError", "CallerGone",
    "CallerLimitReached", "ConfigError", "InvalidRequest", "ModelNotFound", "ModelsUnknown",
    "NoClientFree", "NoClientInService", "OutOfResources", "PoolError", "Proxy", "ProxyError",
    "Refused", "RetryHint", "ShuttingDown", "Stream", "Times", "TooManyInFlight",
    "UnsupportedParameter", "UpstreamAuthentication", "UpstreamError", "UpstreamInvalid",
    "UpstreamRefusal", "UpstreamReset", "UpstreamTimeout", "UpstreamTooLarge",
    "UpstreamTruncated", "UpstreamUnreachable", "Usage", "__version__", "create_app",
]  # fmt: skip

_LATER = {
    "Attempt": ".record.call",
    "Call": ".record.call",
    "Caller": ".config",
    "Proxy": ".extension",
    "Stream": ".calls",
    "Times": ".record.call",
    "Usage": ".wire.chat",
    "create_app": ".app",
}


def __getattr__(name: str) -> object:
    """What needs other packages is imported when it is asked for: the gateway needs no Flask."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_LATER[name], __name__), name)
    return value
