"""The version of this program, and how it calls itself to upstreams."""

from __future__ import annotations

__version__ = "0.1.0"

USER_AGENT = f"poolproxy/{__version__}"
