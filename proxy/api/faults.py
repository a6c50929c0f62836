"""Exceptions that are not ours in our terms: Flask's, want of resources, faults of the program."""

from __future__ import annotations

import logging

from werkzeug.exceptions import HTTPException

from ..errors import (
    BodyTooLarge,
    BodyTooSlow,
    CallerLimitReached,
    InvalidKey,
    InvalidRequest,
    MethodNotAllowed,
    PathNotFound,
    ProxyError,
    Refused,
)
from ..net import shortage
from ..record.call import Call

# What a refusal of the application's is with us.
_BY_STATUS: dict[int, type[ProxyError]] = {
    401: InvalidKey,
    403: Refused,
    404: PathNotFound,
    408: BodyTooSlow,
    413: BodyTooLarge,
    429: CallerLimitReached,
}

log = logging.getLogger("proxy")


def in_our_terms(error: Exception, request_id: str, *, call: Call | None = None) -> ProxyError:
    """What its caller is told. The log has whatever nobody foresaw, under the request's id."""
    if isinstance(error, HTTPException):
        return _of_http(error)
    if want := shortage.recognised(error):
        return want
    log.exception("request %s failed", request_id, exc_info=error, extra={"call": call})
    return ProxyError(f"the proxy failed; its log says why under {request_id}")


def _of_http(error: HTTPException) -> ProxyError:
    if error.code == 405:
        allowed = getattr(error, "valid_methods", None) or ()
        return MethodNotAllowed("this path does not take this method", allowed=allowed)
    answer = error.get_response()
    status = answer.status_code if error.code or error.response else 500
    shape = _BY_STATUS.get(status) or (InvalidRequest if status < 500 else ProxyError)
    found = shape(str(error.description or error.name))
    found.status = status
    found.passed_headers = {
        name: ", ".join(answer.headers.getlist(name))
        for name in answer.headers.keys()  # noqa: SIM118  # its items would be pairs
        if not name.startswith("Content-")
    }
    return found
