"""A unary answer of the Messages API to a chat.completion.

Beyond OpenAI's fields the message has `reasoning_content` (the thinking that may be shown) and
`thinking_blocks` (thinking.py), each only if there is something in it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...errors import UpstreamInvalid
from .answer import Block, Counts, Ending, Said, finish_reason, refusal_text
from .errors import hidden_refusal
from .names import CallersNames, rename_keys
from .thinking import ThinkingBlock


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
            raise UpstreamInvalid(f"the upstream answered with a {message.type[:80]!r}")
        return msgspec.json.encode(_completion(message, model, created, names or CallersNames()))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        if (refusal := hidden_refusal(body)) is not None:
            raise refusal from error
        raise UpstreamInvalid(f"the upstream's answer is no message: {error}") from error


def _completion(message: _Message, model: str, created: int, names: CallersNames) -> dict[str, Any]:
    said = Said(names)
    shown = _chat_message(message, said)
    choice = {
        "index": 0,
        "message": shown,
        "logprobs": None,
        "finish_reason": finish_reason(message.stop_reason, has_calls=said.calls > 0),
    }
    return {
        "id": f"chatcmpl-{message.id or ''}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": (message.usage or Counts()).to_chat(),
    }


def _chat_message(message: _Message, said: Said) -> dict[str, Any]:
    """The assistant's message, without the blocks of server tools and others unknown to OpenAI."""
    text = reasoning = ""
    annotations: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thinking: list[ThinkingBlock] = []
    for block in message.content or ():
        if block.type == "text":
            start = said.text_chars
            text += block.text or ""
            said.text_chars = len(text)
            annotations += said.cite(block.citations or (), start)
        elif block.type in ("thinking", "redacted_thinking"):
            reasoning += block.thinking or ""
            thinking.append(said.think(block))
        elif block.type == "tool_use":
            call = said.call(block)
            properties = said.names.properties(block.name or "")
            call["function"]["arguments"] = rename_keys(block.arguments(), properties).decode()
            calls.append(call)
    refusal = refusal_text(message)
    extras = {
        "annotations": annotations,
        "tool_calls": calls,
        "reasoning_content": reasoning,
        "thinking_blocks": thinking,
    }
    return {
        "role": "assistant",
        "content": text or (None if calls or refusal else ""),
        "refusal": refusal,
        **{name: value for name, value in extras.items() if value},
    }
