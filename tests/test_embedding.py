"""The gateway in somebody else's Flask application: below its prefix ours, everything else theirs.

On real servers: test_embedding_servers.py.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import (
    BadRequest,
    Forbidden,
    HTTPException,
    NotFound,
    RequestEntityTooLarge,
    ServiceUnavailable,
    TooManyRequests,
    Unauthorized,
    default_exceptions,
)
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client, TestResponse

from proxy import ConfigError, Proxy
from proxy.config import load_config
from proxy.gateway import Gateway
from tests.support.upstream import HANG, MODEL, Upstream, chunk, events

CONFIG: dict[str, Any] = {"demo": [{"name": "demo", "delay-ms": 0}]}
ASKED: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
CHAT = "/llm/v1/chat/completions"


def fail(*_: object) -> Any:
    raise LookupError("theirs")


@pytest.fixture
def app() -> Flask:
    """An application with a route, a session and handlers for every error, not yet with us."""
    app = Flask("theirs")
    app.config.update(SECRET_KEY="theirs", MAX_CONTENT_LENGTH=1000)
    app.add_url_rule("/page", "page", lambda: "page", methods=["GET", "POST"])
    app.add_url_rule("/broken", "broken", fail)

    @app.post("/body")
    def body() -> bytes:
        return flask.request.get_data()

    @app.route("/login")
    def login() -> str:
        flask.session["who"] = "me"
        return "hello"

    @app.errorhandler(Exception)
    def theirs(error: Exception) -> tuple[str, int]:
        code = error.code if isinstance(error, HTTPException) and error.code else 500
        return f"theirs {code}", code

    for code in (404, 405, 500):
        app.register_error_handler(code, lambda _, code=code: (f"theirs {code}", code))
    return app


def mounted(app: Flask) -> FlaskClient:
    """A client of the application with a gateway at /llm."""
    Proxy(CONFIG).init_app(app, url_prefix="/llm")
    return app.test_client()


def error_of(answer: TestResponse) -> dict[str, Any]:
    """The error object; fails if it is not in our shape."""
    assert answer.mimetype == "application/json", answer.data
    error: dict[str, Any] = answer.get_json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# Below the prefix


def test_endpoints_answer_below_the_prefix(app: Flask) -> None:
    """As if at the root, the prefix itself with and without a slash."""
    http = mounted(app)
    assert http.get("/llm").get_json()["name"] == "poolproxy"
    assert http.get("/llm/").get_json()["name"] == "poolproxy"
    assert [one["id"] for one in http.get("/llm/v1/models").get_json()["data"]] == ["demo"]
    assert http.post(CHAT, json=ASKED).get_json()["choices"]
    streamed = http.post(CHAT, json={**ASKED, "stream": True})
    assert streamed.data.endswith(b"data: [DONE]\n\n")


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "X-ODD"]
UNKNOWN = ["/llm/nothing", "/llm//v1/models", "/llm/v1/models/", "/llm/a%0A", "/llm/v1/../x"]


@pytest.mark.parametrize("path", UNKNOWN)
@pytest.mark.parametrize("method", [*METHODS, "OPTIONS"])
def test_unknown_paths_are_our_404(app: Flask, method: str, path: str) -> None:
    """By any method, however odd, though the application has handlers of its own."""
    answer = mounted(app).open(path, method=method)
    assert answer.status_code == 404
    assert answer.mimetype == "application/json"
    if method != "HEAD":
        assert error_of(answer)["code"] == "not_found"
        hint = "did you mean /llm/v1/models?" if "models" in path else "GET /llm lists"
        assert f"; {hint}" in error_of(answer)["message"]


def test_base_url_without_the_version_is_told(app: Flask) -> None:
    """With the prefix."""
    message = error_of(mounted(app).post("/llm/chat/completions"))["message"]
    assert "there is no /llm/chat/completions; did you mean /llm/v1/chat/completions?" in message
    assert message.endswith("/llm/v1")


@pytest.mark.parametrize("path", ["/llm", "/llm/", "/llm/healthz", "/llm/v1/models/a/b", CHAT])
@pytest.mark.parametrize("method", METHODS)
def test_other_methods_are_our_405(app: Flask, method: str, path: str) -> None:
    """With `Allow` (RFC 9110 section 15.5.6)."""
    answer = mounted(app).open(path, method=method)
    allowed = ["POST"] if path == CHAT else ["GET", "HEAD"]
    if method in allowed:
        assert answer.status_code != 405
        return
    assert answer.status_code == 405
    assert answer.headers["Allow"] == ", ".join(allowed)
    assert method == "HEAD" or error_of(answer)["code"] == "method_not_allowed"


def test_options_tell_the_methods(app: Flask) -> None:
    """204 with `Allow` for what there is; an open gateway says no more."""
    answer = mounted(app).options(CHAT, headers={"Origin": "http://localhost:3000"})
    assert (answer.status_code, answer.headers["Allow"]) == (204, "POST, OPTIONS")
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-")]


def test_request_for_a_websocket_is_our_error(app: Flask) -> None:
    """werkzeug routes these apart; the application's page would be HTML."""
    http = mounted(app)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    assert error_of(http.get("/llm/v1/realtime", headers=upgrade))["code"] == "not_found"
    assert error_of(http.get("/llm/v1/models", headers=upgrade))["code"] == "invalid_request"


@pytest.mark.parametrize("flags", [{}, {"TESTING": True}, {"PROPAGATE_EXCEPTIONS": True}, "debug"])
def test_our_errors_are_answers_in_every_mode(app: Flask, flags: Any) -> None:
    """None of them is raised into the server, nor shown as a traceback."""
    app.debug = flags == "debug"
    app.config.update(flags if isinstance(flags, dict) else {})
    http = mounted(app)
    assert error_of(http.post(CHAT, data="{"))["code"] == "invalid_request"
    assert error_of(http.post(CHAT, json={**ASKED, "model": "x"}))["code"] == "model_not_found"
    assert error_of(http.post("/llm"))["code"] == "method_not_allowed"


@pytest.mark.parametrize("ours", [300, 1000])
@pytest.mark.parametrize("theirs", [None, 300, 1000])
def test_smaller_limit_on_bodies_holds(app: Flask, ours: int, theirs: int | None) -> None:
    """Below the prefix: the application's MAX_CONTENT_LENGTH, or `max-body-size`."""
    app.config["MAX_CONTENT_LENGTH"] = theirs
    Proxy({**CONFIG, "max-body-size": ours}).init_app(app, url_prefix="/llm")
    http = app.test_client()
    most = min(ours, theirs or ours)
    rest = most - len(json.dumps({**ASKED, "user": ""}))
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    for environ in ({}, chunked):
        for more, status in ((0, 200), (1, 413)):
            body = json.dumps({**ASKED, "user": "u" * (rest + more)})
            answer = http.post(CHAT, data=body, environ_overrides=environ)
            assert answer.status_code == status
    error = error_of(answer)
    assert error["code"] == "body_too_large"
    is_theirs = theirs is not None and theirs < ours
    whose = "the application's MAX_CONTENT_LENGTH" if is_theirs else "max-body-size"
    assert error["message"].endswith(f" bytes ({whose})")
    assert f" {most} bytes" in error["message"]
    if theirs is not None:
        assert http.post("/body", data=b"x" * (theirs + 1)).data == b"theirs 413"


def test_hook_may_set_the_limit_on_a_body(app: Flask) -> None:
    """Of one request, as for any view; what is unpacked is ours to limit."""

    @app.before_request
    def limit() -> None:
        flask.request.max_content_length = 100

    http = mounted(app)
    assert http.post(CHAT, json={**ASKED, "user": "u" * 100}).status_code == 413
    packed = gzip.compress(json.dumps({**ASKED, "user": "u" * 100}).encode())
    assert len(packed) <= 100
    packing = {"Content-Encoding": "gzip"}
    assert http.post(CHAT, data=packed, headers=packing).status_code == 200


# Everything else


@pytest.mark.parametrize("prefix", ["/llm", "/llm/", "llm", "/a/b", "/"])
def test_routes_of_the_application_stay(app: Flask, prefix: str) -> None:
    """Whatever the prefix, even where it is the root."""
    Proxy(CONFIG).init_app(app, url_prefix=prefix)
    http = app.test_client()
    assert http.get("/page").data == b"page"
    below = "/".join(["", *filter(None, prefix.split("/"))])
    assert http.get(f"{below}/healthz").get_json() == {"status": "ok"}
    assert error_of(http.get(f"{below}/none"))["code"] == "not_found"


def test_errors_of_the_application_stay(app: Flask) -> None:
    """Its handlers answer outside of the prefix, next to it too."""
    http = mounted(app)
    for path in ("/none", "/llmx", "/ll", "//llm/v1/models"):
        assert http.get(path).data == b"theirs 404"
    assert http.delete("/page").data == b"theirs 405"
    assert http.get("/broken").data == b"theirs 500"


def test_application_without_handlers_keeps_the_usual_pages() -> None:
    """We add none."""
    app = Flask("plain")
    http = mounted(app)
    for answer in (http.get("/none"), http.post("/static/none")):
        assert answer.mimetype == "text/html"
    assert not any(app.error_handler_spec[None].values())


def test_own_route_below_the_prefix_wins(app: Flask) -> None:
    """The application may add to what is there, before or after, with variables too."""
    app.add_url_rule("/llm/mine", view_func=lambda: "mine", endpoint="mine")
    http = mounted(app)
    app.add_url_rule("/llm/extra/<what>", view_func=lambda what: what, endpoint="extra")
    assert http.get("/llm/mine").data == b"mine"
    assert http.get("/llm/extra/a").data == b"a"
    assert error_of(http.get("/llm/extra/a/b"))["code"] == "not_found"


def test_session_and_settings_stay(app: Flask) -> None:
    """The session is the application's; our answers set no cookie."""
    settings = dict(app.config)
    converters = dict(app.url_map.converters)
    http = mounted(app)
    assert dict(app.config) == settings
    assert dict(app.url_map.converters) == converters
    assert "Set-Cookie" in http.get("/login").headers
    assert "Set-Cookie" not in http.post(CHAT, json=ASKED).headers
    with http.session_transaction() as session:
        assert session["who"] == "me"


# Hooks of the application


def test_hooks_see_our_requests(app: Flask) -> None:
    """`before_request`, `after_request` and `teardown_request`, and the header that one adds."""
    seen: list[str] = []
    app.before_request(lambda: seen.append("before"))
    app.teardown_request(lambda _: seen.append("teardown"))

    @app.after_request
    def stamp(response: flask.Response) -> flask.Response:
        seen.append("after")
        response.headers["X-Theirs"] = "1"
        return response

    http = mounted(app)
    for method, path in (("POST", CHAT), ("GET", "/llm/none")):
        assert http.open(path, method=method, json=ASKED).headers["X-Theirs"] == "1"
        assert seen == ["before", "after", "teardown"]
        seen.clear()


@pytest.mark.parametrize("stream", [False, True])
def test_hooks_hear_of_the_end(app: Flask, stream: bool) -> None:
    """`call_on_close`, once: of a stream when its last chunk is out."""
    ended: list[bool] = []

    @app.after_request
    def count(response: flask.Response) -> flask.Response:
        response.call_on_close(lambda: ended.append(True))
        return response

    answer = mounted(app).post(CHAT, json={**ASKED, "stream": stream}, buffered=False)
    chunks = answer.iter_encoded()
    assert next(iter(chunks))
    assert not ended
    assert not stream or b"[DONE]" in answer.data
    answer.close()
    assert ended == [True]


def test_hook_may_answer_for_us(app: Flask) -> None:
    """What `before_request` returns is the answer."""
    app.before_request(lambda: ("closed", 200))
    assert mounted(app).post(CHAT, json=ASKED).data == b"closed"


def test_hook_may_read_the_body_first(app: Flask) -> None:
    """To log it or to check a signature; werkzeug keeps what `get_data` read."""
    app.before_request(lambda: flask.request.get_data() and None)
    assert mounted(app).post(CHAT, json=ASKED).status_code == 200


def test_hook_that_uses_up_the_body_is_named(app: Flask) -> None:
    """curl's content type is a form's, and werkzeug keeps nothing of what it parsed."""
    app.before_request(lambda: flask.request.form and None)
    form = "application/x-www-form-urlencoded"
    refused = mounted(app).post(CHAT, data=json.dumps(ASKED), content_type=form)
    assert refused.status_code == 400
    assert "a hook of the application has read it" in error_of(refused)["message"]


def test_failing_hook_is_answered_in_our_shape() -> None:
    """Callers below the prefix read JSON, whoever fails; what failed is not told."""
    app = Flask("theirs")

    @app.before_request
    def check() -> None:
        who = flask.request.headers.get("X-Who")
        if who is None:
            flask.abort(403, "not you")
        if who == "tomorrow":
            flask.abort(503)
        if who == "nobody":
            raise LookupError("secret")

    http = mounted(app)
    refused = http.post(CHAT, json=ASKED)
    assert (refused.status_code, error_of(refused)["message"]) == (403, "not you")
    later = http.post(CHAT, json=ASKED, headers={"X-Who": "tomorrow"})
    assert (later.status_code, error_of(later)["type"]) == (503, "server_error")
    failed = http.post(CHAT, json=ASKED, headers={"X-Who": "nobody"})
    assert (failed.status_code, error_of(failed)["code"]) == (500, "internal_error")
    assert b"secret" not in failed.data
    assert http.post(CHAT, json=ASKED, headers={"X-Who": "me"}).status_code == 200


@pytest.mark.parametrize(
    ("refusal", "kind", "code", "headers"),
    [
        (BadRequest("no"), "invalid_request_error", "invalid_request", {}),
        (
            Unauthorized("no", www_authenticate=WWWAuthenticate("bearer", {"realm": "theirs"})),
            "invalid_request_error",
            "invalid_api_key",
            {"WWW-Authenticate": "Bearer realm=theirs"},
        ),
        (Forbidden("no"), "invalid_request_error", "forbidden", {}),
        (NotFound("no"), "invalid_request_error", "not_found", {}),
        (RequestEntityTooLarge("no"), "invalid_request_error", "body_too_large", {}),
        (
            TooManyRequests("no", retry_after=7),
            "rate_limit_error",
            "rate_limit_exceeded",
            {"Retry-After": "7"},
        ),
        (
            ServiceUnavailable("no", retry_after=7),
            "server_error",
            "internal_error",
            {"Retry-After": "7"},
        ),
    ],
    ids=lambda value: getattr(value, "code", None),
)
@pytest.mark.parametrize("by", ["hook", "log-in"])
def test_refusal_of_the_application_keeps_what_it_says(
    app: Flask, by: str, refusal: HTTPException, kind: str, code: str, headers: dict[str, str]
) -> None:
    """Status, message and headers; the type and code are those that its status has with us.

    Although the application has a page of its own for each error.
    """
    for status in default_exceptions:
        app.register_error_handler(status, lambda _: "theirs")

    def refuse() -> Any:
        raise refusal

    if by == "hook":
        app.before_request(refuse)
    Proxy(CONFIG, authenticate=refuse if by == "log-in" else None).init_app(app, url_prefix="/llm")
    answer = app.test_client().post(CHAT, json=ASKED)
    assert answer.status_code == refusal.code
    told = {"message": "no", "type": kind, "param": None, "code": code}
    assert error_of(answer) == told
    assert {name: answer.headers.get(name) for name in headers} == headers
    assert len(answer.headers.getlist("Content-Type")) == 1


def test_answer_that_a_hook_aborts_with_is_the_answer(app: Flask) -> None:
    """As if it had returned it."""

    @app.before_request
    def check() -> None:
        if flask.request.args:
            raise TooManyRequests(response=flask.Response("theirs", 429))
        flask.abort(flask.redirect("/login"))

    http = mounted(app)
    assert http.post(CHAT, json=ASKED).headers["Location"] == "/login"
    assert http.post(f"{CHAT}?a=b", json=ASKED).data == b"theirs"


def test_log_in_may_abort_with_an_answer(app: Flask) -> None:
    """Its status and headers are kept."""
    proxy = Proxy(CONFIG, authenticate=lambda: flask.abort(flask.redirect("/login")))
    proxy.init_app(app, url_prefix="/llm")
    answer = app.test_client().post(CHAT, json=ASKED)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/login")
    assert error_of(answer)


def test_failure_after_the_answer_is_in_our_shape_too(app: Flask) -> None:
    """Although the application has a page for it."""
    app.after_request(fail)
    failed = mounted(app).post(CHAT, json=ASKED)
    assert (failed.status_code, error_of(failed)["code"]) == (500, "internal_error")
    assert b"theirs" not in failed.data


HOOKS: dict[str, Callable[[Flask], Any]] = {
    "after_request raises": lambda app: app.after_request(fail),
    "after_request replaces": lambda app: app.after_request(lambda _: flask.Response("theirs")),
    "teardown_request raises": lambda app: app.teardown_request(fail),
}


@pytest.mark.parametrize("modes", [{}, {"TESTING": True}, {"handler": True}])
@pytest.mark.parametrize("hook", HOOKS)
def test_stream_that_a_hook_spoils_frees_its_lease(
    upstream: Upstream, hook: str, modes: dict[str, bool]
) -> None:
    """Nobody will iterate its body: the upstream's answer ends, the client's one permit is free."""
    upstream.reply("sk-1", events(chunk({"content": "a"}), HANG))
    provider = {"name": "up", "base-url": upstream.url, "api-keys": ["sk-1"], "models": [MODEL]}
    proxy = Proxy({"openai-compatibility": [provider], "queue-timeout": 0})
    app = Flask("theirs")
    app.config.update(modes)
    if modes.get("handler"):
        app.register_error_handler(500, lambda _: ("theirs", 500))
    proxy.init_app(app, url_prefix="/llm")
    HOOKS[hook](app)
    try:
        app.test_client().post(CHAT, json={**ASKED, "model": MODEL, "stream": True}).close()
    except LookupError:
        assert hook != "after_request replaces"
    (received,) = upstream.received("sk-1")
    if hook == "teardown_request raises":  # after all that is ours: who comes next gives back
        assert proxy.gateway.pool.has_service()
    assert received.wait_ended().aborted
    upstream.wait_for_connections()
    (facts,) = proxy.gateway.pool.snapshot()
    assert facts["in_flight"] == 0
    proxy.gateway.close()


# Several


def test_two_instances_in_one_application(app: Flask) -> None:
    """Under two names, each with its own models; one name twice is an error that says so."""
    other = {"demo": [{"name": "other", "models": ["else"]}]}
    one, two = Proxy(CONFIG), Proxy(other, app, name="second", url_prefix="/two")
    one.init_app(app, url_prefix="/one")
    http = app.test_client()
    for prefix, model in (("/one", "demo"), ("/two", "else")):
        models = http.get(f"{prefix}/v1/models").get_json()["data"]
        assert [one["id"] for one in models] == [model]
        assert error_of(http.get(f"{prefix}/none"))["code"] == "not_found"
    assert app.extensions["proxy"] == {"proxy": one, "second": two}
    with pytest.raises(RuntimeError, match="name="):
        Proxy(CONFIG).init_app(app, url_prefix="/three")


def test_one_instance_in_applications_of_a_factory() -> None:
    """Made first, mounted later, several times: they share its clients."""
    proxy = Proxy(CONFIG)

    def make_app(prefix: str) -> Flask:
        app = Flask(prefix)
        proxy.init_app(app, url_prefix=prefix)
        return app

    for prefix in ("/a", "/b"):
        app = make_app(prefix)
        assert app.extensions["proxy"]["proxy"] is proxy
        assert (
            app.test_client().post(f"{prefix}/v1/chat/completions", json=ASKED).status_code == 200
        )


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, which has no configuration; nor does the environment name one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROXY_CONFIG", raising=False)
    return tmp_path


def demo_of(provider: str) -> dict[str, Any]:
    return {"demo": [{"name": provider}]}


def write(path: Path, provider: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(demo_of(provider)))


def provider_of(gateway: Gateway) -> str:
    """Of its only client: which configuration it is."""
    return gateway.config.clients[0].provider


def test_applications_with_configurations_of_their_own(empty: Path) -> None:
    """A gateway each, chosen by the current application; nothing is read before `init_app`."""
    proxy = Proxy(url_prefix="/llm")
    apps = [Flask(name) for name in ("one", "two")]
    with pytest.raises(RuntimeError, match="neither a configuration nor an application"):
        _ = proxy.gateway
    for app in apps:
        app.config["POOLPROXY_CONFIG"] = demo_of(app.name)
        proxy.init_app(app)
        assert app.extensions["proxy"]["proxy"] is proxy
        with app.app_context():
            assert proxy.gateway is proxy.gateway_of(app)
            assert provider_of(proxy.gateway) == proxy.config.clients[0].provider == app.name
        assert app.test_client().get("/llm/readyz").status_code == 200
    with pytest.raises(RuntimeError, match="2 applications: enter the `app_context"):
        _ = proxy.gateway
    with pytest.raises(RuntimeError, match="not mounted in the app 'three'"):
        proxy.gateway_of(Flask("three"))


def test_only_gateway_needs_no_application_context(empty: Path) -> None:
    """Nor is it another one inside an application in which it is not mounted."""
    app = Flask("one")
    app.config["POOLPROXY_CONFIG"] = demo_of("one")
    proxy = Proxy(app, url_prefix="/llm")
    assert proxy.gateway is proxy.gateway_of(app)
    with Flask("two").app_context():
        assert proxy.gateway is proxy.gateway_of(app)
    given = Proxy(demo_of("given"))
    given.init_app(app := Flask("three"))
    assert given.gateway is given.gateway_of(app)
    assert provider_of(given.gateway) == "given"


def test_order_of_configurations(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, the application's setting, `$PROXY_CONFIG`, `./config.yaml`.

    A path is seen from the working directory, or from the application's root if it is a setting.
    """
    app_root = empty / "root"
    write(empty / "config.yaml", "default")
    write(empty / "env.yaml", "env")
    write(empty / "llm.yaml", "argument")
    write(app_root / "llm.yaml", "setting")

    def found(source: Any = None, *, name: str = "proxy", **settings: Any) -> str:
        app = Flask("theirs", root_path=str(app_root))
        app.config.update(settings)
        proxy = Proxy(source, app, name=name)
        return provider_of(proxy.gateway_of(app))

    assert found() == found(POOLPROXY_CONFIG=None) == found(POOLPROXY_CONFIG="") == "default"
    monkeypatch.setenv("PROXY_CONFIG", "env.yaml")
    assert found() == found(POOLPROXY_OTHER_CONFIG="none.yaml") == "env"
    assert found(POOLPROXY_CONFIG="llm.yaml") == "setting"
    assert found(POOLPROXY_CONFIG=Path("llm.yaml")) == "setting"
    assert found(POOLPROXY_CONFIG=str(empty / "llm.yaml")) == "argument"
    assert found(POOLPROXY_CONFIG=demo_of("mapping")) == "mapping"
    assert found(POOLPROXY_CONFIG=load_config(demo_of("loaded"))) == "loaded"
    assert found("llm.yaml", POOLPROXY_CONFIG="none.yaml") == "argument"
    settings = {"POOLPROXY_CONFIG": "none.yaml", "POOLPROXY_SECOND_ONE_CONFIG": "llm.yaml"}
    assert found(name="second-one", **settings) == "setting"


def test_configuration_that_cannot_be_served_is_told_by_init_app(empty: Path) -> None:
    """With the path that was looked at; the application is as it was, and may be given another."""
    app = Flask("theirs", root_path=str(empty))
    app.config["POOLPROXY_CONFIG"] = "none.yaml"
    proxy = Proxy()
    with pytest.raises(ConfigError, match=f"{empty}/none.yaml: cannot be read"):
        proxy.init_app(app)
    app.config["POOLPROXY_CONFIG"] = demo_of("there")
    proxy.init_app(app)
    assert provider_of(proxy.gateway) == "there"


def test_below_a_dispatcher(app: Flask) -> None:
    """Where SCRIPT_NAME takes a part of the path away, and a prefix is left or none."""
    Proxy(CONFIG).init_app(app, url_prefix="/llm")
    outer = Flask("outer")
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/x/y": app})  # type: ignore[method-assign]
    http = Client(outer)
    assert http.post(f"/x/y{CHAT}", json=ASKED).status_code == 200
    assert http.get("/x/y/llm").get_json()["name"] == "poolproxy"
    assert error_of(http.get("/x/y/llm/none"))["code"] == "not_found"
    assert http.get("/x/y/none").data == b"theirs 404"
    assert http.get("/llm/v1/models").status_code == 404


def test_record_is_of_this_gateway_alone(app: Flask) -> None:
    """A request within a request, by a hook that calls another gateway, disturbs neither."""
    Proxy(CONFIG).init_app(app, url_prefix="/llm")
    inner = Flask("inner")
    Proxy(CONFIG).init_app(inner)

    @app.before_request
    def ask_first() -> None:
        headers = {"x-request-id": "inner"}
        answer = inner.test_client().get("/v1/models", headers=headers)
        assert answer.headers["x-request-id"] == "inner"

    answer = app.test_client().post(CHAT, json=ASKED, headers={"x-request-id": "outer"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "outer")
