"""The status page without a browser: who may see it, what an order needs, what it never says."""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from proxy import Caller, Proxy, create_app
from tests.support.gateway import CHAT, MESSAGES, asked, run_python

ADMIN, USER = "operators-key-0123", "a-users-key-0123456"
KEYS = [{"name": "ops", "key": ADMIN, "admin": True}, {"name": "user", "key": USER}]
CONFIG: dict[str, Any] = {"demo": [{"name": "demo", "delay-ms": 0, "models": ["m"]}]}
HOST = "localhost:8317"
ORIGIN = f"http://{HOST}"
HERE = {"Host": HOST}


def basic(password: str, user: str = "me") -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}


def service(**settings: Any) -> FlaskClient:
    return create_app({**CONFIG, **settings}).test_client()


@cache
def shared(*, is_open: bool = False) -> FlaskClient:
    """For tests that leave its client as it was."""
    return service() if is_open else service(**{"api-keys": KEYS})


def token(http: FlaskClient, headers: Mapping[str, str]) -> str:
    """That of the page."""
    page = http.get("/status", headers=headers)
    assert page.status_code == 200, page.data
    (found, *_) = re.findall(r'name="token" value="([^"]+)"', page.text)
    return str(found)


def order(
    http: FlaskClient, headers: Mapping[str, str], do: str = "disable", **form: str
) -> TestResponse:
    return http.post("/status", data={"client": "demo", "do": do, **form}, headers=headers)


def is_disabled(http: FlaskClient) -> bool:
    (facts,) = http.application.extensions["proxy"]["proxy"].gateway.pool.snapshot()
    return bool(facts["disabled"])


# Who may see it


@pytest.mark.parametrize("path", ["/status", "/status.json"])
def test_operators_key_opens_it(path: str) -> None:
    """As programs send it, or as the password of whatever user a browser names."""
    http = shared()
    for headers in ({"x-api-key": ADMIN}, {"Authorization": f"Bearer {ADMIN}"}):
        assert http.get(path, headers=headers).status_code == 200
    for user in ("", "me", "gr\u00fc\u00df"):
        assert http.get(path, headers=basic(ADMIN, user)).status_code == 200


@pytest.mark.parametrize("path", ["/status", "/status.json"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic(""),
        basic("wrong"),
        basic(USER),
        basic(f"{ADMIN}:"),
        basic(f":{ADMIN}"),
        {"Authorization": "Basic"},
        {"Authorization": "Basic \xff"},
        {"Authorization": f"Basic {ADMIN}"},
        {"Authorization": f"Digest {ADMIN}"},
        {"Authorization": f"Bearer {USER}"},
        {"Cookie": f"key={ADMIN}"},
    ],
)
def test_nobody_else_gets_in(path: str, headers: dict[str, str]) -> None:
    """A browser is told to ask for a password, as it is for one that is no operator's."""
    for answer in (shared().get(path, headers=headers), shared().get(f"{path}?key={ADMIN}")):
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
        assert answer.get_json()["error"]["code"] in ("invalid_api_key", "forbidden")


def test_browsers_password_opens_nothing_else() -> None:
    """A page of another site could have it sent along to spend the operator's quota."""
    http = shared()
    answer = http.post(CHAT, json=asked("m"), headers=basic(ADMIN))
    assert answer.status_code == 401
    assert "WWW-Authenticate" not in answer.headers
    assert http.post(CHAT, json=asked("m"), headers={"x-api-key": ADMIN}).status_code == 200


def test_open_gateway_shows_it_to_this_machine_only() -> None:
    """No password is asked for, as none would do."""
    http = shared(is_open=True)
    assert http.get("/status", headers=HERE).status_code == 200
    for more in (
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Proto": "https"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Via": "1.1 nginx"},
    ):
        answer = http.get("/status", headers={**HERE, **more})
        assert answer.status_code == 403, more
        assert "WWW-Authenticate" not in answer.headers
    far = {"REMOTE_ADDR": "192.0.2.1"}
    assert http.get("/status", headers=HERE, environ_base=far).status_code == 403


# Where there is one


def test_application_of_ones_own_has_none_unless_it_asks() -> None:
    """Nor does it import what makes one; its log-in says who is an operator."""
    app = Flask("theirs")
    Proxy(CONFIG).init_app(app, url_prefix="/llm")
    assert app.test_client().get("/llm/status", headers=HERE).status_code == 404
    app = Flask("theirs")
    proxy = Proxy({**CONFIG, "status-page": True})
    proxy.init_app(app, url_prefix="/second")
    http = app.test_client()
    assert http.get("/second/status", headers=HERE).status_code == 200
    who: list[Any] = [None, "user", Caller("user"), Caller("boss", admin=True)]
    proxy.authenticate(lambda: who.pop(0))
    answers = [http.get("/second/status.json") for _ in who.copy()]
    assert [answer.status_code for answer in answers] == [401, 403, 403, 200]
    assert not any("WWW-Authenticate" in answer.headers for answer in answers)


def test_it_can_be_turned_off() -> None:
    """From the start, or by a new configuration: then it is a path like any that is not there."""
    for http in (service(**{"status-page": False}), service()):
        gateway = http.application.extensions["proxy"]["proxy"].gateway
        if gateway.config.status_page is None:
            assert http.get("/status", headers=HERE).status_code == 200
            off = create_app({**CONFIG, "status-page": False})
            gateway.adopt(off.extensions["proxy"]["proxy"].gateway.config)
        for path in ("/status", "/status.json"):
            answer = http.get(path, headers=HERE)
            assert answer.status_code == 404
            assert answer.get_json()["error"]["code"] == "not_found"


# Orders


def test_order_of_the_page_itself_is_carried_out(caplog: pytest.LogCaptureFixture) -> None:
    """The log says by whom; the browser is sent to the page again."""
    http = shared()
    headers = {**HERE, **basic(ADMIN), "Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}
    given = token(http, headers)
    for do, is_off in (("disable", True), ("enable", False), ("reset", False)):
        answer = order(http, headers, do, token=given)
        assert (answer.status_code, answer.headers["Location"]) == (303, "status")
        assert is_disabled(http) is is_off
    assert [record.getMessage() for record in caplog.records if "by hand" in record.msg] == [
        f"demo: {do} by hand, by ops (127.0.0.1)" for do in ("disable", "enable", "reset")
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost"},
        {"Origin": "http://localhost:8318"},
        {"Origin": "http://127.0.0.1:8317"},
        {"Origin": f"{ORIGIN}.evil.example"},
        {"Origin": f"{ORIGIN}/"},
        {"Origin": f"{ORIGIN} {ORIGIN}"},
        {"Origin": "https://localhost"},
        {"Host": "evil.example", "Origin": ORIGIN},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
@pytest.mark.parametrize("is_open", [False, True])
def test_order_from_elsewhere_is_refused(changes: dict[str, str | None], is_open: bool) -> None:
    """Whatever the operator's browser sends along, and even if the token has leaked."""
    http = shared(is_open=is_open)
    headers = {**HERE, "Origin": ORIGIN, **({} if is_open else basic(ADMIN))}
    given = token(http, headers)
    sent = {name: value for name, value in {**headers, **changes}.items() if value is not None}
    answer = order(http, sent, token=given)
    assert answer.status_code in (401, 403)
    assert not is_disabled(http)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("given", [None, "", "x", "x" * 32, "\u00e9"])
def test_order_without_the_pages_token_is_refused(given: str | None, is_open: bool) -> None:
    """It is in the page alone."""
    http = shared(is_open=is_open)
    headers = {**HERE, "Origin": ORIGIN, **({} if is_open else basic(ADMIN))}
    answer = order(http, headers, **({} if given is None else {"token": given}))
    assert (answer.status_code, is_disabled(http)) == (403, False)


def test_order_of_a_caller_who_is_no_operator_is_refused() -> None:
    """By whatever header the key comes."""
    http = shared()
    given = token(http, {**HERE, **basic(ADMIN)})
    for headers in (basic(USER), {"x-api-key": USER}, {}):
        answer = order(http, {**HERE, "Origin": ORIGIN, **headers}, token=given)
        assert (answer.status_code, is_disabled(http)) == (401, False)


def test_orders_that_make_no_sense() -> None:
    """A client that is gone, an order that there is not, and a form that is none."""
    http = shared(is_open=True)
    headers = {**HERE, "Origin": ORIGIN}
    given = token(http, headers)
    gone = order(http, headers, token=given, client="<b>gone")
    assert gone.status_code == 409
    assert "there is no client &#39;&lt;b&gt;gone&#39;" in gone.text
    assert order(http, headers, "reload", token=given).status_code == 400
    assert order(http, headers, "status", token=given).status_code == 400
    nonsense = http.post("/status", data=b"\xff&&=&token", headers=headers)
    assert nonsense.status_code == 403
    for method in ("PUT", "DELETE"):
        assert http.open("/status", method=method, headers=headers).status_code == 405
    assert http.post("/status.json", headers=headers).status_code == 405
    assert not is_disabled(http)


# What it says


def test_page_may_load_and_run_nothing_but_its_own() -> None:
    """No other page may show it; nobody keeps it, and no foreign script reads it."""
    http = shared()
    pages = [http.get("/status", headers={**HERE, **basic(ADMIN), "Origin": "http://a.example"})]
    pages += [http.get("/status", headers={**HERE, **basic(ADMIN)})]
    nonces = set()
    for page in pages:
        policy = page.headers["Content-Security-Policy"]
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        (nonce,) = re.findall(r"^'nonce-([\w-]{16,})'$", rules["script-src"])
        assert rules == {
            "default-src": "'none'",
            "script-src": f"'nonce-{nonce}'",
            "style-src": f"'nonce-{nonce}'",
            "img-src": "data:",
            "connect-src": "'self'",
            "form-action": "'self'",
            "base-uri": "'none'",
            "frame-ancestors": "'none'",
        }
        assert page.text.count(f'nonce="{nonce}"') == 2
        assert not re.findall(r"<[^>]*\s(?:style|on\w+)=|https?://", page.text)
        nonces.add(nonce)
    assert len(nonces) == 2
    for answer in (*pages, http.get("/status.json", headers={**HERE, **basic(ADMIN)})):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in answer.headers


MARKUP = "<script>alert(1)</script>&\"'"


def test_markup_is_only_text() -> None:
    """In names of models, clients and callers, in ids, and in what is looked for."""
    demo = {"name": f"d{MARKUP}", "delay-ms": 0, "models": [MARKUP]}
    http = create_app({"demo": [demo], "max-requests-in-flight": 5}).test_client()
    http.post(CHAT, json=asked(MARKUP), headers=HERE)
    http.post(CHAT, json=asked(f"no {MARKUP}"), headers={**HERE, "x-request-id": "a"})
    page = http.get("/status", query_string={"model": MARKUP}, headers=HERE)
    other = http.get("/status", query_string={"model": f"no {MARKUP}"}, headers=HERE)
    for text in (page.text, other.text):
        assert text.count("<script") == text.count("</script") == 1
        assert "&lt;script&gt;" in text
    assert "There is no such model" in other.text
    facts = http.get("/status.json", headers=HERE).get_json()
    assert facts["models"] == {MARKUP: 1}
    assert [one["model"] for one in facts["requests"]] == [f"no {MARKUP}", MARKUP]


def test_requests_are_told_with_their_attempts() -> None:
    """Those of Python too; what the page itself asks is none."""
    http = service()
    proxy = http.application.extensions["proxy"]["proxy"]
    proxy.chat(model="m", messages=MESSAGES, caller="nightly")
    http.post(CHAT, json=asked("m"), headers=HERE)
    facts = http.get("/status.json", headers=HERE).get_json()
    assert [one["caller"] for one in facts["requests"]] == ["", "nightly"]
    first, _ = facts["requests"]
    assert (first["end"], first["status"], first["address"]) == ("ok", 200, "127.0.0.1")
    assert [(one["client"], one["reason"]) for one in first["attempts"]] == [("demo", "ok")]
    assert first["usage"]["completion_tokens"] > 0
    assert sum(minute[1] for minute in facts["minutes"]) == 2
    assert facts["clients"][0]["answered"] == 2


def test_facts_are_the_same_while_nothing_happens() -> None:
    """So that the page need not be drawn anew."""
    http = service(**{"openai-compatibility": [{"name": "up", "base-url": "http://127.0.0.1:9"}]})
    http.application.extensions["proxy"]["proxy"].gateway.pool.set_disabled("up", True)
    texts = {http.get("/status.json", headers=HERE).text for _ in range(3)}
    assert len(texts) <= 2  # a second or a minute may have passed
    assert json.loads(texts.pop())["wrong"] == ["up: disabled by hand"]


def test_several_workers_that_cannot_be_asked_take_no_orders() -> None:
    """In a server without our settings: the page says that it is one worker's only."""
    http = shared(is_open=True)
    page = http.get("/status", headers=HERE, environ_overrides={"wsgi.multiprocess": True})
    assert "one of several worker processes" in page.text
    assert "<button name" not in page.text


def test_workers_that_do_not_answer_are_told() -> None:
    """If none does, too; where nobody can be asked, as the sockets are gone, it tells of itself."""
    http = service()
    gateway = http.application.extensions["proxy"]["proxy"].gateway
    silent = [{"pid": pid, "error": f"no answer from worker {pid}: timed out"} for pid in (7, 8)]
    gateway.ask_workers = lambda asked: [dict(one) for one in silent]
    page = http.get("/status", headers=HERE)
    assert page.status_code == 200
    assert "no answer from worker 7: timed out" in page.text
    facts = http.get("/status.json", headers=HERE).get_json()
    assert (facts["workers"], facts["clients"]) == (silent, [])
    gateway.ask_workers = lambda asked: []
    facts = http.get("/status.json", headers=HERE).get_json()
    assert [one["pid"] for one in facts["workers"]] == [os.getpid()]
    assert "demo" in http.get("/status", headers=HERE).text


@pytest.mark.long
def test_nothing_of_it_is_imported_where_there_is_none() -> None:
    """In an application that did not ask for one."""
    script = (
        "import sys\nfrom flask import Flask\nfrom proxy import Proxy\n"
        f"Proxy({CONFIG!r}).init_app(Flask('theirs'))\n"
        "rooms = ('proxy.api.status', 'proxy.api.page')\n"
        "print([name for name in sys.modules if name.startswith(rooms)])"
    )
    assert run_python("-c", script) == "[]\n"
