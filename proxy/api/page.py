"""The status page, `/status`, and its facts as JSON, `/status.json`: for operators.

A browser logs in by HTTP Basic (RFC 7617), whose password is the key. It sends that along wherever
a foreign page has it sent, too: so it counts here alone, and orders come from the page itself only.
"""

from __future__ import annotations

import hmac
import secrets
import time
from contextlib import suppress
from pathlib import Path

import msgspec
from flask import Response, request
from jinja2 import Environment, FileSystemLoader

from ..config import Caller
from ..errors import InvalidKey, InvalidRequest, PathNotFound, Refused
from ..gateway import Gateway
from ..usage.recent import Recent
from .auth import check_own_page
from .endpoints import Route
from .exchange import JSON, Exchange
from .status import ORDERS, Answers, Request, answer, moment, overview

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

_TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
_TEMPLATES.filters |= {"moment": moment, "thousands": "{:,}".format}
_TEMPLATES.globals |= {"time": time, "token": _TOKEN}


def routes(gateway: Gateway) -> list[Route]:
    """The page's own, for a gateway that remembers its calls from now on."""
    if gateway.recent is None:
        recent = Recent(gateway.clock)
        gateway.remember, gateway.recent = recent.add, recent.facts
    return [Route("/status", ("GET", "POST"), _page), Route("/status.json", ("GET",), _facts)]


def _facts(exchange: Exchange) -> Response:
    _operator(exchange)
    facts = overview(_ask(exchange, do="overview"))
    return Response(msgspec.json.encode(facts), headers=_HEADERS, mimetype=JSON)


def _page(exchange: Exchange) -> Response:
    operator, errors = _operator(exchange), list[str]()
    if request.method == "POST":
        errors = _order(exchange, operator)
        if not errors:
            return Response(status=303, headers={**_HEADERS, "Location": "status"})
    model, nonce = request.args.get("model", ""), secrets.token_urlsafe(16)
    page = _TEMPLATES.get_template("page.html").render(
        **overview(_ask(exchange, do="overview")),
        model=model,
        offering=overview(_ask(exchange, do="overview", model=model))["clients"] if model else (),
        errors=errors,
        # One of several workers, which cannot be asked together.
        is_alone=not exchange.gateway.ask_workers and exchange.environ["wsgi.multiprocess"],
        nonce=nonce,
    )
    headers = {**_HEADERS, "Content-Security-Policy": _POLICY.format(nonce)}
    return Response(page, 409 if errors else 200, headers, mimetype="text/html")


def _operator(exchange: Exchange) -> Caller:
    """Who looks, if it is an operator and there is a page; raises CallerError."""
    config, environ = exchange.gateway.config, dict(exchange.environ)
    if config.status_page is False:
        raise PathNotFound(f"there is no path {request.path}")
    with suppress(ValueError):  # what cannot be read is nobody's
        if (given := request.authorization) is not None and given.type == "basic":
            key = str(given.password).encode().decode("latin-1")  # for bytes, as PEP 3333 has it
            environ["HTTP_AUTHORIZATION"] = f"Bearer {key}"
    try:
        return exchange.doorkeeper.admit_operator(environ)
    except (InvalidKey, Refused) as error:
        if config.callers:  # have the browser ask for a key, or for another one
            error.status = InvalidKey.status
            error.passed_headers["WWW-Authenticate"] = 'Basic realm="poolproxy", charset="UTF-8"'
        raise


def _order(exchange: Exchange, operator: Caller) -> list[str]:
    """Give an order to all workers; returns why some did not obey."""
    check_own_page(exchange.environ)
    if not hmac.compare_digest(request.form.get("token", "").encode(), _TOKEN.encode()):
        raise Refused("the page is older than this server: load it again")
    do, client = request.form.get("do", ""), request.form.get("client", "")
    if do not in ORDERS:
        raise InvalidRequest(f"there is no order {do!r}")
    by = f"{operator.name or 'an operator'} ({exchange.record.address})"
    answers = _ask(exchange, do=do, client=client, by=by)
    return [one["error"] for one in answers if "error" in one]


def _ask(exchange: Exchange, **asked: str) -> Answers:
    """All workers' answers; where they have no sockets, or lost them, this one's."""
    gateway = exchange.gateway
    answers = gateway.ask_workers(asked) if gateway.ask_workers else []
    return answers or [answer(gateway, Request(**asked))]
