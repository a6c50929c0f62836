"""When a client is asked again: cooldowns, rests, trials, and who waits for them."""

from __future__ import annotations

import email.utils

import pytest

from proxy.errors import CallerGone, ProxyError
from proxy.request.relay import Relay
from tests.support.attempts import Play, Stage
from tests.support.clock import WALL_S, caller_leaving
from tests.support.upstream import (
    HANG,
    Pause,
    Reply,
    chat,
    error,
    error_object,
    events,
    json_reply,
    stream,
)

OK = chat("Hello")
BAD = error(503)


def quota(retry_after: object = None, **headers: str) -> Reply:
    """A 429 with these hints."""
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return error(429, headers={name.replace("_", "-"): text for name, text in headers.items()})


# Cooldowns: where they come from


@pytest.mark.parametrize(
    ("reply", "wait_s"),
    [
        (quota(7), 7),
        (quota(0.5), 0.5),
        (quota(email.utils.formatdate(WALL_S + 90, usegmt=True)), 90),
        (quota(email.utils.formatdate(WALL_S - 90, usegmt=True)), None),
        (quota(9, retry_after_ms="1500"), 1.5),
        (quota("soon"), 1),
        (quota(), 1),
        (json_reply({"error": {"message": "quota", "code": 429}}), 1),
    ],
)
def test_cooldown_is_what_the_upstream_asks_for(reply: Reply, wait_s: float | None) -> None:
    """`Retry-After` in seconds or as a date, `retry-after-ms`; else 1 s."""
    stage = Stage([reply], [OK])
    stage.ask()
    expected = {"state": "cooling down", "for_s": wait_s} if wait_s else {"state": "on trial"}
    assert stage.state_of("a") == {"failures": 1, **expected}


def test_cooldown_without_a_hint_doubles_to_five_minutes() -> None:
    """Else 1 s doubling to 5 min, reset by success."""
    stage = Stage([quota()] * 11 + [OK, quota()], max_retry_interval=0)
    waits_s = []
    for _ in range(11):
        stage.refused()
        waits_s.append(stage.state_of("a")["for_s"])
        stage.clock.sleep(waits_s[-1])
    assert waits_s == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    stage.ask()
    stage.refused()
    assert stage.state_of("a")["for_s"] == 1


@pytest.mark.parametrize("reply", [quota(7200), quota()])
def test_cooldown_is_never_longer_than_max_cooldown(reply: Reply) -> None:
    """Never longer than `max-cooldown`, whoever chose it."""
    stage = Stage([reply] * 9, max_cooldown=30, max_retry_interval=0)
    for _ in range(9):
        stage.refused()
        wait_s = stage.state_of("a")["for_s"]
        assert wait_s <= 30
        stage.clock.sleep(wait_s)
    assert wait_s == 30


@pytest.mark.parametrize(("first_s", "second_s"), [(50, 5), (5, 50)])
def test_shorter_cooldown_never_replaces_a_longer_one(first_s: int, second_s: int) -> None:
    """A shorter one never replaces a longer one that is running."""
    stage = Stage(
        [quota(first_s).after(Pause(1)), quota(second_s).after(Pause(2))],
        permits=2,
        max_retry_interval=0,
    )
    with stage.attempts(stage.call(stream=True)) as early:
        assert early.advance(stage.clock.monotonic()) is None
        with stage.attempts(stage.call(stream=True)) as late:
            assert late.advance(stage.clock.monotonic()) is None
            for attempts in (early, late):
                with pytest.raises(ProxyError):
                    attempts.advance(float("inf"))
    assert stage.state_of("a")["for_s"] == max(first_s - 1, second_s)


def test_server_error_does_not_ask_for_a_cooldown() -> None:
    """Rest after 5xx is 1 s, whatever the answer's Retry-After says: it only puts behind."""
    stage = Stage([error(503, headers={"Retry-After": "600"})], [OK])
    stage.ask()
    assert stage.state_of("a") == {"state": "resting", "failures": 1, "for_s": 1}


def test_rest_doubles_to_one_minute() -> None:
    """Rest after 5xx or transport errors: 1 s doubling to 60 s."""
    stage = Stage([BAD] * 8, request_retry=0)
    rests_s = []
    for _ in range(8):
        stage.refused()
        rests_s.append(stage.state_of("a")["for_s"])
        stage.clock.sleep(60)
    assert rests_s == [1, 2, 4, 8, 16, 32, 60, 60]


def test_health_is_kept_by_client_and_model() -> None:
    """Both per client and model: another model of the same client is as it was."""
    stage = Stage([quota(60)], max_retry_interval=0)
    stage.refused()
    stage.free(stage.occupy("a", alias="other"))
    (facts,) = stage.pool.snapshot()
    assert facts["models"]["other"]["state"] == "ready"


@pytest.mark.parametrize("status", [400, 403, 404, 408, 422])
def test_what_is_not_the_clients_fault_is_not_counted_as_its_failure(status: int) -> None:
    """A 403, a 408 or a 4xx of the caller's making: neither its health nor its counts are told."""
    stage = Stage([error(status)], request_retry=0)
    assert stage.refused().status == status
    assert stage.state_of("a") == {"state": "ready", "failures": 0}
    assert [facts["failed"] for facts in stage.pool.snapshot()] == [0]


# Half-open trials


def half_open(*script: Play, permits: int = 3) -> Stage:
    """A stage whose one client has just cooled down."""
    stage = Stage(script, permits=permits, queue_timeout=5)
    stage.cool("a", 60)
    stage.clock.sleep(60)
    return stage


def test_one_trial_goes_through_at_a_time() -> None:
    """After a cooldown one trial request goes through; others wait for it, at most for 2 s."""
    stage = half_open(OK.after(HANG), OK)
    with stage.attempts(stage.call()) as trial:
        assert trial.advance(stage.clock.monotonic() + 1) is None
        assert stage.state_of("a") == {"state": "trying", "failures": 1, "for_s": 1}
        assert stage.ask()
        assert stage.now_s == 62
        assert stage.state_of("a") == {"state": "ready", "failures": 0}


@pytest.mark.parametrize("is_stream", [False, True])
def test_trial_has_passed_at_its_status_line(is_stream: bool) -> None:
    """Others are let in at once; failures are forgotten when the answer is whole."""
    waiting = Reply([Pause(1), b" ", Pause(9), *(stream("Hi") if is_stream else OK).body])
    stage = half_open(waiting, permits=1)
    with stage.attempts(stage.call(stream=is_stream)) as trial:
        assert trial.go_on(stage.clock.monotonic() + 0.5) is None
        assert stage.state_of("a") == {"state": "ready", "failures": 1}
        opened = trial.go_on(float("inf"))
        assert stage.state_of("a") == {"state": "ready", "failures": int(is_stream)}
        if isinstance(opened, Relay):
            while not opened.is_over:
                opened.read(float("inf"))
    assert stage.state_of("a") == {"state": "ready", "failures": 0}


def test_refusal_behind_a_good_status_line_cools_down_for_longer() -> None:
    """A 2xx whose first event is a 429: the trial had passed, its failures are not forgotten."""
    refusal = events(error_object("Slow down.", code=429))
    stage = Stage([quota(), refusal], max_retry_interval=0)
    stage.refused()
    stage.clock.sleep(1)
    with pytest.raises(ProxyError):
        stage.stream()
    assert stage.state_of("a") == {"state": "cooling down", "failures": 2, "for_s": 2}


def test_trial_that_fails_cools_down_again() -> None:
    """A trial that gets 429 decides too: the next cooldown is twice as long."""
    stage = Stage([quota(), quota(), OK], max_retry_interval=0)
    stage.refused()
    stage.clock.sleep(1)
    stage.refused()
    assert stage.state_of("a") == {"state": "cooling down", "failures": 2, "for_s": 2}


@pytest.mark.parametrize("status", [400, 403, 404, 408, 422])
def test_trial_that_ends_by_the_callers_fault_leaves_its_place(status: int) -> None:
    """A 4xx of the caller's making decides nothing: the next request is the trial."""
    stage = half_open(error(status), OK)
    try:
        stage.ask()
    except ProxyError:
        assert stage.state_of("a") == {"state": "on trial", "failures": 1}
        stage.ask()
    assert stage.state_of("a") == {"state": "ready", "failures": 0}


def test_trial_whose_caller_left_leaves_its_place() -> None:
    """A trial that ends undecided (caller gone) gives the lock to the next request."""
    stage = half_open(OK.after(HANG), OK)
    with caller_leaving(stage.clock, 1) as caller, pytest.raises(CallerGone):
        stage.ask(caller)
    assert stage.state_of("a") == {"state": "on trial", "failures": 1}
    assert stage.ask()


# Waiting for cooldowns


def test_cooldown_that_ends_soon_is_waited_for() -> None:
    """All cooling down, the soonest ends within `max-retry-interval`: wait for it."""
    stage = Stage([OK], [OK], max_retry_interval=5)
    stage.cool("a", 7)
    stage.cool("b", 5)
    assert stage.ask()
    assert (stage.now_s, stage.sent_to) == (5, "b")


def test_cooldown_that_ends_late_is_answered_at_once() -> None:
    """Else answer at once."""
    stage = Stage([], [], max_retry_interval=5)
    stage.cool("a", 7)
    stage.cool("b", 5.5)
    assert stage.refused().code == "rate_limit_exceeded"
    assert stage.now_s == 0


def test_waits_for_cooldowns_share_one_budget() -> None:
    """`max-retry-interval` is per request, in all: what was waited is taken off."""
    stage = Stage([quota(3), quota(3)], [quota(6)], max_retry_interval=5)
    assert stage.refused().status == 429
    assert (stage.now_s, stage.sent_to) == (3, "aba")
    stage = Stage([quota(3), quota(3)], [quota(4), OK], max_retry_interval=5)
    assert stage.ask()
    assert (stage.now_s, stage.sent_to) == (4, "abab")


def test_cooldown_that_ends_counts_as_a_client_freed() -> None:
    """Some busy, some cooling: one wait, which the end of a cooldown ends too."""
    stage = Stage([], [OK], max_retry_interval=5, queue_timeout=30)
    stage.occupy("a")
    stage.cool("b", 20)
    assert stage.ask()
    assert (stage.now_s, stage.sent_to) == (20, "b")
    stage.free_all()


def test_client_that_comes_free_ends_the_wait_for_a_cooldown() -> None:
    """Some busy, some cooling: one wait, which a client that comes free ends."""
    stage = Stage([OK], [], queue_timeout=30)
    stage.occupy("a", until_s=10)
    stage.cool("b", 20)
    assert stage.ask()
    assert (stage.now_s, stage.sent_to) == (10, "a")


def test_wait_for_busy_and_cooling_is_at_most_queue_timeout() -> None:
    """One wait of at most `queue-timeout`, though a cooldown would end later."""
    stage = Stage([], [], queue_timeout=30)
    stage.occupy("a")
    stage.cool("b", 40)
    assert stage.refused().code == "no_client_free"
    assert stage.now_s == 30
    stage.free_all()
