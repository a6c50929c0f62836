"""Respells what programs write in requests and many services refuse, for every kind of client.

That is an image's address without its object, base64 with line breaks, media types by names that
are not registered, and empty stop sequences. All that is well spelled stays as the bytes it was.
The vendors' translators know more names of media types.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from operator import is_
from typing import Any, Final

import msgspec
from msgspec import Raw, UnsetType

from ..lenient_json import decode_any, encode
from .messages import Message, read_items, read_members, read_text

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
_encode = msgspec.json.Encoder().encode


def respelled(fields: _Members, messages: Iterable[Message]) -> _Members:
    """The top-level members of a request that need another spelling, respelled; mostly none.

    `messages`: what was read of the messages among them.
    """
    changed: _Members = {}
    stop = fields.get("stop")
    # The upstream answers for what is not as chat has it.
    if stop is not None and b'""' in bytes(stop):
        with suppress(msgspec.DecodeError, RecursionError):
            changed["stop"] = _stop(stop)
    if any(map(_is_suspect, messages)):
        with suppress(msgspec.DecodeError, RecursionError):
            found = _each(fields["messages"], _message)
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
    if isinstance(message.content, list):
        for part in message.content:
            for value in (part.image_url, part.file, part.input_audio):
                if not isinstance(value, UnsetType) and _is_odd(bytes(value)):
                    return True
    return False


def _is_odd(value: bytes) -> bool:
    """Whether a medium is a plain string, or may hold a blank, an escape or a misspelt type."""
    if value[:1] == b'"' or b"\\" in value or _NAMES.search(value, 0, _HEAD_BYTES):
        return True
    blank = value.find(b" ", _HEAD_BYTES)  # before it, blanks may stand between members
    return blank > 0 or b" " in value[:_HEAD_BYTES].partition(b";base64,")[2]


def _message(raw: Raw) -> Raw:
    message = read_members(raw)
    content = message.get("content")
    if content is None or not bytes(content).startswith(b"["):
        return raw
    return _with(raw, message, "content", _each(content, _part))


def _part(raw: Raw) -> Raw:
    if not bytes(raw).startswith(b"{"):
        return raw
    part = read_members(raw)
    for name, inside in (("image_url", "url"), ("file", "file_data"), ("input_audio", "data")):
        value = part.get(name)
        if value is None:
            continue
        if name == "image_url" and bytes(value).startswith(b'"'):
            return _with(raw, part, name, Raw(_encode({inside: _data(value)})))
        if bytes(value).startswith(b"{"):
            members = read_members(value)
            data = members.get(inside)
            if data is not None and bytes(data).startswith(b'"'):
                raw = _with(raw, part, name, _with(value, members, inside, _data(data)))
    return raw


def _each(array: Raw, respell: Callable[[Raw], Raw]) -> Raw:
    """The array with its items respelled, or the same array if no item changed."""
    items = read_items(array)
    found = [respell(item) for item in items]
    return array if all(map(is_, items, found)) else Raw(_encode(found))


def _with(raw: Raw, members: _Members, name: str, value: Raw) -> Raw:
    """The object with another value of this member, or the same object if the value is the same."""
    if value is members[name]:
        return raw
    members[name] = value
    return Raw(_encode(members))


def joined(data: str) -> str:
    """Base64 without the line breaks and blanks that MIME's has (RFC 2045, 6.8)."""
    return "".join(data.split())


def _data(raw: Raw) -> Raw:
    """A data URL, or base64, in one piece and with the registered type; all else stays as it is."""
    text = read_text(raw)
    head = _DATA_URL.match(text)
    if head is None:
        is_address = ":" in text[:16]
        return raw if is_address or not _BROKEN.search(text) else Raw(_encode(joined(text)))
    kind, *parameters = head[1].split(";")
    if not parameters or parameters[-1].strip().lower() != "base64":
        return raw
    kind = MISSPELT.get(kind.strip().lower(), kind)
    spelled = f"data:{';'.join([kind, *parameters])},{joined(text[head.end() :])}"
    return raw if spelled == text else Raw(_encode(spelled))
