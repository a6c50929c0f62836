"""Fallback models: each sentence of what docs/routing.md says of them, on a virtual clock."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from proxy.config import Caller
from proxy.dialects.chat import CHAT
from proxy.errors import (
    AllCoolingDown,
    CallerGone,
    NoClientFree,
    NoClientInService,
    ProxyError,
    UpstreamAuthentication,
    UpstreamTimeout,
)
from proxy.gateway import ANYONE
from proxy.net.watch import CallerConnection
from proxy.pool import Ticket
from proxy.record.record import Record
from proxy.request.stream import StreamBody
from tests.support.attempts import Play, Stage
from tests.support.clock import START_S, caller_leaving
from tests.support.upstream import CUT, HANG, Pause, Reply, chat, error, stream

OK = chat("Hello")
BUSY = error(503, "Overloaded.")
QUOTA = error(429, "Slow down.", headers={"Retry-After": "100"})
TOO_LONG = error(400, "Too long.", code="context_length_exceeded")
BAD = error(400, "No such field.", code="unknown_parameter")

A_B_C = {"only-a": ["only-b", "only-c"]}


def staged(*scripts: Sequence[Play], fallbacks: Any = A_B_C, **settings: Any) -> Stage:
    return Stage(*scripts, fallbacks=fallbacks, **settings)


def ask(
    stage: Stage,
    model: str = "only-a",
    *,
    as_stream: bool = False,
    caller: Caller = ANYONE,
    connection: CallerConnection | None = None,
    is_last: bool = True,
) -> list[bytes]:
    """What goes to the caller; raises ProxyError."""
    body = {"model": model, "stream": as_stream, "messages": [{"role": "user", "content": "Hi"}]}
    dialect = CHAT.read(json.dumps(body).encode(), {})
    stage.record = Record("req_1", endpoint="", arrived=stage.clock.monotonic())
    with ExitStack() as held:
        connection = connection or CallerConnection(None)
        found, _ = stage.gateway.serve(dialect, caller, connection, record=stage.record, held=held)
        if isinstance(found, bytes):
            answer = [found]
        else:
            assert isinstance(found, StreamBody)
            answer = list(found)
            found.close()
    if is_last:
        stage.check()
    return answer


def refused(stage: Stage, **more: Any) -> ProxyError:
    try:
        answer = ask(stage, **more)
    except ProxyError as caught:
        return caught
    raise AssertionError(f"it was answered: {answer!r}")


def served_by(stage: Stage) -> tuple[str, str]:
    return stage.sent_to, stage.record.fallback


@pytest.mark.parametrize("as_stream", [False, True])
@pytest.mark.parametrize(
    "said",
    [
        QUOTA,
        TOO_LONG,
        error(401),
        error(402),
        error(404, code="model_not_found"),
    ],
    ids=["quota", "context", "401", "402", "404"],
)
def test_the_next_model_is_tried(said: Reply, as_stream: bool) -> None:
    """After quota, a refused key, an unknown model, a context that is too long."""
    stage = staged([said], [stream("Hi") if as_stream else OK], [])
    assert b"H" in b"".join(ask(stage, as_stream=as_stream))
    assert served_by(stage) == ("ab", "only-b")


def test_after_an_outage() -> None:
    """When the attempts are used up."""
    stage = staged([BUSY] * 3, [OK], [], request_retry=2)
    ask(stage)
    assert served_by(stage) == ("aaab", "only-b")


def test_each_model_has_retries_of_its_own() -> None:
    """`request-retry` counts anew, and what was tried under one alias may be under the next."""
    stage = staged([BUSY] * 2, [BUSY, OK], [], request_retry=1)
    ask(stage)
    assert served_by(stage) == ("aabb", "only-b")
    stage = staged([error(404, code="model_not_found"), OK], fallbacks={"only-a": ["other-a"]})
    ask(stage)
    assert served_by(stage) == ("aa", "other-a")


def test_after_a_queue_that_is_too_long() -> None:
    """Busy past `queue-timeout`; the next model's queue has one of its own."""
    stage = staged([], [], [OK], queue_timeout=10)
    leases = [stage.occupy("a"), stage.occupy("b")]
    ask(stage)
    assert (stage.now_s, served_by(stage)) == (20, ("c", "only-c"))
    for lease in leases:
        stage.free(lease)


def test_after_cooldowns_that_are_too_long() -> None:
    """Beyond `max-retry-interval`; a shorter one is waited for."""
    stage = staged([OK], [OK], [])
    stage.cool("a", 3)
    ask(stage)
    assert (stage.now_s, served_by(stage)) == (3, ("a", ""))
    stage.cool("a", 100)
    ask(stage)
    assert (stage.now_s, served_by(stage)) == (3, ("b", "only-b"))


def test_after_the_last_client_went_out_of_service() -> None:
    """By hand, too."""
    stage = staged([], [OK], [])
    stage.pool.set_disabled("a", True)
    ask(stage)
    assert served_by(stage) == ("b", "only-b")


def test_each_model_is_tried_once_and_in_order() -> None:
    """Whatever is in the list twice, and whatever fails on the way."""
    stage = staged(
        [QUOTA],
        [BAD],
        [OK],
        fallbacks={"only-a": ["only-b", "only-a", "only-b", "only-c"]},
    )
    ask(stage)
    assert served_by(stage) == ("abc", "only-c")


def test_fallbacks_are_not_followed_further() -> None:
    """`a: [b]`, `b: [a]` is fine, and c is not asked for what b cannot do."""
    lists = {"only-a": ["only-b"], "only-b": ["only-a", "only-c"]}
    stage = staged([QUOTA], [QUOTA], [], fallbacks=lists)
    assert refused(stage).status == 429
    assert stage.sent_to == "ab"


def test_other_models_have_none() -> None:
    """The list is that of the model that was asked for."""
    stage = staged([], [BUSY], [], request_retry=0)
    assert refused(stage, model="only-b").status == 503
    assert stage.sent_to == "b"


@pytest.mark.parametrize(
    ("said", "settings"),
    [(BAD, {}), (error(422, "What?"), {}), (QUOTA, {"quota_exceeded": {"switch-project": False}})],
    ids=["400", "422", "429 that is forwarded"],
)
def test_what_is_forwarded_at_once_is_no_reason(said: Reply, settings: Any) -> None:
    """The request is at fault, or its caller is to know."""
    stage = staged([said], [], [], **settings)
    assert refused(stage).status == said.status
    assert served_by(stage) == ("a", "")


@pytest.mark.parametrize(
    ("scripts", "kind", "status"),
    [
        (([error(401)], [QUOTA], [BUSY]), UpstreamAuthentication, 502),
        (([TOO_LONG], [BAD], [QUOTA]), ProxyError, 400),
        (([BUSY], [BAD], [TOO_LONG]), ProxyError, 503),
    ],
)
def test_if_all_fail_the_first_models_error_is_told(
    scripts: Iterable[Sequence[Play]], kind: type[ProxyError], status: int
) -> None:
    """Not the last one's."""
    stage = staged(*scripts, request_retry=0)
    caught = refused(stage)
    assert isinstance(caught, kind)
    assert (caught.status, stage.sent_to, stage.record.fallback) == (status, "abc", "")


def test_the_soonest_hint_of_all_is_told() -> None:
    """A retry pays as soon as any of the models serves."""
    stage = staged([], [], [])
    for label, asked_s in (("a", 100), ("b", 30), ("c", 200)):
        stage.cool(label, asked_s)
    caught = refused(stage)
    assert isinstance(caught, AllCoolingDown)
    assert "'only-a'" in caught.message
    assert caught.headers() == {
        "retry-after": "30",
        "retry-after-ms": "30000",
        "x-should-retry": "true",
    }


def test_the_hint_of_an_upstream_is_one_of_them() -> None:
    """A 503 with a `Retry-After`, and a quota that lasts longer."""
    stage = staged([error(503, headers={"Retry-After": "7"})], [QUOTA], [QUOTA], request_retry=0)
    assert refused(stage).headers()["retry-after"] == "7"


def test_all_have_one_deadline() -> None:
    """`request-timeout` is the request's; what is left of it is the next model's."""
    stage = staged([BUSY.after(Pause(40))], [OK.after(HANG)], [OK], request_retry=0)
    stage_timeout_s = stage.config.request_timeout_s
    caught = refused(stage)
    assert caught.status == 503
    assert (stage.now_s, stage.sent_to) == (stage_timeout_s, "ab")
    assert {sent.deadline_s for sent in stage.sent} == {stage_timeout_s}


def test_no_model_is_tried_when_the_time_is_up() -> None:
    """The first one's silence is the answer."""
    stage = staged([OK.after(HANG)], [OK], [])
    assert isinstance(refused(stage), UpstreamTimeout)
    assert stage.sent_to == "a"


def test_only_before_the_first_event() -> None:
    """A stream that breaks after it ends with an error event: two models in one answer are none."""
    begun = stream("Hi", "there")
    stage = staged([begun.cut_at(len(begun.content()) // 2, CUT)], [stream("No")], [])
    written = b"".join(ask(stage, as_stream=True))
    assert b'"error"' in written
    assert b"[DONE]" not in written
    assert served_by(stage) == ("a", "")


def test_after_a_commit_by_comment() -> None:
    """As long as only comments were written a stream goes on with the next model."""
    late = BUSY.after(Pause(60))
    stage = staged([late], [stream("Hi")], [], request_retry=0)
    written = ask(stage, as_stream=True)
    assert written[0].startswith(b":")
    assert written[-1].endswith(b"[DONE]\n\n")
    assert served_by(stage) == ("ab", "only-b")


def test_after_a_commit_by_comment_the_first_error_is_told_too() -> None:
    """In the event that ends the stream, with its status."""
    stage = staged([BUSY.after(Pause(60))], [QUOTA], [BAD], request_retry=0)
    written = b"".join(ask(stage, as_stream=True))
    assert b'"code":"503"' in written
    assert stage.sent_to == "abc"


def test_a_caller_gets_no_model_that_it_may_not_use() -> None:
    """Its list of models holds; the others are tried."""
    stage = staged([QUOTA], [], [OK])
    ask(stage, caller=Caller("me", models=["only-a", "only-c"]))
    assert served_by(stage) == ("ac", "only-c")
    stage = staged([QUOTA], [], [])
    assert refused(stage, caller=Caller("me", models=["only-a"])).status == 429


def test_a_caller_who_leaves_ends_all() -> None:
    """No other model is asked for nobody."""
    stage = staged([OK.after(HANG)], [], [])
    with caller_leaving(stage.clock, 5) as connection, pytest.raises(CallerGone):
        ask(stage, connection=connection)
    assert stage.sent_to == "a"


def test_a_fallback_waits_in_the_rank_of_its_request() -> None:
    """In the order of arrival: who came later to that queue does not go first."""
    stage = staged([], [OK], queue_timeout=10, fallbacks={"only-a": ["only-b"]})
    held = [stage.occupy("a"), stage.occupy("b")]
    entry = stage.entry("only-b")
    late = Ticket("only-b", CallerConnection(None), stage.config, rank=1000)
    stage.clock.after(5, lambda: stage.pool.acquire(late, entry.routes, START_S))
    stage.clock.after(15, lambda: stage.free(held[1]))
    ask(stage, is_last=False)
    assert (stage.now_s, served_by(stage)) == (15, ("b", "only-b"))
    assert late.granted is not None, "the later one is next"
    stage.pool.withdraw(late)
    stage.free_all()
    stage.check()


@pytest.mark.parametrize("error_kind", [AllCoolingDown, NoClientFree, NoClientInService])
def test_nothing_is_held_after_a_failure(error_kind: type[ProxyError]) -> None:
    """Of any of the models."""
    stage = staged([], [], [], queue_timeout=1)
    for label in "abc":
        if error_kind is AllCoolingDown:
            stage.cool(label, 50)
        elif error_kind is NoClientFree:
            stage.occupy(label)
        else:
            stage.pool.set_disabled(label, True)
    assert isinstance(refused(stage), error_kind)
    stage.free_all()
    stage.check()
