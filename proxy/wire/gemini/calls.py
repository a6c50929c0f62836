"""Tool-call ids, and the thought signatures that travel with them.

Gemini 3 and later sign the first function call of each step and answer 400 if a following request
of the same turn comes without it (ai.google.dev/gemini-api/docs/thought-signatures, 2026-11).
OpenAI has no place for a signature, so it is carried twice:

1. in the tool call as `extra_content: {"google": {"thought_signature": "<base64>"}}`, the field of
   Google's own OpenAI-compatibility layer;
2. in the tool call's id, which every caller returns: `<id>__thought__<base64url, no padding>`
   (LiteLLM's separator), unless it has over MAX_SIGNATURE_IN_ID characters.

When both are lost, or the call was another vendor's, `NO_SIGNATURE` is sent, Google's documented
value for history that the model did not make itself. The id before the separator is Gemini's own
when it gave one, else `call_<reply>_<choice>_<call>`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..chat import objects
from ..chat.usage import as_object
from ..reasoning import THOUGHT

NO_SIGNATURE: Final = "skip_thought_signature_validator"
MAX_SIGNATURE_IN_ID: Final = 8192

_SERVER_KINDS: Final = {"toolCall", "toolResponse"}
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")
_TO_URL: Final = str.maketrans("+/", "-_")
_FROM_URL: Final = str.maketrans("-_", "+/")


def make_id(bare: str, signature: str | None) -> str:
    """The id to give to the caller; `parse_id` undoes it."""
    if not signature or len(signature) > MAX_SIGNATURE_IN_ID:
        return bare
    packed = signature.translate(_TO_URL).rstrip("=")
    call_id = f"{bare}{THOUGHT}{packed}"
    # One that would not come back as it was (no plain base64) is left to the extra field.
    return call_id if parse_id(call_id) == (bare, signature) else bare


def parse_id(call_id: str) -> tuple[str, str | None]:
    """What a tool-call id holds: the bare id, and the signature as Gemini gave it."""
    bare, _, packed = call_id.partition(THOUGHT)
    signature = packed.translate(_FROM_URL) + "=" * (-len(packed) % 4)
    return (bare, signature) if is_signature(signature) else (call_id, None)


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
    return _signature(_google(extra).get("thought_signature"))


def server_parts_in(extra: object) -> list[dict[str, Any]]:
    """The `server_parts` in an `extra_content` that a caller returned."""
    found: list[dict[str, Any]] = []
    for part in objects(_google(extra).get("server_parts")):
        kinds = _SERVER_KINDS & part.keys()
        if len(kinds) == 1 and isinstance(part[kind := kinds.pop()], dict):
            signature = _signature(part.get("thoughtSignature"))
            signed = {"thoughtSignature": signature} if signature else {}
            found.append({kind: part[kind], **signed})
    return found


def _signature(found: object) -> str | None:
    return found if isinstance(found, str) and is_signature(found) else None


def _google(extra: object) -> Mapping[str, Any]:
    return as_object(as_object(extra).get("google"))
