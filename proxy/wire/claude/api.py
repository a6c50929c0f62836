"""Anthropic's API around its messages: paths, headers, the list of models, and errors.

Sources, read 2026-11: platform.claude.com/docs/en/api, and for errors /docs/en/api/errors
(statuses, types, `details`) and /docs/en/api/rate-limits (headers).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from ...errors import UpstreamRefusal
from ..chat import ErrorFacts, read_object, read_retry_info, unlisted
from ..chat.errors import is_too_long
from ..chat.usage import as_object, as_text
from ..http.headers import merged, read_retry_after
from ..lenient_json import without_lone
from ..model_list import ModelPage, read_list, read_text
from .request import KNOWN

MESSAGES_PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
MODELS_PATH = "/v1/models?limit=1000"  # the largest page

# Not 2026-10-21: that one refuses `temperature` and `top_p` for every model, this one takes them
# where the model does (docs/en/api/migration-2026-10-21). Nothing else that we send differs.
VERSION = "2023-06-01"

# Lets a request say that thinking blocks which no longer fit the conversation are dropped rather
# than refused (docs/en/build-with-claude/preserved-thinking); `request.to_request` makes use of it.
BETAS = "thinking-binding-controls-2026-08-01"

# Headers that say which API is meant: a caller who speaks it has its own.
VERSIONED = ("anthropic-version", "anthropic-beta")


def betas(headers: Mapping[str, str]) -> list[str]:
    """The values of `anthropic-beta`."""
    return [value for name, value in headers.items() if name.lower() == "anthropic-beta"]


def headers(api_key: str, more: Mapping[str, str]) -> dict[str, str]:
    """The headers of every request; the key travels here, never in an address.

    `more`: the provider's, which win; what it says in `anthropic-beta` is added to ours.
    """
    beta = ",".join([BETAS, *betas(more)])
    ours = {"x-api-key": api_key, "anthropic-version": VERSION, "anthropic-beta": beta}
    return merged(ours, {n: value for n, value in more.items() if n.lower() != "anthropic-beta"})


def read_page(body: bytes) -> ModelPage:
    """The models that can be asked for: requests for a retired one fail. Raises UpstreamInvalid."""
    entries, around = read_list(body)
    served = [entry for entry in entries if entry.get("lifecycle") != "retired"]
    ids = [name for entry in served if (name := read_text(entry, "id", "name"))]
    last_id = read_text(around, "last_id")
    has_next = around.get("has_more") is True and last_id
    next_path = f"{MODELS_PATH}&after_id={quote(last_id, safe='')}" if has_next else None
    return ModelPage(ids, next_path)


NO_ERROR = msgspec.Raw(b"null")

# What reading JSON raises.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)

# By type: its status, and OpenAI's `code` where callers look for one.
_TYPES = {
    "invalid_request_error": (400, None),
    "authentication_error": (401, "invalid_api_key"),
    "billing_error": (402, "insufficient_quota"),
    "permission_error": (403, "permission_error"),
    "not_found_error": (404, "model_not_found"),
    "conflict_error": (409, "conflict_error"),
    "request_too_large": (413, "request_too_large"),
    "rate_limit_error": (429, "rate_limit_exceeded"),
    "api_error": (500, "api_error"),
    "timeout_error": (504, "timeout_error"),
    "overloaded_error": (529, "overloaded_error"),
}
# A used-up account answers 400 to any request, the caller's is not at fault: it counts as 402.
# `details.error_code` says so; the words are those of prepaid accounts and of limits set by hand.
_SPENT_CODES = (
    *("contract_spend_limit_reached", "enforced_spend_limit_reached"),
    "linked_organization_billing_unavailable",
    "linked_organization_spend_limit_reached",
)
_SPENT_WORDS = ("credit balance is too low", "specified api usage limits")
_BUCKET, _REMAINING, _RESET = "anthropic-ratelimit-", "-remaining", "-reset"
_MAX_MESSAGE_CHARS = 2_000


def read_error(status: int, headers: Mapping[str, str], body: bytes, *, now_s: float) -> ErrorFacts:
    """The facts of an error answer; `headers` by lower-case name, `now_s` is Unix time."""
    text = body[: 4 * _MAX_MESSAGE_CHARS].decode("utf-8", "replace").strip()
    facts = _facts(_answer(body).get("error", text), status)
    retry_after_s = _retry_after(status, headers, now_s)
    return facts if retry_after_s is None else facts._replace(retry_after_s=retry_after_s)


def refusal_of_event(error: msgspec.Raw = NO_ERROR) -> UpstreamRefusal:
    """The exception for the error of an event, with the status that its type stands for."""
    return _facts(_answer(b'{"error":%b}' % bytes(error)).get("error")).refusal()


def hidden_refusal(body: bytes) -> UpstreamRefusal | None:
    """The exception for an error object that was sent as a success; None: there is none."""
    answer = _answer(body)
    if "error" not in answer:
        return None
    refusal = _facts(answer["error"]).refusal()
    refusal.as_sent = as_sent(body)
    return refusal


def as_sent(body: bytes) -> bytes | None:
    """An error's body if it is in Anthropic's envelope, so that callers who speak it get it."""
    error = as_object(read_object(body).get("error"))
    return body if as_text(error.get("type")) and as_text(error.get("message")) else None


def _answer(body: bytes) -> dict[str, Any]:
    return read_object(without_lone(unlisted(body)))


def _facts(error: Any, status: int | None = None) -> ErrorFacts:
    """An error as Claude tells it, or as a look-alike does; without a status its type has one."""
    fields: dict[str, Any] = error if isinstance(error, dict) else {"message": error}
    kind, code = as_text(fields.get("type")), fields.get("code")
    said = as_text(fields.get("message"))
    if isinstance(code, int) and 400 <= code <= 599 and kind not in _TYPES:
        kind = _type_of(code)
    kind = kind or _type_of(status or 500)
    status = status or _TYPES.get(kind, (500, kind))[0]
    message = said[:_MAX_MESSAGE_CHARS] or f"the upstream answered with status {status}"
    if kind in ("invalid_request_error", "billing_error"):
        spent_code = as_text(as_object(fields.get("details")).get("error_code"))
        if spent_code in _SPENT_CODES or any(words in said.lower() for words in _SPENT_WORDS):
            status, kind = 402, "billing_error"
    named = _TYPES[kind][1] if kind in _TYPES else kind
    if named is None and is_too_long(message):
        named = "context_length_exceeded"
    name = message.partition(":")[0]
    param = name if kind == "invalid_request_error" and name in KNOWN else None
    return ErrorFacts(status, message, kind, named, param, read_retry_info(fields))


def _type_of(status: int) -> str:
    other = "invalid_request_error" if status < 500 else "api_error"
    return next((kind for kind, (own, _) in _TYPES.items() if own == status), other)


def _retry_after(status: int, headers: Mapping[str, str], now_s: float) -> float | None:
    """Seconds to wait by `retry-after`, else for a 429 until the last reset of limits at 0."""
    asked_s = read_retry_after(headers, now_s=now_s)
    if asked_s is not None or status != 429:
        return asked_s
    resets = [
        _date(headers.get(name.removesuffix(_REMAINING) + _RESET, ""))
        for name, value in headers.items()
        if name.startswith(_BUCKET) and name.endswith(_REMAINING) and value.strip() == "0"
    ]
    return max((max(0.0, at_s - now_s) for at_s in resets if at_s is not None), default=None)


def _date(value: str) -> float | None:
    """RFC 3339, as the limits' headers have it."""
    try:
        return datetime.fromisoformat(value.strip().replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return None
