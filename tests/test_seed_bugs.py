"""The ten bugs of the Go handler that this program re-implements: a test for each, by its name.

Real upstreams, and the application as a WSGI server would call it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from proxy import create_app
from tests.support.upstream import (
    CUT,
    HANG,
    MODEL,
    RESET,
    Gate,
    Hold,
    Received,
    Reply,
    Upstream,
    as_asked,
    chunk,
    error,
    error_object,
    events,
    raw,
    stream,
)

CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
STREAMED = {**ASKED, "stream": True}

# Who waits in vain for a client does so for this long, not for the default of 30 s.
QUEUE_S = 15


class Served:
    """An application in front of clients with the keys `one` and `two`, a mutex each."""

    def __init__(self, upstream: Upstream, **settings: Any) -> None:
        keys = settings.pop("keys", ["one", "two"])
        provider = {"name": "up", "base-url": upstream.url, "api-keys": keys}
        tree = {name.replace("_", "-"): value for name, value in settings.items()}
        tree |= {"openai-compatibility": [{**provider, "models": [MODEL]}]}
        self.app: Flask = create_app({"queue-timeout": QUEUE_S, **tree})
        self._http = self.app.test_client()

    def post(self, asked: dict[str, Any], path: str = CHAT, **environ: Any) -> TestResponse:
        """The answer; of a stream it is there with its first bytes, the rest as it is read."""
        return self._http.post(path, json=asked, environ_overrides=environ)

    def close(self) -> None:
        """Check that no client is still in use, and close idle connections."""
        gateway = self.app.extensions["proxy"]["proxy"].gateway
        in_flight = [facts["in_flight"] for facts in gateway.pool.snapshot()]
        gateway.close()
        assert not any(in_flight)


@pytest.fixture
def serve(upstream: Upstream, request: pytest.FixtureRequest) -> Iterator[Any]:
    running: list[Served] = []

    def start(**settings: Any) -> Served:
        running.append(Served(upstream, **settings))
        return running[-1]

    yield start
    for served in running:
        served.close()


def pieces(response: TestResponse) -> Iterator[bytes]:
    """The body as the application writes it."""
    for piece in response.response:
        assert isinstance(piece, bytes)
        yield piece


def text_of(response: TestResponse) -> str:
    """All that is left of the body, closed as a server would."""
    try:
        return b"".join(pieces(response)).decode()
    finally:
        response.close()


def payloads(body: str) -> list[Any]:
    """A stream's events, without its last, which is [DONE]."""
    events = [part.removeprefix("data: ") for part in body.split("\n\n") if part[:5] == "data:"]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def held_stream(gate: Gate) -> Reply:
    """A stream that goes on after its first event when the gate opens."""
    return events(chunk({"content": "a"}), Hold(gate), chunk({}, finish="stop"), "[DONE]")


def test_bug_1_a_retry_does_not_keep_the_client_before_it_locked(
    upstream: Upstream, serve: Any
) -> None:
    """The seed takes the next mutex without unlocking the one before: locked for ever."""
    served = serve()
    upstream.reply("one", error(500))
    assert served.post(ASKED).status_code == 200
    gate = Gate()
    upstream.reply(None, held_stream(gate))
    other = served.post(STREAMED)
    assert served.post(ASKED).status_code == 200  # both clients are needed at once
    gate.set()
    text_of(other)
    keys = [received.key for received in upstream.received()]
    assert keys[:2] == ["one", "two"]
    assert set(keys[2:]) == {"one", "two"}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("status", [429, 500])
def test_bug_2_exhausted_retries_are_no_empty_200(
    upstream: Upstream, serve: Any, status: int, streamed: bool
) -> None:
    """The seed answers 200 with an empty body, also to 429 with `switch-project: false`."""
    served = serve(request_retry=0, quota_exceeded={"switch-project": False})
    upstream.reply(None, error(status, "Not now.", code="busy"))
    response = served.post(STREAMED if streamed else ASKED)
    assert response.status_code == status
    assert response.get_json()["error"]["message"] == "Not now."


def test_bug_3_errors_of_a_streaming_request_are_json(upstream: Upstream, serve: Any) -> None:
    """The seed sends a JSON body under `text/event-stream`."""
    served = serve(request_retry=0)
    hidden = events(error_object("Overloaded.", code=529))
    for reply, status in ((error(400), 400), (error(503), 503), (hidden, 529)):
        upstream.reply(None, reply)
        response = served.post(STREAMED)
        assert response.status_code == status
        assert response.content_type == "application/json"
        assert response.get_json()["error"]["message"]


@pytest.mark.parametrize("ending", [CUT, RESET])
def test_bug_4_nothing_is_retried_after_chunks_were_sent(
    upstream: Upstream, serve: Any, ending: Any
) -> None:
    """The seed repeats chunks that the caller has already."""
    served = serve()
    upstream.reply("one", events(chunk({"content": "once"}), ending))
    body = text_of(served.post(STREAMED))
    assert body.count("once") == 1
    assert "[DONE]" not in body
    assert json.loads(body.split("data: ")[-1])["error"]["type"] == "upstream_error"
    assert [received.key for received in upstream.received()] == ["one"]


@pytest.mark.parametrize(
    "reply",
    [
        stream("Hi", one_write=True),
        stream("Hi").then(RESET),
        stream("Hi", done=False),
        stream("Hi", framing="close"),
        stream("Hi").in_pieces(1),
    ],
    ids=["one write", "reset", "without [DONE]", "till close", "byte by byte"],
)
def test_bug_5_every_whole_stream_ends_with_done(
    upstream: Upstream, serve: Any, reply: Reply
) -> None:
    """In the seed data and errors race at the end of a stream: sometimes no [DONE]."""
    served = serve()
    for _ in range(20):
        upstream.reply(None, reply)
        body = text_of(served.post(STREAMED))
        assert body.count("Hi") == 1
        assert body.count("[DONE]") == 1
        assert body.endswith("data: [DONE]\n\n")
        assert '"error"' not in body


def test_bug_6_keep_alives_are_sent(upstream: Upstream, serve: Any) -> None:
    """The seed's "keep-alive" of every 500 ms sends nothing."""
    served = serve(streaming={"keepalive-seconds": 0.05})
    gate = Gate()
    upstream.reply(None, held_stream(gate))
    response = served.post(STREAMED)
    body = pieces(response)
    assert b'"a"' in next(body)
    assert [next(body), next(body)] == [b": keep-alive\n\n"] * 2
    gate.set()
    rest = b"".join(body)
    response.close()
    assert rest.endswith(b"data: [DONE]\n\n")


def test_bug_7_whoever_waits_gets_the_client_that_comes_free(
    upstream: Upstream, serve: Any
) -> None:
    """In the seed everyone blocks on the first client when all are busy, whatever frees up."""
    served = serve(streaming={"commit-after-seconds": 0.05, "keepalive-seconds": 0.05})
    first_gate, second_gate = Gate(), Gate()
    upstream.reply("one", held_stream(first_gate))
    upstream.reply("two", held_stream(second_gate))
    first, second = served.post(STREAMED), served.post(STREAMED)
    third = served.post(STREAMED)
    body = pieces(third)
    assert next(body) == b": keep-alive\n\n"  # committed while it waits for a client
    second_gate.set()
    text_of(second)
    rest = b"".join(body)
    third.close()
    assert b"Hello" in rest
    assert [received.key for received in upstream.received()] == ["one", "two", "two"]
    first_gate.set()
    text_of(first)


def test_bug_8_legacy_completions_lose_nothing(upstream: Upstream, serve: Any) -> None:
    """The seed makes `null` "", lists JSON text, drops usage, `n`, `seed`, `user` and options."""
    served = serve()
    upstream.default = as_asked("Hello", " there")
    asked = {
        "model": MODEL, "prompt": "Say", "stream": True, "n": 1, "seed": 7, "user": "u",
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    chunks = payloads(text_of(served.post(asked, "/v1/completions")))
    (sent,) = upstream.received()
    assert sent.path == "/v1/chat/completions"
    for name in ("n", "seed", "user", "stream_options"):
        assert sent.json()[name] == asked[name]
    *texts, usage = chunks
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 12
    reasons = [choice["finish_reason"] for each in texts for choice in each["choices"]]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert "".join(choice["text"] for each in texts for choice in each["choices"]) == "Hello there"

    asked = {"model": MODEL, "prompt": ["One", "Two"]}
    answer = served.post(asked, "/v1/completions").get_json()
    contents = [each.json()["messages"][0]["content"] for each in upstream.received()[1:]]
    assert contents == ["One", "Two"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["total_tokens"] == 24


def test_bug_9_no_client_left_has_a_status_and_a_cause(upstream: Upstream, serve: Any) -> None:
    """In the seed no client left is a 500 without a cause."""
    refused = serve(keys=["one"])
    upstream.reply("one", error(401))
    assert refused.post(ASKED).status_code == 502
    response = refused.post(ASKED)
    assert (response.status_code, response.get_json()["error"]["code"]) == (
        503, "no_client_in_service",
    )  # fmt: skip
    cooling = serve(keys=["two"])
    upstream.reply("two", error(429, headers={"Retry-After": "30"}))
    assert cooling.post(ASKED).status_code == 429
    response = cooling.post(ASKED)
    assert (response.status_code, response.get_json()["error"]["code"]) == (
        429, "rate_limit_exceeded",
    )  # fmt: skip
    assert 0 < int(response.headers["Retry-After"]) <= 30
    unknown = cooling.post({**ASKED, "model": "gpt-0"})
    assert (unknown.status_code, unknown.get_json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_bug_10_unary_request_whose_caller_left_is_cancelled_upstream(
    upstream: Upstream, serve: Any, path: str
) -> None:
    """In the seed it runs to its end upstream."""
    served = serve()
    ours, theirs = socket.socketpair()

    def leave(received: Received) -> Reply:
        theirs.close()
        return raw(HANG)

    upstream.reply(None, leave)
    with ours:
        served.post({**ASKED, "prompt": "Hi"}, path, **{"werkzeug.socket": ours})
    (received,) = upstream.received()
    assert received.wait_ended().aborted
