"""Names made for those that a vendor does not take, the same every time.

Up to 55 characters that are taken, `_`, and 8 hex digits of the name's SHA-256. Nothing is kept
between a request and its answer: which name was meant is found in the request.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

_MADE: Final = re.compile(r".{1,55}_[0-9a-f]{8}")
_PLAIN: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NOT_PLAIN: Final = re.compile(r"[^a-zA-Z0-9_-]")


def made_name(name: str, legible: str) -> str:
    """A name of 64 characters at most; `legible`: the name in characters that the vendor takes."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{legible[:55]}_{digest}"


def plain_name(name: str) -> str:
    """The name, or one made for it, in 1 to 64 letters, digits, `_` and `-` of ASCII."""
    if _PLAIN.fullmatch(name):
        return name
    return made_name(name, _NOT_PLAIN.sub("_", name) or "_")


def are_plain(names: Iterable[str]) -> bool:
    """Whether `plain_name` changes none of them."""
    return all(map(_PLAIN.fullmatch, names))


def may_be_made(name: str) -> bool:
    """Whether it looks like one of `made_name`: few others do."""
    return _MADE.fullmatch(name) is not None
