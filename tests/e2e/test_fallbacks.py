"""Fallback models in every dialect: who served is named in answer, record and signals."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from flask import Flask

from proxy import create_app
from proxy.config import load_config
from proxy.record.record import Call
from tests.support import gemini_upstream as gemini
from tests.support.dialects import BY_KIND, Said, configuration
from tests.support.embeddings import GEMINI_MODEL, tells
from tests.support.embeddings import openai as embeds
from tests.support.upstream import Pause, Received, Reply, Upstream, as_asked, error, json_reply
from tests.support.wsgi import werkzeug_server

Json = dict[str, Any]

MESSAGES = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, Json] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": ["Hi", "Ho"]},
    "/v1/messages": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "max_tokens": 9,
    },
    "/v1/responses": {"input": "Hi"},
    "/v1/embeddings": {"input": "Hi"},
}
CHAT = "/v1/chat/completions"
KEYS = ("key-a", "key-b", "key-gemini", "key-claude")
CASES = [
    (path, stream) for path in BODIES for stream in (False, True) if not stream or "emb" not in path
]
KEY = "k" * 16
FAILURES = {
    "quota": error(429, "Slow down.", headers={"Retry-After": "100"}),
    "outage": error(503, "Overloaded."),
    "context": error(400, "This model's maximum context length is 8192 tokens."),
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    def answer(received: Received) -> Reply:
        if received.path == "/v1/embeddings":
            return embeds(received)
        return as_asked("Hello")(received)

    with Upstream() as running:
        running.always("key-b", answer)
        running.always("key-claude", BY_KIND["claude"].answer(Said("Hello")))
        running.always("key-gemini", BY_KIND["gemini"].answer(Said("Hello")))
        yield running


def configured(upstream: Upstream, **settings: Any) -> Json:
    openai, claude, google = (BY_KIND[kind] for kind in ("openai", "claude", "gemini"))
    clients = [
        openai.client(upstream.origin, "key-a", "a"),
        openai.client(upstream.origin, "key-b", "b"),
        claude.client(upstream.origin, "key-claude", "claude"),
        google.client(upstream.origin, "key-gemini", "gemini"),
    ]
    for at, name in ((0, "first"), (1, "second")):
        clients[at]["openai-compatibility"][0]["name"] = name
    callers = [
        KEY,
        {"name": "few", "key": f"few-{KEY}", "models": ["a", "claude"], "max-concurrency": 1},
    ]
    fallbacks = {"fallbacks": {"a": ["b"]}, "request-retry": 0, "api-keys": callers}
    return configuration(*clients, **{**fallbacks, **settings})


@pytest.fixture
def app(upstream: Upstream) -> Iterator[Flask]:
    app = create_app(configured(upstream))
    with closing(app.extensions["proxy"]["proxy"].gateway):
        yield app


def ask(app: Flask, path: str = CHAT, *, key: str = KEY, **members: Any) -> Any:
    headers = {"Authorization": f"Bearer {key}"}
    return app.test_client().post(
        path, json={"model": "a", **BODIES[path], **members}, headers=headers
    )


@pytest.mark.parametrize("why", FAILURES)
@pytest.mark.parametrize(("path", "stream"), CASES)
def test_another_model_answers(
    app: Flask, upstream: Upstream, path: str, stream: bool, why: str
) -> None:
    """After quota, outage, and a context that is too long: named in the answer and the record."""
    package = app.extensions["proxy"]["proxy"]
    calls: list[Call] = []
    package.call_ended.connect(keep := lambda app, call: calls.append(call))
    upstream.reply("key-a", FAILURES[why])
    before = len(upstream.received("key-b"))
    answer = ask(app, path, stream=stream)
    text = answer.get_data(as_text=True)
    assert (answer.status_code, answer.headers["x-proxy-model"]) == (200, "b"), text
    assert answer.headers["x-proxy-client"] == "second/..."
    assert "Hello" in text or "emb" in path
    sent = upstream.received("key-b")[before:]
    assert {one.json()["model"] for one in sent} == {"gpt-4.1-mini"}
    assert len(sent) == (2 if path == "/v1/completions" else 1)
    (call,) = calls
    assert (call.model, call.fallback, call.end) == ("a", "b", "ok")
    assert [attempt.client for attempt in call.attempts[:2]] == [
        "first/...",
        "second/...",
    ]
    del keep


@pytest.mark.parametrize("kind", ["gemini", "claude"])
@pytest.mark.parametrize(("path", "stream"), [case for case in CASES if "emb" not in case[0]])
def test_a_model_of_another_kind_answers(
    upstream: Upstream, path: str, stream: bool, kind: str
) -> None:
    """Whatever the dialect; what is translated names the model that served, not the first."""
    upstream.reply("key-a", FAILURES["quota"])
    app = create_app(configured(upstream, fallbacks={"a": [kind]}))
    with closing(app.extensions["proxy"]["proxy"].gateway):
        answer = ask(app, path, stream=stream)
        text = answer.get_data(as_text=True)
        assert (answer.status_code, answer.headers["x-proxy-model"]) == (200, kind), text
        assert "Hello" in text
        assert '"model":"a"' not in text.replace(": ", ":")


def test_embeddings_of_one_answer_are_one_models(upstream: Upstream) -> None:
    """In batches: after the first no other model serves, as its numbers could not be compared."""
    config = configured(upstream, fallbacks={"gemini": ["b"]})
    config["gemini-api-key"][0]["models"][0]["name"] = GEMINI_MODEL
    app = create_app(config)
    told = tells(tokens=True)
    with closing(app.extensions["proxy"]["proxy"].gateway):
        given = [f"text {number}" for number in range(150)]
        upstream.reply("key-gemini", told, json_reply(gemini.out_of_quota("100s"), 429))
        answer = ask(app, "/v1/embeddings", model="gemini", input=given)
        assert (answer.status_code, "x-proxy-model" in answer.headers) == (429, False)
        answer = ask(app, "/v1/embeddings", model="gemini", input=given)
        assert (answer.status_code, answer.headers["x-proxy-model"]) == (200, "b")
        assert len(answer.json["data"]) == 150


def test_a_callers_limits_hold(upstream: Upstream) -> None:
    """It gets no model that it may not use, and has one request in flight however many serve it."""
    app = create_app(configured(upstream, fallbacks={"a": ["b", "claude"]}))
    with closing(app.extensions["proxy"]["proxy"].gateway) as gateway:
        upstream.reply("key-a", FAILURES["quota"])
        answer = ask(app, key=f"few-{KEY}")
        assert answer.headers["x-proxy-model"] == "claude"
        assert not gateway._places._taken
        gateway.adopt(load_config(configured(upstream, fallbacks={"a": ["b"]})))
        refused = ask(app, key=f"few-{KEY}")
        assert (refused.status_code, "x-proxy-model" in refused.headers) == (429, False)


def test_a_changed_configuration_changes_them(app: Flask, upstream: Upstream) -> None:
    """For requests that come from then on."""
    gateway = app.extensions["proxy"]["proxy"].gateway
    upstream.reply("key-a", FAILURES["quota"])
    for fallbacks, status, model in (
        ({"a": ["b"]}, 200, "b"),
        ({}, 429, None),
        ({"a": ["claude", "b"]}, 200, "claude"),
    ):
        gateway.adopt(load_config(configured(upstream, fallbacks=fallbacks)))
        answer = ask(app)
        assert (answer.status_code, answer.headers.get("x-proxy-model")) == (status, model)


def test_a_call_from_python(app: Flask, upstream: Upstream) -> None:
    """The answer is the other model's; what a receiver is told names it."""
    package = app.extensions["proxy"]["proxy"]
    told: list[Call] = []

    def attempt_ended(app: object, call: Call, attempt: object) -> None:
        told.append(call)

    package.attempt_ended.connect(attempt_ended)
    upstream.reply("key-a", FAILURES["outage"])
    found = package.chat(model="a", messages=MESSAGES)
    assert found["choices"][0]["message"]["content"] == "Hello"
    assert [call.fallback for call in told] == ["", "b"]
    upstream.reply("key-a", FAILURES["outage"])
    with package.stream(model="a", messages=MESSAGES) as chunks:
        assert "Hello" in json.dumps(list(chunks))


def test_no_header_after_a_commit_by_comment(upstream: Upstream) -> None:
    """It has gone out by then; the record has the name all the same."""
    config = configured(upstream, streaming={"commit-after-seconds": 0.05})
    app = create_app(config)
    package = app.extensions["proxy"]["proxy"]
    calls: list[Call] = []
    package.call_ended.connect(keep := lambda app, call: calls.append(call))
    upstream.reply("key-a", FAILURES["outage"].after(Pause(0.5)))
    with (
        closing(package.gateway),
        werkzeug_server(app) as port,
        closing(http.client.HTTPConnection("127.0.0.1", port)) as connection,
    ):
        body = json.dumps({"model": "a", "messages": MESSAGES, "stream": True})
        connection.request("POST", CHAT, body, {"Authorization": f"Bearer {KEY}"})
        answer = connection.getresponse()
        written = answer.read()
    assert (answer.status, answer.headers["x-proxy-model"]) == (200, None)
    assert written.startswith(b":")
    assert b"Hello" in written
    assert [call.fallback for call in calls] == ["b"]
    del keep
