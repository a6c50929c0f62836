"""The example application by Flask's test client. On servers: test_flask_host_servers.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from flask import Flask
from flask.testing import FlaskClient
from shop import accounts, create_app
from shop.models import Bill, User, db
from sqlalchemy import select
from werkzeug.security import generate_password_hash
from werkzeug.test import TestResponse

from tests.support.upstream import Gate as UpstreamGate
from tests.support.upstream import Hold, Upstream, chat, chunk, error, events

CHAT = "/llm/v1/chat/completions"
ASKED: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "Which?"}]}
STREAMED = {**ASKED, "stream": True}
PASSWORD = "of all people"
HASH = generate_password_hash(PASSWORD, "pbkdf2:sha256:1")  # that takes no time

Make = Callable[..., Flask]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes the shop with other settings, and closes its database in the end."""
    made: list[Flask] = []

    def make_one(**settings: Any) -> Flask:
        database = f"sqlite:///{tmp_path}/shop-{len(made)}.db"
        app = create_app({"TESTING": True, "SQLALCHEMY_DATABASE_URI": database, **settings})
        made.append(app)
        with app.app_context():
            for name, more in (("ann", {"models": ["small"], "max_concurrency": 1}), ("ben", {})):
                db.session.add(User(name=name, password_hash=HASH, **more))
            db.session.add(User(name="cat", password_hash=HASH, is_banned=True))
            db.session.commit()
        return app

    yield make_one
    for app in made:
        with app.app_context():
            db.engine.dispose()


def logged_in(app: Flask, name: str) -> FlaskClient:
    """A browser whose user has filled in the form."""
    http = app.test_client()
    answer = http.post("/login", data={"name": name, "password": PASSWORD})
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    return http


def error_of(answer: TestResponse) -> dict[str, Any]:
    """The error object; fails if it is not in the gateway's shape."""
    assert answer.mimetype == "application/json", answer.data
    found: dict[str, Any] = answer.get_json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


def bills(app: Flask) -> list[tuple[str, str, str, int, int]]:
    """What was kept of each call, in order."""
    with app.app_context():
        rows = db.session.scalars(select(Bill).order_by(Bill.id))
        return [
            (row.caller, row.model, row.end, row.prompt_tokens, row.completion_tokens)
            for row in rows
        ]


# Who calls


def test_user_calls_by_session(make: Make) -> None:
    """As the page does; nobody is told so in the gateway's shape, and the page has a form."""
    app = make()
    stranger = app.test_client()
    refused = stranger.post(CHAT, json=ASKED)
    assert (refused.status_code, error_of(refused)["code"]) == (401, "invalid_api_key")
    assert b'action="/login"' in stranger.get("/").data
    assert stranger.post("/login", data={"name": "ann", "password": "no"}).status_code == 401
    ann = logged_in(app, "ann")
    assert b"Hello ann!" in ann.get("/").data
    streamed = ann.post(CHAT, json=STREAMED)
    assert streamed.data.endswith(b"data: [DONE]\n\n")
    ann.post("/logout")
    assert ann.post(CHAT, json=ASKED).status_code == 401


def test_user_calls_by_token(make: Make) -> None:
    """That the shop's own API gives; a forged or an old one is none, and no key of the proxy's."""
    app = make()
    token = logged_in(app, "ben").post("/v1/tokens").get_json()["token"]
    program = app.test_client()
    assert program.post("/v1/tokens").status_code == 401
    with_token = {"Authorization": f"Bearer {token}"}
    assert program.post(CHAT, json=ASKED, headers=with_token).status_code == 200
    assert program.get("/v1/bill", headers=with_token).get_json()["calls"] == 1
    key = app.config["SECRET_KEY"]
    soon = time.time() + 60
    for claims, by_key in (
        ({"sub": "ben", "exp": soon}, "somebody else's key of thirty-two bytes"),
        ({"sub": "ben", "exp": time.time() - 60}, key),
        ({"sub": "ben"}, key),
        ({"sub": "nobody", "exp": soon}, key),
    ):
        forged = {"Authorization": f"Bearer {jwt.encode(claims, by_key)}"}
        assert program.post(CHAT, json=ASKED, headers=forged).status_code == 401, claims
    for other in ("Bearer", "Basic YW5uOmE=", "Bearer sk-caller"):
        answer = program.post(CHAT, json=ASKED, headers={"Authorization": other})
        assert answer.status_code == 401


def test_user_has_models_and_places(make: Make) -> None:
    """Ann may use one model, once at a time; ben any, and ann's place is not his."""
    app = make()
    ann, ben = logged_in(app, "ann"), logged_in(app, "ben")
    assert [one["id"] for one in ann.get("/llm/v1/models").get_json()["data"]] == ["small"]
    assert ann.post(CHAT, json={**ASKED, "model": "large"}).status_code == 404
    assert ben.post(CHAT, json={**ASKED, "model": "large"}).status_code == 200
    stream = ann.post(CHAT, json=STREAMED)
    full = ann.post(CHAT, json=ASKED)
    assert (full.status_code, error_of(full)["code"]) == (429, "rate_limit_exceeded")
    assert "max-concurrency" in error_of(full)["message"]
    assert ben.post(CHAT, json=ASKED).status_code == 200
    stream.close()
    assert ann.post(CHAT, json=ASKED).status_code == 200


def test_banned_user_is_told_why(make: Make) -> None:
    """By the shop's own words."""
    refused = logged_in(make(), "cat").post(CHAT, json=ASKED)
    assert refused.status_code == 403
    assert "support@shop.example" in error_of(refused)["message"]


# What it costs


def test_every_call_is_billed(make: Make, upstream: Upstream) -> None:
    """Whole ones with what they used, others with how they ended; the sum is the user's to see."""
    provider = {"name": "up", "base-url": upstream.url, "api-keys": ["sk-1"], "models": ["small"]}
    app = make(POOLPROXY_CONFIG={"openai-compatibility": [provider], "request-retry": 0})
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    upstream.reply(
        "sk-1",
        chat("Sandals.", usage=(9, 3)),
        events(chunk({"content": "a"}, finish="stop"), chunk({}, usage=usage), "[DONE]"),
        events(chunk({"content": "a"}), Hold(UpstreamGate())),
        error(400, "No."),
    )
    ben = logged_in(app, "ben")
    assert ben.post(CHAT, json=ASKED).status_code == 200
    assert ben.post(CHAT, json=STREAMED).data.endswith(b"[DONE]\n\n")
    left = ben.post(CHAT, json=STREAMED, buffered=False)
    assert b"content" in next(iter(left.iter_encoded()))
    left.close()
    assert ben.post(CHAT, json=ASKED).status_code == 400
    assert app.test_client().post(CHAT, json=ASKED).status_code == 401
    assert bills(app) == [
        ("ben", "small", "ok", 9, 3),
        ("ben", "small", "ok", 20, 5),
        ("ben", "small", "caller_gone", 0, 0),
        ("ben", "small", "upstream_error", 0, 0),
    ]
    assert ben.get("/v1/bill").get_json() == {
        "calls": 4,
        "prompt_tokens": 29,
        "completion_tokens": 8,
    }


def test_call_is_billed_whatever_its_id(make: Make) -> None:
    """Callers may choose the ids of their requests: the same one twice is two calls."""
    app = make()
    ben = logged_in(app, "ben")
    for _ in range(2):
        assert ben.post(CHAT, json=ASKED, headers={"x-request-id": "one"}).status_code == 200
    assert ben.get("/v1/bill").get_json()["calls"] == 2


# What is the shop's own


def test_rest_of_the_shop_is_its_own(make: Make) -> None:
    """Its `/v1`, and its errors; the gateway's are below the prefix."""
    app = make()
    http = app.test_client()
    assert http.get("/v1/models").get_json() == {"models": ["sneaker", "sandal"]}
    for path in ("/none", "/v1/chat/completions"):
        assert http.get(path).data == b"<h1>Not Found</h1>"
    assert error_of(http.get("/llm/none"))["code"] == "not_found"
    assert http.get("/llm/readyz").get_json() == {"status": "ready"}


def test_rate_limit_is_told_as_callers_read_it(make: Make) -> None:
    """Flask-Limiter's refusal with its headers; the shop's own pages have the shop's error."""
    app = make(RATE_LIMIT="2 per minute")
    ben = logged_in(app, "ben")
    for left in (1, 0):
        answer = ben.post(CHAT, json=ASKED)
        assert (answer.status_code, answer.headers["X-RateLimit-Remaining"]) == (200, str(left))
    refused = ben.post(CHAT, json=ASKED)
    assert refused.status_code == 429
    told = error_of(refused)
    assert (told["type"], told["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "2 per 1 minute" in told["message"]
    assert refused.headers["X-RateLimit-Limit"] == "2"
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert logged_in(app, "ann").post(CHAT, json=ASKED).status_code == 200
    answers = [ben.get("/v1/models") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].data == b"<h1>Too Many Requests</h1>"


def test_large_body_is_refused_by_the_shops_limit(make: Make) -> None:
    """MAX_CONTENT_LENGTH, in the gateway's shape."""
    ben = logged_in(make(MAX_CONTENT_LENGTH=1000), "ben")
    refused = ben.post(CHAT, json={**ASKED, "user": "u" * 1000})
    assert (refused.status_code, error_of(refused)["code"]) == (413, "body_too_large")


def test_partners_page_is_let_in_by_the_shops_cors(make: Make) -> None:
    """flask-cors answers its preflight and names its origin, and nobody else's."""
    partner = "https://partner.example"
    ben = logged_in(make(PARTNERS=[partner]), "ben")
    asking = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    for origin, allowed in ((partner, partner), ("https://evil.example", None)):
        headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
        for answer in (
            ben.options(CHAT, headers={**headers, **asking}),
            ben.post(CHAT, json=ASKED, headers=headers),
        ):
            assert answer.status_code in (200, 204)
            assert answer.headers.get("Access-Control-Allow-Origin") == allowed
        assert ben.post(CHAT, data="{}", headers=headers).status_code == 403


def test_page_behind_a_proxy_is_the_shops_own(make: Make) -> None:
    """ProxyFix says under which name; without it the origin is another one."""
    headers = {
        "Origin": "https://shop.example",
        "X-Forwarded-Host": "shop.example",
        "X-Forwarded-Proto": "https",
    }
    for count, status in ((0, 403), (1, 400)):
        app = make(PROXIES_IN_FRONT=count)
        with app.app_context():
            ben = db.session.scalar(select(User).filter_by(name="ben"))
            assert ben is not None
            with_token = {**headers, "Authorization": f"Bearer {accounts.make_token(ben)}"}
        assert app.test_client().post(CHAT, data="{}", headers=with_token).status_code == status
