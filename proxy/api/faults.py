"""Exceptions that are not ours in our terms: Flask's, want of resources, faults of the program."""

from __future__ import annotations

import logging

from werkzeug.exceptions import HTTPException

from .. import errors
from ..errors import ProxyError
from ..net import shortage
from ..record.record import Record

# What a refusal of the application's is with us.
_KINDS: tuple[type[ProxyError], ...] = (
    *(errors.InvalidKey, errors.Refused, errors.PathNotFound),
    *(errors.BodyTooSlow, errors.BodyTooLarge, errors.CallerLimitReached),
)
_BY_STATUS = {kind.status: kind for kind in _KINDS}

log = logging.getLogger("proxy")


def in_our_terms(error: Exception, record: Record) -> ProxyError:
    """What its caller is told. The log has whatever nobody foresaw, under the request's id."""
    if isinstance(error, ProxyError):
        return error
    if isinstance(error, HTTPException):
        return of_http(error)
    if want := shortage.recognised(error):
        return want
    told = {"call": record.call()}
    log.exception("request %s failed", record.request_id, exc_info=error, extra=told)
    return ProxyError(f"the proxy failed; its log says why under {record.request_id}")


def of_http(error: HTTPException) -> ProxyError:
    """What an application's refusal is with us; status, message and headers stay."""
    if error.code == 405:
        allowed = getattr(error, "valid_methods", None) or ()
        return errors.MethodNotAllowed("this path does not take this method", allowed=allowed)
    answer = error.get_response()
    status = answer.status_code if error.code or error.response else 500
    shape = _BY_STATUS.get(status) or (errors.InvalidRequest if status < 500 else ProxyError)
    found = shape(str(error.description or error.name))
    found.status = status
    found.passed_headers = {
        name: ", ".join(answer.headers.getlist(name))
        for name in answer.headers.keys()  # noqa: SIM118  # its items would be pairs
        if not name.startswith("Content-")
    }
    return found
