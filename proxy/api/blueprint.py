"""One gateway's endpoints under one prefix: errors, CORS and unknown paths are its own there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import HTTPException, NotFound, default_exceptions
from werkzeug.routing import BaseConverter, Map, RequestRedirect, Rule

from ..dialects.chat import CHAT
from ..errors import InvalidRequest, MethodNotAllowed, PathNotFound
from . import endpoints
from .auth import Doorkeeper
from .exchange import Exchange, let_go, make_view

PREFLIGHT_KEPT_S = "600"  # that a browser may remember a preflight; Chromium: two hours at most
ABOUT = "about"  # the endpoint of the prefix itself, with and without a slash at its end

# So many folders may be too many before an endpoint: Azure's `openai/deployments/NAME`, for one.
_MOST_TOO_MANY = 4


def make_blueprint(doorkeeper: Doorkeeper, name: str) -> Blueprint:
    """The blueprint of a gateway; `name` tells two of them in one application apart."""
    blueprint = Blueprint(name, __name__)
    gateway = doorkeeper.gateway
    routes, has_page = endpoints.routes(gateway), gateway.config.status_page
    if gateway.is_standalone if has_page is None else has_page:
        from . import page  # with a template's engine, which is needed by nothing else

        routes += page.routes(gateway)
    for route in routes:
        blueprint.add_url_rule(
            route.path,
            endpoint=route.path.strip("/").replace(".", "_") or ABOUT,
            view_func=make_view(doorkeeper, route.view, route.dialect),
            methods=route.methods,
            provide_automatic_options=False,
            merge_slashes=False,
        )
    known = [Rule(route.path, methods=route.methods) for route in routes]
    others = _Others(doorkeeper, Map(known, merge_slashes=False))
    blueprint.record(others.add_rules)
    handle = make_error_handler(doorkeeper)
    # By each status too, for an application's handler of a status goes before one of all errors.
    kinds: list[type[Exception] | int] = [Exception, *default_exceptions]
    for kind in kinds:
        blueprint.register_error_handler(kind, handle)
    blueprint.teardown_request(let_go)
    return blueprint


def make_error_handler(doorkeeper: Doorkeeper) -> Callable[[Exception], Any]:
    """What answers in our manner for exceptions of routing, and of the application's hooks."""

    def handle(error: Exception) -> Any:
        if isinstance(error, HTTPException) and error.response is not None:
            return error.response  # a hook's own, as if it had returned it
        dialect = endpoints.dialect_at(request.path)
        return Exchange(doorkeeper, request.environ, dialect).refuse(error)

    return handle


class _Anything(BaseConverter):
    """Whatever is left of a path: nothing, slashes, and line ends too."""

    regex = "(?s:.*)"
    part_isolating = False
    weight = 1000  # the application's own rules under the prefix come first


class _Below(Rule):
    """A rule for all paths below a prefix; the application's converters are left alone."""

    def get_converter(self, *args: Any, **kwargs: Any) -> BaseConverter:
        return _Anything(self.map)


class _Others:
    """Answers for all else under the prefix: a blueprint's handlers see no errors of routing."""

    def __init__(self, doorkeeper: Doorkeeper, known: Map) -> None:
        self._known = known.bind("")
        self._view = make_view(doorkeeper, self.answer, CHAT)

    def add_rules(self, state: BlueprintSetupState) -> None:
        """Add rules for whatever no other rule matches to the blueprint's application."""
        endpoint = f"{state.name_prefix}.{state.name}.others".lstrip(".")
        paths = [f"{state.url_prefix or ''}/<rest>"]
        if state.url_prefix:
            state.add_url_rule("", ABOUT, methods=("GET",), provide_automatic_options=False)
            paths.append(state.url_prefix)
        # A request to open a WebSocket needs rules of its own kind.
        for path, websocket in product(paths, (False, True)):
            rule = _Below(path, endpoint=endpoint, merge_slashes=False, websocket=websocket)
            state.app.url_map.add(rule)
        state.app.view_functions[endpoint] = self._view

    def answer(self, exchange: Exchange, rest: str = "") -> Response:
        """204 for OPTIONS, else raise PathNotFound, MethodNotAllowed, InvalidRequest."""
        exchange.dialect = endpoints.dialect_at(f"/{rest}")
        methods = self._methods_of(f"/{rest}")
        if not methods:
            above = request.path.removesuffix(f"/{rest}")
            hint = exchange.dialect.below or f"GET {above or '/'} lists the endpoints"
            if meant := self._meant(rest):
                hint = f"did you mean {above}{meant}?"
                if meant.startswith("/v1/"):
                    hint += f" The base_url of an SDK ends in {above}/v1"
            # OpenAI's envelope has a code that tells it from an unknown model.
            what = "" if exchange.dialect.error is CHAT.error else "path "
            raise PathNotFound(f"there is no {what}{request.path}; {hint}")
        if request.method == "OPTIONS":
            return _preflight(exchange, methods)
        if request.method in methods:
            raise InvalidRequest("there are no WebSockets here")
        raise MethodNotAllowed(f"{request.path} does not take {request.method}", allowed=methods)

    def _meant(self, rest: str) -> str:
        """The path of an endpoint that `rest` ends with; "" if there is none.

        A base_url may lack `/v1`, have it twice or behind another folder, or name an endpoint.
        """
        parts = [part for part in rest.split("/") if part]
        ends = ["/".join(parts[at:]) for at in range(min(len(parts), _MOST_TOO_MANY + 1))]
        paths = [f"{root}{end}" for end in ends for root in ("/", "/v1/")]
        return next(filter(self._methods_of, paths), "")

    def _methods_of(self, path: str) -> list[str]:
        if path.startswith("//"):  # werkzeug would look for it with one slash
            return []
        try:
            return sorted(self._known.allowed_methods(path))
        except (NotFound, RequestRedirect):
            return []


def _preflight(exchange: Exchange, methods: list[str]) -> Response:
    """What a browser asks before a cross-origin request (fetch.spec.whatwg.org, "CORS protocol").

    The requested headers are echoed: `*` would not cover `Authorization`.
    """
    allowed = ", ".join([*methods, "OPTIONS"])
    headers = {"Allow": allowed}
    if exchange.doorkeeper.cors_headers(exchange.environ):
        headers["Access-Control-Allow-Methods"] = allowed
        headers["Access-Control-Max-Age"] = PREFLIGHT_KEPT_S
        headers["Vary"] = "Access-Control-Request-Headers"
        if asked := exchange.environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS"):
            headers["Access-Control-Allow-Headers"] = asked
    return exchange.reply(b"", status=204, headers=headers)
