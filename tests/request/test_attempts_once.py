"""What the caller gets of the attempts: errors, retry hints, headers."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import pytest

from proxy.config import load_config
from proxy.dialects.base import Answer
from proxy.errors import (
    ModelNotFound,
    TooManyInFlight,
    UpstreamRefusal,
)
from proxy.gateway import ANYONE, Gateway
from proxy.net.watch import CallerConnection
from proxy.record.record import Record
from proxy.wire.chat import error_body
from tests.support.attempts import Play, Stage, error_of
from tests.support.upstream import HANG, RESET, Pause, Reply, chat, error, stream

OK = chat("Hello")
STREAM = stream("Hello")


# The last upstream error


@pytest.mark.parametrize("status", [400, 429, 500])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "without a body"),
        (b"<html>Bad \xff Gateway</html>", "<html>Bad \ufffd Gateway</html>"),
        (b'{"detail": "Not Found"}', '{"detail": "Not Found"}'),
        (b'["no"]', '["no"]'),
        (b'{"error": "Slow down."}', "Slow down."),
        (b'{"error": null}', '{"error": null}'),
        (b"x" * 5000, "x" * 2000),
    ],
)
def test_error_body_outside_the_envelope_is_wrapped(status: int, body: bytes, message: str) -> None:
    """A body that is no JSON object with an `error` object: its text, bounded, as the message."""
    headers = [("Content-Type", "text/html"), ("openai-version", "1")]
    stage = Stage([Reply([body], status, headers)], request_retry=0, max_retry_interval=0)
    caught = stage.refused()
    assert isinstance(caught, UpstreamRefusal)
    assert caught.status == status
    found = error_of(error_body(caught))["message"]
    assert message in found
    assert len(found) <= 2000
    assert caught.headers()["openai-version"] == "1"


def test_huge_error_body_is_not_read_to_its_end() -> None:
    """Of an upstream's error answer 1 MB is read; what is forwarded is bounded too."""
    stage = Stage([Reply([b"x" * 1024 * 1024] * 10, 500)], request_retry=0)
    caught = stage.refused()
    (reply,) = stage["a"].replies
    assert len(reply.body) == 9
    assert (caught.status, len(error_of(error_body(caught))["message"])) == (500, 2000)
    stage = Stage([error(500, "x" * 3_000_000)], request_retry=0)
    assert len(error_body(stage.refused())) < 3000


@pytest.mark.parametrize(("tail", "end_s"), [(HANG, 10), (RESET, 0)])
def test_error_body_without_an_end_costs_ten_seconds(tail: Any, end_s: float) -> None:
    """The status is what counts: an error's body is not awaited longer, nor does its end matter."""
    stage = Stage([Reply([b'{"error": ', tail], 422)])
    caught = stage.refused()
    assert (caught.status, stage.now_s) == (422, end_s)
    assert error_of(error_body(caught))["message"] == '{"error":'


def test_error_body_is_awaited_no_longer_than_request_timeout() -> None:
    """The earliest deadline wins while an error's body is read."""
    stage = Stage([Reply([HANG], 500)], request_timeout=4)
    assert stage.refused().status == 500
    assert stage.now_s == 4


# When nothing could even be tried


def test_all_clients_cooling_down_is_429() -> None:
    """429 `rate_limit_exceeded`: all cooling down."""
    stage = Stage([], [])
    stage.cool("a", 90)
    stage.cool("b", 40)
    caught = stage.refused()
    facts = error_of(error_body(caught))
    assert (caught.status, facts["code"]) == (429, "rate_limit_exceeded")
    assert facts["type"] == "rate_limit_error"
    assert caught.headers()["retry-after"] == "40"


def test_all_clients_busy_is_503() -> None:
    """503 `no_client_free`: all busy past `queue-timeout`."""
    stage = Stage([], [], queue_timeout=7)
    leases = [stage.occupy("a"), stage.occupy("b")]
    caught = stage.refused()
    assert (caught.status, caught.code, stage.now_s) == (503, "no_client_free", 7)
    for lease in leases:
        stage.free(lease)


def test_no_client_in_service_is_503() -> None:
    """503 `no_client_in_service`: every key is refused."""
    stage = Stage([error(401)])
    stage.refused()
    caught = stage.refused()
    assert (caught.status, caught.code) == (503, "no_client_in_service")


def test_unknown_model_is_404() -> None:
    """404 `model_not_found`: nobody offers it."""
    gateway = Gateway(load_config({"demo": [{}]}))
    with pytest.raises(ModelNotFound) as caught:
        gateway.generation.registry.find("gpt-0", CallerConnection(None), -math.inf)
    facts = error_of(error_body(caught.value))
    assert (caught.value.status, facts["code"]) == (404, "model_not_found")


def test_too_many_requests_in_flight_is_503() -> None:
    """503 `too_many_requests_in_flight`, at once, and only while they are."""
    gateway = Gateway(load_config({"demo": [{}], "max-requests-in-flight": 2}))
    record = Record("req_1", endpoint="", arrived=0.0)
    with ExitStack() as held:
        gateway.admit(ANYONE, record, held)
        gateway.admit(ANYONE, record, held)
        with pytest.raises(TooManyInFlight) as caught:
            gateway.admit(ANYONE, record, held)
    facts = error_of(error_body(caught.value))
    assert (caught.value.status, facts["code"]) == (503, "too_many_requests_in_flight")
    assert caught.value.headers()["x-should-retry"] == "true"
    with ExitStack() as held:
        gateway.admit(ANYONE, record, held)


# Retry hints


@pytest.mark.parametrize(
    ("cooldown_s", "seconds", "milliseconds", "should"),
    [
        (0.25, "1", "250", "true"),
        (59.5, "60", "59500", "true"),
        (60, "60", "60000", "true"),
        (60.0625, "61", "60063", "false"),
        (1800, "1800", "1800000", "false"),
    ],
)
@pytest.mark.parametrize("tried", [False, True])
def test_retry_is_advised_up_to_sixty_seconds(
    tried: bool, cooldown_s: float, seconds: str, milliseconds: str, should: str
) -> None:
    """`Retry-After` rounded up, `retry-after-ms`, `x-should-retry`: true within 60 s."""
    hint = error(429, headers={"Retry-After": str(cooldown_s)})
    stage = Stage([hint] if tried else [], max_retry_interval=0)
    if not tried:
        stage.cool("a", cooldown_s)
    assert stage.refused().headers() == {
        "retry-after": seconds, "retry-after-ms": milliseconds, "x-should-retry": should,
    }  # fmt: skip


def test_hints_on_429_are_the_pools() -> None:
    """With switch-project the soonest client's, whatever the last upstream said."""
    asks = error(429, "Later.", headers={"Retry-After": "3600", "x-should-retry": "true"})
    stage = Stage([asks], [])
    stage.cool("b", 45)
    caught = stage.refused()
    assert caught.message == "Later."
    assert caught.headers() == {
        "retry-after": "45", "retry-after-ms": "45000", "x-should-retry": "true",
    }  # fmt: skip


def test_hints_on_429_know_of_busy_clients() -> None:
    """A client that is merely in use is not there at once: the estimate for the queue holds."""
    stage = Stage([error(429, headers={"Retry-After": "3600"})], [], queue_timeout=9)
    stage.occupy("b")
    caught = stage.refused()
    assert caught.status == 429
    assert 1000 <= int(caught.headers()["retry-after-ms"]) <= 60_000
    stage.free_all()


@pytest.mark.parametrize(
    "script",
    [
        [error(429, headers={"Retry-After": "30"})],
        [error(429)],
        [error(429, headers={"retry-after-ms": "70500"})],
        [error(401)],
    ],
)
@pytest.mark.parametrize("repeated", [False, True])
def test_retry_hints_are_true(script: list[Play], repeated: bool) -> None:
    """Just before the time that was told a request does not succeed, after it one does."""
    stage = Stage([*script, OK], max_retry_interval=0)
    caught = stage.refused()
    if repeated or "retry-after-ms" not in caught.headers():
        stage.clock.sleep(0.25)
        caught = stage.refused()
    wait_s = int(caught.headers()["retry-after-ms"]) / 1000
    stage.clock.sleep(wait_s - 0.125)
    assert stage.refused().headers()["retry-after-ms"] == "125"
    stage.clock.sleep(0.125)
    assert stage.ask()


def test_hint_of_a_full_queue_is_an_estimate() -> None:
    """For `no_client_free`: from recent lease times and the place in the queue, 1 to 60 s."""
    stage = Stage([OK.after(Pause(10))] * 60 + [OK], queue_timeout=1)
    for _ in range(60):
        stage.ask()
    begin_s = stage.now_s
    stage.occupy("a", until_s=begin_s + 10)
    hint_s = int(stage.refused().headers()["retry-after-ms"]) / 1000
    assert hint_s == pytest.approx(10, abs=0.5)
    with stage.attempts(stage.call(stream=True)) as ahead:
        assert ahead.advance(stage.clock.monotonic()) is None
        behind_s = int(stage.refused().headers()["retry-after-ms"]) / 1000
    assert hint_s <= behind_s <= 60
    stage.clock.sleep(begin_s + 1 + hint_s - stage.now_s)
    assert stage.ask()


@pytest.mark.parametrize(("lease_s", "hint"), [(0, "1000"), (500, "60000")])
def test_estimate_is_between_one_second_and_sixty(lease_s: float, hint: str) -> None:
    """For `no_client_free`: 1 to 60 s."""
    stage = Stage([OK.after(Pause(lease_s))] * 60, queue_timeout=0)
    for _ in range(60):
        stage.ask()
    lease = stage.occupy("a")
    assert stage.refused().headers() == {
        "retry-after": hint[:-3], "retry-after-ms": hint, "x-should-retry": "true",
    }  # fmt: skip
    stage.free(lease)


# Headers


def test_callers_headers_go_to_every_client() -> None:
    """What dispatch was given of the caller's headers goes with each attempt, unchanged."""
    headers = {"OpenAI-Beta": "x=1", "x-request-id": "req_7"}
    stage = Stage([error(500)], [OK])
    stage.ask(headers=headers)
    assert [sent.headers for sent in stage.sent] == [headers, headers]


def test_headers_back_are_few() -> None:
    """Back: `openai-*`; never Set-Cookie, hop-by-hop or per-key `x-ratelimit-*`."""
    theirs = {
        "openai-processing-ms": "7", "OpenAI-Version": "2020-10-01", "Set-Cookie": "a=b",
        "x-ratelimit-remaining-tokens": "9", "Keep-Alive": "timeout=5", "Retry-After": "9",
        "x-should-retry": "true", "x-request-id": "theirs", "Server": "nginx",
    }  # fmt: skip
    back = {"openai-processing-ms": "7", "openai-version": "2020-10-01"}
    for is_stream, reply in ((False, OK), (True, STREAM)):
        stage = Stage([reply.with_headers(theirs)])
        with stage.attempts(stage.call(stream=is_stream)) as attempts:
            assert attempts.go_on(math.inf)
            assert attempts.headers == back
    stage = Stage([error(422, headers=theirs)])
    assert stage.refused().headers() == {**back, "retry-after": "9", "x-should-retry": "true"}


def test_headers_of_a_failed_attempt_do_not_stay() -> None:
    """The headers back are those of the client that answered."""
    stage = Stage([Reply([b"{"], headers=[("openai-version", "a")])], [OK])
    with stage.attempts(stage.call()) as attempts:
        assert isinstance(attempts.go_on(math.inf), Answer)
        assert attempts.headers == {}
