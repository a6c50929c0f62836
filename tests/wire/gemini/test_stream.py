"""Gemini's event stream as chat chunks: whole, event by event, cut, broken."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from proxy.errors import ProxyError, UpstreamInvalid, UpstreamRefusal, UpstreamTruncated
from proxy.wire.chat import Usage
from tests.support import gemini_upstream as upstream
from tests.support.translators import ended, fed, relayed
from tests.wire.gemini.chat import chat_of, chunks_of, join, new_stream, validated

NAMES = list(upstream.STREAMS)


@pytest.mark.parametrize("name", NAMES)
def test_joined_chunks_equal_the_unary_answer(name: str) -> None:
    """The same answer, whichever way it was asked for."""
    events = upstream.STREAMS[name]
    chunks = chunks_of([upstream.payloads(events)])
    assert join(chunks) == chat_of(upstream.unary(upstream.joined(events)))


@pytest.mark.parametrize("name", NAMES)
def test_chunks_do_not_depend_on_the_batches(name: str) -> None:
    """Events come alone, all at once or with empty reads between them: the chunks are the same."""
    payloads = upstream.payloads(upstream.STREAMS[name])
    alone = [[payload] for payload in payloads]
    with_gaps: list[list[bytes]] = [batch for payload in payloads for batch in ([], [payload])]
    assert chunks_of([payloads]) == chunks_of(alone) == chunks_of(with_gaps)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_whole_is_held_back(name: str) -> None:
    """What an event says leaves with it: finish reason, signature and usage wait for the end."""
    stream = new_stream()
    validated(fed(stream, upstream.payloads(upstream.STREAMS[name])))
    for chunk in validated(ended(stream)):
        for choice in chunk["choices"]:
            assert choice["delta"].keys() <= {"extra_content", "content"}
            assert choice["delta"].get("content", "") == ""


@pytest.mark.parametrize("name", NAMES)
def test_cut_stream_never_looks_whole(name: str) -> None:
    """Cut at any event border before the finishReasons: truncated, and no finish_reason left."""
    payloads = upstream.payloads(upstream.STREAMS[name])
    for border in range(len(payloads)):
        stream = new_stream()
        chunks = validated(fed(stream, payloads[:border]))
        assert all(c["finish_reason"] is None for chunk in chunks for c in chunk["choices"])
        if name == "usage after the end" and border == len(payloads) - 1:
            assert ended(stream)
            continue
        with pytest.raises(UpstreamTruncated):
            ended(stream)


@pytest.mark.parametrize("name", NAMES)
def test_chunks_are_shaped_like_openai(name: str) -> None:
    """One id; the role once per choice, first; one finish_reason per choice, last; usage last."""
    chunks = chunks_of([upstream.payloads(upstream.STREAMS[name])])
    assert {chunk["id"] for chunk in chunks} == {upstream.RESPONSE_ID}
    assert [chunk["choices"] == [] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk["usage"] is not None for chunk in chunks][:-1] == [False] * (len(chunks) - 1)
    pieces: dict[int, list[dict[str, Any]]] = {}
    for chunk in chunks:
        for piece in chunk["choices"]:
            pieces.setdefault(piece["index"], []).append(piece)
    for mine in pieces.values():
        assert ["role" in p["delta"] for p in mine] == [True] + [False] * (len(mine) - 1)
        ends = [p["finish_reason"] is not None for p in mine]
        assert ends == [False] * (len(mine) - 1) + [True]


@pytest.mark.parametrize("name", NAMES)
def test_official_sdk_joins_the_chunks(name: str) -> None:
    """Its own helper for streams makes the unary answer of them."""
    state = ChatCompletionStreamState()
    for chunk in chunks_of([[payload] for payload in upstream.payloads(upstream.STREAMS[name])]):
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    made = state.current_completion_snapshot.to_dict()
    unary = chat_of(upstream.unary(upstream.joined(upstream.STREAMS[name])))
    choices: Any = made["choices"]
    for choice, expected in zip(choices, unary["choices"], strict=True):
        joined = choice["message"]
        for field in ("content", "reasoning_content", "images", "extra_content", "refusal"):
            assert joined.get(field) == expected["message"].get(field)
        for field in ("tool_calls", "annotations"):
            entries = [
                {k: v for k, v in e.items() if k != "index"} for e in joined.get(field) or ()
            ]
            for entry in entries:
                entry.get("function", {}).pop("parsed_arguments", None)
            assert entries == expected["message"].get(field, [])
        assert choice["finish_reason"] == expected["finish_reason"]
    assert made["usage"] == unary["usage"]


def calls_of(name: str) -> list[tuple[str, str]]:
    chunks = chunks_of([[payload] for payload in upstream.payloads(upstream.STREAMS[name])])
    made = join(chunks)["choices"][0]
    assert made["finish_reason"] == "tool_calls"
    functions = [call["function"] for call in made["message"]["tool_calls"]]
    return [(function["name"], function["arguments"]) for function in functions]


def test_calls_that_come_in_parts_are_joined() -> None:
    """Values by their paths, text at the same path together; in the order in which they began."""
    assert calls_of("a call in parts") == [
        ("light", '{"brightness":50,"color":"warm"}'),
        ("other", "{}"),
    ]
    assert calls_of("calls in parts that alternate") == [
        ("a", '{"x":"12"}'),
        ("b", '{"y":[{"z":null},false]}'),
    ]
    assert calls_of("a name before its arguments") == [("a", '{"x":42}')]
    assert calls_of("names alone") == [("a", "{}"), ("b", "{}")]
    assert calls_of("a call that Gemini did not expect") == [("weather", '{"city":"Bonn"}')]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$.a", '{"a":true}'),
        ("$['a b'][0][0]", '{"a b":[[true]]}'),
        ('$["it\'s"].x', '{"it\'s":{"x":true}}'),
        ("$['it\\'s']", '{"it\'s":true}'),
        ("$.$filter.ü-1", '{"$filter":{"ü-1":true}}'),
    ],
)
def test_paths_of_arguments(path: str, expected: str) -> None:
    """Names in dots and in brackets, places in lists; beside arguments that came whole."""
    parts = [
        upstream.part_of_call(
            last=True, name="f", partialArgs=[upstream.partial(path, boolValue=True)]
        )
    ]
    event = upstream.answer([upstream.candidate(parts)])
    (call,) = chat_of(upstream.unary(event))["choices"][0]["message"]["tool_calls"]
    assert call["function"]["arguments"] == expected


def test_call_that_never_says_its_end_ends_with_the_answer() -> None:
    """As in recorded streams: the last part says `willContinue` and the candidate STOP."""
    piece = upstream.partial("$.x", stringValue="a", last=False)
    events = [
        upstream.answer([upstream.candidate([upstream.part_of_call(name="f")], finish=None)]),
        upstream.answer([upstream.candidate([upstream.part_of_call(partialArgs=[piece])])]),
    ]
    made = join(chunks_of([upstream.payloads(events)]))["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["arguments"] for call in made] == ['{"x":"a"}']


def test_name_alone_is_a_call_once_another_begins() -> None:
    """It leaves with the event that shows it, not at the end."""
    stream = new_stream()
    found = []
    for name in ("a", "b"):
        part = {"functionCall": {"name": name}}
        event = upstream.answer([upstream.candidate([part], finish=None)])
        chunks = validated(fed(stream, [upstream.payload(event)]))
        found.append(
            [
                c["function"]["name"]
                for one in chunks
                for choice in one["choices"]
                for c in choice["delta"].get("tool_calls", ())
            ]
        )
    assert found == [[], ["a"]]


def test_arguments_that_come_whole_in_several_parts() -> None:
    """They are one object; a part of null says nothing."""
    parts = [
        upstream.part_of_call(name="f", args={"x": 1, "y": 1}),
        upstream.part_of_call(args=None),
        upstream.part_of_call(args={"y": 2, "z": 3}, last=True),
    ]
    event = upstream.answer([upstream.candidate(parts)])
    (call,) = chat_of(upstream.unary(event))["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"x": 1, "y": 2, "z": 3}


@pytest.mark.parametrize("empty", ["", None])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_empty_id_is_none(empty: str | None, at: int) -> None:
    """Look-alikes send one with each part, or tell the call's with one of them only."""
    pieces = [upstream.partial("$.x", numberValue=1)]
    first, second, third = ["1" if place == at else empty for place in range(3)]
    parts = [
        upstream.part_of_call(name="f", id=first),
        upstream.part_of_call(id=second),
        upstream.part_of_call(id=third, last=True, partialArgs=pieces),
    ]
    event = upstream.answer([upstream.candidate(parts)])
    (call,) = chat_of(upstream.unary(event))["choices"][0]["message"]["tool_calls"]
    assert (call["id"], call["function"]["arguments"]) == ("1", '{"x":1}')


@pytest.mark.parametrize(
    "parts",
    [
        [{"functionCall": {"args": {"x": 1}}}],
        [{"functionCall": {"partialArgs": [upstream.partial("$.x", numberValue=1)]}}],
        *(
            [upstream.part_of_call(name="f", partialArgs=[upstream.partial(path, numberValue=1)])]
            for path in ("", "x", "$", "$[0]", "$..x", "$.x[9]", "$.x[*]", "$.x[", "$.x['a]")
        ),
        [
            upstream.part_of_call(name="f", args={"x": 1}),
            upstream.part_of_call(partialArgs=[upstream.partial("$.x.y", numberValue=1)]),
        ],
        [
            upstream.part_of_call(name="f", args={"x": 1}),
            upstream.part_of_call(partialArgs=[upstream.partial("$.x", stringValue="1")]),
        ],
        [upstream.part_of_call(name="f"), upstream.part_of_call(args=[1])],
    ],
)
def test_arguments_without_a_place_are_invalid(parts: list[Any]) -> None:
    """Another attempt, never half a call."""
    event = upstream.answer([upstream.candidate(parts)])
    with pytest.raises(UpstreamInvalid):
        chat_of(upstream.unary(event))


def test_usage_chunk_only_if_asked_for() -> None:
    """Without `include_usage` no chunk has a usage, but the log still knows it."""
    events = upstream.STREAMS["thoughts"]
    stream = new_stream(include_usage=False)
    assert stream.usage is None
    payloads = fed(stream, upstream.payloads(events)) + ended(stream)
    assert all("usage" not in chunk and chunk["choices"] for chunk in validated(payloads))
    assert stream.usage == Usage(24, 43, cached_tokens=12, reasoning_tokens=40)


def test_usage_is_known_before_the_end() -> None:
    """A caller that leaves early is logged with what was counted by then."""
    stream = new_stream()
    fed(stream, upstream.payloads(upstream.STREAMS["words"][:2]))
    assert stream.usage == Usage(11, 2)


def test_end_needs_every_candidate() -> None:
    """There is no end marker: whole once all candidates seen have a finishReason."""
    payloads = upstream.payloads(upstream.STREAMS["two candidates"])
    stream = new_stream()
    for payload in payloads:
        with pytest.raises(UpstreamTruncated):
            ended(stream)
        fed(stream, [payload])
    assert ended(stream)


def test_finish_reason_in_every_event_does_not_end_the_answer() -> None:
    """Old models and look-alikes say STOP each time: one finish_reason, after all the text."""
    events = [upstream.answer([upstream.candidate([upstream.text(word)])]) for word in "abc"]
    chunks = chunks_of([upstream.payloads(events)])
    assert join(chunks)["choices"][0]["message"]["content"] == "abc"
    assert [c["finish_reason"] for chunk in chunks for c in chunk["choices"]][-2:] == [None, "stop"]


@pytest.mark.parametrize("done", [b"[DONE]", b"[DONE] ", b" [DONE]\t"])
def test_openai_end_marker_is_skipped(done: bytes) -> None:
    """A look-alike's `[DONE]` is no event, whatever white space is around it."""
    payloads = upstream.payloads(upstream.STREAMS["one event"])
    assert chunks_of([[*payloads, done, b""]]) == chunks_of([payloads])


def test_reply_id_stands_in_for_a_missing_response_id() -> None:
    """The id is the gateway's own when Gemini gives none."""
    event = {k: v for k, v in upstream.STREAMS["one event"][0].items() if k != "responseId"}
    assert chunks_of([upstream.payloads([event])])[0]["id"].startswith("chatcmpl-")


def test_error_as_first_event_is_raised_at_once() -> None:
    """Nothing was made yet: the attempt can move to another client."""
    with pytest.raises(UpstreamRefusal) as caught:
        fed(new_stream(), [upstream.payload(upstream.out_of_quota("1.5s"))])
    assert (caught.value.status, caught.value.retry_after_s) == (429, 1.5)
    assert caught.value.upstream_code == "rate_limit_exceeded"


def test_error_after_text_is_raised_after_the_text() -> None:
    """The chunks of the same read still leave; the stream then never ends clean."""
    text = upstream.payload(upstream.STREAMS["words"][0])
    relay = relayed(new_stream(), [text, upstream.payload(upstream.overloaded()), text])
    assert len(relay.read(0.0) or ()) == 1
    for _ in range(2):
        with pytest.raises(UpstreamRefusal) as caught:
            relay.read(0.0)
        assert caught.value.status == 503


@pytest.mark.parametrize("payload", [b"{", b"[1]", b"7", b'{"candidates":7}', b"\xff", b"[" * 9999])
def test_what_is_no_event_is_invalid(payload: bytes) -> None:
    """Never a JSON error of the parser's own."""
    with pytest.raises(UpstreamInvalid):
        fed(new_stream(), [payload])


def test_error_in_an_array_is_found() -> None:
    """The streaming method wraps errors in an array."""
    with pytest.raises(UpstreamRefusal):
        fed(new_stream(), [b"[" + upstream.payload(upstream.overloaded()) + b"]"])


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"])
def test_failed_model_is_no_clean_end(reason: str) -> None:
    """The call that the model wanted is lost: another attempt, or an error event."""
    event = upstream.answer([upstream.candidate([], finish=reason, finishMessage="call: f(")])
    with pytest.raises(UpstreamInvalid, match=reason):
        fed(new_stream(), [upstream.payload(event)])


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """An event of the cases with one value somewhere replaced, or with bytes cut or flipped."""
    event = draw(st.sampled_from([e for events in upstream.STREAMS.values() for e in events]))
    body = bytearray(upstream.payload(event))
    if draw(st.booleans()):
        place = draw(st.integers(0, len(body) - 1))
        body[place : place + draw(st.integers(0, 9))] = draw(st.binary(max_size=3))
        return bytes(body)
    return upstream.payload(_replace(event, draw))


def _replace(value: Any, draw: st.DrawFn) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: _replace(value[key], draw)}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        return [_replace(value[0], draw), *value[1:]]
    return draw(_json)


@given(st.lists(_mutated() | st.binary(max_size=20), max_size=4))
def test_broken_events_raise_only_our_errors(payloads: list[bytes]) -> None:
    """Whatever an upstream sends, chunks are valid and failures are of the proxy's tree."""
    stream = new_stream()
    with suppress(ProxyError):
        validated(fed(stream, payloads))
        validated(ended(stream))


@given(_mutated() | st.binary(max_size=20))
def test_broken_answers_raise_only_our_errors(body: bytes) -> None:
    """The same for unary answers."""
    with suppress(ProxyError):
        chat_of(body)
