"""The messages of a request, as far as this proxy looks into them: parts with media, and calls.

`spelling` and `names` share one reading. It costs milliseconds for 2 MB, so `request` asks for it
only where there may be something to see.
"""

from __future__ import annotations

from contextlib import suppress
from operator import is_
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ..lenient_json import decode_object, encode


class Part(Struct, gc=False):
    """A part of a content; its media as they came."""

    image_url: Raw | UnsetType = UNSET
    file: Raw | UnsetType = UNSET
    input_audio: Raw | UnsetType = UNSET


class Named(Struct, gc=False):
    """A function, or a call of one."""

    name: str | None = None


class Tool(Struct, gc=False):
    """A tool, or a call of one."""

    type: str | None = None
    function: Named | None = None
    custom: Named | None = None


class Message(Struct, gc=False):
    """`function_call`: what calls were before there were tools."""

    role: str | None = None
    name: str | None = None
    content: list[Part] | str | None = None
    tool_calls: list[Tool] | None = None
    function_call: Named | None = None


read_items = msgspec.json.Decoder(list[Raw]).decode
read_text = msgspec.json.Decoder(str).decode

_decode = msgspec.json.Decoder(list[Message]).decode


def read_messages(messages: Raw) -> list[Message]:
    """A request's messages; none if they are not as chat has them."""
    with suppress(msgspec.DecodeError, RecursionError):
        return _decode(messages)
    return []


def rewritten(value: Raw, place: Any) -> Raw:
    """The value with others at the ends of `place`; the same object if all of them are the same.

    `place`: by name what is done with a member, in a list with each item; at its ends functions of
    a value. Every other value stays as it came.
    """
    if callable(place):
        found: Raw = place(value)
        return found
    first = bytes(value).lstrip()[:1]
    if first == b"{" and isinstance(place, dict):
        members = decode_object(value)
        others = {name: rewritten(members[name], place[name]) for name in place if name in members}
        is_same = all(members[name] is other for name, other in others.items())
        return value if is_same else Raw(encode({**members, **others}))
    if first == b"[" and isinstance(place, list):
        items = read_items(value)
        changed = [rewritten(item, place[0]) for item in items]
        return value if all(map(is_, items, changed)) else Raw(encode(changed))
    return value
