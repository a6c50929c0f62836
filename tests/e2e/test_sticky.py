"""Sticky sessions in every dialect, by every name that a session may have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from flask import Flask

from proxy import create_app
from proxy.config import load_config
from tests.support.embeddings import openai as embeds
from tests.support.upstream import Received, Reply, Upstream, as_asked

Json = dict[str, Any]

MESSAGES = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, Json] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
    "/v1/responses": {"input": "Hi"},
    "/v1/embeddings": {"input": "Hi"},
}
CHAT = "/v1/chat/completions"
KEYS = [f"key-{number}" for number in range(6)]
OLD = "user_1f0a_account_0b1c_session_"
TURNS = 6  # that all six clients had one by chance: 1 in 7,776


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    def answer(received: Received) -> Reply:
        if received.path == "/v1/embeddings":
            return embeds(received)
        return as_asked("Hello")(received)

    with Upstream() as running:
        for key in KEYS:
            running.always(key, answer)
        yield running


def configured(upstream: Upstream, **settings: Any) -> Json:
    provider = {"name": "p", "base-url": upstream.url, "api-keys": KEYS, "models": ["m"]}
    callers = [{"name": name, "key": f"{name}-{'k' * 16}"} for name in ("me", "you")]
    nameless = [f"nameless-{number}-{'k' * 16}" for number in range(8)]
    return {
        "openai-compatibility": [provider],
        "api-keys": [*callers, *nameless],
        **settings,
    }


@pytest.fixture(scope="module")
def app(upstream: Upstream) -> Iterator[Flask]:
    app = create_app(configured(upstream))
    with closing(app.extensions["proxy"]["proxy"].gateway):
        yield app


def asked(
    app: Flask, path: str = CHAT, headers: Json | None = None, who: str = "me", **members: Any
) -> str:
    """The client that serves the next request."""
    answer = app.test_client().post(
        path,
        json={"model": "m", **BODIES[path], **members},
        headers={"Authorization": f"Bearer {who}-{'k' * 16}", **(headers or {})},
    )
    assert answer.status_code == 200, answer.data
    return answer.headers["x-proxy-client"]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "named",
    [
        {"headers": {"X-Session-Id": "5"}},
        {"headers": {"X-Claude-Code-Session-Id": "5"}},
        {"headers": {"Session-Id": "5"}},
        {"headers": {"x-session-affinity": "5"}},
        {"prompt_cache_key": "5"},
        {"metadata": {"session_id": "5"}},
        {"metadata": {"user_id": f"{OLD}5"}},
        {"metadata": {"user_id": '{"session_id": "5"}'}},
    ],
    ids=str,
)
def test_a_session_stays_in_every_dialect(app: Flask, path: str, named: Json) -> None:
    """One and the same, whatever it is named by: the request's text is no part of it."""
    own = asked(app, headers={"X-Session-Id": "5"})
    assert {asked(app, path, **named) for _ in range(3)} == {own}


def test_the_first_name_decides(app: Flask) -> None:
    """Headers in their order, then the body."""
    chosen = {number: asked(app, headers={"X-Session-Id": str(number)}) for number in range(9)}
    for number, own in chosen.items():
        other = str((number + 1) % 9)
        first = {"Session-Id": str(number), "X-Session-Affinity": other}
        assert asked(app, headers=first, prompt_cache_key=other) == own


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"headers": {"X-Request-Id": "r-5"}},
        {"headers": {"X-Client-Request-Id": "r-5", "Idempotency-Key": "r-5"}},
        {"metadata": {"user_id": "user_5", "request_id": "r-5"}, "user": "user_5"},
    ],
    ids=str,
)
def test_what_is_no_session_goes_round(upstream: Upstream, named: Json) -> None:
    """A request's own id, or a user's: clients take turns."""
    app = create_app(configured(upstream))
    with closing(app.extensions["proxy"]["proxy"].gateway):
        assert len({asked(app, **named) for _ in range(len(KEYS))}) == len(KEYS)


def test_callers_have_sessions_of_their_own(app: Flask) -> None:
    """Two who name theirs alike share no client but by chance; those without a name neither."""
    callers = ["me", "you", *[f"nameless-{number}" for number in range(8)]]
    found = {who: asked(app, headers={"X-Session-Id": "5"}, who=who) for who in callers}
    assert len(set(found.values())) > 2
    for who, own in found.items():
        assert asked(app, headers={"X-Session-Id": "5"}, who=who) == own


def test_it_can_be_turned_off_and_on_again(upstream: Upstream) -> None:
    """`sticky: false`, by a changed configuration too."""
    app = create_app(configured(upstream, sticky=False))
    gateway = app.extensions["proxy"]["proxy"].gateway
    with closing(gateway):
        for is_sticky in (False, True, False):
            gateway.adopt(load_config(configured(upstream, sticky=is_sticky)))
            found = {asked(app, prompt_cache_key="5") for _ in range(len(KEYS))}
            assert len(found) == 1 if is_sticky else len(found) > 2


def test_a_session_of_a_call_from_python(upstream: Upstream) -> None:
    """Its members name it as they do over HTTP."""
    app = create_app(configured(upstream))
    package = app.extensions["proxy"]["proxy"]
    with closing(package.gateway):
        before = {key: len(upstream.received(key)) for key in KEYS}
        for _ in range(TURNS):
            package.chat(model="m", messages=MESSAGES, prompt_cache_key="5")
            package.embed(model="m", input="a", prompt_cache_key="5")
        moved = [key for key in KEYS if len(upstream.received(key)) > before[key]]
    assert len(moved) == 1
