"""Words for values of the file, and for many: in few characters, and never a key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .secrets import KEY_LIKE, mask

_MAX_SHOWN = 60  # characters
_MAX_BITS = 64
_MAX_NAMES = 6  # of more, those that were left out are counted

_USER_INFO = re.compile(r"[^/\s]*@")


def shown(value: Any) -> str:
    """The value, or what kind of value it is."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return "a huge number"
    if isinstance(value, (int, float)):
        return f"{value:.15g}"
    return repr(_masked(value)) if isinstance(value, str) else kind_of(value)


def kind_of(value: Any) -> str:
    """What kind of value it is, without the value."""
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a string"}
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "nothing" if value is None else kinds.get(type(value), f"a {type(value).__name__}")


def count(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def names(items: Sequence[str]) -> str:
    """A list of names, of which only the first few are shown if there are many."""
    left_out = len(items) - _MAX_NAMES
    if left_out > 1:
        return f"{', '.join(items[:_MAX_NAMES])} and {left_out} more"
    return ", ".join(items)


def in_ascii(name: str) -> str:
    """A name for headers, which carry ASCII (RFC 9110 section 5.5); other letters are escaped."""
    return name.encode("ascii", "backslashreplace").decode()


def printable(text: str) -> str:
    """Text from elsewhere in one line, without control characters for a terminal."""
    return "".join(char if char.isprintable() else " " for char in text).strip()


def shown_key(key: Any) -> str:
    """The name of a setting, as part of a path."""
    text = _masked(str(key))
    return text if text.isprintable() and " " not in text and text else repr(text)


def _masked(text: str) -> str:
    text = _USER_INFO.sub("…@", text)
    # A value in the wrong place may be a key.
    text = KEY_LIKE.sub(lambda found: mask(found[0]), text)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
