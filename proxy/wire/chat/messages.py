"""The messages of a request, as far as this proxy looks into them: parts with media, and calls.

`spelling` and `names` share one reading. It costs milliseconds for 2 MB, so `request` asks for it
only where there may be something to see.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType


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


# Values of a request one by one, each as it came.
read_members = msgspec.json.Decoder(dict[str, Raw]).decode
read_items = msgspec.json.Decoder(list[Raw]).decode
read_text = msgspec.json.Decoder(str).decode

_decode = msgspec.json.Decoder(list[Message]).decode


def read_messages(messages: Raw) -> list[Message]:
    """A request's messages; none if they are not as chat has them."""
    with suppress(msgspec.DecodeError, RecursionError):
        return _decode(messages)
    return []
