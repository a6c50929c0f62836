"""A whole generateContent answer as a chat.completion."""

from __future__ import annotations

from typing import Any

import msgspec

from ...errors import UpstreamInvalid
from . import events
from .choice import Choice, Delta, logprobs_of
from .events import chat_usage
from .names import Asked


def to_chat(body: bytes, *, request: bytes, model: str, created: int, reply_id: str) -> bytes:
    """The chat.completion; its id is Gemini's `responseId`, `reply_id` where there is none.

    `request`: the body of the chat request that it answers.

    Raises UpstreamInvalid if it is no whole GenerateContentResponse or the model failed, and
    UpstreamRefusal if it is an error object after all.
    """
    response = events.read(body)
    asked = Asked(request)
    choices = [
        _choice(candidate, place, reply_id, asked)
        for place, candidate in enumerate(response.candidates or ())
    ]
    feedback = response.prompt_feedback
    if not choices and feedback is not None and feedback.block_reason:
        blocked = Choice(0, reply_id, asked)
        choices = [_as_chat(blocked, blocked.block(feedback), None)]
    if not choices:
        raise UpstreamInvalid("Gemini's answer has no candidates and names no reason")
    choices.sort(key=lambda choice: choice["index"])
    return msgspec.json.encode(
        {
            "id": response.response_id or reply_id,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": choices,
            "usage": chat_usage(response.usage_metadata),
        }
    )


def _choice(candidate: events.Candidate, place: int, reply_id: str, asked: Asked) -> dict[str, Any]:
    choice = Choice(place if candidate.index is None else candidate.index, reply_id, asked)
    delta = choice.add(candidate)
    if not choice.finished:
        raise UpstreamInvalid("Gemini's answer has a candidate without a finishReason")
    return _as_chat(choice, delta, logprobs_of(candidate))


def _as_chat(choice: Choice, delta: Delta, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    head = {"role": "assistant", "content": None, "refusal": None}
    message: dict[str, Any] = {**head, **delta, **choice.closing}
    for field in ("tool_calls", "annotations"):
        for entry in message.get(field, ()):
            del entry["index"]
    return {
        "index": choice.index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": choice.finish_reason,
    }
