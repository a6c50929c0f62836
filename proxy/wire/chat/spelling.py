"""Respells what programs write in requests and many services refuse, for every kind of client.

That is an image's address without its object, base64 with line breaks, media types by names that
are not registered, and empty stop sequences. All that is well spelled stays as the bytes it was.
The vendors' translators know more names of media types.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec import Raw, UnsetType

from ..lenient_json import decode_any, encode
from .fields import Message, read_text, rewritten

# Not at iana.org/assignments/media-types; the second is what is.
MISSPELT: Final = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/jpe": "image/jpeg",
    "image/x-png": "image/png",
    "image/x-webp": "image/webp",
    "application/x-pdf": "application/pdf",
}

_DATA_URL = re.compile(r"data:([^,]*),", re.IGNORECASE)
_BROKEN = re.compile(r"[ \t\r\n]")
_HEAD_BYTES = 200  # of an object in which a type stands
_NAMES = re.compile("|".join(map(re.escape, MISSPELT)).encode(), re.IGNORECASE)

_Members = dict[str, Raw]


def respelled(fields: _Members, messages: Iterable[Message]) -> _Members:
    """The top-level members of a request that need another spelling, respelled; mostly none."""
    changed: _Members = {}
    stop = fields.get("stop")
    # The upstream answers for what is not as chat has it.
    if stop is not None and b'""' in bytes(stop):
        with suppress(msgspec.DecodeError, RecursionError):
            changed["stop"] = _stop(stop)
    if any(map(_is_suspect, messages)):
        with suppress(msgspec.DecodeError, RecursionError):
            found = rewritten(fields["messages"], [{"content": [_MEDIA]}])
            if found is not fields["messages"]:
                changed["messages"] = found
    return changed


def _stop(stop: Raw) -> Raw:
    found: Any = decode_any(stop)
    if found == "":
        return Raw(b"null")
    if isinstance(found, list):
        return Raw(encode([each for each in found if each != ""] or None))
    return stop


def _is_suspect(message: Message) -> bool:
    """Whether anything in the message may have to be spelled anew."""
    parts = message.content if isinstance(message.content, list) else ()
    media = (value for part in parts for value in (part.image_url, part.file, part.input_audio))
    return any(not isinstance(value, UnsetType) and _is_odd(bytes(value)) for value in media)


def _is_odd(value: bytes) -> bool:
    """Whether a medium is a plain string, or may hold a blank, an escape or a misspelt type."""
    if value[:1] == b'"' or b"\\" in value or _NAMES.search(value, 0, _HEAD_BYTES):
        return True
    blank = value.find(b" ", _HEAD_BYTES)  # before it, blanks may stand between members
    return blank > 0 or b" " in value[:_HEAD_BYTES].partition(b";base64,")[2]


def _image(raw: Raw) -> Raw:
    """An address, in the object that OpenAI has around it."""
    if bytes(raw).startswith(b'"'):
        return Raw(encode({"url": _data(raw)}))
    return rewritten(raw, {"url": _data})


def joined(data: str) -> str:
    """Base64 without the line breaks and blanks that MIME's has (RFC 2045, 6.8)."""
    return "".join(data.split())


def _data(raw: Raw) -> Raw:
    """A data URL, or base64, in one piece and with the registered type; all else stays as it is."""
    if not bytes(raw).startswith(b'"'):
        return raw
    text = read_text(raw)
    head = _DATA_URL.match(text)
    if head is None:
        is_address = ":" in text[:16]
        return raw if is_address or not _BROKEN.search(text) else Raw(encode(joined(text)))
    kind, *parameters = head[1].split(";")
    if not parameters or parameters[-1].strip().lower() != "base64":
        return raw
    kind = MISSPELT.get(kind.strip().lower(), kind)
    spelled = f"data:{';'.join([kind, *parameters])},{joined(text[head.end() :])}"
    return raw if spelled == text else Raw(encode(spelled))


_MEDIA = {"image_url": _image, "file": {"file_data": _data}, "input_audio": {"data": _data}}
