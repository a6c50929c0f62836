"""How signed reasoning travels through callers whose dialect is another vendor's. No state is here.

A model's vendor wants its own signatures back, and refuses those of others. So a signature goes out
in a text that says which kind of client made it, and comes back to that kind alone: a container,
which the caller keeps with the conversation. It is base64 as real signatures are: of `poolproxy`, a
version, the kind, and a payload that only that kind's translators read.

Chat has no place for containers, but every caller returns the id of a call: there Claude's thinking
and Gemini's thought signatures travel behind a mark in it (`claude.thinking`, `gemini.calls`). To
another kind of upstream they mean nothing, and make the id longer than it may take (40 characters
at OpenAI's own API, 64 at Anthropic's).
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

# The types of Anthropic's blocks that hold reasoning.
BLOCKS: Final = ("thinking", "redacted_thinking")

# What every container begins with, and nothing else: nine bytes are twelve characters of base64.
MARK = b64encode(b"poolproxy").decode()

# Callers send all of them with each later request.
MAX_CHARS = 32 * 1024

_VERSION = b"1"


class Container(NamedTuple):
    """`kind`: that of the client (`ClientConfig.kind`); "": of another version, or damaged."""

    kind: str
    payload: bytes = b""


def pack(kind: str, payload: bytes) -> str | None:
    """The container; None: it would be too large, so the block is left out."""
    packed = b64encode(b"poolproxy%b%b\0%b" % (_VERSION, kind.encode(), payload)).decode()
    return packed if len(packed) <= MAX_CHARS else None


def unpack(text: str) -> Container | None:
    """What is in a container; None: it is none, but a vendor's own."""
    if not text.startswith(MARK):
        return None
    try:
        head, mark, payload = b64decode(text[len(MARK) :], validate=True).partition(b"\0")
    except ValueError:
        return Container("")
    if not mark or head[:1] != _VERSION or not head.isascii():
        return Container("")
    return Container(head[1:].decode(), payload)


def loop_thinks(turns: Sequence[tuple[bool, Sequence[str]]]) -> bool:
    """Whether each turn of Claude's in the tool loop that goes on begins with its thinking.

    With a budget, thinking may go on only then. `turns`: whether it is the user's, and the types of
    its blocks.
    """
    for is_user, types in reversed(turns):
        if is_user and "tool_result" not in types:
            break
        if not is_user and "tool_use" in types and types[0] not in BLOCKS:
            return False
    return True


# <id>__thinking__<deflated JSON in base64url>; eJ is how zlib's data begins (RFC 1950, 2.2).
THINKING = "__thinking__"
# <id>__thought__<base64url>
THOUGHT = "__thought__"

# Within a JSON string a quote has a backslash before it: these are members, never quoted text.
_MEMBER = rb'("(?:tool_call_)?id"\s*:\s*"[^"\\]{1,256}?)'
_LOADS = {
    THINKING: re.compile(_MEMBER + THINKING.encode() + rb'eJ[A-Za-z0-9_-]*(?=")'),
    THOUGHT: re.compile(_MEMBER + THOUGHT.encode() + rb'[A-Za-z0-9_-]+(?=")'),
}


def strip(body: bytes, marks: Iterable[str] = tuple(_LOADS)) -> bytes:
    """A chat request whose ids carry nothing behind these marks, every other byte as it came."""
    for mark in marks:
        if mark.encode() in body:
            body = _LOADS[mark].sub(rb"\1", body)
    return body


def bare(call_id: str) -> str:
    """An id without what it carries."""
    for mark in _LOADS:
        call_id = call_id.partition(mark)[0] or call_id
    return call_id
