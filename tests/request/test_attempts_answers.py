"""What follows from a 2xx: whole answers, and those that are none (the table of attempts)."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from proxy.errors import (
    UpstreamError,
    UpstreamInvalid,
    UpstreamRefusal,
    UpstreamReset,
    UpstreamTooLarge,
    UpstreamTruncated,
)
from tests.support.attempts import Stage
from tests.support.upstream import (
    HANG,
    RESET,
    Json,
    Reply,
    chat,
    chunk,
    error,
    error_object,
    events,
    json_reply,
    stream,
)

OK = chat("Hello")


# 2xx, whole


def test_whole_answer_passes_untouched() -> None:
    """2xx, whole: done, with the upstream's bytes."""
    odd = Reply([b'{"choices" :[ {}], ', b'"big":123456789012345678901234567890.10}'])
    stage = Stage([odd])
    assert stage.ask() == odd.content()
    assert (stage.sent_to, stage.record.end) == ("a", "ok")
    assert stage["a"].sent[0].model == "a-m"


@pytest.mark.parametrize("failure", [error(503), error(429, headers={"Retry-After": "1"})])
def test_success_resets_the_failure_count(failure: Reply) -> None:
    """2xx, whole: the client's failure count for the model is reset."""
    stage = Stage([failure, OK], [OK])
    stage.ask()
    assert stage.state_of("a")["failures"] == 1
    stage.clock.sleep(10)
    stage["b"].always = OK
    stage.ask()
    stage.ask()
    assert "a" in {sent.client for sent in stage.sent[1:]}
    assert stage.state_of("a") == {"state": "ready", "failures": 0}


# 2xx that are none


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply([b'{"choices": [', RESET]), UpstreamReset),
        (chat("x" * 3000), UpstreamTooLarge),
        (Reply([b"<html>"]), UpstreamInvalid),
        (Reply([b"[1]"]), UpstreamInvalid),
        (Reply([b""], 204), UpstreamInvalid),
        (Reply([b'{"choices": []', b"}x"]), UpstreamInvalid),
    ],
)
def test_success_that_is_no_answer_is_like_502(reply: Reply, kind: type[UpstreamError]) -> None:
    """2xx that isn't whole, larger than max-answer-size, or no JSON: like 502; counted."""
    stage = Stage([reply], [OK], request_retry=1, max_answer_size=2000)
    stage.ask()
    assert stage.sent_to == "ab"
    assert stage.state_of("a")["state"] == "resting"
    stage = Stage([reply], [OK], request_retry=0, max_answer_size=2000)
    caught = stage.refused()
    assert isinstance(caught, kind)
    assert caught.status == 502


def test_answer_of_the_largest_size_passes() -> None:
    """`max-answer-size` itself is allowed."""
    body = OK.content()
    assert Stage([OK], max_answer_size=len(body)).ask() == body
    assert isinstance(
        Stage([OK], max_answer_size=len(body) - 1, request_retry=0).refused(), UpstreamTooLarge
    )


@pytest.mark.parametrize(
    ("code", "status", "sent_to", "state"),
    [
        (429, 429, "ab", "cooling down"),
        ("503", 503, "ab", "resting"),
        ("model_overloaded", 502, "ab", "resting"),
        (None, 502, "ab", "resting"),
        (200, 502, "ab", "resting"),
        (400, 400, "a", "ready"),
    ],
)
def test_error_in_a_success_is_like_its_code(
    code: int | str | None, status: int, sent_to: str, state: str
) -> None:
    """2xx whose JSON has `error` and no `choices`: like its code if that is a status, else 502."""
    hidden = json_reply(error_object("Hidden.", code=code))
    stage = Stage([hidden], [hidden], request_retry=1, max_retry_interval=0)
    caught = stage.refused()
    assert (caught.status, caught.message, stage.sent_to) == (status, "Hidden.", sent_to)
    assert stage.state_of("a")["state"] == state


@pytest.mark.parametrize("body", [{"choices": None, "id": ""}, {"choices": []}, {}])
def test_success_without_a_choice_moves_on(body: Json) -> None:
    """Like 502: the next client; counted against `request-retry`."""
    stage = Stage([json_reply(body)], [OK], request_retry=1)
    assert stage.ask() == OK.content()
    assert stage.sent_to == "ab"
    assert stage.state_of("a")["failures"] == 1
    stage = Stage([json_reply(body)], request_retry=0)
    with pytest.raises(UpstreamInvalid, match="has no choices"):
        stage.ask()


def test_error_beside_choices_is_an_answer() -> None:
    """2xx with `error` and `choices`: what the model said is not thrown away."""
    reply = json_reply({"choices": [{"index": 0}], "error": {"message": "cut", "code": 502}})
    assert Stage([reply]).ask() == reply.content()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (events(error_object("Hidden.", code=503)), UpstreamRefusal),
        (events("[DONE]"), UpstreamInvalid),
        (events(chunk(None, usage={"prompt_tokens": 1}), "[DONE]"), UpstreamInvalid),
        (events(chunk(None, usage={"prompt_tokens": 1})), UpstreamTruncated),
        (events(b"event: error\ndata: overloaded\n\n"), UpstreamRefusal),
        (events({"object": "error", "message": "m", "code": 503}), UpstreamRefusal),
        (events(b": nothing\n\n"), UpstreamTruncated),
        (json_reply(error_object("Hidden.", code=503)), UpstreamRefusal),
        (Reply([b"<html>"], headers=[("Content-Type", "text/html")]), UpstreamTruncated),
    ],
)
def test_stream_that_fails_before_its_first_event_moves_on(
    reply: Reply, kind: type[UpstreamError]
) -> None:
    """2xx whose first event is an error, or that ends without any, failed before the stream."""
    stage = Stage([reply], [stream("Hi")])
    assert b"Hi" in b"".join(stage.stream())
    assert stage.sent_to == "ab"
    stage = Stage([reply], request_retry=0)
    with pytest.raises(kind):
        stage.stream()


def test_what_a_failed_attempt_has_read_is_let_go_of() -> None:
    """At once, not when the collector comes by; the next attempts may take minutes."""
    pieces = [b"x" * 100_000] * 10
    stage = Stage([Reply(pieces)], [Reply([HANG])], request_retry=1)
    gc.disable()
    tracemalloc.start()
    try:
        with stage.attempts(stage.call()) as attempts:
            assert attempts.advance(stage.clock.monotonic() + 5) is None
            kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert stage.sent_to == "ab"
    assert kept < 500_000
