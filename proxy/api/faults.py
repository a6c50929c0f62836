"""Exceptions that are not ours in our terms: Flask's, want of resources, faults of the program."""

from __future__ import annotations

import logging

from werkzeug.exceptions import HTTPException

from ..errors import InvalidRequest, MethodNotAllowed, ProxyError
from ..net import shortage

log = logging.getLogger("proxy")


def in_our_terms(error: Exception, request_id: str) -> ProxyError:
    """What its caller is told. The log has whatever nobody foresaw, under the request's id."""
    if isinstance(error, HTTPException):
        return _of_http(error)
    if want := shortage.recognised(error):
        return want
    log.exception("request %s failed", request_id, exc_info=error)
    return ProxyError(f"the proxy failed; its log says why under {request_id}")


def _of_http(error: HTTPException) -> ProxyError:
    if error.code == 405:
        allowed = getattr(error, "valid_methods", None) or ()
        return MethodNotAllowed("this path does not take this method", allowed=allowed)
    if error.code is None:
        return ProxyError("the proxy failed")
    shape = InvalidRequest if error.code < 500 else ProxyError
    found = shape(error.description or error.name)
    found.status = error.code
    return found
