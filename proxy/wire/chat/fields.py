"""Looks into a request's body after `request` has read it, for those who need more of it."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from ...errors import InvalidRequest
from ..lenient_json import decode_any, decode_object, encode

_NULL = Raw(b"null")


def with_model(body: bytes, name: str) -> bytes:
    """The body with another `model`, and every other value as it came."""
    values = decode_object(body)
    values["model"] = Raw(encode(name))
    return encode(values)


def read_fields(body: bytes) -> dict[str, Raw]:
    """The top-level values of a body that `read_request` has checked; `unshield` what is made."""
    try:
        return decode_object(body)
    except RecursionError as error:  # the stack is deeper here than it was at the first reading
        raise too_deep() from error


def read_any(value: Raw) -> Any:
    """A value as plain data; raises InvalidRequest for a number that is out of all range."""
    try:
        return decode_any(value)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the request body cannot be read: {error}") from error
    except RecursionError as error:
        raise too_deep() from error


def too_deep() -> InvalidRequest:
    """The error for JSON that is nested deeper than the interpreter's stack allows."""
    return InvalidRequest("the request body is nested too deeply")


def choices_asked(body: bytes) -> int:
    """How many choices an answer is to have: `n`, for each prompt of a completions request."""
    try:
        n, prompt = _asked(body, "n", "prompt")
    except msgspec.DecodeError:
        return 1
    prompts = 1
    if isinstance(prompt, list) and not any(isinstance(token, int) for token in prompt):
        prompts = len(prompt) or 1
    return prompts * (n if isinstance(n, int) and n > 0 else 1)


def _asked(body: bytes, *names: str) -> list[Any]:
    fields = decode_object(body)
    return [decode_any(fields.get(name, _NULL)) for name in names]
