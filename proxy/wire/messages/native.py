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


class _Block(msgspec.Struct):
    type: str = ""
    signature: str = ""
    data: str = ""


class _Turn(msgspec.Struct):
    role: str = ""
    content: str | list[_Block] = ""


_items = decoder(list[Raw])
_messages = decoder(list[dict[str, Raw]])
_block = decoder(_Block)
_turns = decoder(list[_Turn])


def without_containers(body: bytes) -> bytes:
    """The request without the thoughts of other kinds of clients."""
    return _edited(body, every=False) if _MARK in body else body


def without_thoughts(body: bytes) -> bytes | None:
    """The request without any thoughts of earlier turns; None: there are none in it."""
    edited = _edited(body, every=True)
    return None if edited is body else edited


def _edited(body: bytes, *, every: bool) -> bytes:
    with suppress(msgspec.DecodeError, RecursionError):  # Claude answers for what is odd
        fields = decode_object(body)
        messages = _messages(fields["messages"])
        if not sum([_leave_out(message, every) for message in messages]):
            return body
        kept = encode([one for one in messages if one.get("content") != Raw(b"[]")])
        fields["messages"] = Raw(kept)
        if _begins_loop_without_thoughts(_turns(kept)):
            _stop_thinking(fields)
        return encode(fields)
    return body


def _leave_out(message: dict[str, Raw], every: bool) -> int:
    """Leave such thoughts out of a message; how many there were."""
    if not bytes(message.get("content", Raw())).startswith(b"["):
        return 0
    blocks = _items(message["content"])
    kept = [block for block in blocks if not _is_left_out(_block(block), every)]
    message["content"] = Raw(encode(kept))
    return len(blocks) - len(kept)


def _is_left_out(block: _Block, every: bool) -> bool:
    is_thought = block.type in THINKING
    return is_thought and (every or reasoning.unpack(block.signature or block.data) is not None)


def _begins_loop_without_thoughts(turns: list[_Turn]) -> bool:
    for turn in reversed(turns):
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
