"""Several prompts of one request, on the stage of scripted clients: leases, failures, time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from proxy.dialects.completions import COMPLETIONS
from proxy.errors import (
    CallerGone,
    InvalidRequest,
    UpstreamInvalid,
    UpstreamRefusal,
)
from proxy.net.watch import CallerConnection
from proxy.pool import Lease, Ticket
from proxy.record.record import Record
from proxy.request.attempts import Call
from proxy.request.stream import StreamBody
from proxy.wire.chat import Usage
from tests.support.attempts import Stage
from tests.support.clock import caller_leaving
from tests.support.upstream import (
    CUT,
    HANG,
    Json,
    Pause,
    Reply,
    chat,
    chunk,
    error,
    error_object,
    events,
    stream,
)

KEEP_ALIVE = b": keep-alive\n\n"


@contextmanager
def served(
    stage: Stage, *, caller: CallerConnection | None = None, **fields: Any
) -> Iterator[bytes | StreamBody]:
    """The answer to a completions request that arrives now; checks that all was given back."""
    stage.record = Record("req_1", endpoint="", arrived=stage.clock.monotonic())
    body = json.dumps({"model": "m", "prompt": ["p", "q"], **fields}).encode()
    ask = COMPLETIONS.read(body, {})
    try:
        with ExitStack() as held:
            call = Call(ask, None, caller or CallerConnection(None), stage.record)
            yield stage.serve(call, held)
    finally:
        stage.check()


def ask(stage: Stage, **more: Any) -> Json:
    """The unary answer; raises ProxyError."""
    with served(stage, **more) as answer:
        assert isinstance(answer, bytes)
        found: Json = json.loads(answer)
        return found


def writes(stage: Stage, **more: Any) -> list[bytes]:
    """A stream's writes; raises ProxyError."""
    with served(stage, stream=True, **more) as body:
        assert isinstance(body, StreamBody)
        try:
            return list(body)
        finally:
            body.close()


def payloads(written: list[bytes]) -> list[Any]:
    """The events of a stream; [DONE] as a string."""
    lines = [line[6:] for line in b"".join(written).split(b"\n\n") if line.startswith(b"data: ")]
    return [json.loads(line) if line != b"[DONE]" else "[DONE]" for line in lines]


def texts(written: list[bytes]) -> list[tuple[int, str]]:
    """What a stream that ended well says, with the indexes of the choices."""
    *chunks, end = payloads(written)
    assert end == "[DONE]"
    choices = [choice for one in chunks for choice in one["choices"]]
    assert [one for one in chunks if "error" in one] == []
    return [(choice["index"], choice["text"]) for choice in choices if choice["text"]]


# One after the other


def test_one_mutex_serves_all_prompts() -> None:
    """A lease each, the next after the one before was given back."""
    stage = Stage([chat("a", usage=(1, 2)), chat("b", usage=(3, 4))])
    answer = ask(stage)
    assert [(one["index"], one["text"]) for one in answer["choices"]] == [(0, "a"), (1, "b")]
    assert answer["usage"]["total_tokens"] == 10
    assert [attempt.reason for attempt in stage.record.attempts] == ["ok", "ok"]
    assert stage.record.usage == Usage(4, 6, cached_tokens=0, reasoning_tokens=0)
    assert stage.record.end == "ok"


def test_one_mutex_streams_all_prompts() -> None:
    """One id, one [DONE], the usage of all."""
    first = stream("a", "b", usage=(1, 2), more={"id": "one"})
    stage = Stage([first, stream("c", usage=(3, 4), more={"id": "two"})])
    written = writes(stage, stream_options={"include_usage": True})
    assert texts(written) == [(0, "a"), (0, "b"), (1, "c")]
    *chunks, _ = payloads(written)
    assert {one["id"] for one in chunks} == {"one"}
    assert [one["usage"]["total_tokens"] for one in chunks if not one["choices"]] == [10]
    assert chunks[-1]["choices"] == []
    assert stage.record.usage == Usage(4, 6, cached_tokens=0, reasoning_tokens=0)
    assert stage.record.end == "ok"


def test_unary_answers_to_a_stream_are_told_apart_by_their_prompts() -> None:
    """Some upstreams answer a stream by one JSON body; the second is the second prompt's."""
    stage = Stage([chat("a", usage=(1, 2)), chat("b", usage=(3, 4))])
    assert texts(writes(stage)) == [(0, "a"), (1, "b")]


@contextmanager
def another_waiting(stage: Stage) -> Iterator[Callable[[], Lease]]:
    """Another request in the queue for the only client; yields what it calls to get it."""
    entry = stage.entry("m")
    ticket = Ticket("m", CallerConnection(None), stage.config)

    def look() -> Lease | None:
        return stage.pool.acquire(ticket, entry.routes, stage.clock.monotonic())

    def take() -> Lease:
        lease = look()
        assert lease is not None
        return lease

    assert look() is None
    yield take


def test_another_request_may_come_between() -> None:
    """Who waits for the only client gets it between two prompts: nobody is overtaken."""
    stage = Stage([stream("a"), stream("b")])
    with served(stage, stream=True) as body:
        assert isinstance(body, StreamBody)
        written = [next(body)]
        with another_waiting(stage) as take:
            written += [next(body), next(body)]
            stage.clock.after(20 - stage.now_s, take().release)
            written += list(body)
        body.close()
    assert texts(written) == [(0, "a"), (1, "b")]
    assert written[2] == KEEP_ALIVE
    assert [attempt.waited_s for attempt in stage.record.attempts] == [0, 20]


def test_failover_between_prompts() -> None:
    """Each prompt has its own attempts; a client that rests is passed over by the next."""
    stage = Stage([stream("a"), stream("b"), stream("c")], [error(500)])
    assert texts(writes(stage, prompt=["p", "q", "r"])) == [(0, "a"), (1, "b"), (2, "c")]
    assert stage.sent_to == "abaa"
    stage = Stage([chat("a"), chat("b"), chat("c")], [error(500)])
    answer = ask(stage, prompt=["p", "q", "r"])
    assert [choice["text"] for choice in answer["choices"]] == ["a", "b", "c"]
    assert stage.sent_to == "abaa"


def test_last_chunks_do_not_wait_for_the_connection() -> None:
    """A prompt's end is written before its upstream's answer is seen to end."""
    late = events(chunk({"content": "a"}, finish="stop"), "[DONE]", Pause(0.04))
    stage = Stage([late, stream("b")])
    with served(stage, stream=True) as body:
        assert isinstance(body, StreamBody)
        next(body)
        assert not stage["a"].replies[0].is_closed
        list(body)
        body.close()


# Failures


def test_final_failure_fails_the_whole_unary_request() -> None:
    """With the error of the prompt; what the ones before cost is in the record."""
    stage = Stage([chat("a", usage=(1, 2)), error(400, "No.", code="bad")])
    with pytest.raises(UpstreamRefusal, match="No") as raised:
        ask(stage)
    assert raised.value.status == 400
    assert stage.record.usage == Usage(1, 2, cached_tokens=0, reasoning_tokens=0)


def test_final_failure_of_the_first_prompt_keeps_its_status() -> None:
    """Before the first event a stream's error is no event."""
    stage = Stage([error(400, "No.", code="bad")])
    with pytest.raises(UpstreamRefusal) as raised:
        writes(stage)
    assert raised.value.status == 400
    assert len(stage.sent) == 1


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (error(400, "No.", code="bad"), "bad"),
        (error(422, "No."), "422"),
        (error(402, "No.", code="broke"), "broke"),
        (events(error_object("No.", code=400)), "400"),
        (events(chunk({"content": "b"}), CUT), "upstream_reset"),
        (events(chunk({"content": "b"}), error_object("No.", code=503)), "503"),
        (events(chunk({"content": "b"})), "upstream_truncated"),
    ],
)
def test_final_failure_in_mid_stream_is_an_error_event(reply: Reply, code: str) -> None:
    """And no [DONE]; no further prompt is sent."""
    stage = Stage([stream("a"), reply])
    *chunks, last = payloads(writes(stage, prompt=["p", "q", "r"]))
    assert last["error"].keys() == {"message", "type", "param", "code"}
    assert (last["error"]["type"], last["error"]["code"]) == ("upstream_error", code)
    assert chunks[0]["choices"][0]["text"] == "a"
    assert len(stage.sent) == 2
    assert stage.record.end == code


def test_attempts_keep_their_own_reasons() -> None:
    """The error that the caller gets is not written over that of an attempt which is over."""
    stage = Stage([stream("a"), error(401, code="revoked")])
    last = payloads(writes(stage))[-1]
    assert last["error"]["code"] == "upstream_authentication_error"
    assert [attempt.reason for attempt in stage.record.attempts] == ["ok", "revoked"]


def test_upstream_that_breaks_after_its_prompt_was_opened_is_rested() -> None:
    """As with chat: the lease's client is told."""
    stage = Stage([stream("a"), events(chunk({"content": "b"}), CUT)])
    writes(stage)
    assert stage.state_of("a")["failures"] == 1


def test_answer_without_choices_is_an_error() -> None:
    """Never a completion that lacks a prompt's answer."""
    with pytest.raises(UpstreamInvalid):
        ask(Stage([chat("a"), chat()], request_retry=0))


# What no client could serve


def test_refusal_does_not_wait_for_a_client() -> None:
    """A 400 of the caller's making comes at once, though all are busy."""
    stage = Stage([])
    stage.occupy("a")
    with pytest.raises(InvalidRequest, match="tokens"):
        ask(stage, prompt=[1, 2])
    assert (stage.now_s, stage.record.attempts) == (0, [])
    stage.free_all()


# Time


def test_keep_alives_while_a_later_prompt_waits() -> None:
    """In the queue, before its upstream's head, and while its chunks say nothing."""
    role = chunk({"role": "assistant", "content": ""})
    slow = events(role, Pause(20), chunk({"content": "b"}, finish="stop"), "[DONE]")
    stage = Stage([stream("a"), slow.after(Pause(20))])
    written = writes(stage)
    assert written.count(KEEP_ALIVE) == 2
    assert texts(written) == [(0, "a"), (1, "b")]


def test_commit_by_a_comment() -> None:
    """Before the first prompt's first event; a failure then is an event with its status."""
    stage = Stage([error(400, "No.").after(Pause(50))])
    written = writes(stage)
    assert written[0] == KEEP_ALIVE
    assert payloads(written)[-1]["error"]["code"] == "400"


def test_queue_timeout_of_a_later_prompt() -> None:
    """Ends the whole."""
    stage = Stage([stream("a")], queue_timeout=8)
    with served(stage, stream=True) as body:
        assert isinstance(body, StreamBody)
        written = [next(body)]
        with another_waiting(stage) as take:
            written += list(body)
            body.close()
            take().release()
    assert payloads(written)[-1]["error"]["code"] == "no_client_free"
    assert stage.now_s == 8


@pytest.mark.parametrize("is_stream", [False, True])
def test_caller_leaves_between_prompts(is_stream: bool) -> None:
    """While the next waits for its upstream: nothing is held any more, nothing else is sent."""
    first = stream("a") if is_stream else chat("a")
    stage = Stage([first, chat("b").after(HANG)])
    run, gone = (writes, ConnectionResetError) if is_stream else (ask, CallerGone)
    with caller_leaving(stage.clock, 5) as caller, pytest.raises(gone):
        run(stage, caller=caller, prompt=["p", "q", "r"])
    assert len(stage.sent) == 2
    assert stage.now_s == 5


def test_idle_timeout_is_not_for_waits_in_the_queue() -> None:
    """It is for an upstream that has begun to answer; a prompt that waits has other limits."""
    stage = Stage([stream("a"), stream("b")], idle_timeout=10, queue_timeout=60)
    with served(stage, stream=True) as body:
        assert isinstance(body, StreamBody)
        written = [next(body)]
        with another_waiting(stage) as take:
            written += [next(body), next(body)]
            stage.clock.after(50 - stage.now_s, take().release)
            written += list(body)
        body.close()
    assert texts(written) == [(0, "a"), (1, "b")]


def test_silent_upstream_of_a_later_prompt_fails_over() -> None:
    """As for the first: at `idle-timeout` the next client is asked."""
    silent = events(Pause(1), HANG)
    stage = Stage([stream("a"), stream("b")], [silent], idle_timeout=10)
    assert texts(writes(stage)) == [(0, "a"), (1, "b")]
    assert stage.sent_to == "aba"


def test_chunks_that_are_dropped_are_progress() -> None:
    """A model that thinks aloud for long is not idle, though none of it is text."""
    thought = chunk({"reasoning_content": "hm"})
    thinking = [step for _ in range(5) for step in (thought, Pause(8))]
    long = events(*thinking, chunk({"content": "a"}, finish="stop"), "[DONE]")
    stage = Stage([long, long], idle_timeout=10)
    assert texts(writes(stage)) == [(0, "a"), (1, "a")]
    assert stage.now_s == 80


def test_request_timeout_of_a_stream_ends_with_its_first_event() -> None:
    """A later prompt of a long stream has a time of its own."""
    long = events(chunk({"content": "a"}), Pause(25), chunk({}, finish="stop"), "[DONE]")
    stage = Stage([long, stream("b").after(Pause(25))], request_timeout=30)
    assert texts(writes(stage)) == [(0, "a"), (1, "b")]


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_keep_the_rank_of_their_request(stream: bool) -> None:
    """As a retry does: who came later waits until the list is served, unless a client is free."""
    stage = Stage([chat("a").after(Pause(2)), chat("b").after(Pause(2))])
    entry = stage.registry.find("m", CallerConnection(None), 0.0)
    assert entry is not None
    tickets: list[Ticket] = []

    def come() -> None:
        for _ in range(2):
            tickets.append(Ticket("m", CallerConnection(None), stage.config))
            assert stage.pool.acquire(tickets[-1], entry.routes, 0.0) is None

    def be_served() -> None:
        lease = stage.pool.acquire(tickets[0], entry.routes, 0.0)
        assert lease is not None, "it was handed the client between the two prompts"
        lease.release()

    stage.clock.after(1, come)
    stage.clock.after(3, be_served)
    stage.clock.after(4, lambda: stage.pool.withdraw(tickets[1]))
    if stream:
        writes(stage)
    else:
        ask(stage)
    assert [sent.at_s for sent in stage.sent] == [0, 3]
