"""Gemini's error answers: google.rpc.Status in JSON, and the facts for retrying in its details.

    {"error": {"code": 429, "message": "...", "status": "RESOURCE_EXHAUSTED", "details": [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": ...}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}]}}

The streaming method wraps it in an array of one unless the error comes within the stream.
Sources: google/rpc/error_details.proto, ai.google.dev/gemini-api/docs/troubleshooting and
/docs/rate-limits (daily quotas begin anew at midnight, Pacific time), read 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from ...errors import UpstreamRefusal
from ..chat import envelope, read_object, read_retry_info, unlisted
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

_CODES: Final = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


class ErrorFacts(NamedTuple):
    """An error of Gemini's in OpenAI's terms.

    `status` is 401 for a bad key, whatever Gemini said; `retry_after_s` what it asked for.
    """

    message: str
    type: str
    code: str
    param: str | None
    retry_after_s: float | None
    status: int

    def refusal(self) -> UpstreamRefusal:
        return UpstreamRefusal(
            self.message,
            status=self.status,
            body=envelope(self.message, type=self.type, param=self.param, code=self.code),
            upstream_code=self.code,
            retry_after_s=self.retry_after_s,
        )


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


def read_status(
    error: object, *, status: int | None = None, now_s: float | None = None
) -> ErrorFacts:
    """A google.rpc.Status; without an HTTP `status` (in a stream) its own `code` is taken.

    Without `now_s` the end of a daily quota is not reckoned.
    """
    fields: dict[str, Any] = error if isinstance(error, dict) else {"message": str(error)}
    details = _details(fields.get("details"))
    reasons = {detail.get("reason") for detail in details}
    message = _message(fields)
    number = status if status is not None else _http_status(fields.get("code"))
    if reasons & _KEY_REASONS or (number == 403 and _LEAKED in message):
        number = 401
    retry_after_s = read_retry_info(fields)
    if now_s is not None and any("PerDay" in quota for quota in _quotas(details)):
        # The delay beside a daily quota is that of a passing one; the day ends later.
        retry_after_s = max(retry_after_s or 0.0, _until_next_day_s(now_s))
    return ErrorFacts(
        message=message,
        type=_type(number),
        code=_CODES.get(number) or _own_code(fields),
        param=_field(details),
        retry_after_s=retry_after_s,
        status=number,
    )


def _message(fields: Mapping[str, Any]) -> str:
    message = fields.get("message")
    text = message if isinstance(message, str) and message else "Gemini gave no reason"
    return _KEY.sub("…", text)[:MAX_MESSAGE_CHARS]


def _http_status(code: object) -> int:
    return code if isinstance(code, int) and 400 <= code <= 599 else 502


def _own_code(fields: Mapping[str, Any]) -> str:
    status = fields.get("status")
    return status.lower()[:64] if isinstance(status, str) and status else "upstream_error"


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    if status in (401, 403):
        return "authentication_error" if status == 401 else "permission_error"
    return "invalid_request_error" if status < 500 else "upstream_error"


def _details(details: object) -> list[dict[str, Any]]:
    found = details if isinstance(details, list) else []
    return [
        {**detail, "reason": str(detail.get("reason", ""))}
        for detail in found
        if isinstance(detail, dict)
    ]


def _quotas(details: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """The ids of exhausted quotas (GenerateRequestsPerDayPerProjectPerModel-FreeTier)."""
    for detail in details:
        violations = detail.get("violations")
        for violation in violations if isinstance(violations, list) else ():
            quota = violation.get("quotaId") if isinstance(violation, dict) else None
            if isinstance(quota, str):
                yield quota


def _field(details: Iterable[Mapping[str, Any]]) -> str | None:
    """The first field of a google.rpc.BadRequest: Gemini's name for it, not the caller's."""
    for detail in details:
        violations = detail.get("fieldViolations")
        for violation in violations if isinstance(violations, list) else ():
            field = violation.get("field") if isinstance(violation, dict) else None
            if isinstance(field, str) and field:
                return field
    return None


def _until_next_day_s(now_s: float) -> float:
    """Until the next midnight in Los Angeles; in doubt about summer time, the earlier one."""
    into_day_s = now_s % _DAY_S
    return min((hour * 3600 - into_day_s) % _DAY_S for hour in _RESETS_UTC_H)
