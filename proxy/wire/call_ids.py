"""What the ids of tool calls carry besides the id, and how to take it off again.

Claude's thinking and Gemini's thought signatures have to come back with the calls that they led to.
OpenAI has no place for them, but every caller returns the id of a call: they travel behind a mark
in it (`claude.thinking`, `gemini.calls`). To another kind of upstream they mean nothing, and make
the id longer than it may take (40 characters at OpenAI's own API, 64 at Anthropic's).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

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


_PLAIN = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def bare(call_id: str) -> str:
    """An id without what it carries."""
    for mark in _LOADS:
        call_id = call_id.partition(mark)[0] or call_id
    return call_id


def plain_id(given: str, used: set[str], prefix: str) -> str:
    """An id that every vendor takes, the same every time, and unlike those `used` before it."""
    if not _PLAIN.fullmatch(given):
        given = prefix + hashlib.sha256(given.encode()).hexdigest()[:24]
    made, again = given, len(used)  # counted from 1, thousands of equal ids would take minutes
    while made in used:
        again += 1
        made = f"{given[:56]}_{again}"
    used.add(made)
    return made
