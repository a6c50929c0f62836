"""The tokens of an answer: what OpenAI calls `usage`, and what a request's record keeps of it.

Source: platform.openai.com/docs/api-reference/chat/object and /streaming, read 2026-11; the openai
SDK's types/completion_usage.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from ..lenient_json import decode_object, encode

# Responses' words for chat's: openai SDK, types/responses/response_usage.py, read 2026-11.
_CHATS = {
    "input_tokens": "prompt_tokens", "input_tokens_details": "prompt_tokens_details",
    "output_tokens": "completion_tokens", "output_tokens_details": "completion_tokens_details",
}  # fmt: skip

# Past it JSON's numbers are not exact (RFC 8259, section 6): no count of tokens.
_MAX_COUNT = 2**53


@dataclass(frozen=True)
class Usage:
    """Tokens as OpenAI counts them, whatever the upstream; None: it did not tell."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None  # of the prompt's, read from the upstream's cache
    cache_write_tokens: int | None = None  # of the prompt's, written to it
    reasoning_tokens: int | None = None  # of the completion's
    partial: bool = False  # the answer was cut off: the upstream may count more

    def plus(self, other: Usage) -> Usage:
        """Both together, as far as they were told."""
        counts = vars(self).items()
        sums: dict[str, Any] = {name: _sum(count, getattr(other, name)) for name, count in counts}
        return Usage(**{**sums, "partial": self.partial or other.partial})


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one + (other or 0)


def read_usage(told: Any) -> Usage | None:
    """The tokens that the object `usage` of an answer tells; None: none at all.

    Those of Responses are input and output. Where DeepSeek and Moonshot tell of their caches:
    api-docs.deepseek.com/guides/kv_cache, platform.moonshot.ai/docs/api/chat, read 2026-11.
    """
    fields = as_object(told)
    if "prompt_tokens" not in fields:
        fields = {chats: fields.get(theirs) for theirs, chats in _CHATS.items()} | fields
    prompt = as_object(fields.get("prompt_tokens_details"))
    completion = as_object(fields.get("completion_tokens_details"))
    cached = _count(prompt.get("cached_tokens"))
    for name in ("prompt_cache_hit_tokens", "cached_tokens"):
        cached = _count(fields.get(name)) if cached is None else cached
    usage = Usage(
        _count(fields.get("prompt_tokens")),
        _count(fields.get("completion_tokens")),
        cached,
        _count(prompt.get("cache_write_tokens")),
        _count(completion.get("reasoning_tokens")),
    )
    return None if usage == Usage() else usage


def as_object(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_text(value: Any) -> str:
    """The value if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    """Some send them as floats."""
    is_number = type(value) in (int, float)  # and no boolean, which `isinstance` takes for one
    return int(value) if is_number and 0 <= value <= _MAX_COUNT else None


def usage_object(told: Usage, **more_of_prompt: int) -> dict[str, Any]:
    """`usage` of a completion, where an upstream has told it in other words."""
    prompt, completion = told.prompt_tokens or 0, told.completion_tokens or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": told.cached_tokens or 0, **more_of_prompt},
        "completion_tokens_details": {"reasoning_tokens": told.reasoning_tokens or 0},
    }


def is_asked(options: Raw | None) -> bool:
    """Whether a request with these `stream_options`, if they make sense, asks for the usage."""
    if options is None:
        return False
    try:
        return _members(options).get("include_usage") == Raw(b"true")
    except (msgspec.DecodeError, RecursionError):
        return True


def asking_usage(body: bytes, options: Raw | None) -> bytes:
    """A stream's request that asks for the usage now, and says all else as it did."""
    if options is None:
        at = body.rindex(b"}")
        view = memoryview(body)  # of 200 kB, slices and `%` would take 270 us, and this 4
        return b"".join((view[:at], b',"stream_options":{"include_usage":true}', view[at:]))
    asked = {**_members(options), "include_usage": True}
    return encode({**decode_object(body), "stream_options": asked})


def _members(options: Raw) -> dict[str, Raw]:
    return {} if bytes(options) == b"null" else decode_object(options)
