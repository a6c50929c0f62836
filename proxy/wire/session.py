"""How callers name the session that a request is part of. Its own id is none, nor is a user's.

Headers and members that coding agents and SDKs send, read 2026-11; `prompt_cache_key` is OpenAI's
(platform.openai.com/docs/guides/prompt-caching), `metadata.user_id` Anthropic's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

# gunicorn drops names with an underscore, such as Codex's `session_id`.
HEADERS = ("x-session-id", "x-claude-code-session-id", "session-id", "x-session-affinity")

# Claude Code's `user_id`, before it was JSON: user_..._account_..._session_...
_MARK = "_session_"


class _Ids(Struct):
    session_id: Any = None
    user_id: Any = None

    def named(self) -> str:
        """The session; "": they name none. Raises DecodeError."""
        session, user = _text(self.session_id), _text(self.user_id)
        if session or not user.startswith("{"):
            return session or user.partition(_MARK)[2]
        return _text(_read_ids(user.encode()).session_id)


_read_any, _read_ids = msgspec.json.Decoder().decode, msgspec.json.Decoder(_Ids).decode


def session_of(fields: Mapping[str, Raw]) -> str:
    """The session that a body names, of which these are the members; "": none."""
    try:
        if "prompt_cache_key" in fields and (key := _text(_read_any(fields["prompt_cache_key"]))):
            return key
        return _read_ids(fields["metadata"]).named() if "metadata" in fields else ""
    except (msgspec.DecodeError, RecursionError):
        return ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
