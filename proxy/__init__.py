"""Poolproxy: one OpenAI-compatible endpoint in front of a pool of LLM accounts.

docs/ARCHITECTURE.md is the map of its rooms, and of the layers that they are in.
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
    from .record.record import Attempt, Call, Times
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
    "Attempt": ".record.record",
    "Call": ".record.record",
    "Caller": ".config",
    "Proxy": ".extension",
    "Stream": ".calls",
    "Times": ".record.record",
    "Usage": ".wire.chat",
    "create_app": ".app",
}


def __getattr__(name: str) -> object:
    """What needs other packages is imported when it is asked for: the gateway needs no Flask."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_LATER[name], __name__), name)
    return value
