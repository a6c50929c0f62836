"""Gemini's error answers: google.rpc.Status in JSON, and the facts for retrying in its details.

    {"error": {"code": 429, "message": "...", "status": "RESOURCE_EXHAUSTED", "details": [
        {"@type": ".../google.rpc.QuotaFailure", "violations": [{"quotaId": ...}]}, ...]}}

The streaming method wraps it in an array of one unless the error comes within the stream.
Sources: google/rpc/error_details.proto, ai.google.dev/gemini-api/docs/troubleshooting and
/docs/rate-limits (daily quotas begin anew at midnight, Pacific time), read 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from ..chat import ErrorFacts, objects, read_object, read_retry_info, unlisted
from ..chat.usage import as_text
from ..http.headers import read_retry_after
from ..lenient_json import without_lone

MAX_MESSAGE_CHARS: Final = 2000

_DAY_S: Final = 86_400
# Midnight in Los Angeles in summer and winter, in hours of UTC.
_RESETS_UTC_H: Final = (7, 8)
# Messages about a suspended key hold the key: "Consumer 'api_key:AIza...' has been suspended."
_KEY: Final = re.compile(r"AIza[\w-]{8,}|(?<=api_key:)[\w.-]+")

# Gemini says of a bad key 400 (API_KEY_INVALID) or 403; either way this key is out of service.
_KEY_REASONS: Final = {"API_KEY_INVALID", "API_KEY_EXPIRED", "CONSUMER_SUSPENDED"}
_LEAKED: Final = "reported as leaked"

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES: Final = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


def read_error(status: int, headers: Mapping[str, str], body: bytes, *, now_s: float) -> ErrorFacts:
    """What an answer other than 2xx says; `headers` by lower-case name, `now_s` since the epoch."""
    error = read_object(without_lone(unlisted(body))).get("error")
    if not isinstance(error, dict):
        text = error if isinstance(error, str) else body.decode(errors="replace")
        error = {"message": text.strip()}
    facts = read_status(error, status=status, now_s=now_s)
    if facts.retry_after_s is None:
        facts = facts._replace(retry_after_s=read_retry_after(headers, now_s=now_s))
    return facts


def read_status(error: Any, *, status: int | None = None, now_s: float | None = None) -> ErrorFacts:
    """A google.rpc.Status; without an HTTP `status` (in a stream) its own `code` is taken.

    Without `now_s` the end of a daily quota is not reckoned.
    """
    fields: dict[str, Any] = error if isinstance(error, dict) else {"message": str(error)}
    details = objects(fields.get("details"))
    reasons = {str(detail.get("reason", "")) for detail in details}
    message = as_text(fields.get("message")) or "Gemini gave no reason"
    number = status or fields.get("code")
    if not isinstance(number, int) or (status is None and not 400 <= number <= 599):
        number = 502
    if reasons & _KEY_REASONS or (number == 403 and _LEAKED in message):
        number = 401
    retry_after_s = read_retry_info(fields)
    quotas = _violated(details, "violations", "quotaId")
    # Such as GenerateRequestsPerDayPerProjectPerModel-FreeTier.
    if now_s is not None and any("PerDay" in quota for quota in quotas):
        # The delay beside a daily quota is that of a passing one; the day ends later. In doubt
        # about summer time it ends at the earlier midnight.
        until_reset_s = min((hour * 3600 - now_s) % _DAY_S for hour in _RESETS_UTC_H)
        retry_after_s = max(retry_after_s or 0.0, until_reset_s)
    return ErrorFacts(
        number,
        _KEY.sub("…", message)[:MAX_MESSAGE_CHARS],
        _TYPES.get(number, "invalid_request_error" if number < 500 else "upstream_error"),
        _CODES.get(number) or as_text(fields.get("status")).lower()[:64] or "upstream_error",
        next(_violated(details, "fieldViolations", "field"), None),
        retry_after_s,
    )


def _violated(details: Iterable[Mapping[str, Any]], kind: str, name: str) -> Iterator[str]:
    """What a google.rpc.QuotaFailure or BadRequest names, in Gemini's words."""
    violations = (violation for detail in details for violation in objects(detail.get(kind)))
    return filter(None, (as_text(violation.get(name)) for violation in violations))
