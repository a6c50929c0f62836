"""A unary answer of the Messages API to a chat.completion, and what streams share with it.

Beyond OpenAI's fields the message has `reasoning_content` (the thinking that may be shown) and
`thinking_blocks` (thinking.py), each only if there is something in it.

Blocks and deltas are read leniently, as one struct for all types: the API adds types within a
version, and clients have to read over those that they don't know (docs/en/api/versioning, 2026-11).
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...errors import UpstreamInvalid
from ..chat import Usage, usage_object
from ..chat.made import Asked, completion
from ..made_names import plain_name
from ..reasoning import BLOCKS
from .api import UNREADABLE, hidden_refusal
from .thinking import ThinkingBlock, carry


class Block(msgspec.Struct):
    """A content block, or the delta of one; look-alikes send null for what it does not have."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")
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
        """As OpenAI counts: the prompt holds what was cached."""
        read, written = self.cache_read_input_tokens, self.cache_creation_input_tokens
        details = self.output_tokens_details or _OutputDetails()
        prompt = (self.input_tokens or 0) + (read or 0) + (written or 0)
        return Usage(prompt, self.output_tokens or 0, read, written, details.thinking_tokens)

    def to_chat(self) -> dict[str, Any]:
        """The object `usage` of a chat completion."""
        told = self.told()
        return usage_object(told, cache_write_tokens=told.cache_write_tokens or 0)


class StopDetails(msgspec.Struct):
    """Of a refusal: platform.claude.com/docs/en/api/messages, `stop_details`."""

    category: str | None = None
    explanation: str | None = None


# What is not here (end_turn, stop_sequence, pause_turn and those to come) is a plain end.
_FINISH_REASONS = {
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


class Ending(msgspec.Struct):
    """How an answer ended: the fields of a message and of the delta at a stream's end."""

    stop_reason: str | None = None
    stop_details: StopDetails | None = None

    def finish_reason(self, *, has_calls: bool) -> str:
        """OpenAI's word for it."""
        finish = _FINISH_REASONS.get(self.stop_reason or "", "stop")
        return "tool_calls" if finish == "stop" and has_calls else finish

    def refusal(self) -> str | None:
        """What to tell the caller if the safety classifiers stopped the answer."""
        if self.stop_reason != "refusal":
            return None
        details = self.stop_details or StopDetails()
        category = f" ({details.category})" if details.category else ""
        return details.explanation or f"The model's safety system stopped this answer{category}."


class Said:
    """What an answer said up to now, as far as what follows depends on it."""

    def __init__(self, request: bytes) -> None:
        self._asked = Asked(request, plain_name)
        self.text_chars = 0
        self.calls = 0
        self._thinking: list[ThinkingBlock] = []
        self._carried = 0  # so many of _thinking are in the id of a call

    def think(self, block: Block) -> ThinkingBlock:
        """The block, whole, as it goes to the caller."""
        if block.type == "redacted_thinking":
            shown = ThinkingBlock(type=block.type, data=block.data or "")
        else:
            shown = ThinkingBlock(
                type="thinking", thinking=block.thinking or "", signature=block.signature or ""
            )
        shown.index = len(self._thinking)
        shown.content_offset = self.text_chars
        shown.tool_call_offset = self.calls
        self._thinking.append(shown)
        return shown

    def call(self, block: Block) -> dict[str, Any]:
        """The call of a tool, without its arguments."""
        carried = self._thinking[self._carried :]
        self._carried = len(self._thinking)
        self.calls += 1
        function = {"name": self._asked.name(block.name or ""), "arguments": ""}
        return {"id": carry(block.id or "", carried), "type": "function", "function": function}


class _Message(Ending, kw_only=True):
    type: str
    content: list[Block] | None
    id: str | None = None
    usage: Counts | None = None


_decode = msgspec.json.Decoder(_Message).decode


def to_chat(body: bytes, *, model: str, created: int, request: bytes = b"{}") -> bytes:
    """The chat.completion for `body`, to a chat request; `created` is in Unix seconds. Look-alikes
    send null for content and usage. Raises UpstreamInvalid, UpstreamRefusal for an error object.
    """
    try:
        message = _decode(body)
        if message.type != "message":
            raise UpstreamInvalid(f"the upstream answered with a {message.type[:80]!r}")
        said = Said(request)
        choice = {"index": 0, "message": _chat_message(message, said), "logprobs": None}
        choice["finish_reason"] = message.finish_reason(has_calls=said.calls > 0)
        usage, answer_id = (message.usage or Counts()).to_chat(), f"chatcmpl-{message.id or ''}"
        return completion(answer_id, [choice], usage, model=model, created=created)
    except UNREADABLE as error:
        if (refusal := hidden_refusal(body)) is not None:
            raise refusal from error
        raise UpstreamInvalid(f"the upstream's answer is no message: {error}") from error


def _chat_message(message: _Message, said: Said) -> dict[str, Any]:
    """The assistant's message, without the blocks of server tools and others unknown to OpenAI."""
    text = reasoning = ""
    calls: list[dict[str, Any]] = []
    thinking: list[ThinkingBlock] = []
    for block in message.content or ():
        if block.type == "text":
            text += block.text or ""
            said.text_chars = len(text)
        elif block.type in BLOCKS:
            reasoning += block.thinking or ""
            thinking.append(said.think(block))
        elif block.type == "tool_use":
            call = said.call(block)
            call["function"]["arguments"] = block.arguments().decode()
            calls.append(call)
    refusal = message.refusal()
    extras = {"tool_calls": calls, "reasoning_content": reasoning, "thinking_blocks": thinking}
    return {
        "role": "assistant",
        "content": text or (None if calls or refusal else ""),
        "refusal": refusal,
        **{name: value for name, value in extras.items() if value},
    }
