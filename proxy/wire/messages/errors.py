"""Errors in Anthropic's envelope (platform.claude.com/docs/en/api/errors, 2026-11)."""

from __future__ import annotations

import msgspec

from ...errors import ProxyError, UpstreamRefusal
from ..chat.errors import bounded, stream_message
from ..sse import encode_named, named

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_body(error: ProxyError, request_id: str = "") -> bytes:
    """An error's answer: of a refusal by Claude itself the bytes that it sent."""
    return _body(error, error.message, request_id)


def error_event(error: ProxyError, request_id: str) -> bytes:
    """The event that ends a stream that failed; official SDKs raise on it."""
    return encode_named([named(_body(error, stream_message(error), request_id), b"error")])


def _body(error: ProxyError, message: str, request_id: str) -> bytes:
    if isinstance(error, UpstreamRefusal) and error.as_sent is not None:
        return error.as_sent
    told = {"type": _TYPES.get(error.status, "api_error"), "message": bounded(message)}
    return msgspec.json.encode({"type": "error", "error": told, "request_id": request_id or None})
