"""Attempts of a stream: paused and taken up again, committed early, and what is given back."""

from __future__ import annotations

import math
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import (
    CallerGone,
    ProxyError,
    UpstreamError,
    UpstreamRefusal,
)
from proxy.request.stream import StreamBody
from proxy.wire.chat import Usage
from tests.support.attempts import Play, Stage, error_of
from tests.support.clock import caller_leaving
from tests.support.upstream import (
    HANG,
    RESET,
    Pause,
    Reply,
    chat,
    chunk,
    error,
    error_object,
    events,
    stream,
)

OK = chat("Hello")
STREAM = stream("Hello")
KEEP_ALIVE = b": keep-alive\n\n"


# Pauses


def paused(stage: Stage, pause_s: float) -> list[float]:
    """Open a stream, pausing every `pause_s`; returns the moments of the pauses."""
    pauses_s = []
    with stage.attempts(stage.call(stream=True)) as attempts:
        while (found := attempts.advance(stage.clock.monotonic() + pause_s)) is None:
            pauses_s.append(stage.now_s)
        assert found.first
    return pauses_s


def test_pause_in_the_queue() -> None:
    """A wait in the queue is taken up again, and the request keeps its place."""
    stage = Stage([STREAM, STREAM])
    stage.occupy("a", until_s=9)
    with stage.attempts(stage.call(stream=True)) as first:
        assert first.advance(stage.clock.monotonic() + 4) is None
        assert (stage.now_s, stage.pool.queue_facts()["m"]["waiting"]) == (4, 1)
        with stage.attempts(stage.call(stream=True)) as second:
            assert second.advance(stage.clock.monotonic()) is None
            assert first.advance(math.inf)
            assert second.advance(stage.clock.monotonic() + 1) is None
            first.close()
            assert second.advance(math.inf)
    assert [sent.at_s for sent in stage.sent] == [9, 10]


def test_first_event_of_each_attempt_is_timed() -> None:
    """From when it has its client; one that had none has no time."""
    stage = Stage([error(503).after(Pause(2)), STREAM.after(Pause(5))], request_retry=3)
    stage.stream()
    refused, answered = stage.record.attempts
    assert (refused.first_event_s, answered.first_event_s) == (None, 5)


def test_pause_while_all_cool_down() -> None:
    """A wait for a cooldown is taken up again."""
    stage = Stage([STREAM], max_retry_interval=9)
    stage.cool("a", 9)
    assert paused(stage, 4) == [4, 8]
    assert stage.now_s == 9


def test_pause_in_back_off() -> None:
    """A back-off is taken up again, not begun anew."""
    ends_s = []
    for pause_s in (0.015625, math.inf):
        stage = Stage([error(500), STREAM], seed=3)
        assert (len(paused(stage, pause_s)) > 2) == (pause_s < 1)
        ends_s.append(stage.now_s)
    assert ends_s[0] == ends_s[1]


@pytest.mark.parametrize(
    "reply",
    [
        STREAM.after(Pause(9)),
        Reply([Pause(9), *STREAM.body], headers=STREAM.headers),
        Reply([b": a\n\n", Pause(9), *STREAM.body], headers=STREAM.headers),
        OK.after(Pause(9)),
        Reply([b"{", Pause(9), b'"choices":[{"index":0}]}'], headers=OK.headers),
    ],
    ids=["head", "first event", "comment", "JSON", "JSON in pieces"],
)
def test_pause_while_the_upstream_is_silent(reply: Reply) -> None:
    """A wait for the head, the first event or a JSON answer is taken up again."""
    stage = Stage([reply])
    assert paused(stage, 4) == [4, 8]
    assert (stage.now_s, stage.sent_to) == (9, "a")


def test_pause_in_an_error_body() -> None:
    """A wait for the rest of an error is taken up again, then the next client is asked."""
    stage = Stage([Reply([b"{", Pause(9), b"}"], 500)], [STREAM])
    assert paused(stage, 4) == [4, 8]
    assert [(sent.client, sent.at_s) for sent in stage.sent] == [("a", 0), ("b", 9)]


STEPS = st.sampled_from([
    STREAM, STREAM.after(Pause(3)), STREAM.after(HANG), error(500), error(503).after(Pause(2)),
    error(429), error(429, headers={"Retry-After": "3"}), error(401), error(402), error(403),
    error(400).after(Pause(1)), error(404, code="model_not_found"), events(error_object("x")),
    Reply([b"{", Pause(2), RESET], 500), Reply([b": a\n\n", Pause(4), RESET]),
    events(b": a\n\n", Pause(2), b": b\n\n", Pause(2), "[DONE]"), OK.after(Pause(1)),
])  # fmt: skip


@pytest.mark.long
@settings(max_examples=100)
@given(
    scripts=st.lists(st.lists(STEPS, min_size=9, max_size=9), min_size=1, max_size=3),
    pause_s=st.sampled_from([0.0625, 0.5, 1, 2.5]),
    retries=st.integers(0, 4),
)
def test_pauses_change_nothing(scripts: list[list[Play]], pause_s: float, retries: int) -> None:
    """Whatever upstreams do, a request that is paused goes the way of one that is not."""
    ends = []
    for step_s in (math.inf, pause_s):
        stage = Stage(
            *scripts, request_retry=retries, request_timeout=20, first_byte_timeout=6, seed=5
        )
        try:
            paused(stage, step_s)
            end = "opened"
        except ProxyError as failure:
            end = f"{failure.status} {failure.message} {failure.headers()}"
        ends.append((end, stage.sent, stage.now_s, [str(one) for one in stage.record.attempts]))
        counted = [one for one in stage.record.attempts if one.status not in (401, 402, 404, 429)]
        assert len(counted) <= retries + 1
        assert stage.now_s <= 20
    assert ends[0] == ends[1]


# Streams


def served(stage: Stage, *, late_s: float = 0) -> StreamBody:
    """A stream's body as the server gets it, when all that made it is over.

    The request arrived `late_s` before its first attempt.
    """
    call = stage.call(stream=True)
    stage.clock.sleep(late_s)
    with ExitStack() as held:
        body = stage.serve(call, held)
        assert isinstance(body, StreamBody)
        return body


def test_stream_is_committed_by_a_comment_and_goes_on_to_the_next_client() -> None:
    """After `commit-after-seconds` a comment commits; a failure then still moves on."""
    late = error(500, "Late.").after(Pause(12))
    stage = Stage(
        [late],
        [STREAM.after(Pause(3))],
        streaming={"commit-after-seconds": 5, "keepalive-seconds": 4},
    )
    body = served(stage)
    assert (stage.now_s, body.is_opened) == (5, False)
    writes = list(body)
    body.close()
    assert writes[:3] == [KEEP_ALIVE] * 3
    assert b"Hello" in b"".join(writes)
    assert writes[-1].endswith(b"data: [DONE]\n\n")
    assert (stage.sent_to, stage.record.end) == ("ab", "ok")
    stage.check()


def test_final_failure_of_a_committed_stream_is_an_error_event() -> None:
    """As long as only comments were sent a final failure has its status in `code`; no [DONE]."""
    stage = Stage(
        [error(503, "Overloaded.").after(Pause(12))],
        request_retry=0,
        streaming={"commit-after-seconds": 5, "keepalive-seconds": 0},
    )
    writes = stage.stream()
    assert writes[0] == KEEP_ALIVE
    (event,) = writes[1:]
    facts = error_of(event.removeprefix(b"data: "))
    assert (facts["message"], facts["type"], facts["code"]) == (
        "upstream overloaded: Overloaded.", "upstream_error", "503",
    )  # fmt: skip


@pytest.mark.parametrize("commit_s", [0, 45])
def test_stream_that_fails_before_it_is_committed_has_its_own_status(commit_s: int) -> None:
    """Nothing is committed before; 0: never, so that every status is true."""
    streaming = {"commit-after-seconds": commit_s}
    pause_s = 44 if commit_s else 500
    reply = error(422, "No.").after(Pause(pause_s))
    stage = Stage([reply], streaming=streaming)
    with pytest.raises(UpstreamRefusal) as caught:
        stage.stream()
    assert (caught.value.status, stage.now_s) == (422, pause_s)


def test_time_to_commit_includes_the_queue_and_retries() -> None:
    """`commit-after-seconds` counts from arrival: queue, retries and silence included."""
    stage = Stage(
        [error(500).after(Pause(2))],
        [STREAM.after(Pause(9))],
        queue_timeout=99,
        streaming={"commit-after-seconds": 6},
    )
    stage.occupy("a", until_s=3)
    stage.occupy("b", until_s=4)
    body = served(stage, late_s=1)
    assert stage.now_s == 6
    list(body)
    body.close()
    assert (stage.sent_to, stage.now_s) == ("ab", 14)


def test_broken_stream_is_not_retried_and_rests_its_client() -> None:
    """After the first data event nothing is retried; the client's health is told."""
    broken = Reply([*STREAM.body[:2], Pause(1), RESET], headers=STREAM.headers)
    stage = Stage([broken], [STREAM])
    writes = stage.stream()
    assert (stage.sent_to, stage.record.end) == ("a", "upstream_reset")
    assert b"Hello" in b"".join(writes)
    assert error_of(writes[-1].removeprefix(b"data: "))["code"] == "upstream_reset"
    assert stage.state_of("a")["state"] == "resting"
    assert stage.record.attempts[0].reason == "upstream_reset"


def test_rest_doubles_when_every_stream_breaks() -> None:
    """Only a stream that ends whole resets the failure count, not its first event."""
    broken = Reply([*STREAM.body[:2], RESET], headers=STREAM.headers)
    stage = Stage([broken, broken, broken, STREAM])
    for failures, rest_s in enumerate([1, 2, 4], start=1):
        stage.stream()
        assert stage.state_of("a") == {"state": "resting", "failures": failures, "for_s": rest_s}
        stage.clock.sleep(rest_s)
    stage.stream()
    assert stage.state_of("a") == {"state": "ready", "failures": 0}


def test_stream_that_breaks_for_its_quota_cools_its_client_as_asked() -> None:
    """A wait that the upstream asks for in mid-stream counts as before the stream."""
    stage = Stage([STREAM])
    with stage.attempts(stage.call(stream=True)) as attempts:
        attempts.advance(math.inf)
        attempts.interrupted(UpstreamRefusal("quota", status=429, retry_after_s=40))
    assert stage.state_of("a") == {"state": "cooling down", "failures": 1, "for_s": 40}


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_stream_asked_for_and_answered_with_json_is_made_one(kind: str) -> None:
    """One that answers a stream request with one JSON body is turned into a stream of it."""
    stage = Stage([Reply(OK.body, headers=[("Content-Type", kind)])])
    (write,) = stage.stream()
    assert b"Hello" in write
    assert write.endswith(b"data: [DONE]\n\n")
    assert stage.record.usage is not None


def test_caller_that_leaves_an_open_stream_ends_it() -> None:
    """The body then raises ConnectionResetError; lease and reply are given back by close()."""
    stage = Stage([Reply([*STREAM.body[:2], HANG], headers=STREAM.headers)])
    with (
        caller_leaving(stage.clock, 7) as caller,
        pytest.raises(ConnectionResetError),
    ):
        stage.stream(caller)
    assert (stage.now_s, stage.record.end) == (7, "caller_gone")
    assert stage.state_of("a") == {"state": "ready", "failures": 0}


def test_tokens_told_before_the_first_chunk_count() -> None:
    """Claude tells the prompt's at once, and may think for long: then its caller leaves."""
    stage = Stage([events(chunk(None, usage={"prompt_tokens": 5}), HANG)])
    with caller_leaving(stage.clock, 7) as caller, pytest.raises(CallerGone):
        stage.stream(caller)
    assert stage.record.usage == Usage(5, partial=True)


def test_body_that_is_never_begun_gives_everything_back() -> None:
    """The permit is given back on every way out: body never started."""
    stage = Stage([STREAM])
    body = served(stage)
    body.close()
    body.close()
    stage.check()


# Giving back


def test_lease_that_was_handed_over_unseen_is_given_back() -> None:
    """A request that ends between a hand-off and its next look strands no client."""
    stage = Stage([STREAM])
    lease = stage.occupy("a")
    with stage.attempts(stage.call(stream=True)) as attempts:
        assert attempts.advance(stage.clock.monotonic()) is None
        stage.free(lease)
    assert stage.sent == []
    assert stage.stream()


def test_interruption_before_any_attempt_blames_nobody() -> None:
    """An error of ours, told while no client is held, is nobody's."""
    stage = Stage([OK])
    with stage.attempts(stage.call()) as attempts:
        attempts.interrupted(UpstreamError("nothing was sent"))
    assert stage.ask()


def test_caller_that_leaves_the_queue_leaves_no_trace() -> None:
    """A caller that goes away is noticed in the queue, and its place is free."""
    stage = Stage([OK])
    lease = stage.occupy("a", until_s=9)
    assert lease.client.label == "a"
    with caller_leaving(stage.clock, 3) as caller, pytest.raises(CallerGone):
        stage.ask(caller)
    assert stage.now_s == 3
    assert stage.ask()
    assert stage.now_s == 9


def test_effects_are_reported_once_per_attempt() -> None:
    """A failed attempt is one failure of its client, whatever follows."""
    stage = Stage([error(500), error(500), OK], seed=2)
    stage.ask()
    assert stage.state_of("a") == {"state": "ready", "failures": 0}
    (facts,) = stage.pool.snapshot()
    assert facts["failed"] == 2
