"""The messages of a request as far as this proxy looks into them: one reading for all that do.

To look at 2 MB costs milliseconds, so it is done where there may be something to see only.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

_MAX_LOOKS = 64
_BEFORE_ITEM = (b"{", b" ", b"\n", b"\r", b"\t")


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


_decode = msgspec.json.Decoder(list[Message]).decode


def read_messages(fields: Mapping[str, Raw]) -> list[Message]:
    """A request's messages; none if there is nothing to see, or they are not as chat has them."""
    messages = fields.get("messages")
    if messages is not None and ("functions" in fields or _may_have_lists(bytes(messages))):
        with suppress(msgspec.DecodeError, RecursionError):
            return _decode(messages)
    return []


def _may_have_lists(messages: bytes) -> bool:
    """Whether there may be parts or calls; of long prose this tells much sooner than a parse.

    To look for one byte is quick as long as it is rare: in code it is not, and a parse is quicker.
    """
    at = 0  # there the messages begin
    for _ in range(_MAX_LOOKS):
        at = messages.find(b"[", at + 1)
        if at < 0:
            return False
        if messages[at + 1 : at + 2] in _BEFORE_ITEM:
            return True
    return True
