"""The status page, `/status`, and its facts as JSON, `/status.json`: for operators.

A browser logs in by HTTP Basic (RFC 7617), whose password is the key. It sends that along wherever
a foreign page has it sent, too: so it counts here alone, and orders come from the page itself only.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import b64decode
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path

import msgspec
from flask import Response, request
from jinja2 import Environment, Template

from ..config import Caller
from ..errors import InvalidKey, InvalidRequest, PathNotFound, Refused
from ..gateway import Gateway
from ..status import worker
from ..status.overview import Answers, Overview, moment
from ..status.recent import Recent
from .auth import check_own_page
from .endpoints import Route
from .exchange import JSON, Exchange

# The page's orders bring it. Made before the fork, so that all workers have the same.
_TOKEN = secrets.token_urlsafe(24)

_POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with none at all, forms would have no Origin
    "X-Content-Type-Options": "nosniff",
}


def routes(gateway: Gateway) -> list[Route]:
    """The page's own, for a gateway whose requests are remembered from now on."""
    if gateway.recent is None:
        recent = Recent(gateway.tell, gateway.clock)
        gateway.tell, gateway.recent = recent.tell, recent.facts
    return [Route("/status", ("GET", "POST"), _page), Route("/status.json", ("GET",), _facts)]


def _page(exchange: Exchange) -> Response:
    operator = _operator(exchange)
    return _order(exchange, operator) if request.method == "POST" else _show(exchange)


def _facts(exchange: Exchange) -> Response:
    _operator(exchange)
    facts = Overview(_ask(exchange, do="overview")).facts()
    return Response(msgspec.json.encode(facts), headers=_HEADERS, mimetype=JSON)


def _operator(exchange: Exchange) -> Caller:
    """Who looks, if it is an operator and there is a page; raises CallerError."""
    config, environ = exchange.gateway.config, dict(exchange.environ)
    if config.status_page is False:
        raise PathNotFound(f"there is no path {request.path}")
    scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            _, _, key = b64decode(given).partition(b":")
        except ValueError:
            key = b""
        environ["HTTP_AUTHORIZATION"] = f"Bearer {key.decode('latin-1')}"
    try:
        return exchange.doorkeeper.admit_operator(environ)
    except (InvalidKey, Refused) as error:
        if config.callers:  # have the browser ask for a key, or for another one
            error.status = InvalidKey.status
            error.passed_headers["WWW-Authenticate"] = 'Basic realm="poolproxy", charset="UTF-8"'
        raise


def _order(exchange: Exchange, operator: Caller) -> Response:
    """Give an order to all workers, and have the page shown again."""
    check_own_page(exchange.environ)
    if not hmac.compare_digest(request.form.get("token", "").encode(), _TOKEN.encode()):
        raise Refused("the page is older than this server: load it again")
    do, client = request.form.get("do", ""), request.form.get("client", "")
    if do not in worker.ORDERS:
        raise InvalidRequest(f"there is no order {do!r}")
    by = f"{operator.name or 'an operator'} ({exchange.record.address})"
    answers = _ask(exchange, do=do, client=client, by=by)
    if errors := [answer["error"] for answer in answers if "error" in answer]:
        return _show(exchange, errors=errors)
    return Response(status=303, headers={**_HEADERS, "Location": "status"})


def _ask(exchange: Exchange, **asked: str) -> Answers:
    """All workers' answers; where they have no sockets, or lost them, this one's."""
    gateway = exchange.gateway
    answers = gateway.ask_workers(asked) if gateway.ask_workers else []
    return answers or [worker.answer(gateway, worker.Request(**asked))]


@cache
def _template() -> Template:
    templates = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters |= {"moment": moment, "thousands": "{:,}".format}
    return templates.from_string(Path(__file__).with_name("page.html").read_text())


def _show(exchange: Exchange, errors: Sequence[str] = ()) -> Response:
    overview = Overview(_ask(exchange, do="overview"))
    facts, nonce = overview.facts(), secrets.token_urlsafe(16)
    model = request.args.get("model", "")
    overview.narrow(model)
    page = _template().render(
        **facts,
        model=model,
        offering=overview.clients,
        errors=errors,
        # One of several workers, which cannot be asked together.
        is_alone=not exchange.gateway.ask_workers and exchange.environ["wsgi.multiprocess"],
        token=_TOKEN,
        nonce=nonce,
        now=f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}",
    )
    headers = {**_HEADERS, "Content-Security-Policy": _POLICY.format(nonce)}
    return Response(page, 409 if errors else 200, headers, mimetype="text/html")
