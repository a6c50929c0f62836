"""Counting tokens: `countTokens` of a generateContent request (ai.google.dev/api/tokens, 2026-11).

With a whole request in `generateContentRequest` the system instruction and the tools count too.
"""

from __future__ import annotations

import msgspec

from ...errors import UpstreamInvalid
from .events import Answer, reader
from .request import resource


class _Count(Answer, rename="camel"):
    total_tokens: int | None = None


_read = reader(_Count, "count of tokens")


def to_request(body: bytes, *, model: str) -> bytes:
    """The body, of a generateContent request's."""
    named = msgspec.json.encode(resource(model))
    return b'{"generateContentRequest":{"model":%b,%b}' % (named, body[1:])


def to_hub(body: bytes) -> bytes:
    """The answer as an object with `input_tokens`; raises UpstreamInvalid, UpstreamRefusal."""
    count = _read(body)
    if count.total_tokens is None:
        raise UpstreamInvalid("Gemini's answer has no totalTokens")
    return b'{"input_tokens":%d}' % count.total_tokens
