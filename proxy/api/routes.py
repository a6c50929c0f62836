"""A route of ours: a path, its methods, its view."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flask import Response

from ..dialects.base import Dialect
from ..dialects.chat import CHAT


class Route(NamedTuple):
    """`path`: a werkzeug rule, relative to the prefix. The view takes the `Exchange` and values.

    `dialect`: that of its errors, and of what it reads.
    """

    path: str
    methods: tuple[str, ...]
    view: Callable[..., Response]
    dialect: Dialect = CHAT
