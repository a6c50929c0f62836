"""How callers name the session that a request is part of. Its own id is none, nor is a user's.

Headers and members that coding agents and SDKs send, read 2026-11; `prompt_cache_key` is OpenAI's
(platform.openai.com/docs/guides/prompt-caching), `metadata.user_id` Anthropic's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

_T = TypeVar("_T")

# gunicorn drops names with an underscore, such as Codex's `session_id`.
HEADERS = ("x-session-id", "x-claude-code-session-id", "session-id", "x-session-affinity")

# Claude Code's `user_id`, before it was JSON: user_..._account_..._session_...
_MARK = "_session_"


class _Ids(Struct):
    session_id: Any = None
    user_id: Any = None


_read_ids, _read_text = msgspec.json.Decoder(_Ids).decode, msgspec.json.Decoder(str).decode


def session_of(fields: Mapping[str, Raw]) -> str:
    """The session that a body names, of which these are the members; "": none."""
    if (key := fields.get("prompt_cache_key")) and (text := _read(key, _read_text)):
        return text
    metadata = fields.get("metadata")
    ids = _read(metadata, _read_ids) if metadata else None
    if ids is None or (isinstance(ids.session_id, str) and ids.session_id):
        return ids.session_id if ids else ""
    user = ids.user_id if isinstance(ids.user_id, str) else ""
    if not user.startswith("{"):
        return user.partition(_MARK)[2]
    ids = _read(user.encode(), _read_ids)
    return ids.session_id if ids and isinstance(ids.session_id, str) else ""


def _read(text: bytes | Raw, decode: Callable[[bytes | Raw], _T]) -> _T | None:
    try:
        return decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
