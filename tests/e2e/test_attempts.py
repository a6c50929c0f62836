"""Contract 4 through the wire: who is tried next, what is forwarded, what the hints say."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.gateway import Gateway, Lot, Response
from tests.support.upstream import (
    CUT,
    RESET,
    Ending,
    Reply,
    Upstream,
    chat,
    error,
    error_object,
    events,
    garbage,
    json_reply,
    raw,
    stream,
)

ATTEMPTS = 3  # with the shared gateway's `request-retry: 2`

unary_and_stream = pytest.mark.parametrize("is_stream", [False, True], ids=["unary", "stream"])


def good(is_stream: bool) -> Reply:
    return stream("Hi") if is_stream else chat("Hi")


def said(answer: Response, is_stream: bool) -> str:
    assert answer.status == 200, answer
    text = answer.text if is_stream else answer.json()["choices"][0]["message"]["content"]
    return str(text)


def masked(lot: Lot, key: str) -> str:
    return f"{lot.upstream_name}/{key[:3]}...{key[-4:]}"


FAILURES: dict[str, Reply] = {
    "429": error(429),
    "401": error(401, code="invalid_api_key"),
    "402": error(402, code="insufficient_quota"),
    "403": error(403),
    "404-model": error(404, code="model_not_found"),
    "408": error(408),
    "500": error(500),
    "502-html": Reply([b"<h1>Bad gateway</h1>"], 502, [("Content-Type", "text/html")]),
    "503": error(503),
    "504": error(504),
    "529": replace(error(529), reason="Overloaded"),
    "redirect": Reply([], 302, [("Location", "http://127.0.0.1:9/")]),
    "garbage": garbage(),
    "status-line-cut": raw(b"HTTP", CUT),
    "reset": raw(b"HTTP", RESET),
    "head-cut": raw(b"HTTP/1.1 200 OK\r\nContent-Le", CUT),
    "head-huge": raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"),
    "body-cut": chat("x" * 100).cut_at(300),
    "no-json": Reply([b"<html>"], headers=[("Content-Type", "application/json")]),
    "hidden-error": json_reply(error_object("No provider is up.", code=503)),
    "no-answer-in-200": Reply([], headers=[("Content-Type", "application/json")]),
    "brotli": chat("Hi").with_headers({"Content-Encoding": "br"}),
}


@unary_and_stream
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_failure_goes_on_to_the_next_client(
    gateway: Gateway, upstream: Upstream, trio: Lot, failure: Reply, is_stream: bool
) -> None:
    """Whatever goes wrong before the first event: another client answers, and is named."""
    upstream.reply(None, failure, good(is_stream))
    answer = gateway.chat(trio.model, stream=is_stream)
    assert said(answer, is_stream) == "Hi"
    asked = [one.key for key in trio.keys for one in upstream.received(key)]
    assert len(set(asked)) == 2
    assert answer.headers["x-proxy-attempts"] == "2"
    record = gateway.record_of(answer.headers["x-request-id"])
    assert record["attempts"] == "2"
    assert answer.headers["x-proxy-client"] in [masked(trio, key) for key in trio.keys]


STREAM_FAILURES: dict[str, Reply] = {
    "error-event": events(error_object("Overloaded.", code=503)),
    "error-event-after-comments": events(b": hi\n\n", b": hi\n\n", error_object("Overloaded.")),
    "empty": events(),
    "comments-only": events(b": hi\n\n"),
    "only-half-an-event": events(b'data: {"choices'),
    "done-only": events("[DONE]"),
    "no-json": events("<html>"),
    "cut": stream("Hi").cut_at(200),
    "reset": stream("Hi").cut_at(200, RESET),
    "json-error": json_reply(error_object("No provider is up.", code=502)),
    "brotli": stream("Hi").with_headers({"Content-Encoding": "br"}),
}


@pytest.mark.parametrize("failure", STREAM_FAILURES.values(), ids=STREAM_FAILURES)
def test_stream_that_fails_before_its_first_event_goes_on(
    gateway: Gateway, upstream: Upstream, trio: Lot, failure: Reply
) -> None:
    """A 2xx alone commits nothing."""
    upstream.reply(None, failure, good(True))
    answer = gateway.chat(trio.model, stream=True)
    assert said(answer, True) == "Hi"
    assert answer.headers["x-proxy-attempts"] == "2"
    assert answer.data[-1] == b"[DONE]"


@unary_and_stream
def test_connection_that_ends_without_an_answer_is_a_failure_when_fresh(
    gateway: Gateway, upstream: Upstream, trio: Lot, is_stream: bool
) -> None:
    """Only a reused one is tried again with the same client, and only once."""
    gateway.record_of(gateway.chat(trio.model).headers["x-request-id"])  # leaves one to reuse
    upstream.reply(None, raw(CUT), raw(CUT), good(is_stream))
    answer = gateway.chat(trio.model, stream=is_stream)
    assert said(answer, is_stream) == "Hi"
    assert answer.headers["x-proxy-attempts"] == "2"
    *_, first, again, other = sorted(
        (one for key in trio.keys for one in upstream.received(key)), key=lambda one: one.arrived
    )
    assert first.key == again.key != other.key


@unary_and_stream
def test_last_error_is_forwarded_with_its_body(
    gateway: Gateway, upstream: Upstream, trio: Lot, is_stream: bool
) -> None:
    """Never a 200 with an empty body; the number of attempts is `request-retry` and one."""
    bodies = [b'{"error": {"message": "no. %d", "type": "x"} , "n":1.0}' % n for n in range(4)]
    upstream.reply(None, *(Reply([body], 500) for body in bodies[:ATTEMPTS]))
    answer = gateway.chat(trio.model, stream=is_stream)
    assert answer.status == 500
    assert answer.body == bodies[ATTEMPTS - 1]
    assert answer.headers["x-proxy-attempts"] == str(ATTEMPTS)
    assert sum(len(upstream.received(key)) for key in trio.keys) == ATTEMPTS


@unary_and_stream
def test_error_that_is_no_envelope_is_wrapped(
    gateway: Gateway, upstream: Upstream, trio: Lot, is_stream: bool
) -> None:
    """Its text, bounded, is the message."""
    page = b"<h1>Bad gateway</h1>" + b"x" * 100_000
    for key in trio.keys:
        upstream.always(key, Reply([page], 502, [("Content-Type", "text/html")]))
    answer = gateway.chat(trio.model, stream=is_stream)
    assert answer.status == 502
    assert answer.error["message"].startswith("<h1>Bad gateway</h1>x")
    assert len(answer.body) < 5000


@unary_and_stream
@pytest.mark.parametrize("status", [400, 404, 409, 413, 415, 422, 451])
def test_other_4xx_is_forwarded_at_once(
    gateway: Gateway, upstream: Upstream, trio: Lot, status: int, is_stream: bool
) -> None:
    """As it came: it is of the caller's making, no other client would say otherwise."""
    body = b' {"error" : {"message":"\\u0041", "type":"t","param":null,"code":"c"},"x":1.0}'
    upstream.reply(None, Reply([body], status, [("Content-Type", "application/json; v=1")]))
    answer = gateway.chat(trio.model, stream=is_stream)
    assert answer.status == status
    assert answer.body == body
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-proxy-attempts"] == "1"
    assert sum(len(upstream.received(key)) for key in trio.keys) == 1


@unary_and_stream
def test_refused_keys_are_502(
    gateway: Gateway, upstream: Upstream, trio: Lot, is_stream: bool
) -> None:
    """Never 401, which would tell callers that their own key is wrong; each client once."""
    for key in trio.keys:
        upstream.always(key, error(401, f"Incorrect API key provided: {key}"))
    answer = gateway.chat(trio.model, stream=is_stream)
    assert answer.status == 502
    assert answer.error["code"] == "upstream_authentication_error"
    assert [len(upstream.received(key)) for key in trio.keys] == [1, 1, 1]
    again = gateway.chat(trio.model, stream=is_stream)
    assert (again.status, again.error["code"]) == (503, "no_client_in_service")


@unary_and_stream
@pytest.mark.parametrize(("status", "code"), [(402, "insufficient"), (404, "model_not_found")])
def test_said_by_all_it_is_forwarded(
    gateway: Gateway, upstream: Upstream, trio: Lot, status: int, code: str, is_stream: bool
) -> None:
    """No money, no such model: each client is asked once, not counted as a retry."""
    for key in trio.keys:
        upstream.always(key, error(status, "Said by all.", code=code))
    answer = gateway.chat(trio.model, stream=is_stream)
    assert answer.status == status
    assert answer.error["message"] == "Said by all."
    assert [len(upstream.received(key)) for key in trio.keys] == [1, 1, 1]


# Rate limits


@unary_and_stream
@pytest.mark.parametrize(
    ("asked_s", "should_retry"), [((40, 30, 50), "true"), ((900, 100, 300), "false")]
)
def test_all_cooling_down_has_true_hints(
    gateway: Gateway,
    upstream: Upstream,
    trio: Lot,
    asked_s: tuple[int, ...],
    should_retry: str,
    is_stream: bool,
) -> None:
    """Of the soonest client, whatever the last one said; at once, then without asking again."""
    for key, seconds in zip(trio.keys, asked_s, strict=True):
        upstream.always(key, error(429, "Slow down.", headers={"Retry-After": str(seconds)}))
    soonest = min(asked_s)
    for message in ("Slow down.", "every client"):
        answer = gateway.chat(trio.model, stream=is_stream)
        assert answer.status == 429
        assert message in answer.error["message"]
        assert soonest - 15 < int(answer.headers["retry-after"]) <= soonest
        in_ms = int(answer.headers["retry-after-ms"])
        assert 0 <= int(answer.headers["retry-after"]) * 1000 - in_ms < 1000
        assert answer.headers["x-should-retry"] == should_retry
    assert answer.error["code"] == "rate_limit_exceeded"
    assert [len(upstream.received(key)) for key in trio.keys] == [1, 1, 1]


@unary_and_stream
def test_short_cooldown_is_waited_for(
    gateway: Gateway, upstream: Upstream, lot: Lot, is_stream: bool
) -> None:
    """Rather than refused: it ends within `max-retry-interval`."""
    upstream.reply(lot.key, error(429, headers={"retry-after-ms": "300"}), good(is_stream))
    answer = gateway.chat(lot.model, stream=is_stream)
    assert said(answer, is_stream) == "Hi"
    first, second = upstream.received(lot.key)
    assert second.arrived - first.arrived >= 0.29
    assert answer.headers["x-proxy-attempts"] == "2"


def test_cooldown_ends_with_one_trial(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """The trial decides: after a success nothing is left of the past."""
    upstream.reply(lot.key, error(429, headers={"Retry-After": "1"}))
    assert said(gateway.chat(lot.model), False) == "Hello there!"
    assert said(gateway.chat(lot.model), False) == "Hello there!"
    assert len(upstream.received(lot.key)) == 3


# Clients and connections


def test_requests_are_spread_evenly(gateway: Gateway, upstream: Upstream, trio: Lot) -> None:
    """Round robin: each client the same number."""
    for _ in range(9):
        assert gateway.chat(trio.model).status == 200
    assert [len(upstream.received(key)) for key in trio.keys] == [3, 3, 3]


@unary_and_stream
def test_connection_is_reused(
    gateway: Gateway, upstream: Upstream, lot: Lot, is_stream: bool
) -> None:
    """Five requests, one after the other, one connection to the upstream."""
    for _ in range(5):
        answer = gateway.chat(lot.model, stream=is_stream)
        gateway.record_of(answer.headers["x-request-id"])
    assert len({received.connection for received in upstream.received(lot.key)}) == 1


@unary_and_stream
@pytest.mark.parametrize("how", [CUT, RESET])
def test_stale_connection_is_replaced(
    gateway: Gateway, upstream: Upstream, lot: Lot, is_stream: bool, how: Ending
) -> None:
    """A reused one that ends before any byte: once more on a fresh one, and nobody is blamed."""
    gateway.record_of(gateway.chat(lot.model).headers["x-request-id"])
    upstream.reply(lot.key, raw(how), good(is_stream))
    answer = gateway.chat(lot.model, stream=is_stream)
    assert said(answer, is_stream) == "Hi"
    assert answer.headers["x-proxy-attempts"] == "1"
    first, stale, fresh = upstream.received(lot.key)
    assert stale.connection == first.connection
    assert fresh.connection > stale.connection


@pytest.fixture(scope="module")
def gateway_to_nowhere() -> Iterator[Gateway]:
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        provider = {"name": "p", "base-url": url, "models": ["m"]}
        with Gateway({"request-retry": 0, "openai-compatibility": [provider]}) as running:
            yield running


@unary_and_stream
def test_unreachable_upstream(gateway_to_nowhere: Gateway, is_stream: bool) -> None:
    """502 in the envelope, with what was tried."""
    answer = gateway_to_nowhere.chat("m", stream=is_stream)
    assert answer.status == 502
    assert answer.error["code"] == "upstream_unreachable"
    assert answer.error["type"] == "upstream_error"
