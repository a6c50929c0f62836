"""What changes in a request that Claude itself gets: thoughts that are not Claude's are left out.

A conversation that another kind of client answered before has their thoughts in containers
(`reasoning`). All other bytes stay as they came, but for `thinking` with a budget where the tool
loop that goes on has lost its thoughts: Claude wants them at the beginning of each of its turns
(build-with-claude/extended-thinking, 2026-11).
"""

from __future__ import annotations

from contextlib import suppress

import msgspec
from msgspec import Raw

from .. import reasoning
from ..lenient_json import decode_any, decode_object, decoder, encode

_MARK = reasoning.MARK.encode()
_USER = Raw(b'"user"')


class _Block(msgspec.Struct):
    type: str = ""
    signature: str = ""
    data: str = ""


_items = decoder(list[Raw])
_messages = decoder(list[dict[str, Raw]])
_block = decoder(_Block)


def without_containers(body: bytes) -> bytes:
    """The request without the thoughts of other kinds of clients."""
    return without_thoughts(body, every=False) if _MARK in body else body


def without_thoughts(body: bytes, *, every: bool = True) -> bytes:
    """The request without any thoughts of earlier turns, or those of others than Claude."""
    with suppress(msgspec.DecodeError, RecursionError):  # Claude answers for what is odd
        fields = decode_object(body)
        turns: list[tuple[dict[str, Raw], list[str]]] = []  # with the types of their blocks
        is_same = True
        for message in _messages(fields["messages"]):
            types = [""]  # a text has none
            if bytes(message.get("content", Raw())).startswith(b"["):
                blocks = [(raw, _block(raw)) for raw in _items(message["content"])]
                kept = [each for each in blocks if not _is_left_out(each[1], every)]
                is_same = is_same and len(kept) == len(blocks)
                message["content"] = Raw(encode([raw for raw, _ in kept]))
                types = [block.type for _, block in kept]
            if types:
                turns.append((message, types))
        if is_same:
            return body
        fields["messages"] = Raw(encode([message for message, _ in turns]))
        if not reasoning.loop_thinks([(one.get("role") == _USER, types) for one, types in turns]):
            _stop_thinking(fields)
        return encode(fields)
    return body


def _is_left_out(block: _Block, every: bool) -> bool:
    is_thought = block.type in reasoning.BLOCKS
    return is_thought and (every or reasoning.unpack(block.signature or block.data) is not None)


def _stop_thinking(fields: dict[str, Raw]) -> None:
    thinking = decode_any(fields.get("thinking", Raw(b"null")))
    if isinstance(thinking, dict) and thinking.get("type") == "enabled":
        del fields["thinking"]
        # Its edits of thoughts are refused where there is no thinking.
        if b"clear_thinking" in bytes(fields.get("context_management", Raw())):
            del fields["context_management"]
