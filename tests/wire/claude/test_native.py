"""Claude's stream on its way to a caller who speaks the same: bytes pass, and are watched."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from proxy.errors import UpstreamError, UpstreamInvalid, UpstreamRefusal, UpstreamTruncated
from proxy.wire.chat import Usage
from proxy.wire.claude.native import MessageEvents, read_answer
from proxy.wire.native import MAX_HELD
from proxy.wire.sse import SseDecoder, encode_named
from tests.support import claude_upstream as claude
from tests.support.translators import ended, fed

WHOLE = claude.events(claude.message(claude.text("Hello there"), cache_read=4))
TOLD = Usage(29, 15, 4, 0, 0)
PING = claude.sse([{"type": "ping"}])[0]


def passed(pieces: Iterable[bytes], *, ends: bool = True) -> tuple[bytes, MessageEvents]:
    """What leaves of a stream that comes in these pieces, and who watched it."""
    decoder, stream = SseDecoder(max_event_bytes=1 << 20), MessageEvents()
    written = b""
    for piece in pieces:
        for event in decoder.feed(piece):
            if not stream.is_over:
                written += encode_named(fed(stream, [event]))
    if ends:
        written += encode_named(ended(stream))
    return written, stream


@pytest.mark.parametrize("name", claude.ANSWERS)
def test_whole_stream_passes_byte_for_byte(name: str) -> None:
    """However it is cut, events with their names, unknown ones and unknown fields too."""
    events = [*claude.events(claude.ANSWERS[name])]
    events.insert(2, {"type": "odd_event", "x": [1.50, "é"]})
    events[0]["odd"] = {"big": 12345678901234567890}
    stream = b"".join(claude.sse(events))
    assert passed([stream])[0] == stream
    assert passed(stream[at : at + 1] for at in range(len(stream)))[0] == stream
    for cut in range(0, len(stream), 7):
        assert passed([stream[:cut], stream[cut:]])[0] == stream


def test_framing_is_our_own() -> None:
    """Comments, `id:`, `retry:` and other line ends stay behind; nothing follows the end."""
    events = claude.sse(WHOLE)
    odd = b": hi\n\nretry: 5\n\n" + b"".join(
        b"id: 7\r\n" + event.replace(b"\n", b"\r\n") for event in events
    )
    written, stream = passed([odd + PING + events[0]])
    assert written == b"".join(events)
    assert stream.is_over


def test_nothing_passes_before_the_answer_begins() -> None:
    """So that an early error still lets another client try; pings before it count for nothing."""
    start, ping, *rest = claude.sse(WHOLE)
    assert passed([ping, start, ping], ends=False)[0] == b""
    assert passed([ping, start, ping, rest[0]], ends=False)[0] == start + ping + rest[0]
    error = claude.error("overloaded_error", "Not now.")
    with pytest.raises(UpstreamRefusal, match=r"Not now\.") as caught:
        passed([start, ping, *claude.sse([error])])
    assert (caught.value.status, json.loads(caught.value.as_sent or b"")) == (529, error)


def test_pings_without_end_are_not_kept() -> None:
    """What is held back has a limit."""
    start, ping, *_ = claude.sse(WHOLE)
    assert passed([start, *[ping] * (MAX_HELD + 5)], ends=False)[0].startswith(start + ping)


def test_missing_last_event_is_added() -> None:
    """Where a stop_reason was told; with pings or OpenAI's end mark behind it, too."""
    *events, stop = claude.sse(WHOLE)
    stop = stop.replace(b": ", b":").replace(b"event:", b"event: ").replace(b"data:", b"data: ")
    for tail in (b"", b"data: [DONE]\n\n", b"data: [DONE]"):
        written, _ = passed([b"".join(events) + tail])
        assert written == b"".join(events) + stop
    assert passed([*events, PING])[0] == b"".join(events) + PING + stop


@pytest.mark.parametrize("kept", range(len(WHOLE) - 2))
def test_what_is_cut_off_is_not_whole(kept: int) -> None:
    """Before the stop_reason, wherever."""
    with pytest.raises(UpstreamTruncated):
        passed(claude.sse(WHOLE)[:kept])


def test_another_message_cuts_the_first_off() -> None:
    """One of the same id is harmless."""
    events = claude.sse(WHOLE)
    again: dict[str, Any] = {"type": "message_start", "message": {"id": "msg_2"}}
    with pytest.raises(UpstreamTruncated):
        passed([*events[:4], *claude.sse([again])])
    assert passed([*events[:4], events[0], *events[4:]])[0] == b"".join(
        [*events[:4], events[0], *events[4:]]
    )


def test_event_without_a_name_gets_its_own() -> None:
    """Which is in its data; SDKs know events by their names alone."""
    nameless = [event.partition(b"\n")[2] for event in claude.sse(WHOLE)]
    assert passed(nameless)[0] == b"".join(claude.sse(WHOLE))
    odd = b'data: {"type":"a\\nb"}\n\n'
    assert b"event: a b\n" in passed([nameless[0], odd], ends=False)[0]
    assert passed([b'data: {"x":1}\n\n'], ends=False)[0] == b'data: {"x":1}\n\n'


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (b"data: rubbish\n\n", UpstreamInvalid),
        (b'data: {"error":{"message":"no"}}\n\n', UpstreamRefusal),
        (b'data: {"type":"error","error":{"message":"no"}}\n\n', UpstreamRefusal),
        (b"event: error\ndata: no\n\n", UpstreamRefusal),
        (b"data: [DONE]\n\n", UpstreamTruncated),
    ],
)
def test_what_look_alikes_send(event: bytes, kind: type[UpstreamError]) -> None:
    """Errors in other shapes, and what is no event."""
    with pytest.raises(kind):
        passed([event])
    with pytest.raises(kind):
        passed([*claude.sse(WHOLE)[:4], event])


def test_usage_is_of_the_named_events() -> None:
    """Cached tokens are of the prompt; counts are cumulative; odd ones are read over."""
    assert passed(claude.sse(WHOLE))[1].usage == TOLD
    odd = claude.sse([{"type": "message_delta", "usage": {"output_tokens": "x"}}])
    assert passed([*claude.sse(WHOLE)[:4], *odd], ends=False)[1].usage == replace(
        TOLD, completion_tokens=1, reasoning_tokens=None
    )


def test_whole_answers_are_checked() -> None:
    """They pass as they are, if they are what they should be."""
    read_count = partial(read_answer, is_count=True)
    assert read_answer(json.dumps(claude.message(cache_read=4)).encode()) == TOLD
    read_count(b'{"input_tokens":7}')
    for read in (read_answer, read_count):
        for body in (b"", b"[]", b"{}", b'{"type":"x"}', b'{"type":"message","x":"\xff"}'):
            with pytest.raises(UpstreamInvalid):
                read(body)
        with pytest.raises(UpstreamRefusal) as caught:
            read(json.dumps(claude.error("rate_limit_error", "Slow.")).encode())
        assert caught.value.status == 429
