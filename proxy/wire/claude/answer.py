"""What unary answers and streams have in common: blocks, usage, why an answer ended.

Blocks and deltas are read leniently, as one struct for all types: the API adds types within a
version, and clients have to read over those that they don't know (docs/en/api/versioning, 2026-11).
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..chat import Usage, usage_object
from .thinking import ThinkingBlock


class Citation(msgspec.Struct):
    """Of a page on the web if it has a `url`: the only kind that OpenAI has a place for."""

    url: str | None = None
    title: str | None = None


class Block(msgspec.Struct):
    """A content block; also the delta of one, whose text is in a field by the delta's type.

    Look-alikes send null for what a block does not have.
    """

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")
    citations: list[Citation] | None = None
    citation: Citation | None = None
    partial_json: str | None = None

    def arguments(self) -> bytes:
        """The input of a call, whole."""
        raw = bytes(self.input)
        return b"{}" if raw == b"null" else raw


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class Counts(msgspec.Struct):
    """Claude's counts: `input_tokens` leaves out what was read from or written to the cache."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None

    def update(self, later: Counts) -> None:
        """Take over what `later` says: counts are cumulative, what is left out stays."""
        for name in self.__struct_fields__:
            if (value := getattr(later, name)) not in (None, _OutputDetails()):
                setattr(self, name, value)

    def told(self) -> Usage:
        """What the request's record keeps: as OpenAI counts, the prompt holds what was cached."""
        read, written = self.cache_read_input_tokens or 0, self.cache_creation_input_tokens or 0
        return Usage((self.input_tokens or 0) + read + written, self.output_tokens or 0)

    def to_chat(self) -> dict[str, Any]:
        """The object `usage` of a chat completion."""
        details = self.output_tokens_details or _OutputDetails()
        return usage_object(
            self.told(),
            reasoning_tokens=details.thinking_tokens or 0,
            cached_tokens=self.cache_read_input_tokens or 0,
            cache_write_tokens=self.cache_creation_input_tokens or 0,
        )


class StopDetails(msgspec.Struct):
    """Of a refusal: platform.claude.com/docs/en/api/messages, `stop_details`."""

    category: str | None = None
    explanation: str | None = None


class Ending(msgspec.Struct):
    """How an answer ended: the fields of a message and of the delta at a stream's end."""

    stop_reason: str | None = None
    stop_details: StopDetails | None = None


# What is not here (end_turn, stop_sequence, pause_turn and those to come) is a plain end.
_FINISH_REASONS = {
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


def finish_reason(stop_reason: str | None, *, has_calls: bool) -> str:
    """OpenAI's word for it."""
    finish = _FINISH_REASONS.get(stop_reason or "", "stop")
    return "tool_calls" if finish == "stop" and has_calls else finish


def refusal_text(ending: Ending) -> str | None:
    """What to tell the caller if the safety classifiers stopped the answer."""
    if ending.stop_reason != "refusal":
        return None
    details = ending.stop_details or StopDetails()
    category = f" ({details.category})" if details.category else ""
    return details.explanation or f"The model's safety system stopped this answer{category}."


def thinking_block(
    block: Block, *, index: int, content_offset: int, tool_call_offset: int
) -> ThinkingBlock:
    """The block as it goes to the caller."""
    if block.type == "redacted_thinking":
        shown = ThinkingBlock(type=block.type, data=block.data or "")
    else:
        shown = ThinkingBlock(
            type="thinking", thinking=block.thinking or "", signature=block.signature or ""
        )
    shown.index = index
    shown.content_offset = content_offset
    shown.tool_call_offset = tool_call_offset
    return shown


def annotation(citation: Citation, *, index: int, start: int, end: int) -> dict[str, Any]:
    """A citation of a page for the characters from `start` to `end` of the content."""
    return {
        "index": index,
        "type": "url_citation",
        "url_citation": {
            "start_index": start,
            "end_index": end,
            "title": citation.title or citation.url,
            "url": citation.url,
        },
    }
