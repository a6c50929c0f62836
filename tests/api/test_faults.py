"""What becomes of an exception that is none of ours."""

from __future__ import annotations

import pytest
from flask import Response
from werkzeug.exceptions import Forbidden, HTTPException, MethodNotAllowed

from proxy.api.faults import of_http
from proxy.errors import InvalidRequest, ProxyError


class Odd(HTTPException):
    """One of the application's own."""

    description = "theirs"

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


@pytest.mark.parametrize(
    ("error", "kind", "status", "message"),
    [
        (HTTPException("why"), ProxyError, 500, "why"),
        (HTTPException(response=Response("no", 402)), InvalidRequest, 402, "Unknown Error"),
        (Odd(499), InvalidRequest, 499, "theirs"),
        (Odd(500), ProxyError, 500, "theirs"),
        (Odd(503), ProxyError, 503, "theirs"),
        (Forbidden("mine"), ProxyError, 403, "mine"),
        (MethodNotAllowed(["GET"]), ProxyError, 405, "this path does not take this method"),
        (MethodNotAllowed(), ProxyError, 405, "this path does not take this method"),
    ],
    ids=repr,
)
def test_refusal_of_an_application_keeps_its_status(
    error: HTTPException, kind: type[ProxyError], status: int, message: str
) -> None:
    """It says whose fault it was; without one it is the server's."""
    found = of_http(error)
    assert isinstance(found, kind)
    assert (found.status, found.message) == (status, message)


def test_refusal_of_an_application_keeps_what_clients_go_by() -> None:
    """Its headers, but for those of a body that is ours now."""
    error = HTTPException(
        response=Response("x", 401, {"WWW-Authenticate": 'Basic realm="r"', "X-A": "b"})
    )
    assert of_http(error).headers() == {"WWW-Authenticate": 'Basic realm="r"', "X-A": "b"}
    assert of_http(MethodNotAllowed(["GET", "PUT"])).headers() == {"Allow": "GET, PUT"}
