"""How long attempts wait, and for what: back-off, the preferred client, deadlines."""

from __future__ import annotations

import itertools
import random
from contextlib import suppress
from typing import Any

import pytest

from proxy.errors import CallerGone, UpstreamTimeout
from proxy.pool import Effect
from proxy.wire.claude.answer import ChatStream
from tests.support import claude_upstream as claude
from tests.support.attempts import Play, Stage
from tests.support.clock import caller_leaving
from tests.support.upstream import HANG, Pause, Reply, Step, chat, error, stream

OK = chat("Hello")
BAD = error(503)


# Back-off


def test_back_off_is_full_jitter_doubling_to_four_seconds() -> None:
    """Between attempts on a client tried before: full jitter, 0.25 s doubling to 4 s."""
    bounds = [0.25, 0.5, 1, 2, 4, 4, 4]
    for seed in (1, 2):
        stage = Stage([BAD] * 8, request_retry=7, seed=seed)
        stage.refused()
        jitter = random.Random(seed)
        pauses = [jitter.uniform(0, bound) for bound in bounds]
        moments = [sent.at_s for sent in stage.sent]
        waited = [later - earlier for earlier, later in itertools.pairwise(moments)]
        assert waited == pytest.approx(pauses)


def test_untried_clients_are_tried_without_back_off() -> None:
    """Back-off is for a client tried before; an untried one is asked at once."""
    stage = Stage([BAD, OK], [BAD], [BAD], request_retry=3)
    stage.ask()
    assert stage.sent_to == "abca"
    assert [sent.at_s for sent in stage.sent[:3]] == [0, 0, 0]
    assert 0 < stage.sent[3].at_s <= 1


def test_client_that_comes_free_ends_the_back_off() -> None:
    """An untried client is taken as soon as it is free, whatever is left of the back-off."""
    stage = Stage([BAD], [OK], seed=1)
    stage.occupy("b", until_s=0.015625)
    assert random.Random(1).uniform(0, 0.25) > 0.015625
    stage.ask()
    assert [(sent.client, sent.at_s) for sent in stage.sent] == [("a", 0), ("b", 0.015625)]


@pytest.mark.parametrize(("is_tried", "status"), [(True, 503), (False, 404)])
def test_model_that_a_new_configuration_left_out_ends_the_wait(is_tried: bool, status: int) -> None:
    """With the last upstream error, or 404 where nothing was tried."""
    stage = Stage([BAD], seed=1)
    if not is_tried:
        stage.occupy("a")

    def change() -> None:
        stage.pool.adopt([], {})
        stage.free_all()

    stage.clock.after(0.03125, change)
    assert stage.refused().status == status
    assert stage.now_s == 0.03125


def test_caller_is_watched_during_back_off() -> None:
    """A caller that leaves is noticed in back-off."""
    stage = Stage([BAD], seed=1)
    with caller_leaving(stage.clock, 0.03125) as caller, pytest.raises(CallerGone):
        stage.ask(caller)
    assert stage.now_s == 0.03125


# Preference, seen through attempts


def test_clients_are_preferred_untried_and_healthy_then_resting_then_tried() -> None:
    """(1) untried, healthy, free; (2) untried, resting, free; (3) tried, free, after back-off."""
    stage = Stage([BAD, OK], [BAD], [BAD], request_retry=9)
    lease = stage.occupy("a")
    lease.report(Effect.REST)
    stage.free(lease)
    stage.ask()
    assert stage.sent_to == "bcaa"


def test_last_usable_client_is_never_benched_for_a_passing_fault() -> None:
    """A request never waits while a client of 1 to 3 is free: a resting one is used."""
    stage = Stage([BAD] * 5 + [OK], request_retry=0)
    for _ in range(5):
        stage.refused()
    assert stage.state_of("a")["state"] == "resting"
    assert stage.ask()
    assert stage.now_s == 0


def test_busy_clients_are_waited_for() -> None:
    """(4) wait: in the queue, until one comes free by hand-off."""
    stage = Stage([OK], [OK])
    stage.occupy("a")
    stage.occupy("b", until_s=9)
    assert stage.ask()
    assert (stage.now_s, stage.sent_to) == (9, "b")
    assert stage.record.attempts[0].waited_s == stage.record.waited_s == 9
    stage.free_all()


@pytest.mark.parametrize("limit", ["queue-timeout", "request-timeout"])
def test_wait_for_a_client_that_did_not_come_is_in_the_record(limit: str) -> None:
    """The one that operators look for: the longest."""
    stage = Stage([OK], **{limit: 9})
    stage.occupy("a")
    stage.refused()
    assert stage.record.waited_s == stage.now_s == 9
    assert " waited_ms=9000 " in stage.record.line()
    stage.free_all()


# Deadlines


@pytest.mark.parametrize(
    ("play", "settings", "end_s", "says"),
    [
        (OK.after(HANG), {"first-byte-timeout": 20, "request-timeout": 30}, 20, "begin to answer"),
        (OK.after(HANG), {"first-byte-timeout": 40, "request-timeout": 30}, 30, "request-timeout"),
        (OK.after(HANG), {"first-byte-timeout": 0, "request-timeout": 30}, 30, "request-timeout"),
        (OK.after(HANG), {"idle-timeout": 9, "request-timeout": 30}, 30, "request-timeout"),
        (Reply([HANG]), {"idle-timeout": 9, "request-timeout": 30}, 9, "fell silent"),
        (Reply([HANG]), {"idle-timeout": 40, "request-timeout": 30}, 30, "request-timeout"),
        (Reply([HANG]), {"first-byte-timeout": 5, "request-timeout": 30}, 30, "request-timeout"),
        (
            Reply([b"{", Pause(8)] * 9),
            {"idle-timeout": 9, "request-timeout": 30}, 30, "request-timeout",
        ),
        (UpstreamTimeout("connecting took longer than 10 s"), {}, 0, "connecting"),
    ],
)  # fmt: skip
def test_earliest_of_all_deadlines_wins(
    play: Play, settings: dict[str, Any], end_s: float, says: str
) -> None:
    """first-byte-timeout, idle-timeout (from the head on) and request-timeout: the earliest."""
    stage = Stage([play], request_retry=0, **settings)
    caught = stage.refused()
    assert (caught.status, caught.code) == (504, "upstream_timeout")
    assert stage.now_s == end_s
    assert says in caught.message


def test_time_that_runs_out_with_a_preview_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the quota of the model before it, as if there were time to try again."""
    stage = Stage([error(429), OK.after(HANG)], request_retry=0, request_timeout=30)
    monkeypatch.setattr(stage["a"], "substitutes", lambda model: ["preview"])
    assert stage.refused().code == "upstream_timeout"
    assert [sent.model for sent in stage.sent] == ["a-m", "preview"]
    assert stage.now_s == 30


def test_attempt_is_the_one_whose_quota_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no preview helped: its status and its model, as its reason is."""
    stage = Stage([error(429), error(503), error(400)], request_retry=0)
    monkeypatch.setattr(stage["a"], "substitutes", lambda model: ["preview"])
    stage.refused()
    told = stage.record.attempts[0]
    assert (told.model, told.status) == ("a-m", 429)


@pytest.mark.parametrize("body", [[b": wait\n\n", Pause(1)] * 99, [HANG]])
def test_first_event_of_a_stream_is_due_within_idle_timeout(body: list[Step]) -> None:
    """Comments are no progress: the first event is due `idle-timeout` after the head."""
    silent = Reply(body, headers=[("Content-Type", "text/event-stream")])
    stage = Stage([silent.after(Pause(5))], [stream("Hi")], idle_timeout=9)
    assert b"Hi" in b"".join(stage.stream())
    assert [sent.at_s for sent in stage.sent] == [0, 14]


@pytest.mark.parametrize(("request_s", "end_s"), [(99, 24), (20, 20)])
def test_events_that_give_no_chunk_are_progress(
    monkeypatch: pytest.MonkeyPatch, request_s: int, end_s: int
) -> None:
    """Claude's first events, and its pings, keep off `idle-timeout` but not `request-timeout`."""
    begin, ping, *rest = claude.sse(claude.events(claude.ANSWERS["text"]))
    body: list[Step] = [begin, Pause(8), ping, Pause(8), ping, Pause(8), b"".join(rest)]
    headers = [("Content-Type", "text/event-stream")]
    stage = Stage(
        [Reply(body, headers=headers)], request_timeout=request_s, idle_timeout=9, request_retry=0
    )
    events = ChatStream(model="m", created=0, include_usage=False)
    monkeypatch.setattr(stage["a"], "chunks", lambda request: events)
    with suppress(UpstreamTimeout):
        stage.stream()
    assert (stage.now_s, stage.record.end == "ok") == (end_s, request_s > end_s)


def test_opened_stream_outlives_request_timeout() -> None:
    """`request-timeout` is from arrival to the first data event."""
    stage = Stage([stream("one", "two", gap_s=8)], request_timeout=10, idle_timeout=9)
    assert b"two" in b"".join(stage.stream())
    assert stage.now_s == 32


def test_request_timeout_counts_from_arrival() -> None:
    """Time spent before the first attempt counts."""
    stage = Stage([OK.after(HANG)], request_timeout=30, request_retry=0)
    call = stage.call()
    stage.clock.sleep(12)
    with stage.attempts(call) as attempts, pytest.raises(UpstreamTimeout):
        attempts.advance(float("inf"))
    assert stage.now_s == 30


def test_every_attempt_is_told_the_same_deadline() -> None:
    """Connecting may take what is left of `request-timeout`, whatever was spent before."""
    stage = Stage([BAD.after(Pause(7))], [BAD.after(Pause(7))], [OK], request_timeout=30)
    stage.ask()
    assert [(sent.at_s, sent.deadline_s) for sent in stage.sent] == [(0, 30), (7, 30), (14, 30)]


@pytest.mark.parametrize(("queue_s", "code"), [(20, "no_client_free"), (40, "upstream_timeout")])
def test_earliest_deadline_wins_in_the_queue(queue_s: int, code: str) -> None:
    """`queue-timeout` or `request-timeout`, whichever is earlier."""
    stage = Stage([], queue_timeout=queue_s, request_timeout=30)
    stage.occupy("a")
    assert stage.refused().code == code
    assert stage.now_s == min(queue_s, 30)
    stage.free_all()


@pytest.mark.parametrize("wait", ["queue", "upstream", "back-off"])
def test_last_upstream_error_is_the_answer_at_request_timeout(wait: str) -> None:
    """At `request-timeout` the last upstream error, else 504 `upstream_timeout`."""
    status, hints = (429, {"Retry-After": "60"}) if wait == "queue" else (500, {})
    says = error(status, "I was here first.", headers=hints)
    limit_s = 0.03125 if wait == "back-off" else 30
    others = [] if wait == "back-off" else [[OK.after(HANG)]]
    stage = Stage([says], *others, request_timeout=limit_s, queue_timeout=60)
    if wait == "queue":
        stage.occupy("b")
    caught = stage.refused()
    assert caught.message == "I was here first."
    assert stage.now_s == limit_s
    stage.free_all()


def test_nothing_is_begun_after_request_timeout() -> None:
    """An attempt that ends at the deadline is the last, and no other client is blamed for it."""
    stage = Stage([error(500, "Late.").after(Pause(30))], [OK], request_timeout=30)
    caught = stage.refused()
    assert (caught.status, stage.sent_to) == (500, "a")
    assert stage.state_of("b") == {"state": "ready", "failures": 0}


def test_client_that_comes_free_at_request_timeout_is_not_used() -> None:
    """The deadline wins over a client handed over at the same moment."""
    stage = Stage([], request_timeout=30, queue_timeout=60)
    stage.occupy("a", until_s=30)
    assert stage.refused().code == "upstream_timeout"
    assert stage.sent == []
