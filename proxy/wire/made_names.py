"""Names and ids made for those that a vendor does not take, the same every time.

A name has up to 55 characters that are taken, `_`, and 8 hex digits of its SHA-256. Nothing is kept
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


def fitting(name: str, taken: re.Pattern[str], untaken: re.Pattern[str]) -> str:
    """The name if the vendor takes such, else one of 64 characters at most without `untaken`."""
    if taken.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{untaken.sub('_', name)[:55] or '_'}_{digest}"


def plain_name(name: str) -> str:
    """The name, or one made for it, in 1 to 64 letters, digits, `_` and `-` of ASCII."""
    return fitting(name, _PLAIN, _NOT_PLAIN)


def are_plain(names: Iterable[str]) -> bool:
    """Whether `plain_name` changes none of them."""
    return all(map(_PLAIN.fullmatch, names))


def may_be_made(name: str) -> bool:
    """Whether it looks like made by `fitting`: few others do."""
    return _MADE.fullmatch(name) is not None


def plain_id(given: str, used: set[str], prefix: str) -> str:
    """An id that every vendor takes, the same every time, and unlike those `used` before it."""
    if not _PLAIN.fullmatch(given):
        given = prefix + hashlib.sha256(given.encode()).hexdigest()[:24]
    made, again = given, len(used)  # counted from 1, thousands of equal ids would take minutes
    while made in used:
        again += 1
        made = f"{given[:56]}_{again}"
    used.add(made)
    return made
