"""Limits of a caller's key: so many requests in flight, and requests and tokens per minute."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from proxy import Caller, CallerLimitReached, ConfigError, Proxy, create_app
from proxy.api.endpoints import DIALECTS
from proxy.config import load_config
from proxy.gateway import Gateway
from proxy.record.record import Record
from proxy.usage.limits import Limits
from tests.support.clock import VirtualClock
from tests.support.gateway import PATIENCE_S
from tests.support.upstream import (
    HANG,
    MODEL,
    Gate,
    Hold,
    Reply,
    Upstream,
    chat,
    chunk,
    error,
    events,
)

CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
KEY = "caller-key-0123456789"
WIDE_KEY = "wide-key-0123456789"
HASH = hashlib.sha256(KEY.encode()).hexdigest()
LIMITED = {"name": "limited", "key": f"sha256:{HASH}", "max-concurrency": 2}


def served(upstream: Upstream, **settings: Any) -> FlaskClient:
    """A gateway before a client that takes any number of requests."""
    provider: dict[str, Any] = {"name": "up", "base-url": upstream.url, "max-concurrency": 0}
    provider |= {"api-keys": ["sk-1"], "models": [MODEL]}
    tree = {"openai-compatibility": [provider], "api-keys": [LIMITED, WIDE_KEY]}
    return create_app({**tree, **settings}).test_client()


def held(gate: Gate) -> Reply:
    """A stream that begins, and ends when the gate is set."""
    return events(chunk({"content": "a"}), Hold(gate), chunk({}, finish="stop"), "[DONE]")


def check_limited(answer: TestResponse) -> None:
    """429 in an SDK's terms, which retry it after the hint: the gateway is well, others go on."""
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "max-concurrency" in answer.get_json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "true"
    assert int(answer.headers["retry-after-ms"]) > 0


def test_key_has_so_many_streams_at_once(upstream: Upstream) -> None:
    """The next is refused at once, until one ends, by its end or because it is closed."""
    gate, later = Gate(), Gate()
    upstream.default = held(gate)
    http = served(upstream)

    def ask(key: str = KEY) -> TestResponse:
        return http.post(CHAT, json={**ASKED, "stream": True}, headers={"x-api-key": key})

    first, second = ask(), ask()
    check_limited(ask())
    headers = {"x-api-key": KEY}
    check_limited(http.post("/v1/completions", json={"model": MODEL}, headers=headers))
    assert http.get("/v1/models", headers=headers).status_code == 200
    upstream.default = held(later)
    others = ask(WIDE_KEY)
    assert others.status_code == 200
    gate.set()
    assert first.data.endswith(b"data: [DONE]\n\n")
    third = ask()
    check_limited(ask())
    for stream in (second, third, others):
        stream.close()
    last = [ask(), ask()]
    assert [stream.status_code for stream in last] == [200, 200]
    for stream in (first, *last):
        stream.close()


@pytest.mark.parametrize("is_whole", [False, True])
def test_place_is_free_when_the_last_bytes_leave(upstream: Upstream, is_whole: bool) -> None:
    """Who has all of a stream may ask again, though its upstream has not ended its answer yet."""
    gate = Gate()
    http = served(upstream, **{"api-keys": [{**LIMITED, "max-concurrency": 1}]})
    headers = {"x-api-key": KEY}
    whole = events(chunk({"content": "a"}, finish="stop"), "[DONE]")
    upstream.reply("sk-1", whole if is_whole else whole.then(Hold(gate)), chat("b"))
    first = http.post(CHAT, json={**ASKED, "stream": True}, headers=headers)
    assert first.data.endswith(b"data: [DONE]\n\n")
    assert http.post(CHAT, json=ASKED, headers=headers).status_code == 200
    gate.set()
    first.close()
    assert not http.application.extensions["proxy"]["proxy"].gateway._places._taken


def test_key_has_so_many_unary_requests_at_once(upstream: Upstream) -> None:
    """Failed and refused ones give their place back as well."""
    gate = Gate()
    http = served(upstream)
    headers = {"x-api-key": KEY}
    for broken in ("{", json.dumps({**ASKED, "model": "none"}), json.dumps({"model": MODEL})) * 2:
        assert http.post(CHAT, data=broken, headers=headers).status_code in (400, 404)
    upstream.reply("sk-1", *[error(400)] * 3, *[chat("a").after(Hold(gate))] * 2)
    for _ in range(3):
        assert http.post(CHAT, json=ASKED, headers=headers).status_code == 400
    statuses: list[int] = []

    def ask() -> None:
        client = http.application.test_client()
        statuses.append(client.post(CHAT, json=ASKED, headers=headers).status_code)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    upstream.wait_for(5, "sk-1")
    check_limited(http.post(CHAT, json=ASKED, headers=headers))
    gate.set()
    for thread in threads:
        thread.join()
    assert statuses == [200, 200]
    assert http.post(CHAT, json=ASKED, headers=headers).status_code == 200


def test_full_gateway_takes_no_place_of_a_key(upstream: Upstream) -> None:
    """503 for everybody comes after a key's own limit, and gives its place back."""
    upstream.default = held(Gate())
    http = served(upstream, **{"max-requests-in-flight": 1})
    body = {**ASKED, "stream": True}
    wide = http.post(CHAT, json=body, headers={"x-api-key": WIDE_KEY})
    for _ in range(3):
        answer = http.post(CHAT, json=body, headers={"x-api-key": KEY})
        assert answer.get_json()["error"]["code"] == "too_many_requests_in_flight"
    wide.close()
    last = http.post(CHAT, json=body, headers={"x-api-key": KEY})
    assert last.status_code == 200
    last.close()


# Requests and tokens per minute


RECORD = Record("r", endpoint="", arrived=0.0)


class House:
    """A gateway on a virtual minute, and callers with keys."""

    def __init__(self, upstream: Upstream, **limits: int) -> None:
        self.upstream = upstream
        self.http = served(
            upstream, **{"api-keys": [{"name": "ci", "key": KEY, **limits}, WIDE_KEY]}
        )
        self.clock = VirtualClock()
        self.gateway.limits = Limits(self.clock, lambda: None)

    @property
    def gateway(self) -> Gateway:
        gateway = self.http.application.extensions["proxy"]["proxy"].gateway
        assert isinstance(gateway, Gateway)
        return gateway

    def ask(self, path: str = CHAT, *, key: str = KEY, **more: Any) -> TestResponse:
        body = {**ASKED, "prompt": "p", "input": "i", "max_tokens": 9, **more}
        headers = {"Authorization": f"Bearer {key}"}
        return self.http.post(path, json=body, headers=headers, buffered=not more.get("stream"))

    def told(self, answer: TestResponse, what: str) -> list[str]:
        """The headers on requests, or on tokens: limit, remaining, reset."""
        kinds = ("limit", "remaining", "reset")
        return [answer.headers.get(f"x-ratelimit-{kind}-{what}", "") for kind in kinds]


def has_limits(answer: TestResponse) -> bool:
    return any(name.lower().startswith("x-ratelimit") for name, _ in answer.headers)


def test_requests_per_minute(upstream: Upstream) -> None:
    """Each counts, whatever comes of it but a refusal; lists are free. Others are not concerned."""
    house = House(upstream, rpm=3)
    upstream.reply("sk-1", chat("a").with_headers({"x-ratelimit-remaining-requests": "7777"}))
    answers = [house.ask(), house.ask(model="none"), house.ask(messages=5), house.ask()]
    assert [one.status_code for one in answers] == [200, 404, 400, 429]
    told = [house.told(one, "requests") for one in answers]
    assert told == [["3", "2", "20s"], ["3", "1", "40s"], ["3", "0", "60s"], ["3", "0", "60s"]]
    assert answers[3].get_json()["error"] == {
        "message": "this caller has used up its rpm of 3",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert len(upstream.received()) == 1
    models = house.http.get("/v1/models", headers={"x-api-key": KEY})
    assert (models.status_code, house.told(models, "requests")) == (200, ["3", "0", "60s"])
    assert house.told(models, "tokens") == ["", "", ""]
    others = [house.ask(key=WIDE_KEY), house.ask(key="wrong"), house.http.get("/healthz")]
    assert [one.status_code for one in others] == [200, 401, 200]
    assert not any(map(has_limits, others))


@pytest.mark.parametrize("path", DIALECTS)
def test_hints_are_true_in_every_dialect(upstream: Upstream, path: str) -> None:
    """Who does as they say is let in; a millisecond before it is still refused."""
    house = House(upstream, rpm=7)
    for _ in range(7):
        house.gateway.limits.enter(house.gateway.config.callers[0], RECORD, ExitStack())
    refused = house.ask(path)
    assert refused.status_code == 429
    told = refused.get_json()["error"]
    assert (told["type"], told["message"].count("rpm")) == ("rate_limit_error", 1)
    hint = {name: refused.headers[name] for name in ("retry-after", "retry-after-ms")}
    assert hint == {"retry-after": "9", "retry-after-ms": "8572"}
    assert refused.headers["x-should-retry"] == "true"
    assert house.told(refused, "requests") == ["7", "0", "60s"]
    house.clock.now += 8.571
    assert house.ask(path).status_code == 429
    house.clock.now += 0.001
    assert house.ask(path).status_code != 429
    assert house.ask(path).status_code == 429


def test_tokens_per_minute(upstream: Upstream) -> None:
    """Let in while one is left, and charged at the end what the answer says that it took."""
    house = House(upstream, tpm=600)
    upstream.reply("sk-1", chat("a", usage=(500, 99)), chat("b", usage=(9_000, 1)), chat("c"))
    assert house.told(house.ask(), "tokens") == ["600", "1", "60s"]
    last = house.ask()
    assert (last.status_code, house.told(last, "tokens")) == (200, ["600", "0", "960s"])
    refused = house.ask()
    assert (refused.status_code, house.told(refused, "requests")) == (429, ["", "", ""])
    assert refused.headers["retry-after-ms"] == "900100"
    assert refused.headers["x-should-retry"] == "false"
    house.clock.now += 900.1
    assert house.ask().status_code == 200


def test_streams_are_charged_at_their_end(upstream: Upstream) -> None:
    """Whoever asks meanwhile is let in. A cut one is charged what is known of it."""
    house = House(upstream, tpm=600)
    gate = Gate()
    usage = {"choices": [], "usage": {"prompt_tokens": 550, "completion_tokens": 20}}
    last = {**chunk({}), **usage}
    begun = events(chunk({"content": "a"}), Hold(gate), chunk({}, finish="stop"), last, "[DONE]")
    upstream.reply("sk-1", begun)
    first = house.ask(stream=True)
    pieces = first.iter_encoded()
    next(pieces)
    upstream.reply("sk-1", chat("b", usage=(5, 5)))
    assert house.told(house.ask(), "tokens")[1] == "590"
    gate.set()
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")
    first.close()
    told = {"prompt_tokens": 11, "completion_tokens": 1}
    upstream.reply("sk-1", events(chunk({"content": "a"}, usage=told), HANG))
    cut = house.ask(stream=True)
    assert house.told(cut, "tokens")[1] == "20"
    next(cut.iter_encoded())
    cut.close()
    upstream.reply("sk-1", events(chunk({"content": "a"}, usage=told)))
    broken = house.ask(stream=True)
    assert house.told(broken, "tokens")[1] == "8"
    assert b"upstream_truncated" in broken.data
    assert house.ask().status_code == 429


def test_a_refusal_takes_no_place(upstream: Upstream) -> None:
    """Nor does a full gateway, or one's own `max-concurrency`, charge a request."""
    house = House(upstream, **{"rpm": 2, "max-concurrency": 1})
    upstream.default = held(Gate())
    first = house.ask(stream=True)
    assert [house.ask().status_code for _ in range(3)] == [429] * 3
    first.close()
    upstream.default = chat("a")
    assert [house.ask().status_code for _ in range(3)] == [200, 429, 429]
    assert not house.gateway._places._taken
    full = House(upstream, rpm=2)
    full.gateway.generation = full.gateway.generation._replace(
        config=load_config({"max-requests-in-flight": 1, "api-keys": [{"key": KEY, "rpm": 2}]})
    )
    with full.gateway._places._lock:
        full.gateway._places._taken[None] = 1
    refused = full.ask()
    assert (refused.status_code, full.told(refused, "requests")[1]) == (503, "2")


def test_limits_outlive_a_change_of_key_and_configuration(upstream: Upstream) -> None:
    """A caller is known by its name; other limits hold from the next request on."""
    house = House(upstream, rpm=2)
    assert [house.ask().status_code for _ in range(3)] == [200, 200, 429]
    config = house.gateway.config
    for rpm, statuses in ((2, [429]), (4, [200, 200, 429]), (0, [200])):
        ci = Caller("ci", rpm=rpm, key=config.callers[1].key)
        house.gateway.adopt(msgspec.structs.replace(config, callers=(ci,)))
        answers = [house.ask(key=WIDE_KEY) for _ in statuses]
        assert [one.status_code for one in answers] == statuses
        assert has_limits(answers[-1]) == bool(rpm)


def test_callers_of_an_application_have_limits(upstream: Upstream) -> None:
    """From `authenticate`, and in calls from Python: the same ones."""
    ann = Caller("ann", rpm=2)
    provider = {"name": "up", "base-url": upstream.url, "models": [MODEL]}
    app = Flask("theirs")
    with Proxy({"openai-compatibility": [provider]}, authenticate=lambda: ann) as proxy:
        proxy.init_app(app, url_prefix="/llm")
        first = app.test_client().post(f"/llm{CHAT}", json=ASKED)
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        proxy.chat(**ASKED, caller=ann)
        assert app.test_client().post(f"/llm{CHAT}", json=ASKED).status_code == 429
        with pytest.raises(CallerLimitReached, match="its rpm") as refused:
            proxy.chat(**ASKED, caller=ann)
        hint = refused.value.hint
        assert hint is not None
        assert hint.after_s == pytest.approx(30.0, abs=PATIENCE_S)
        with pytest.raises(CallerLimitReached), proxy.stream(**ASKED, caller=ann):
            pass
        proxy.chat(**ASKED, caller="ben")


def test_configured_limit_per_day_without_a_place_is_refused(tmp_path: Path) -> None:
    """By an application, at its start and when it reads again. A server has a place of its own."""
    caller = {"name": "ci", "key": "caller-0123456789-dddd"}
    limited = {"demo": [{}], "api-keys": [{**caller, "tokens-per-day": 5}]}
    said = "api-keys: ci: a limit per day needs a `state-dir`"
    for config in (limited, load_config(limited)):
        with pytest.raises(ConfigError, match=said):
            Proxy(config)
        app = Flask("theirs")
        app.config["POOLPROXY_CONFIG"] = config
        with pytest.raises(ConfigError, match=said):
            Proxy().init_app(app)
        create_app(config)
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"demo": [{}]}))
    with Proxy(path) as proxy:
        path.write_text(json.dumps(limited))
        with pytest.raises(ConfigError, match=f"{path}: {said}"):
            proxy.reload()
        assert proxy.config.callers == ()
        assert proxy.gateway.reloader.source.problems
        path.write_text(json.dumps({**limited, "state-dir": str(tmp_path)}))
        assert "ci" in proxy.reload()


def test_a_limit_per_day_needs_a_place_for_the_ledger(
    upstream: Upstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without one the caller is not served, and the log says why. With one it has its headers."""
    provider = {"name": "up", "base-url": upstream.url, "models": [MODEL]}
    for place in ({}, {"state-dir": str(tmp_path)}):
        app = Flask("theirs")
        tree = {"openai-compatibility": [provider], **place}
        with Proxy(tree, authenticate=lambda: Caller("ann", requests_per_day=1)) as proxy:
            proxy.init_app(app)
            answers = [app.test_client().post(CHAT, json=ASKED) for _ in range(2)]
            statuses = [answer.status_code for answer in answers]
            assert statuses == ([200, 429] if place else [500, 500])
            assert "state-dir" not in answers[0].text
    assert caplog.text.count("RuntimeError: a limit per day needs a ledger") == 2
    assert answers[0].headers["x-ratelimit-remaining-requests-day"] == "0"
