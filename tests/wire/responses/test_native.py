"""Responses on their way to a caller who speaks the same: bytes pass, and are watched."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest

from proxy.errors import UpstreamInvalid, UpstreamRefusal, UpstreamTruncated
from proxy.wire.chat import Usage
from proxy.wire.reasoning import pack
from proxy.wire.responses.native import (
    ResponseEvents,
    events_of,
    read_response,
    without_reasoning,
)
from proxy.wire.sse import SseDecoder, encode_named, named
from tests.support.dialects import Call, Said
from tests.support.responses_upstream import NATIVE
from tests.support.translators import ended, fed

Json = dict[str, Any]

SAID = Said("Hello there", "Hm", (Call("a", "f", {"x": 1}),), "tool_calls")
WHOLE = [step for step in NATIVE.streamed(SAID).body if isinstance(step, bytes)]
FAILED = {"code": "rate_limit_exceeded", "message": "Slow down."}


def passed(pieces: Iterable[bytes], *, ends: bool = True) -> tuple[bytes, ResponseEvents]:
    """What leaves of a stream that comes in these pieces, and who watched it."""
    decoder, stream = SseDecoder(max_event_bytes=1 << 20), ResponseEvents()
    written = b""
    for piece in pieces:
        for event in decoder.feed(piece):
            if not stream.is_over:
                written += encode_named(fed(stream, [event]))
    if ends:
        written += encode_named(ended(stream))
    return written, stream


def event(name: str, **members: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (
        name.encode(),
        json.dumps({"type": name, **members}).encode(),
    )


def test_whole_stream_passes_byte_for_byte() -> None:
    """Cut at every byte, with events and fields of tomorrow in it."""
    stream = b"".join(WHOLE)
    assert b"tomorrow" in stream
    assert passed([stream])[0] == stream
    assert passed(stream[at : at + 1] for at in range(len(stream)))[0] == stream
    for cut in range(len(stream)):
        assert passed([stream[:cut], stream[cut:]])[0] == stream


def test_nothing_follows_the_end() -> None:
    """Neither OpenAI's end mark nor events; comments and the like stay behind."""
    written, stream = passed([b": hi\n\n", *WHOLE, b"data: [DONE]\n\n", WHOLE[2]])
    assert written == b"".join(WHOLE)
    assert stream.is_over
    assert stream.usage == Usage(11, 7, 0, 0, 0)


def test_usage_of_an_answer_that_was_cut() -> None:
    """Its last event has another name."""
    cut = NATIVE.streamed(Said("Once upon a", finish="length")).body
    written, stream = passed([step for step in cut if isinstance(step, bytes)])
    assert b"response.incomplete" in written
    assert stream.usage == Usage(11, 7, 0, 0, 0)


def test_tokens_of_caches_and_thoughts_are_told_apart() -> None:
    """In streams and whole answers, and where an answer fails in the end."""
    counts = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 1},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 3},
    }
    told = {"object": "response", "usage": counts}
    assert read_response(json.dumps(told).encode()) == Usage(9, 4, 5, 1, 3)
    for last in ("completed", "incomplete", "failed"):
        stream = ResponseEvents()
        data = json.dumps({"type": f"response.{last}", "response": {**told, "error": FAILED}})
        with suppress(UpstreamRefusal):
            fed(stream, [named(data.encode(), f"response.{last}".encode())])
        assert stream.usage == Usage(9, 4, 5, 1, 3), last


@pytest.mark.parametrize("kept", range(len(WHOLE) - 1))
def test_what_is_cut_off_is_not_whole(kept: int) -> None:
    """Wherever; nothing passes before the answer itself begins."""
    with pytest.raises(UpstreamTruncated):
        passed(WHOLE[:kept])
    if kept < 3:
        assert passed(WHOLE[:kept], ends=False)[0] == b""


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (event("error", code="server_error", message="No.", sequence_number=2), 502),
        (event("error", code="429", message="No.", sequence_number=2), 429),
        (event("error", error={"code": "rate_limit_exceeded", "message": "No."}), 429),
        (event("response.failed", response={"error": FAILED}), 429),
        (event("response.failed", response={"error": {**FAILED, "code": "invalid_prompt"}}), 400),
        (event("response.failed", response={"error": None}), 502),
        (b'data: {"error":{"message":"No."}}\n\n', 502),
    ],
)
def test_failures_are_raised(failure: bytes, status: int) -> None:
    """Before the answer and in it, with the event's own bytes."""
    for before in (WHOLE[:2], WHOLE[:6]):
        with pytest.raises(UpstreamRefusal) as caught:
            passed([*before, failure])
        assert caught.value.status == status
        sent = caught.value.as_sent
        assert sent is None or sent in failure


def test_whole_answers_are_checked() -> None:
    """They pass as they are, if they are what they should be."""
    assert read_response(NATIVE.whole(SAID).content()) == Usage(11, 7, 0, 0, 0)
    assert read_response(b'{"object":"response","usage":null}') is None
    for body in (b"", b"[]", b"{}", b'{"object":"x"}', b'{"object":"response","x":"\xff"}'):
        with pytest.raises(UpstreamInvalid):
            read_response(body)
    for told in ({"error": FAILED}, {"object": "response", "status": "failed", "error": FAILED}):
        with pytest.raises(UpstreamRefusal) as caught:
            read_response(json.dumps(told).encode())
        assert (caught.value.status, caught.value.message) == (429, "Slow down.")


def test_whole_answer_as_a_stream() -> None:
    """Of an upstream that does not stream: what programs need of one."""
    body = NATIVE.whole(SAID).content()
    told = [json.loads(each) for each in events_of(body)]
    names = [each["type"].removeprefix("response.") for each in told]
    items = ["output_item.added", "output_item.done"] * 3
    assert names == ["created", *items, "completed"]
    assert told[-1]["response"] == json.loads(body)
    assert [each["sequence_number"] for each in told] == list(range(8))


def reasoning(packed: str | None) -> Json:
    return {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": packed}


def body_of(*items: Any) -> bytes:
    return json.dumps({"model": "m", "x": 1.50, "input": [*items]}).encode()


def test_containers_of_ours_are_left_out() -> None:
    """And nothing else; without any the bytes are the same."""
    ours, theirs = reasoning(pack("claude", b"{}")), reasoning("gAAAA")
    said = {"role": "user", "content": "Hi", "x": 2.50}
    plain = body_of(said, theirs, 5)
    assert without_reasoning(plain, every=False) is plain
    assert json.loads(without_reasoning(body_of(ours, said, theirs, 5), every=False)) == json.loads(
        plain
    )
    quoted = body_of({"role": "user", "content": "cG9vbHByb3h5 reasoning"})
    assert without_reasoning(quoted, every=False) is quoted
    odd = b'{"input":"cG9vbHByb3h5"}'
    assert without_reasoning(odd, every=False) is odd


def test_reasoning_is_left_out_whole() -> None:
    """If there is any."""
    said = {"role": "user", "content": "Hi"}
    assert without_reasoning(plain := body_of(said), every=True) is plain
    assert without_reasoning(plain := b'{"input":"Hi"}', every=True) is plain
    left = without_reasoning(body_of(reasoning("x"), said, reasoning(None)), every=True)
    assert left is not None
    assert json.loads(left) == json.loads(body_of(said))


def test_lone_surrogates_pass() -> None:
    """As the escapes that they came in."""
    said = rb'{"role":"user","content":"\ud83d"}'
    ours = json.dumps(reasoning(pack("gemini", b"{}"))).encode()
    assert (
        without_reasoning(b'{"input":[%b,%b]}' % (said, ours), every=False)
        == b'{"input":[%b]}' % said
    )
