"""`max-concurrency` of a caller's key: so many requests in flight, the next is refused at once."""

from __future__ import annotations

import hashlib
import json
import threading
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from proxy import create_app
from tests.support.upstream import MODEL, Gate, Hold, Reply, Upstream, chat, chunk, error, events

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
