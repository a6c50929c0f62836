"""Poolproxy: one OpenAI-compatible endpoint in front of a pool of LLM accounts.

docs/ARCHITECTURE.md is the map of its rooms, and of the layers that they are in.
"""

from __future__ import annotations

import importlib
import typing

from . import errors
from .errors import *  # noqa: F403
from .version import __version__

if typing.TYPE_CHECKING:
    from .app import create_app
    from .calls import Stream
    from .config import Caller
    from .extension import Proxy
    from .record.record import Attempt, Call, Times
    from .wire.chat import Usage

__all__ = [
    "Attempt", "Call", "Caller", "Proxy", "Stream", "Times", "Usage", "__version__", "create_app",
]  # fmt: skip
__all__ += errors.__all__
__all__.sort()

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
