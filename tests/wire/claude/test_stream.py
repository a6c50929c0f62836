"""Streams and unary answers of Claude, as an OpenAI caller gets them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import msgspec
import pytest
from openai.lib.streaming._deltas import accumulate_delta
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.errors import UpstreamInvalid, UpstreamRefusal, UpstreamTruncated
from proxy.wire.chat import Usage, error_body
from proxy.wire.claude.answer import ChatStream, to_chat
from proxy.wire.claude.request import to_request
from tests.support import claude_upstream as claude
from tests.support.translators import ended, fed, relayed

Json = dict[str, Any]
USER = {"role": "user", "content": "Hi"}


def unary(answer: Json) -> Json:
    body = to_chat(json.dumps(answer).encode(), model="alias", created=1_763_000_000)
    ChatCompletion.model_validate_json(body, strict=True)
    chat: Json = json.loads(body)
    return chat


def new_stream(*, include_usage: bool = True) -> ChatStream:
    return ChatStream(model="alias", created=1_763_000_000, include_usage=include_usage)


def run(batches: Sequence[Sequence[bytes]], *, include_usage: bool = True) -> list[Json]:
    stream = new_stream(include_usage=include_usage)
    chunks = [chunk for batch in batches for chunk in fed(stream, list(batch))]
    chunks += ended(stream)
    assert stream.is_over
    for chunk in chunks:
        ChatCompletionChunk.model_validate_json(chunk, strict=True)
    return [json.loads(chunk) for chunk in chunks]


def join(chunks: Sequence[Json]) -> Json:
    """The unary answer that the chunks add up to, joined as the official SDK does."""
    head = chunks[0]
    message: dict[object, object] = {}
    finish_reason = usage = None
    for chunk in chunks:
        assert [chunk[key] for key in ("id", "created", "model")] == [
            head[key] for key in ("id", "created", "model")
        ]
        usage = chunk.get("usage")
        for choice in chunk["choices"]:
            accumulate_delta(message, deepcopy(choice["delta"]))
            finish_reason = choice["finish_reason"]
    for call in message.get("tool_calls", []):  # type: ignore[attr-defined]
        del call["index"]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}


def with_parsed_arguments(chat: Json) -> Json:
    """Spaces in arguments are the upstream's affair; a missing refusal and a null one are equal."""
    message = chat["choices"][0]["message"]
    message.setdefault("refusal", None)
    for call in message.get("tool_calls", ()):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return chat


@pytest.mark.parametrize("name", claude.ANSWERS)
@pytest.mark.parametrize("piece_chars", [1, 5, 1000])
def test_joined_chunks_equal_the_unary_answer(name: str, piece_chars: int) -> None:
    """Whole and one event at a time, a stream adds up to what a unary request gets."""
    answer = claude.ANSWERS[name]
    events = claude.data(claude.events(answer, piece_chars=piece_chars))
    expected = with_parsed_arguments(unary(answer))
    whole = run([events])
    assert with_parsed_arguments(join(whole)) == expected
    assert run([[event] for event in events]) == whole


@pytest.mark.parametrize("name", claude.ANSWERS)
def test_a_stream_cut_at_any_event_never_looks_whole(name: str) -> None:
    """Without its end there is no finish_reason, no usage chunk, and finish raises."""
    events = claude.data(claude.events(claude.ANSWERS[name]))
    for cut in range(len(events) - 1):  # the last but one tells why it ended
        stream = new_stream()
        chunks = [json.loads(chunk) for chunk in fed(stream, events[:cut])]
        with pytest.raises(UpstreamTruncated):
            ended(stream)
        assert not stream.is_over
        for chunk in chunks:
            assert chunk["usage"] is None
            assert chunk["choices"][0]["finish_reason"] is None


_PING = b'{"type":"ping"}'


@pytest.mark.parametrize("tail", [[], [_PING], [_PING, _PING], [b"[DONE]"], [_PING, b" [DONE]\n"]])
@pytest.mark.parametrize("name", claude.ANSWERS)
def test_stream_that_told_why_it_ended_is_whole(name: str, tail: list[bytes]) -> None:
    """With or without message_stop, pings or [DONE] behind it."""
    events = claude.data(claude.events(claude.ANSWERS[name]))
    whole = run([events])
    assert run([events[:-1] + tail]) == whole
    assert run([[event] for event in events[:-1] + tail]) == whole
    assert run([events + tail]) == whole


@pytest.mark.parametrize("end", [b"[DONE]", None])
def test_end_mark_does_not_make_a_cut_message_whole(end: bytes | None) -> None:
    """It has no stop_reason."""
    stream = new_stream()
    fed(stream, claude.data(claude.events(claude.ANSWERS["text"])[:-2]))
    with pytest.raises((UpstreamTruncated, UpstreamInvalid)):
        ended(stream) if end is None else fed(stream, [end])
    assert not stream.is_over


def test_later_events_do_not_erase_the_stop_reason() -> None:
    """Neither a message_delta without it nor one with null."""
    events = claude.events(claude.ANSWERS["cut by max_tokens"])
    for delta in ({}, {"stop_reason": None, "stop_details": None}, None):
        usage = {"output_tokens": 16}
        more = [{"type": "message_delta", "delta": delta, "usage": usage}]
        chat = join(run([claude.data([*events[:-1], *more, events[-1]])]))
        assert chat["choices"][0]["finish_reason"] == "length"
        assert chat["usage"]["completion_tokens"] == 16


def _with_id(message_id: str | None, answer: Json) -> list[Json]:
    return claude.events({**answer, "id": message_id})


def test_message_that_another_one_cuts_off_is_no_answer() -> None:
    """A second message_start with an id of its own; its chunks never join the first one's."""
    first = _with_id("msg_1", claude.ANSWERS["tool call"])
    for cut in range(3, len(first) - 1):
        events = claude.data([*first[:cut], *_with_id("msg_2", claude.ANSWERS["tool call"])])
        stream = new_stream()
        chunks: list[bytes] = []
        for event in events[:cut]:
            chunks += fed(stream, [event])
        with pytest.raises(UpstreamTruncated):
            fed(stream, events[cut:])
        assert all(json.loads(c)["choices"][0]["finish_reason"] is None for c in chunks)
        with pytest.raises(UpstreamTruncated):
            ended(stream)


@pytest.mark.parametrize("second", ["msg_1", "", None])
def test_message_start_that_comes_again_is_harmless(second: str | None) -> None:
    """Of the same message."""
    events = _with_id("msg_1", claude.ANSWERS["tool call"])
    again = _with_id(second, claude.ANSWERS["tool call"])[0]
    for place in (1, 4, len(events) - 1):
        repeated = [*events[:place], again, *events[place:]]
        assert join(run([claude.data(repeated)])) == join(run([claude.data(events)]))


@pytest.mark.parametrize("name", claude.ANSWERS)
def test_content_that_message_start_brings_is_kept(name: str) -> None:
    """Some look-alikes send all of it there, and only the end behind it."""
    answer = claude.ANSWERS[name]
    events = claude.events(answer)
    start = {"type": "message_start", "message": {**answer, "stop_reason": None}}
    expected = with_parsed_arguments(unary(answer))
    for tail in (events[-2:], events[-2:-1]):
        assert with_parsed_arguments(join(run([claude.data([start, *tail])]))) == expected
    ended = {"type": "message_start", "message": answer}
    assert with_parsed_arguments(join(run([claude.data([ended])]))) == expected


def test_content_of_message_start_stays_beside_later_blocks() -> None:
    """Calls keep their indexes."""
    call = claude.tool_use("toolu_1", "weather", {"city": "Paris"})
    both = claude.message(claude.text("Hm"), call, call, stop_reason="tool_use")
    events = claude.events(both)
    events[0]["message"]["content"] = both["content"][:2]
    rest = [event for event in events if event.get("index") in (None, 2)]
    joined = with_parsed_arguments(join(run([claude.data(rest)])))
    assert joined == with_parsed_arguments(unary(both))


_LOOK_ALIKES: dict[str, Json] = {
    "usage null": {"usage": None},
    "no usage": {"usage": ...},
    "content null": {"content": None},
    "content empty": {"content": []},
    "id null": {"id": None},
    "no id": {"id": ...},
    "stop_reason null": {"stop_reason": None},
    "no stop_reason": {"stop_reason": ...},
    "nulls in a block": {
        "content": [{"type": "text", "text": "hi", "citations": None, "id": None, "input": None}]
    },
    "text null": {"content": [{"type": "text", "text": None}]},
    "thinking without a signature": {
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": None},
            {"type": "text", "text": "hi"},
        ]
    },
    "call without input": {
        "content": [{"type": "tool_use", "id": None, "name": "f", "input": None}]
    },
    "usage of nulls": {"usage": {"input_tokens": None, "output_tokens_details": {}}},
}


@pytest.mark.parametrize("name", _LOOK_ALIKES)
def test_answer_of_a_look_alike_is_kept(name: str) -> None:
    """Null, or nothing, where Claude always has something; whole and streamed."""
    answer = {**claude.message(claude.text("hi")), **_LOOK_ALIKES[name]}
    answer = {key: value for key, value in answer.items() if value is not ...}
    chat = unary(answer)
    message = chat["choices"][0]["message"]
    calls = message.get("tool_calls")
    if calls:
        assert calls[0]["function"] == {"name": "f", "arguments": "{}"}
    else:
        assert message["content"] == ("" if "content" in name or "text null" in name else "hi")
    start = {"type": "message_start", "message": {**answer, "stop_reason": "end_turn"}}
    streamed = join(run([claude.data([start])]))
    assert streamed["choices"][0]["message"] == {
        key: value for key, value in message.items() if key != "refusal"
    }


@pytest.mark.parametrize(
    "delta",
    [
        {"type": "citations_delta"},
        {"type": "citations_delta", "citation": None},
        {"type": "citations_delta", "citation": {}},
        {"type": "citations_delta", "citation": {"url": None, "title": "t"}},
        {"type": "text_delta", "text": None},
        {"type": "signature_delta"},
        {"type": "input_json_delta", "partial_json": None},
        None,
    ],
)
def test_delta_without_its_content_says_nothing(delta: Json | None) -> None:
    """Malformed parts are no exceptions of Python's."""
    events = claude.events(claude.ANSWERS["text"])
    odd = {"type": "content_block_delta", "index": 0, "delta": delta}
    expected = join(run([claude.data(events)]))
    assert join(run([claude.data([*events[:4], odd, *events[4:]])])) == expected


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "text_delta", "text": 5},
        5,
        {"type": "input_json_delta", "partial_json": {}},
    ],
)
def test_delta_of_another_type_is_an_invalid_answer(odd: Any) -> None:
    """Ours, not Python's."""
    events = claude.events(claude.ANSWERS["text"])
    event = {"type": "content_block_delta", "index": 0, "delta": odd}
    with pytest.raises(UpstreamInvalid):
        run([[each] for each in claude.data([*events[:4], event])])


@pytest.mark.parametrize("piece_chars", [1, 7, 1000])
def test_names_come_back_as_the_callers_own(piece_chars: int) -> None:
    """Those of tools, however the arguments are cut; whole and streamed."""
    tools = [{"type": "function", "function": {"name": "files.read", "parameters": {}}}]
    asked = json.dumps({"messages": [USER], "tools": tools}).encode()
    [sent] = json.loads(to_request(asked, model="claude-opus-5", stream=True))["tools"]
    call = claude.tool_use("toolu_1", sent["name"], {"$filter": 1})
    answer = claude.message(call, claude.tool_use("toolu_2", "b", {}))
    body = to_chat(json.dumps(answer).encode(), model="m", created=1, request=asked)
    calls = json.loads(body)["choices"][0]["message"]["tool_calls"]
    stream = ChatStream(model="m", created=1, include_usage=True, request=asked)
    events = claude.data(claude.events(answer, piece_chars=piece_chars))
    chunks = [json.loads(chunk) for event in events for chunk in fed(stream, [event])]
    for found in (calls, join(chunks)["choices"][0]["message"]["tool_calls"]):
        assert [each["function"]["name"] for each in found] == ["files.read", "b"]
        assert json.loads(found[0]["function"]["arguments"]) == {"$filter": 1}


def test_arguments_that_were_cut_off_are_shown_as_they_came() -> None:
    """By max_tokens."""
    answer = claude.message(claude.tool_use("a", "f", {"x": "xyz"}), stop_reason="max_tokens")
    events = claude.events(answer, piece_chars=3)
    del events[-5]
    stream = ChatStream(model="m", created=1, include_usage=False)
    chat = join([json.loads(chunk) for chunk in fed(stream, claude.data(events))])
    [call] = chat["choices"][0]["message"]["tool_calls"]
    assert call["function"]["arguments"].startswith('{"')
    assert chat["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("event", "status", "message"),
    [
        (b'{"error":{"message":"m","code":429}}', 429, "m"),
        (b'{"error":{"type":"overloaded_error","message":"m"}}', 529, "m"),
        (b'{"error":"m"}', 500, "m"),
        (b'{"type":"error","error":"m"}', 500, "m"),
        (b'{"type":"error"}', 500, "the upstream answered with status 500"),
        (b'{"type":"error","error":null}', 500, "the upstream answered with status 500"),
        (b'{"type":"error","error":{"message":null}}', 500, "the upstream answered"),
        (b'{"type":"error","error":{"message":"m","code":503,"type":null}}', 500, "m"),
    ],
)
def test_error_of_a_look_alike_is_an_error(event: bytes, status: int, message: str) -> None:
    """In an event, and sent as a success."""
    with pytest.raises(UpstreamRefusal, match=message) as caught:
        fed(new_stream(), [event])
    assert caught.value.status == status
    assert fed(new_stream(), [b'{"type":"ping","error":null}']) == []
    if b'"error":' in event:
        with pytest.raises(UpstreamRefusal) as hidden:
            to_chat(event, model="m", created=1)
        assert hidden.value.status == status


@pytest.mark.parametrize("name", claude.ANSWERS)
def test_role_comes_first_and_once_and_usage_only_if_asked_for(name: str) -> None:
    """`role` is in the first chunk only; the usage chunk is the last one, exactly on request."""
    events = claude.data(claude.events(claude.ANSWERS[name]))
    chunks = run([events], include_usage=False)
    assert [choice["delta"].get("role") for chunk in chunks for choice in chunk["choices"]] == [
        "assistant",
        *[None] * (len(chunks) - 1),
    ]
    assert not any("usage" in chunk for chunk in chunks)
    asked = run([events])
    assert [chunk["choices"] for chunk in asked[:-1]] == [chunk["choices"] for chunk in chunks]
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("name", claude.ANSWERS)
def test_chunks_have_openais_members(name: str, include_usage: bool) -> None:
    """The last ones too, as programs compare them; null where there is nothing to say."""
    usage = {"usage"} if include_usage else set()
    for chunk in run(
        [claude.data(claude.events(claude.ANSWERS[name]))], include_usage=include_usage
    ):
        assert chunk.keys() == {"id", "object", "created", "model", "choices"} | usage
        assert chunk["object"] == "chat.completion.chunk"
        for choice in chunk["choices"]:
            assert choice.keys() == {"index", "delta", "logprobs", "finish_reason"}
            assert (choice["index"], choice["logprobs"]) == (0, None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("text", "stop"),
        ("stop sequence", "stop"),
        ("paused", "stop"),
        ("cut by max_tokens", "length"),
        ("context window", "length"),
        ("tool call", "tool_calls"),
        ("refused", "content_filter"),
        ("refused midway", "content_filter"),
    ],
)
def test_finish_reason_of_every_stop_reason(name: str, reason: str) -> None:
    """Each reason of Claude's has one of OpenAI's."""
    assert unary(claude.ANSWERS[name])["choices"][0]["finish_reason"] == reason


def test_refusal_is_told() -> None:
    """The explanation, or what category it was, stands in `refusal`."""
    assert unary(claude.ANSWERS["refused"])["choices"][0]["message"]["refusal"] == "Not this."
    message = unary(claude.ANSWERS["refused midway"])["choices"][0]["message"]
    assert message["content"] == "First, you"
    assert "(cyber)" in message["refusal"]


def test_usage_counts_cached_tokens_as_prompt_tokens() -> None:
    """Claude counts cache reads and writes apart, OpenAI within the prompt."""
    answer = claude.message(claude.text("x"), cache_read=100, cache_creation=7, thinking_tokens=3)
    expected = {
        "prompt_tokens": 132,
        "completion_tokens": 15,
        "total_tokens": 147,
        "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 7},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert unary(answer)["usage"] == expected
    stream = new_stream(include_usage=False)
    fed(stream, claude.data(claude.events(answer)))
    assert stream.usage == Usage(
        132, 15, cached_tokens=100, cache_write_tokens=7, reasoning_tokens=3
    )


def test_usage_of_a_cut_stream_is_what_is_known() -> None:
    """The request log has the input tokens though the stream broke."""
    stream = new_stream(include_usage=False)
    fed(stream, claude.data(claude.events(claude.ANSWERS["text"]))[:4])
    assert stream.usage == Usage(25, 1, 0, 0)


def test_tool_calls_have_stable_indexes_and_own_ids() -> None:
    """Two parallel calls: index 0 and 1, the id once each, arguments that join to JSON."""
    answer = claude.ANSWERS["parallel calls with thinking between"]
    chunks = run([claude.data(claude.events(answer, piece_chars=3))])
    deltas = [
        call
        for chunk in chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    for index, block in enumerate(answer["content"][2::2]):
        mine = [call for call in deltas if call["index"] == index]
        assert [call["id"].split("__")[0] for call in mine if "id" in call] == [block["id"]]
        arguments = "".join(call["function"]["arguments"] for call in mine)
        assert json.loads(arguments) == block["input"]


@pytest.mark.parametrize("kind", ["server_tool_use", "mcp_tool_use"])
def test_input_of_a_server_side_tool_is_no_callers_call(kind: str) -> None:
    """What Claude's own servers carry out stays out, and no arguments of it join the caller's."""
    block = claude.tool_use("srvtoolu_1", "web_search", {"query": "x"})
    call = claude.tool_use("toolu_1", "get_time", {"zone": "UTC"})
    answer = claude.message({**block, "type": kind}, call, stop_reason="tool_use")
    events = claude.events(answer, piece_chars=5)
    assert any(event.get("delta", {}).get("type") == "input_json_delta" for event in events[:4])
    joined = with_parsed_arguments(join(run([claude.data(events)])))
    assert joined == with_parsed_arguments(unary(answer))
    assert len(joined["choices"][0]["message"]["tool_calls"]) == 1


def test_unknown_events_blocks_and_deltas_are_read_over() -> None:
    """The API may add types within a version."""
    events = claude.events(claude.ANSWERS["text"])
    events[2:2] = [
        {"type": "something_new", "x": 1},
        {"type": "content_block_start", "index": 9, "content_block": {"type": "new", "text": "?"}},
        {"type": "content_block_delta", "index": 9, "delta": {"type": "new_delta", "text": "?"}},
        {"type": "content_block_stop", "index": 9},
    ]
    assert join(run([claude.data(events)])) == join(
        run([claude.data(claude.events(claude.ANSWERS["text"]))])
    )


@pytest.mark.parametrize("later", [{}, {"delta": {}}, {"delta": {"stop_reason": None}}])
def test_later_message_delta_does_not_erase_the_stop_reason(later: Json) -> None:
    """Some look-alikes send one more, for the usage only."""
    events = claude.events(claude.ANSWERS["text"])
    expected = join(run([claude.data(events)]))
    assert expected["choices"][0]["finish_reason"]
    events.insert(-1, {"type": "message_delta", **later})
    assert join(run([claude.data(events)])) == expected


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("overloaded_error", 529, "overloaded_error"),
        ("rate_limit_error", 429, "rate_limit_exceeded"),
        ("api_error", 500, "api_error"),
        ("authentication_error", 401, "invalid_api_key"),
        ("not_found_error", 404, "model_not_found"),
        ("billing_error", 402, "insufficient_quota"),
        ("timeout_error", 504, "timeout_error"),
        ("unheard_of", 500, "unheard_of"),
    ],
)
def test_error_event_raises_with_the_status_of_its_type(kind: str, status: int, code: str) -> None:
    """An error in a stream, or sent as a success, is the refusal that it would have been."""
    stream = new_stream()
    events = claude.events(claude.ANSWERS["text"])[:2]
    with pytest.raises(UpstreamRefusal, match="Sorry") as caught:
        fed(stream, claude.data([*events, claude.error(kind, "Sorry")]))
    assert (caught.value.status, caught.value.upstream_code) == (status, code)
    assert json.loads(error_body(caught.value))["error"]["code"] == code
    with pytest.raises(UpstreamRefusal, match="Sorry") as hidden:
        to_chat(json.dumps(claude.error(kind, "Sorry")).encode(), model="m", created=0)
    assert (hidden.value.status, error_body(hidden.value)) == (status, error_body(caught.value))


def test_error_after_chunks_of_the_same_batch_is_raised_next() -> None:
    """What came before an error is not lost."""
    events = claude.events(claude.ANSWERS["text"])[:5]
    batch = [*events, claude.error("overloaded_error", "Overloaded")]
    relay = relayed(new_stream(), claude.data(batch))
    assert len(relay.read(0.0) or ()) == 2
    for _ in range(2):
        with pytest.raises(UpstreamRefusal):
            relay.read(0.0)


@pytest.mark.parametrize(
    "bad", [b"", b"{", b"[]", b'{"type":1}', b"\xff", b"[" * 100_000, b'{"type":"ping"}x']
)
def test_unreadable_event_is_an_invalid_answer(bad: bytes) -> None:
    """Garbage among the events names itself."""
    with pytest.raises(UpstreamInvalid):
        fed(new_stream(), [bad])


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"null",
        b'{"type":"completion","id":"x","content":[],"usage":{}}',
        b'{"type":"message","id":"x","usage":{}}',
        b'{"type":"message","id":"x","content":[5]}',
        b'{"type":"message","id":"x","content":{}}',
        b"\xff",
        b'{"type":"message","id":"m","usage":{},"content":[{"type":"tool_use","input":{"\xff":1}}]}',
        b"[" * 100_000,
    ],
)
def test_answer_that_is_no_message_is_invalid(bad: bytes) -> None:
    """A 2xx that is something else counts as a broken upstream."""
    with pytest.raises(UpstreamInvalid):
        to_chat(bad, model="m", created=0)


def test_nothing_goes_out_before_there_is_content() -> None:
    """message_start and ping alone don't commit an answer: another client can still be asked."""
    events = claude.data(claude.events(claude.ANSWERS["text"]))
    stream = new_stream()
    assert fed(stream, events[:3]) == []
    assert len(fed(stream, events[3:4])) == 1


def test_events_after_the_end_are_ignored() -> None:
    """message_stop ends it."""
    stream = new_stream()
    fed(stream, claude.data(claude.events(claude.ANSWERS["text"])))
    assert fed(stream, [b"rubbish"]) == []
    assert ended(stream) == []


def test_arguments_given_whole_at_the_start_of_a_block_are_kept() -> None:
    """Some servers of this dialect send no input_json_delta."""
    events = claude.events(claude.ANSWERS["call without arguments"])
    events[2]["content_block"]["input"] = {"zone": "UTC"}
    del events[3]
    joined = join(run([claude.data(events)]))
    call = joined["choices"][0]["message"]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"zone": "UTC"}


def test_head_of_a_chunk_is_valid_json_whatever_the_model_is_called() -> None:
    """Chunks are put together from prepared bytes."""
    stream = ChatStream(model='a"\\é\n', created=0, include_usage=False)
    (chunk,) = fed(stream, claude.data(claude.events(claude.message(claude.text("ä")))))[:1]
    assert msgspec.json.decode(chunk)["model"] == 'a"\\é\n'
