"""Poolproxy: one OpenAI-compatible endpoint in front of a pool of LLM accounts."""

from __future__ import annotations

from .app import create_app
from .errors import ConfigError, ProxyError
from .extension import Proxy
from .version import __version__

__all__ = ["ConfigError", "Proxy", "ProxyError", "__version__", "create_app"]
