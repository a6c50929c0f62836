"""Looks into a request's body, for those who need more of it than `request` reads.

Of messages that is parts with media, and calls. To read them takes milliseconds for 2 MB, so
`request` asks for it only where `spelling` or `names` may have something to see.
"""

from __future__ import annotations

from contextlib import suppress
from operator import is_
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ...errors import InvalidRequest
from ..lenient_json import decode_any, decode_object, decoder, encode
from ..reasoning import strip

_items = decoder(list[Raw])


def with_model(body: bytes, name: str) -> bytes:
    """The body with another `model`, and every other value as it came; raises InvalidRequest."""
    values = read_fields(body)
    values["model"] = Raw(encode(name))
    return encode(values)


def read_fields(body: bytes) -> dict[str, Raw]:
    """The top-level values of a body that `read_request` has checked; `unshield` what is made."""
    try:
        return decode_object(body)
    except RecursionError as error:  # the stack is deeper here than it was at the first reading
        raise too_deep() from error


# Where models' thoughts and what signs them stand in messages and their calls: those of Claude
# (`thinking_blocks`), Google, DeepSeek, OpenRouter.
_THOUGHTS = ("thinking_blocks", "extra_content", "reasoning_content", "reasoning_details")


def without_reasoning(body: bytes) -> bytes | None:
    """A chat request without what earlier answers thought; None: there is nothing of it."""
    plain = strip(body)
    fields = decode_object(plain)
    if any(name.encode() in plain for name in _THOUGHTS):
        messages = _items(fields["messages"])
        if (kept := [_unthinking(one) for one in messages]) != messages:
            plain = encode({**fields, "messages": kept})
    return None if plain == body else plain


def _unthinking(raw: Raw) -> Raw:
    if not any(name.encode() in bytes(raw) for name in _THOUGHTS):
        return raw
    found = decode_object(raw)
    kept = {name: value for name, value in found.items() if name not in _THOUGHTS}
    if bytes(kept.get("tool_calls", Raw())).startswith(b"["):
        kept["tool_calls"] = Raw(encode([_unthinking(one) for one in _items(kept["tool_calls"])]))
    return Raw(encode(kept)) if kept != found else raw


def read_any(value: Raw) -> Any:
    """A value as plain data; raises InvalidRequest for a number that is out of all range."""
    try:
        return decode_any(value)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the request body cannot be read: {error}") from error
    except RecursionError as error:
        raise too_deep() from error


def misfit(error: Exception, path: str = "") -> InvalidRequest:
    """The error for a value that is not of the type it should be: msgspec says at which path."""
    problem, _, below = str(error).partition(" - at `$")
    param = f"{path}{below.rstrip('`')}".lstrip(".") or None
    return InvalidRequest(f"{param or 'body'}: {problem}", param=param)


def too_deep() -> InvalidRequest:
    """The error for JSON that is nested deeper than the interpreter's stack allows."""
    return InvalidRequest("the request body is nested too deeply")


def choices_asked(body: bytes) -> int:
    """How many choices an answer is to have: `n`, for each prompt of a completions request."""
    try:
        fields = decode_object(body)
        n, prompt = (decode_any(fields.get(name, b"null")) for name in ("n", "prompt"))
    except msgspec.DecodeError:
        return 1
    prompts = 1
    if isinstance(prompt, list) and not any(isinstance(token, int) for token in prompt):
        prompts = len(prompt) or 1
    return prompts * (n if isinstance(n, int) and n > 0 else 1)


class Part(Struct, gc=False):
    """A part of a content; its media as they came."""

    image_url: Raw | UnsetType = UNSET
    file: Raw | UnsetType = UNSET
    input_audio: Raw | UnsetType = UNSET


class Named(Struct, gc=False):
    """A function, or a call of one."""

    name: str | None = None


class Tool(Struct, gc=False):
    """A tool, or a call of one."""

    type: str | None = None
    function: Named | None = None
    custom: Named | None = None


class Message(Struct, gc=False):
    """`function_call`: what calls were before there were tools."""

    role: str | None = None
    name: str | None = None
    content: list[Part] | str | None = None
    tool_calls: list[Tool] | None = None
    function_call: Named | None = None


read_text = msgspec.json.Decoder(str).decode

_decode = msgspec.json.Decoder(list[Message]).decode


def read_messages(messages: Raw) -> list[Message]:
    """A request's messages; none if they are not as chat has them."""
    with suppress(msgspec.DecodeError, RecursionError):
        return _decode(messages)
    return []


def rewritten(value: Raw, place: Any) -> Raw:
    """The value with others at the ends of `place`; the same object if all of them are the same.

    `place`: by name what is done with a member, in a list with each item; at its ends functions of
    a value. Every other value stays as it came.
    """
    if callable(place):
        found: Raw = place(value)
        return found
    first = bytes(value).lstrip()[:1]
    if first == b"{" and isinstance(place, dict):
        members = decode_object(value)
        others = {name: rewritten(members[name], place[name]) for name in place if name in members}
        is_same = all(members[name] is other for name, other in others.items())
        return value if is_same else Raw(encode({**members, **others}))
    if first == b"[" and isinstance(place, list):
        items = _items(value)
        changed = [rewritten(item, place[0]) for item in items]
        return value if all(map(is_, items, changed)) else Raw(encode(changed))
    return value
