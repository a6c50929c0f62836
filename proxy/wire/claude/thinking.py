"""Thinking blocks on their way through a caller that speaks OpenAI and returns what it was given.

In a tool loop the API wants the thinking blocks of the assistant's turn back, unchanged and in
order, text and signature both (build-with-claude/thinking, 2026-11). They travel

- in the field `thinking_blocks` of the assistant's message: a list of Claude's own `thinking` and
  `redacted_thinking` blocks, each with `index` (its place in the list, which SDKs need to join
  streams) and, unless 0, `content_offset` and `tool_call_offset`: how many characters of `content`
  and how many tool calls come before it. In a stream each arrives whole, in one delta;
- and in the id of the tool call that follows them, for callers that drop unknown fields:
  `<id>__thinking__<base64url of deflated JSON>`. The characters are those that ids have everywhere.
  What survives then is all blocks before the last tool call of a message, unless they take more
  than MAX_CARRIED_BYTES; blocks after it, and of messages without tool calls, are lost. The API
  does without these.

The field wins over the ids.
"""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any

import msgspec

from ..reasoning import THINKING

# Each id appears twice in every later request (call and result), and callers store ids in columns.
MAX_CARRIED_BYTES = 32_768
# Deflate can grow a thousandfold: what an id unpacks to is bounded too.
_MAX_UNPACKED_BYTES = 1_048_576


class ThinkingBlock(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A block as it stands in the field `thinking_blocks`."""

    type: str
    index: int | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    content_offset: int = 0
    tool_call_offset: int = 0

    def to_wire(self) -> dict[str, Any] | None:
        """The block that Claude gets; None: there is none in it."""
        if self.type == "thinking" and self.signature:
            return {"type": self.type, "thinking": self.thinking or "", "signature": self.signature}
        if self.type == "redacted_thinking" and self.data:
            return {"type": "redacted_thinking", "data": self.data}
        return None


_blocks = msgspec.json.Decoder(list[ThinkingBlock])


def carry(call_id: str, blocks: Sequence[ThinkingBlock]) -> str:
    """`call_id` with `blocks` in it, or as it is if there are none or they are too large."""
    if not blocks:
        return call_id
    payload = urlsafe_b64encode(zlib.compress(msgspec.json.encode(blocks))).rstrip(b"=")
    if len(payload) > MAX_CARRIED_BYTES:
        return call_id
    return f"{call_id}{THINKING}{payload.decode()}"


def unpack(call_id: str) -> tuple[str, list[ThinkingBlock]]:
    """The id as Claude gave it, and what it carried; a payload that was damaged counts as none."""
    bare, mark, payload = call_id.partition(THINKING)
    if not mark or not bare:
        return call_id, []
    try:
        packed = urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        inflate = zlib.decompressobj()
        blocks = _blocks.decode(inflate.decompress(packed, _MAX_UNPACKED_BYTES))
        return bare, blocks if inflate.eof else []
    except (ValueError, zlib.error, msgspec.DecodeError, RecursionError):
        return bare, []
