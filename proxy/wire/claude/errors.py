"""Errors of Anthropic's API: what a pool has to know of them, and OpenAI's names for them.

Sources, read 2026-11: platform.claude.com/docs/en/api/errors (statuses, types, `details`) and
/docs/en/api/rate-limits (headers).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from ...errors import UpstreamRefusal
from ..chat import ErrorFacts, read_retry_info, unlisted
from ..http.headers import read_retry_after
from .parameters import PARAMETERS

_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
# OpenAI's `code` where callers look for one; else the type is the code.
_CODES = {
    "invalid_request_error": None,
    "authentication_error": "invalid_api_key",
    "billing_error": "insufficient_quota",
    "not_found_error": "model_not_found",
    "rate_limit_error": "rate_limit_exceeded",
}
# A used-up account answers 400 to any request, the caller's is not at fault: it counts as 402.
# `details.error_code` says so; the words are those of prepaid accounts and of limits set by hand.
_SPENT_CODES = frozenset(
    (
        "contract_spend_limit_reached",
        "enforced_spend_limit_reached",
        "linked_organization_billing_unavailable",
        "linked_organization_spend_limit_reached",
    )
)
_SPENT_WORDS = ("credit balance is too low", "specified api usage limits")
_BUCKET, _REMAINING, _RESET = "anthropic-ratelimit-", "-remaining", "-reset"
_MAX_MESSAGE_CHARS = 2_000


class _Error(NamedTuple):
    """What is read of the object `error` of an answer or of an event."""

    type: str
    message: str
    error_code: str | None = None


class _Answer(msgspec.Struct):
    error: msgspec.Raw


_answer = msgspec.json.Decoder(_Answer)
_any = msgspec.json.Decoder()


def _error_in(body: bytes) -> msgspec.Raw | None:
    try:
        return _answer.decode(unlisted(body)).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _wire_error(raw: msgspec.Raw | None, status: int) -> tuple[_Error, float | None]:
    """An error as Claude tells it, or as a look-alike does; and the wait that it asks for."""
    try:
        found: Any = _any.decode(raw) if raw is not None else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = {}
    fields: dict[str, Any] = found if isinstance(found, dict) else {"message": found}
    kind, message = fields.get("type"), fields.get("message")
    code = fields.get("code")
    if isinstance(code, int) and 400 <= code <= 599 and kind not in _STATUSES:
        kind = _type_of(code)
    details = fields.get("details")
    error_code = details.get("error_code") if isinstance(details, dict) else None
    error = _Error(
        kind if isinstance(kind, str) and kind else _type_of(status),
        message if isinstance(message, str) else "",
        error_code if isinstance(error_code, str) else None,
    )
    return error, read_retry_info(fields)


def read_error(status: int, headers: Mapping[str, str], body: bytes, *, now_s: float) -> ErrorFacts:
    """The facts of an error answer, whatever its body is.

    `headers` have lower-case names; `now_s` is Unix time, for headers that hold dates.
    """
    retry_after_s = _retry_after(status, headers, now_s)
    raw = _error_in(body)
    if raw is None:
        text = body[: 4 * _MAX_MESSAGE_CHARS].decode("utf-8", "replace").strip()
        error, in_body_s = _Error(_type_of(status), text), None
    else:
        error, in_body_s = _wire_error(raw, status)
    return _refusal(status, error, in_body_s if retry_after_s is None else retry_after_s)


def refusal_of_event(raw: msgspec.Raw | None) -> UpstreamRefusal:
    """The exception for the error of an event, with the status that its type stands for."""
    error, retry_after_s = _wire_error(raw, 500)
    return _refusal(_STATUSES.get(error.type, 500), error, retry_after_s).refusal()


def hidden_refusal(body: bytes) -> UpstreamRefusal | None:
    """The exception for an error object that was sent as a success; None: there is none."""
    raw = _error_in(body)
    return None if raw is None else refusal_of_event(raw)


def _refusal(status: int, error: _Error, retry_after_s: float | None) -> ErrorFacts:
    message = error.message[:_MAX_MESSAGE_CHARS] or f"the upstream answered with status {status}"
    kind = error.type
    if _is_spent(error):
        status, kind = 402, "billing_error"
    code = _CODES.get(kind, kind)
    if code is None and message.startswith("prompt is too long"):
        code = "context_length_exceeded"
    name = message.partition(":")[0]
    param = name if kind == "invalid_request_error" and name in PARAMETERS else None
    return ErrorFacts(status, message, kind, code, param, retry_after_s)


def _is_spent(error: _Error) -> bool:
    if error.type not in ("invalid_request_error", "billing_error"):
        return False
    said = error.message.lower()
    return error.error_code in _SPENT_CODES or any(word in said for word in _SPENT_WORDS)


def _type_of(status: int) -> str:
    for kind, its_status in _STATUSES.items():
        if its_status == status:
            return kind
    return "invalid_request_error" if status < 500 else "api_error"


def _retry_after(status: int, headers: Mapping[str, str], now_s: float) -> float | None:
    """Seconds to wait.

    `retry-after` decides; without it, a 429 waits for the last reset of the limits that are at 0.
    """
    asked_s = read_retry_after(headers, now_s=now_s)
    if asked_s is None and status == 429:
        resets = [
            _date(headers.get(name[: -len(_REMAINING)] + _RESET, ""))
            for name, value in headers.items()
            if name.startswith(_BUCKET) and name.endswith(_REMAINING) and value.strip() == "0"
        ]
        asked_s = max((at_s - now_s for at_s in resets if at_s is not None), default=None)
    return None if asked_s is None else max(0.0, asked_s)


def _date(value: str) -> float | None:
    """RFC 3339, as the limits' headers have it."""
    try:
        return datetime.fromisoformat(value.strip().replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return None
