"""Contract 5 through the wire: SSE in all its spellings, honest endings, nothing held back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

import openai
import pytest

from tests.support.clock import BUSY_S
from tests.support.gateway import CHAT, MESSAGES, Gateway, Lot, asked
from tests.support.upstream import (
    CUT,
    RESET,
    Ending,
    Framing,
    Gate,
    Hold,
    Json,
    Reply,
    Step,
    Upstream,
    chat,
    chunk,
    error,
    error_object,
    events,
    json_reply,
    raw,
    stream,
    tool_calls,
)

PAYLOADS = [
    rb'{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}',
    '{"choices":[{"index":0,"delta":{"content":"Zürich 😀 \u2028\u0085"}}], "x":1.0}'.encode(),
    rb'{"choices":[{"index":0,"delta":{"content":"\ud83d"},"finish_reason":null}],"y":"\/"}',
    rb'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
]
WHOLE = [*PAYLOADS, b"[DONE]"]

PLAIN = b"".join(b"data: %b\n\n" % payload for payload in WHOLE)

SPELLINGS: dict[str, bytes] = {
    "lf": PLAIN,
    "crlf": PLAIN.replace(b"\n", b"\r\n"),
    "cr": PLAIN.replace(b"\n", b"\r"),
    "mixed": PLAIN.replace(b"\n\n", b"\r\n\n"),
    "no-space": PLAIN.replace(b"data: ", b"data:"),
    "bom": b"\xef\xbb\xbf" + PLAIN,
    "comments": b": hi\n\n:\n\n" + PLAIN.replace(b"data", b":between\ndata"),
    "other-fields": PLAIN.replace(b"data", b"id: 1\nevent: message\nretry: 10\nx\ndata"),
    "empty-events": PLAIN.replace(b"data", b"event: ping\n\n\n\ndata"),
    "no-end-of-done": PLAIN[:-1],
    "no-line-end-of-done": PLAIN[:-2],
    "no-done": PLAIN.replace(b"data: [DONE]\n\n", b""),
    "half-an-event-behind": PLAIN.replace(b"data: [DONE]\n\n", b'data: {"choices":[]'),
    "more-behind-done": PLAIN + b"data: late\n\n",
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("size", [1, 3, 1000, 100_000])
def test_spelling_is_understood(
    gateway: Gateway, upstream: Upstream, lot: Lot, spelling: bytes, size: int
) -> None:
    """However it is spelled and cut into chunks: the same events leave, byte for byte, and only
    `data:` fields.
    """
    upstream.reply(lot.key, events(spelling).in_pieces(size))
    answer = gateway.chat(lot.model, stream=True)
    assert answer.status == 200
    assert answer.body == PLAIN
    assert gateway.record_of(answer.headers["x-request-id"])["end"] == "ok"


@pytest.mark.parametrize("name", ["crlf", "cr", "bom", "comments"])
def test_spelling_is_understood_across_reads(
    gateway: Gateway, upstream: Upstream, lot: Lot, name: str
) -> None:
    """Cut where the network cuts: a write, and a read, for every few bytes."""
    upstream.reply(lot.key, events(SPELLINGS[name]).in_pieces(5, gap_s=0.001))
    assert gateway.chat(lot.model, stream=True).body == PLAIN


FRAMINGS: dict[str, Callable[[Reply], Reply]] = {
    "length": lambda reply: replace(reply, framing="length"),
    "close": lambda reply: replace(reply, framing="close"),
    "one-byte-writes": lambda reply: reply.byte_by_byte(),
    "gzip": lambda reply: reply.in_pieces(50).compressed("gzip"),
    "deflate": lambda reply: reply.in_pieces(50).compressed("deflate"),
    "raw-deflate": lambda reply: reply.in_pieces(50).compressed("raw-deflate"),
}


@pytest.mark.parametrize("framed", FRAMINGS.values(), ids=FRAMINGS)
def test_framing_is_understood(
    gateway: Gateway, upstream: Upstream, lot: Lot, framed: Callable[[Reply], Reply]
) -> None:
    """Chunks, a length, the end of the connection; compressed though we asked for identity."""
    upstream.reply(lot.key, framed(events(PLAIN)))
    assert gateway.chat(lot.model, stream=True).body == PLAIN


def test_multi_line_data(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """An event of several `data:` lines leaves as one that means the same."""
    head, _, tail = PAYLOADS[-1].partition(b",")
    sent = b"data: %b,\ndata: %b\n\ndata: [DONE]\n\n" % (head, tail)
    upstream.reply(lot.key, events(sent))
    assert gateway.chat(lot.model, stream=True).body == sent


def test_event_of_a_megabyte(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """No line is too long."""
    text = "x" * 1_000_000
    upstream.reply(lot.key, stream(text, text).in_pieces(10_000))
    assert gateway.chat(lot.model, stream=True).text == text + text


def test_response_headers(gateway: Gateway, lot: Lot) -> None:
    """What keeps caches and proxies from holding events back; no length."""
    headers = gateway.chat(lot.model, stream=True).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["transfer-encoding"] == "chunked"
    assert "content-length" not in headers


def test_no_event_is_held_back(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """Each event reaches the caller while the upstream is silent behind it."""
    gates = [Gate() for _ in range(4)]
    steps: list[Json | Step | str] = []
    for number, gate in enumerate(gates):
        steps += [chunk({"content": str(number)}), Hold(gate)]
    upstream.reply(lot.key, events(*steps, chunk({}, finish="stop"), "[DONE]"))
    with gateway.open("POST", CHAT, asked(lot.model, stream=True)) as response:
        for number, gate in enumerate(gates):
            event = response.readline() + response.readline()
            assert json.loads(event[6:])["choices"][0]["delta"]["content"] == str(number)
            gate.set()
        assert response.read().endswith(b"data: [DONE]\n\n")


def test_whole_events_leave_at_once_and_halves_wait(
    gateway: Gateway, upstream: Upstream, lot: Lot
) -> None:
    """One read's whole events in one write; the rest when it is whole."""
    gate = Gate()
    first, second, third, last = (b"data: %b\n\n" % payload for payload in PAYLOADS)
    upstream.reply(lot.key, events(first + second + third[:20], Hold(gate), third[20:] + last))
    with gateway.open("POST", CHAT, asked(lot.model, stream=True)) as response:
        assert response.read1(100_000) == first + second
        gate.set()
        assert response.read() == third + last + b"data: [DONE]\n\n"


def test_first_event_comes_without_delay(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """From the upstream's first event to the caller's: a moment."""
    gate = Gate()
    upstream.reply(lot.key, events(chunk({"content": "a"}), Hold(gate), stream("b").body[-1]))
    with gateway.open("POST", CHAT, asked(lot.model, stream=True)) as response:
        assert response.readline().startswith(b"data: ")
        (received,) = upstream.received(lot.key)
        assert time.monotonic() - received.arrived < 1 + BUSY_S
        gate.set()


def test_stream_ends_with_done(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """After the upstream's `[DONE]` the caller does not wait for the end of its connection."""
    gate = Gate()
    upstream.reply(lot.key, stream("a").then(Hold(gate)))
    assert gateway.chat(lot.model, stream=True).data[-1] == b"[DONE]"
    gate.set()


@pytest.mark.parametrize("texts", [("a",), ("a", "b")])
def test_json_answer_becomes_a_stream(
    gateway: Gateway, upstream: Upstream, lot: Lot, texts: tuple[str, ...]
) -> None:
    """An upstream that cannot stream is heard all the same; its usage, if it was asked for."""
    upstream.reply(lot.key, chat(*texts), chat(*texts))
    asked = {"model": lot.model, "messages": MESSAGES, "stream": True}
    with gateway.sdk() as sdk:
        plain = list(sdk.chat.completions.create(**asked))
        asked["stream_options"] = {"include_usage": True}
        chunks = list(sdk.chat.completions.create(**asked))
    said = {choice.index: choice.delta.content for one in chunks for choice in one.choices}
    assert said == dict(enumerate(texts))
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == 12
    assert not any(one.usage for one in plain)


def test_json_answer_with_tool_calls_becomes_a_stream(
    gateway: Gateway, upstream: Upstream, lot: Lot
) -> None:
    """Each call gets its index."""
    upstream.reply(lot.key, tool_calls(("f", {"a": 1}), ("g", {})))
    data = gateway.chat(lot.model, stream=True).data
    calls = json.loads(data[0])["choices"][0]["delta"]["tool_calls"]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "f"), (1, "g")]
    assert data[-1] == b"[DONE]"


# Endings


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (error(400, "Too long.", code="context_length_exceeded"), 400),
        (events(error_object("Too long.", code=400)), 400),
        (events(b": hi\n\n", error_object("Too long.", code="400")), 400),
        (json_reply(error_object("Too long.", code=400)), 400),
    ],
)
def test_error_before_the_first_event_has_its_own_status(
    gateway: Gateway, upstream: Upstream, lot: Lot, reply: Reply, status: int
) -> None:
    """As JSON, not as a stream."""
    upstream.reply(lot.key, reply)
    answer = gateway.chat(lot.model, stream=True)
    assert answer.status == status
    assert answer.error["message"] == "Too long."


def cut(reply: Reply, how: Ending) -> Reply:
    """Without its end, in whatever framing."""
    return reply.then(how)


HALF = stream("one", "two", finish=None, done=False)

BROKEN: dict[str, tuple[Reply, str]] = {
    "ended-early": (HALF, "upstream_truncated"),
    "ended-early-close": (replace(HALF, framing="close"), "upstream_truncated"),
    "cut-between-chunks": (cut(HALF, CUT), "upstream_truncated"),
    "cut-in-an-event": (cut(HALF.then(b"data: {"), CUT), "upstream_truncated"),
    "reset": (cut(HALF, RESET), "upstream_reset"),
    "one-of-two-choices": (
        events(
            chunk({"content": "onetwo"}),
            chunk({"content": "b"}, index=1),
            chunk({}, index=1, finish="stop"),
        ),
        "upstream_truncated",
    ),
    "error-event": (
        events(*HALF.body, error_object("Overloaded.", code="overloaded")),
        "overloaded",
    ),
    "no-json": (events(*HALF.body, "<html>"), "upstream_invalid_response"),
    "broken-chunk": (
        raw(*HALF.then(CUT).wire()[:-1], b"zz\r\n"),
        "upstream_invalid_response",
    ),
    "gzip-cut": (HALF.compressed().then(CUT), "upstream_truncated"),
}


@pytest.mark.parametrize(("reply", "code"), BROKEN.values(), ids=BROKEN)
def test_failure_in_mid_stream_is_an_error_event(
    gateway: Gateway, upstream: Upstream, lot: Lot, reply: Reply, code: str
) -> None:
    """Nothing is tried again, no `[DONE]` follows: half an answer must not look whole."""
    upstream.reply(lot.key, reply)
    answer = gateway.chat(lot.model, stream=True)
    assert answer.status == 200
    *said, failure = answer.data
    texts = [json.loads(one)["choices"][0] for one in said]
    assert "".join(one["delta"].get("content", "") for one in texts if not one["index"]) == "onetwo"
    found = json.loads(failure)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert found["type"] == "upstream_error"
    assert found["code"] == code
    assert len(upstream.received(lot.key)) == 1
    assert gateway.record_of(answer.headers["x-request-id"])["end"] == code


@pytest.mark.parametrize("name", BROKEN)
def test_sdk_raises_on_a_failure_in_mid_stream(
    gateway: Gateway, upstream: Upstream, lot: Lot, name: str
) -> None:
    """Rather than return half an answer."""
    upstream.reply(lot.key, BROKEN[name][0])
    with gateway.sdk() as sdk:
        answer = sdk.chat.completions.create(model=lot.model, messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError) as raised:
            list(answer)
    assert raised.value.code == BROKEN[name][1]


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("usage", [None, (3, 4)])
def test_missing_done_is_added(
    gateway: Gateway, upstream: Upstream, lot: Lot, framing: Framing, usage: tuple[int, int] | None
) -> None:
    """Where every choice seen has its `finish_reason`, the answer is whole."""
    upstream.reply(lot.key, stream("a", done=False, usage=usage, framing=framing))
    answer = gateway.chat(lot.model, stream=True)
    assert answer.text == "a"
    assert answer.data[-1] == b"[DONE]"
    assert answer.data.count(b"[DONE]") == 1
    record = gateway.record_of(answer.headers["x-request-id"])
    assert record["end"] == "ok"
    assert record.get("completion_tokens") == (str(usage[1]) if usage else None)
