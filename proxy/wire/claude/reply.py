"""A unary answer of the Messages API to a chat.completion.

Beyond OpenAI's fields the message has `reasoning_content` (the thinking that may be shown) and
`thinking_blocks` (thinking.py), each only if there is something in it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...errors import UpstreamInvalid
from .answer import (
    Block,
    Counts,
    Ending,
    annotation,
    finish_reason,
    refusal_text,
    thinking_block,
)
from .errors import hidden_refusal
from .names import CallersNames, rename_keys
from .thinking import ThinkingBlock, carry


class _Message(Ending, kw_only=True):
    type: str
    content: list[Block] | None
    id: str | None = None
    usage: Counts | None = None


_messages = msgspec.json.Decoder(_Message)


def to_chat(body: bytes, *, model: str, created: int, names: CallersNames | None = None) -> bytes:
    """The chat.completion for `body`; `created` is in Unix seconds.

    Services that look like Anthropic's have been seen to send null for content and usage.

    Raises UpstreamInvalid if `body` is no Message, and UpstreamRefusal if it is an error object.
    """
    try:
        message = _messages.decode(body)
        if message.type != "message":
            raise UpstreamInvalid(f"the upstream answered with a {message.type[:80]!r}.")
        return msgspec.json.encode(_completion(message, model, created, names or CallersNames()))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        if (refusal := hidden_refusal(body)) is not None:
            raise refusal from error
        raise UpstreamInvalid(f"the upstream's answer is no message: {error}") from error


def _completion(message: _Message, model: str, created: int, names: CallersNames) -> dict[str, Any]:
    gathered = _Gathered(names)
    for block in message.content or ():
        gathered.add(block)
    choice = {
        "index": 0,
        "message": gathered.message(refusal=refusal_text(message)),
        "logprobs": None,
        "finish_reason": finish_reason(message.stop_reason, has_calls=bool(gathered.calls)),
    }
    return {
        "id": f"chatcmpl-{message.id or ''}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": (message.usage or Counts()).to_chat(),
    }


class _Gathered:
    """The blocks of a message, sorted into the places that OpenAI has for them."""

    def __init__(self, names: CallersNames) -> None:
        self._names = names
        self.calls: list[dict[str, Any]] = []
        self._text = ""
        self._reasoning = ""
        self._thinking: list[ThinkingBlock] = []
        self._carried = 0  # so many of _thinking are in the id of a call
        self._annotations: list[dict[str, Any]] = []

    def add(self, block: Block) -> None:
        """Blocks that OpenAI has no place for, such as those of server tools, are left out."""
        if block.type == "text":
            self._add_text(block)
        elif block.type in ("thinking", "redacted_thinking"):
            self._reasoning += block.thinking or ""
            self._thinking.append(
                thinking_block(
                    block,
                    index=len(self._thinking),
                    content_offset=len(self._text),
                    tool_call_offset=len(self.calls),
                )
            )
        elif block.type == "tool_use":
            carried = self._thinking[self._carried :]
            self._carried = len(self._thinking)
            wire_name = block.name or ""
            arguments = rename_keys(block.arguments(), self._names.properties(wire_name))
            function = {"name": self._names.tool(wire_name), "arguments": arguments.decode()}
            self.calls.append(
                {"id": carry(block.id or "", carried), "type": "function", "function": function}
            )

    def _add_text(self, block: Block) -> None:
        start = len(self._text)
        self._text += block.text or ""
        for citation in block.citations or ():
            if citation.url:
                self._annotations.append(
                    annotation(
                        citation, index=len(self._annotations), start=start, end=len(self._text)
                    )
                )

    def message(self, *, refusal: str | None) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self._text or (None if self.calls or refusal else ""),
            "refusal": refusal,
        }
        extras = {
            "annotations": self._annotations,
            "tool_calls": self.calls,
            "reasoning_content": self._reasoning,
            "thinking_blocks": self._thinking,
        }
        return message | {name: value for name, value in extras.items() if value}
