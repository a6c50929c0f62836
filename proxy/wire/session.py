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
    key, metadata = fields.get("prompt_cache_key"), fields.get("metadata")
    if key is None and metadata is None:
        return ""
    if key is not None and (text := _read(key, _read_text)):
        return text
    ids = None if metadata is None else _read(metadata, _read_ids)
    if ids is None:
        return ""
    if isinstance(ids.session_id, str) and ids.session_id:
        return ids.session_id
    user = ids.user_id if isinstance(ids.user_id, str) else ""
    if user.startswith("{"):
        named = _read(user.encode(), _read_ids)
        return named.session_id if named and isinstance(named.session_id, str) else ""
    return user.partition(_MARK)[2]


def _read(text: bytes | Raw, decode: Callable[[bytes | Raw], _T]) -> _T | None:
    try:
        return decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
