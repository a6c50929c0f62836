"""Tool-call ids, and the thought signatures that travel with them.

Gemini 3 and later sign the first function call of each step and answer 400 if a following request
of the same turn comes without it (ai.google.dev/gemini-api/docs/thought-signatures, 2026-11).
OpenAI has no place for a signature, so it is carried twice:

1. in the tool call as `extra_content: {"google": {"thought_signature": "<base64>"}}`, the field of
   Google's own OpenAI-compatibility layer; a caller that returns what it was given returns it;
2. in the tool call's id, which every caller returns: `<id>__thought__<base64url, no padding>`
   (LiteLLM's separator; only letters, digits, `-` and `_` are added). A signature is some hundred
   bytes to a few KB; one over MAX_SIGNATURE_IN_ID characters stays out of the id.

When both are lost, or the call was another vendor's, `NO_SIGNATURE` is sent, Google's documented
value for history that the model did not make itself.

The id before the separator is Gemini's own when it gave one, else `call_<reply>_<choice>_<call>`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from ..call_ids import THOUGHT

NO_SIGNATURE: Final = "skip_thought_signature_validator"
MAX_SIGNATURE_IN_ID: Final = 8192

_SERVER_KINDS: Final = ("toolCall", "toolResponse")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")
_TO_URL: Final = str.maketrans("+/", "-_")
_FROM_URL: Final = str.maketrans("-_", "+/")


class CallId(NamedTuple):
    """What a tool-call id holds: the bare id, and the signature as Gemini gave it."""

    bare: str
    signature: str | None


def make_id(bare: str, signature: str | None) -> str:
    """The id to give to the caller; `parse_id` undoes it."""
    if not signature or len(signature) > MAX_SIGNATURE_IN_ID:
        return bare
    packed = signature.translate(_TO_URL).rstrip("=")
    call_id = f"{bare}{THOUGHT}{packed}"
    # One that would not come back as it was (no plain base64) is left to the extra field.
    return call_id if parse_id(call_id) == (bare, signature) else bare


def parse_id(call_id: str) -> CallId:
    bare, separator, packed = call_id.partition(THOUGHT)
    if not separator:
        return CallId(call_id, None)
    signature = packed.translate(_FROM_URL)
    signature += "=" * (-len(signature) % 4)
    return CallId(bare, signature) if is_signature(signature) else CallId(call_id, None)


def invented_id(reply_id: str, choice: int, call: int) -> str:
    """An id for a call that has none: unique as long as `reply_id` is, and at most 40 characters.

    40 is what OpenAI's own API takes, should the conversation move there.
    """
    tail = _UNSAFE.sub("", reply_id.rpartition("-")[2])[-24:]
    return f"call_{tail}_{choice}_{call}"


def is_signature(text: str) -> bool:
    """Whether `text` can stand in a JSON field of protobuf type bytes."""
    try:
        base64.b64decode(text.translate(_FROM_URL), validate=True)
    except ValueError:
        return False
    return bool(text)


def extra_content(signature: str | None, server_parts: Sequence[object] = ()) -> dict[str, Any]:
    """Google's extra field, on a tool call, a message or a delta.

    `server_parts` are the parts in which Gemini says what it did with tools of its own; from
    Gemini 3 on they have to come back beside functions (/docs/tool-combination, 2026-11).
    """
    google: dict[str, Any] = {"thought_signature": signature} if signature else {}
    if server_parts:
        google["server_parts"] = server_parts
    return {"google": google}


def signature_in(extra: object) -> str | None:
    """The signature in an `extra_content` that a caller returned; None if there is none."""
    if extra is None:
        return None
    signature = _google(extra).get("thought_signature")
    return signature if isinstance(signature, str) and is_signature(signature) else None


def server_parts_in(extra: object) -> list[dict[str, Any]]:
    """The `server_parts` in an `extra_content` that a caller returned."""
    if extra is None:
        return []
    parts = _google(extra).get("server_parts")
    found = []
    for part in parts if isinstance(parts, list) else ():
        kinds = [kind for kind in _SERVER_KINDS if isinstance(part, dict) and kind in part]
        if len(kinds) == 1 and isinstance(part[kinds[0]], dict):
            made = {kinds[0]: part[kinds[0]]}
            signature = part.get("thoughtSignature")
            if isinstance(signature, str) and is_signature(signature):
                made["thoughtSignature"] = signature
            found.append(made)
    return found


def _google(extra: object) -> Mapping[str, Any]:
    google = extra.get("google") if isinstance(extra, dict) else None
    return google if isinstance(google, dict) else {}
