"""Whole answers: of generateContent as a chat.completion, and of countTokens."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ...errors import UpstreamInvalid
from . import events
from .choice import Choice, Choices, Delta


class _Count(events.Answer, rename="camel"):
    total_tokens: int | None = None


_read_count: Final = events.reader(_Count, "count of tokens")


def to_count(body: bytes) -> bytes:
    """The answer of `countTokens` as an object with `input_tokens`; raises as `to_chat` does."""
    count = _read_count(body)
    if count.total_tokens is None:
        raise UpstreamInvalid("Gemini's answer has no totalTokens")
    return b'{"input_tokens":%d}' % count.total_tokens


def to_chat(body: bytes, *, request: bytes, model: str, created: int, reply_id: str) -> bytes:
    """The chat.completion; its id is Gemini's `responseId`, `reply_id` where there is none.

    `request`: the body of the chat request that it answers.

    Raises UpstreamInvalid if it is no whole GenerateContentResponse or the model failed, and
    UpstreamRefusal if it is an error object after all.
    """
    response = events.read(body)
    made = list(Choices(request, reply_id).add(response))
    if not made:
        raise UpstreamInvalid("Gemini's answer has no candidates and names no reason")
    if not all(choice.finished for choice, *_ in made):
        raise UpstreamInvalid("Gemini's answer has a candidate without a finishReason")
    return msgspec.json.encode(
        {
            "id": response.response_id or reply_id,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [_as_chat(*one) for one in sorted(made, key=lambda one: one[0].index)],
            "usage": events.chat_usage(response.usage_metadata),
        }
    )


def _as_chat(choice: Choice, delta: Delta, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    head = {"role": "assistant", "content": None, "refusal": None}
    message: dict[str, Any] = {**head, **delta, **choice.closing}
    for field in ("tool_calls", "annotations"):
        for entry in message.get(field, ()):
            del entry["index"]
    reason = choice.finish_reason
    return {
        "index": choice.index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": reason,
    }
