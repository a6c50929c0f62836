"""How long the gateway waits, and what its callers see meanwhile; with short waits."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator

import openai
import pytest

from proxy.net.timed_socket import MIN_WRITE_TIMEOUT_S
from tests.support.gateway import (
    CHAT,
    MESSAGES,
    Gateway,
    Lot,
    Lots,
    Reached,
    asked,
    data_of,
    text_of,
)
from tests.support.upstream import (
    Gate,
    Hold,
    Pause,
    Reply,
    Step,
    Upstream,
    chat,
    chunk,
    error,
    events,
    json_reply,
    raw,
    stream,
)

KEEP_ALIVE = b": keep-alive\n\n"
COMMIT_AFTER_S = 0.4
QUEUE_TIMEOUT_S = 2.0
IDLE_TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def lots(upstream: Upstream) -> Lots:
    return Lots(upstream.url, {1: 12, 3: 8})


@pytest.fixture
def lot(lots: Lots) -> Lot:
    return lots.take()


@pytest.fixture
def trio(lots: Lots) -> Lot:
    return lots.take(3)


def bridging(lots: Lots, **more: float) -> Gateway:
    """It speaks soon when there is silence."""
    config = {
        "request-retry": 2,
        "streaming": {"keepalive-seconds": 0.1, "commit-after-seconds": COMMIT_AFTER_S},
        "openai-compatibility": lots.providers,
    }
    return Gateway({**config, **more})


@pytest.fixture(scope="module")
def gateway(lots: Lots) -> Iterator[Gateway]:
    """It waits as long as tests take, however slow the machine is."""
    with bridging(lots) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(lots: Lots) -> Iterator[Gateway]:
    """Its patience comes to an end."""
    timeouts = {"queue-timeout": QUEUE_TIMEOUT_S, "idle-timeout": IDLE_TIMEOUT_S}
    with bridging(lots, **timeouts) as running:
        yield running


def skip_comments(response: http.client.HTTPResponse, count: int) -> None:
    """Read so many keep-alives and nothing else."""
    for _ in range(count):
        assert response.readline() + response.readline() == KEEP_ALIVE


def test_silence_in_mid_stream_is_bridged(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """A comment each `keepalive-seconds` of our own silence, then on with the events."""
    gate = Gate()
    end = events(chunk({"content": "b"}, finish="stop"), "[DONE]").body
    upstream.reply(lot.key, events(chunk({"content": "a"}), Hold(gate), *end))
    with gateway.open("POST", CHAT, asked(lot.model, stream=True)) as response:
        assert (response.readline() + response.readline()).startswith(b"data: ")
        skip_comments(response, 3)
        gate.set()
        assert text_of(data_of(response.read())) == "b"


def test_comments_of_the_upstream_do_not_leave(
    gateway: Gateway, upstream: Upstream, lot: Lot
) -> None:
    """What counts is when *we* wrote last: its comments neither pass nor delay ours."""
    gate = Gate()
    chatter: list[Step] = [b": OPENROUTER PROCESSING\n\n", Pause(0.02)] * 30
    end = events(chunk({"content": "b"}, finish="stop"), "[DONE]").body
    upstream.reply(lot.key, events(chunk({"content": "a"}), *chatter, Hold(gate), *end))
    with gateway.open("POST", CHAT, asked(lot.model, stream=True)) as response:
        assert (response.readline() + response.readline()).startswith(b"data: ")
        skip_comments(response, 4)
        gate.set()
        assert b"OPENROUTER" not in response.read()


@pytest.mark.parametrize("where", ["before-head", "before-event"])
def test_answer_is_committed_by_a_comment(
    gateway: Gateway, upstream: Upstream, lot: Lot, where: str
) -> None:
    """After `commit-after-seconds`, so that proxies in front wait; who answers is not known yet."""
    gate = Gate()
    silent = {
        "before-head": stream("Hi").after(Hold(gate)),
        "before-event": events(Hold(gate), *stream("Hi").body),
    }
    upstream.reply(lot.key, silent[where])
    asked_at = time.monotonic()
    with gateway.open("POST", CHAT, asked(lot.model, stream=True)) as response:
        assert time.monotonic() - asked_at >= COMMIT_AFTER_S
        assert response.status == 200
        assert response.getheader("Content-Type") == "text/event-stream; charset=utf-8"
        assert response.getheader("x-proxy-client") is None
        assert response.getheader("x-proxy-attempts") is None
        skip_comments(response, 3)
        gate.set()
        data = data_of(response.read())
    assert text_of(data) == "Hi"
    assert data[-1] == b"[DONE]"


def test_failure_after_the_comment_goes_on_to_the_next_client(
    gateway: Gateway, upstream: Upstream, trio: Lot
) -> None:
    """As long as only comments were sent."""
    gates = [Gate(), Gate()]
    upstream.reply(None, error(500).after(Hold(gates[0])), raw(Hold(gates[1]), b"x"), stream("Hi"))
    with gateway.open("POST", CHAT, asked(trio.model, stream=True)) as response:
        for gate in gates:
            skip_comments(response, 2)
            gate.set()
        data = data_of(response.read())
    assert text_of(data) == "Hi"
    assert data[-1] == b"[DONE]"
    assert [len(upstream.received(key)) for key in trio.keys] == [1, 1, 1]


@pytest.mark.parametrize(
    ("failure", "code"), [(error(400, "No."), "400"), (error(500, "No."), "500")]
)
def test_final_failure_after_the_comment_is_an_error_event(
    gateway: Gateway, upstream: Upstream, trio: Lot, failure: Reply, code: str
) -> None:
    """With the status in `code`, and no `[DONE]`: the SDK raises."""
    gate = Gate()
    for key in trio.keys:
        upstream.always(key, failure.after(Hold(gate)))
    with gateway.sdk() as sdk:
        answer = sdk.chat.completions.create(model=trio.model, messages=MESSAGES, stream=True)
        gate.set()
        with pytest.raises(openai.APIError, match=r"No\.") as raised:
            next(iter(answer))
    assert raised.value.code == code


def test_waiting_in_the_queue_is_bridged_too(
    gateway: Gateway, upstream: Upstream, lot: Lot
) -> None:
    """Comments while another request has the only client; then its turn comes."""
    gate = Gate()
    upstream.reply(lot.key, stream("first").after(Hold(gate)), stream("second"))
    with gateway.open("POST", CHAT, asked(lot.model, stream=True)) as first:
        upstream.wait_for(1, lot.key)
        with gateway.open("POST", CHAT, asked(lot.model, stream=True)) as second:
            skip_comments(second, 2)
            gate.set()
            assert text_of(data_of(second.read())) == "second"
        assert text_of(data_of(first.read())) == "first"


@pytest.mark.long
def test_all_clients_busy(hasty: Gateway, upstream: Upstream, lot: Lot) -> None:
    """503 after `queue-timeout`, with an estimate; a committed stream says it in its event."""
    reached = Reached()
    upstream.reply(lot.key, raw(reached.hold()))
    with hasty.open("POST", CHAT, asked(lot.model, stream=True)):
        reached.wait_reached()
        asked_at = time.monotonic()
        refused = hasty.chat(lot.model)
        assert time.monotonic() - asked_at >= QUEUE_TIMEOUT_S
        assert refused.status == 503
        assert refused.error["code"] == "no_client_free"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-should-retry"] == "true"
        streamed = hasty.chat(lot.model, stream=True)
    assert streamed.status == 200
    assert json.loads(streamed.data[-1])["error"]["code"] == "503"


def test_silence_for_too_long_in_mid_stream(hasty: Gateway, upstream: Upstream, lot: Lot) -> None:
    """`idle-timeout` after the last event: comments of either side are no progress."""
    reached = Reached()
    chatter: list[Step] = [b": still here\n\n", Pause(0.1)] * 300
    upstream.reply(lot.key, events(chunk({"content": "a"}), *chatter, reached.hold()))
    asked_at = time.monotonic()
    answer = hasty.chat(lot.model, stream=True)
    assert IDLE_TIMEOUT_S <= time.monotonic() - asked_at < 20
    assert json.loads(answer.data[-1])["error"]["code"] == "upstream_timeout"
    assert upstream.received(lot.key)[0].wait_ended().aborted


def test_mere_comments_are_no_beginning(hasty: Gateway, upstream: Upstream, trio: Lot) -> None:
    """An upstream that only ever comments is left after `idle-timeout`, for another."""
    chatter: list[Step] = [b": still here\n\n", Pause(0.1)] * 100
    upstream.reply(None, events(*chatter), stream("Hi"))
    assert hasty.chat(trio.model, stream=True).text == "Hi"


def test_unary_answer_that_stalls(hasty: Gateway, upstream: Upstream, trio: Lot) -> None:
    """A time-out is tried once more at most: the caller has waited long enough."""
    stalled = raw(json_reply({"choices": []}).wire_bytes()[:-3], Reached().hold())
    for key in trio.keys:
        upstream.always(key, stalled)
    answer = hasty.chat(trio.model)
    assert answer.status == 504
    assert answer.error["code"] == "upstream_timeout"
    assert answer.headers["x-proxy-attempts"] == "2"


# Callers that take nothing


@pytest.mark.parametrize(
    "is_stream",
    [pytest.param(False, id="unary", marks=pytest.mark.long), pytest.param(True, id="stream")],
)
def test_caller_that_does_not_read_is_cut(
    hasty: Gateway, upstream: Upstream, lot: Lot, is_stream: bool
) -> None:
    """After `idle-timeout` without progress, or what is told of it; it has no whole answer."""
    cut_after_s = max(IDLE_TIMEOUT_S, MIN_WRITE_TIMEOUT_S)
    text = "x" * 100_000
    upstream.reply(lot.key, stream(*[text] * 600) if is_stream else chat(text * 300))
    body = json.dumps(asked(lot.model, stream=is_stream)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"x-request-id: {lot.model}\r\nContent-Length: {len(body)}\r\n\r\n"
    with hasty.connect() as sock:
        sock.sendall(head.encode() + body)
        (received,) = upstream.wait_for(1, lot.key)
        assert received.wait_ended(cut_after_s + 10).aborted is is_stream
        end = hasty.record_of(lot.model)["end"]
        assert end == ("caller_gone" if is_stream else "ok")
        if not is_stream:  # the gateway has the answer whole: nobody but the caller can tell
            time.sleep(cut_after_s + 2)
        got = 0
        try:
            while data := sock.recv(1 << 20):
                got += len(data)
        except ConnectionResetError:
            pass
    assert 0 < got < len(text) * 300
    assert hasty.chat(lot.model).status == 200
