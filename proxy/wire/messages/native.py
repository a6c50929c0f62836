"""What changes in a request that Claude itself gets: thoughts that are not Claude's are left out.

A conversation that another kind of client answered before has their thoughts in containers
(`reasoning`). All other bytes stay as they came, but for `thinking` with a budget where the tool
loop that goes on has lost its thoughts: Claude wants them at the beginning of each of its turns
(build-with-claude/extended-thinking, 2026-11).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Raw

from .. import reasoning
from ..lenient_json import decode_any, decode_object, decoder, encode
from .blocks import THINKING

_MARK = reasoning.MARK.encode()
_SEARCHED = tuple(kind.encode() for kind in THINKING)

_items = decoder(list[Raw])


class _Block(msgspec.Struct):
    type: str = ""
    signature: str = ""
    data: str = ""


class _Turn(msgspec.Struct):
    role: str = ""
    content: str | list[_Block] = ""


_block = decoder(_Block)
_turn = decoder(_Turn)


def without_containers(body: bytes) -> bytes:
    """The request without the thoughts of other kinds of clients."""
    return _edited(body, every=False) if _MARK in body else body


def without_thoughts(body: bytes) -> bytes | None:
    """The request without any thoughts of earlier turns; None: there are none in it."""
    if not any(kind in body for kind in _SEARCHED):
        return None
    edited = _edited(body, every=True)
    return None if edited == body else edited


def _edited(body: bytes, *, every: bool) -> bytes:
    with suppress(msgspec.DecodeError, RecursionError):  # Claude answers for what is odd
        fields = decode_object(body)
        messages = _items(fields["messages"])
        kept = [found for message in messages if (found := _message(message, every)) is not None]
        if kept == messages:
            return body
        fields["messages"] = Raw(encode(kept))
        if _begins_loop_without_thoughts(kept):
            _stop_thinking(fields)
        return encode(fields)
    return body


def _message(raw: Raw, every: bool) -> Raw | None:
    """The message without such thoughts; None: nothing else is in it."""
    if not (any(kind in bytes(raw) for kind in _SEARCHED) if every else _MARK in bytes(raw)):
        return raw
    message = decode_object(raw)
    if not bytes(message.get("content", Raw())).startswith(b"["):
        return raw
    blocks = _items(message["content"])
    kept = [block for block in blocks if not _is_left_out(_block(block), every)]
    if len(kept) == len(blocks):
        return raw
    message["content"] = Raw(encode(kept))
    return Raw(encode(message)) if kept else None


def _is_left_out(block: _Block, every: bool) -> bool:
    is_thought = block.type in THINKING
    return is_thought and (every or reasoning.unpack(block.signature or block.data) is not None)


def _begins_loop_without_thoughts(messages: list[Raw]) -> bool:
    for turn in map(_turn, reversed(messages)):
        kinds = ["text"] if isinstance(turn.content, str) else [b.type for b in turn.content]
        if turn.role == "user" and "tool_result" not in kinds:
            return False
        if turn.role == "assistant" and "tool_use" in kinds and kinds[0] not in THINKING:
            return True
    return False


def _stop_thinking(fields: dict[str, Raw]) -> None:
    thinking: Any = decode_any(fields.get("thinking", Raw(b"null")))
    if isinstance(thinking, dict) and thinking.get("type") == "enabled":
        del fields["thinking"]
        # Its edits of thoughts are refused where there is no thinking.
        if b"clear_thinking" in bytes(fields.get("context_management", Raw())):
            del fields["context_management"]
