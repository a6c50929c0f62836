"""`authenticate`: the application that we are a part of says who calls."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from proxy import Caller, Proxy, ProxyError, Refused

CONFIG: dict[str, Any] = {"demo": [{"name": "demo", "delay-ms": 0, "models": ["fast", "good"]}]}
ASKED: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": "Hi"}]}
CHAT = "/llm/v1/chat/completions"
JSON = "application/json"


def mounted(authenticate: Callable[[], Any] | None, **settings: Any) -> FlaskClient:
    """A caller of an application with a log-in of its own and a gateway at /llm."""
    app = Flask("theirs")
    app.secret_key = "theirs"
    proxy = Proxy({**CONFIG, **settings}, authenticate=authenticate)
    proxy.init_app(app, url_prefix="/llm")
    return app.test_client()


def error_of(answer: TestResponse) -> dict[str, Any]:
    """The error object; fails if it is not in our shape."""
    assert answer.mimetype == JSON, answer.data
    error: dict[str, Any] = answer.get_json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def by_session() -> Caller | str | None:
    """Whoever the session names; ann may use one model, once at a time."""
    name: str | None = flask.session.get("user")
    if name == "ann":
        return Caller(name, models=["fast"], max_concurrency=1)
    if name == "banned":
        raise Refused("you are banned until Monday")
    return name


def logged_in(http: FlaskClient, name: str) -> FlaskClient:
    with http.session_transaction() as session:
        session["user"] = name
    return http


# Who it is


def test_caller_is_whom_the_application_names(caplog: pytest.LogCaptureFixture) -> None:
    """By a plain name or as a `Caller`; nobody is a 401 in the dialect's shape."""
    caplog.set_level(logging.INFO, "proxy.request")
    for name in ("ann", "ben"):
        assert logged_in(mounted(by_session), name).post(CHAT, json=ASKED).status_code == 200
        assert f" caller={name} " in caplog.messages[-1]
    refused = mounted(by_session).post(CHAT, json=ASKED)
    assert (refused.status_code, error_of(refused)["code"]) == (401, "invalid_api_key")
    assert "log in" in error_of(refused)["message"]
    assert "x-should-retry" not in refused.headers  # a caller may have another token
    assert " caller=- " in caplog.messages[-1]
    assert " status=401 end=invalid_api_key " in caplog.messages[-1]


def test_caller_has_its_models() -> None:
    """In lists, by id and in requests; nobody sees any."""
    http = logged_in(mounted(by_session), "ann")
    assert [one["id"] for one in http.get("/llm/v1/models").get_json()["data"]] == ["fast"]
    assert http.get("/llm/v1/models/good").status_code == 404
    hidden = http.post(CHAT, json={**ASKED, "model": "good"})
    assert (hidden.status_code, error_of(hidden)["code"]) == (404, "model_not_found")
    assert logged_in(http, "ben").post(CHAT, json={**ASKED, "model": "good"}).status_code == 200
    nobody = mounted(by_session)
    for path in ("/llm/v1/models", "/llm/v1/models/fast"):
        assert nobody.get(path).status_code == 401


def test_caller_has_its_places() -> None:
    """A stream of one's own ends, or the next is refused; that of somebody else does not count."""
    http = logged_in(mounted(by_session), "ann")
    stream = http.post(CHAT, json={**ASKED, "stream": True})
    full = http.post(CHAT, json=ASKED)
    assert (full.status_code, error_of(full)["code"]) == (429, "rate_limit_exceeded")
    assert "of this caller" in error_of(full)["message"]
    other = logged_in(http.application.test_client(), "ben")
    assert other.post(CHAT, json=ASKED).status_code == 200
    stream.close()
    assert http.post(CHAT, json=ASKED).status_code == 200


def test_facts_of_the_gateway_need_no_log_in() -> None:
    """A load balancer has none."""
    for path in ("/llm", "/llm/healthz", "/llm/readyz"):
        assert mounted(by_session).get(path).status_code == 200


def test_decorator_counts_from_then_on() -> None:
    """In applications in which the proxy is mounted already, too; it gives the function back."""
    proxy = Proxy(CONFIG)
    apps = [Flask("one"), Flask("two")]
    proxy.init_app(apps[0], url_prefix="/llm")

    @proxy.authenticate
    def caller() -> str | None:
        return flask.request.args.get("user")

    proxy.init_app(apps[1], url_prefix="/llm")
    for app in apps:
        assert app.test_client().post(CHAT, json=ASKED).status_code == 401
        assert app.test_client().post(f"{CHAT}?user=ann", json=ASKED).status_code == 200
    with apps[0].test_request_context("/?user=ann"):
        assert caller() == "ann"


# What it raises


def fail(error: Exception) -> Callable[[], Any]:
    def authenticate() -> Any:
        raise error

    return authenticate


def test_refusal_reaches_the_caller() -> None:
    """With the application's own words."""
    refused = logged_in(mounted(by_session), "banned").post(CHAT, json=ASKED)
    assert refused.status_code == 403
    assert error_of(refused) == {
        "message": "you are banned until Monday",
        "type": "invalid_request_error",
        "param": None,
        "code": "forbidden",
    }


def test_abort_is_an_answer() -> None:
    """As in any view."""
    answer = mounted(lambda: flask.abort(410, "pay first")).post(CHAT, json=ASKED)
    assert (answer.status_code, error_of(answer)["message"]) == (410, "pay first")


@pytest.mark.parametrize("error", [LookupError("secret"), ProxyError("secret"), OSError("secret")])
@pytest.mark.parametrize("mode", [{}, {"TESTING": True}])
def test_failure_is_ours_to_answer(
    error: Exception, mode: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    """500 in our shape; the log alone says why, under the request's id."""
    http = mounted(fail(error))
    http.application.config.update(mode)
    failed = http.post(CHAT, json=ASKED)
    assert (failed.status_code, error_of(failed)["code"]) == (500, "internal_error")
    assert b"secret" not in failed.data
    (record,) = (one for one in caplog.records if one.levelno == logging.ERROR)
    assert failed.headers["x-request-id"] in record.getMessage()
    assert "secret" in caplog.text


@pytest.mark.parametrize("found", [7, "", Caller(""), True, {"name": "ann"}, object()])
def test_what_is_no_caller_is_a_failure(found: object, caplog: pytest.LogCaptureFixture) -> None:
    """The log says what was expected; nobody gets in by it."""
    assert mounted(lambda: found).post(CHAT, json=ASKED).status_code == 500
    assert "a Caller, a name or None" in caplog.text


# Keys and pages


def test_keys_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """`Authorization` is the application's; that `api-keys` are idle is told once."""
    http = mounted(by_session, **{"api-keys": ["caller-key-0123456789"]})
    for _ in range(3):
        headers = {"Authorization": "Bearer caller-key-0123456789"}
        assert http.post(CHAT, json=ASKED, headers=headers).status_code == 401
    assert logged_in(http, "ben").post(CHAT, json=ASKED, headers=headers).status_code == 200
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert warnings == ["`api-keys` are not used: the application's `authenticate` is"]


@pytest.mark.parametrize("host", ["shop.example", "shop.example:8443", "localhost"])
@pytest.mark.parametrize(
    "settings", [{}, {"api-keys": ["caller-key-0123456789"]}, {"cors": ["https://shop.example"]}]
)
def test_own_page_calls_by_any_name(host: str, settings: Any) -> None:
    """No `Host` is refused, and no CORS header of ours gets into the way of the application's."""
    http = mounted(lambda: "ben", **settings)
    headers = {"Host": host, "Origin": f"https://{host}", "Sec-Fetch-Site": "same-origin"}
    for answer in (
        http.post(CHAT, json=ASKED, headers=headers),
        http.post(CHAT, data="{", headers=headers),
        http.get("/llm/v1/models", headers=headers),
        http.options(CHAT, headers={**headers, "Access-Control-Request-Method": "POST"}),
        http.get("/llm/none", headers=headers),
    ):
        assert answer.status_code in (200, 204, 400, 404)
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-")]


OWN = {"Host": "shop.example"}
FOREIGN = [
    {**OWN, "Origin": "https://evil.example"},
    {**OWN, "Origin": "null"},
    {**OWN, "Origin": "http://localhost:3000"},
    {**OWN, "Origin": "https://a.shop.example", "Sec-Fetch-Site": "same-site"},
    {**OWN, "Origin": "https://shop.example:8443"},
    {**OWN, "Origin": "https://shop.example", "Sec-Fetch-Site": "cross-site"},
    {**OWN, "Sec-Fetch-Site": "cross-site"},
    {"Host": "localhost", "Origin": "http://localhost:3000"},
]
SIMPLE_TYPES = [
    None,
    "",
    "text/plain",
    "text/plain;charset=UTF-8",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "text/plain; application/json",
    "application/jsonp",
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_foreign_page_has_to_be_asked_about(headers: dict[str, str]) -> None:
    """What its browser sends without a preflight spends nothing, though the cookie goes along."""
    http = mounted(lambda: "ben")
    body = flask.json.dumps(ASKED)
    for kind in SIMPLE_TYPES:
        answer = http.post(CHAT, data=body, content_type=kind, headers=headers)
        assert answer.status_code == 403, kind
        assert "`Content-Type: application/json`" in error_of(answer)["message"]
    for kind in (JSON, "Application/JSON ; charset=utf-8"):
        assert http.post(CHAT, data=body, content_type=kind, headers=headers).status_code == 200
    assert http.get("/llm/v1/models", headers=headers).status_code == 200  # and may not be read


@pytest.mark.parametrize(
    "headers",
    [
        OWN,
        {**OWN, "Origin": "https://shop.example", "Sec-Fetch-Site": "same-origin"},
        {**OWN, "Origin": "http://shop.example"},
        {**OWN, "Sec-Fetch-Site": "none"},
        {"Host": "localhost:5000", "Origin": "http://localhost:5000"},
    ],
    ids=str,
)
def test_programs_and_own_pages_send_any_type(headers: dict[str, str]) -> None:
    """curl's default is a form's."""
    http = mounted(lambda: "ben")
    body = flask.json.dumps(ASKED)
    for kind in SIMPLE_TYPES:
        answer = http.post(CHAT, data=body, content_type=kind, headers=headers)
        assert answer.status_code == 200, kind
