"""JSON whose strings may hold lone surrogates as escapes, which msgspec refuses.

A stream that cuts text anywhere cuts an emoji into two lone surrogates, a chunk each. Their escapes
are shielded while msgspec reads, and go out as they came in.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

_T = TypeVar("_T")


def decoder(shape: type[_T]) -> Callable[[bytes | Raw], _T]:
    """Decode as this type. Lone surrogates, which msgspec refuses, come out shielded."""
    strict = msgspec.json.Decoder(shape).decode

    def decode(data: bytes | Raw) -> _T:
        try:
            return strict(data)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            shielded = shield(bytes(data))
            if shielded == data:
                raise
            return strict(shielded)

    return decode


decode_object = decoder(dict[str, Raw])
decode_any = decoder(Any)

# In place of `\\u` before a surrogate while msgspec looks; nobody can guess it.
_SHIELD = uuid.uuid4().hex.encode()
_SHIELDED = re.compile(_SHIELD.decode() + "[0-9a-fA-F]{4}")
_ESCAPE = re.compile(rb"\\(?:u([dD][89a-fA-F][0-9a-fA-F]{2})|\\)")


def shield(data: bytes) -> bytes:
    """JSON with the escapes of surrogates as plain text, which stays valid JSON."""
    if b"\\ud" not in data and b"\\uD" not in data:
        return data
    return _ESCAPE.sub(lambda found: _SHIELD + found[1] if found[1] else found[0], data)


def unshield(data: bytes) -> bytes:
    """Undoes `shield`."""
    return data.replace(_SHIELD, b"\\u")


def encode(value: Any) -> bytes:
    """Encode as JSON; shielded surrogates become escapes again."""
    return unshield(msgspec.json.encode(value))


def is_shielded(text: str) -> bool:
    """Whether the text holds a surrogate that was shielded."""
    return _SHIELD.decode() in text


def legible(text: str) -> str:
    """The text for people to read: each shielded surrogate becomes U+FFFD."""
    return _SHIELDED.sub("\N{REPLACEMENT CHARACTER}", text)


_LONE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|\\)"
)


def without_lone(data: bytes) -> bytes:
    """JSON with U+FFFD for each lone surrogate: for protocols that have no way to say one."""
    if b"\\ud" not in data and b"\\uD" not in data:
        return data
    return _LONE.sub(lambda found: b"\\ufffd" if found[1] else found[0], data)
