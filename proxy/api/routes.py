"""A route of ours: a path, its methods, its view."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flask import Response


class Route(NamedTuple):
    """`path`: a werkzeug rule, relative to the prefix. The view takes the `Exchange` and values."""

    path: str
    methods: tuple[str, ...]
    view: Callable[..., Response]
