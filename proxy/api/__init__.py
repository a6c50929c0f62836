"""The endpoints as a Flask blueprint. Besides `app` and `extension` nothing else knows Flask."""

from __future__ import annotations

from .blueprint import make_blueprint, make_error_handler

__all__ = ["make_blueprint", "make_error_handler"]
