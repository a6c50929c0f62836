"""OpenAI's answers: what is read of them, errors hidden in them, and the end of a stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import (
    InvalidRequest,
    NoClientFree,
    ProxyError,
    UpstreamAuthentication,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRefusal,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamTruncated,
)
from proxy.wire.chat import (
    ChunkStream,
    Usage,
    choices_asked,
    chunks_of,
    error_body,
    error_event,
    read_answer,
    read_error,
    read_named_error,
    read_object,
)
from proxy.wire.chat.reply import MAX_CODE_CHARS, MAX_QUOTED_CHARS, embeddings
from proxy.wire.chat.stream import MAX_HELD_BYTES
from proxy.wire.lenient_json import encode
from tests.support import cases
from tests.support.translators import ended, fed
from tests.support.upstream import chat, chunk, tool_calls

ANSWER = chat("Hi").wire_bytes().partition(b"\r\n\r\n")[2]


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


def test_answer_tells_its_usage() -> None:
    """Where it has any that makes sense."""
    assert read_answer(ANSWER) == Usage(9, 3, cached_tokens=0, reasoning_tokens=0)
    assert read_answer(b'{"choices":[{}],"usage":{"prompt_tokens":1}}') == Usage(1, None)
    for odd in (b"null", b"5", b'{"prompt_tokens":"many"}', b'{"prompt_tokens":1e999}'):
        assert read_answer(b'{"choices":[{}],"usage":%b}' % odd) is None
    assert read_answer(b'{"choices":[{}]}') is None


NO_ANSWERS = [
    b"{}",
    b'{"id":"","choices":null,"base_resp":{"status_code":1002,"status_msg":"rate limit"}}',
    b'{"id":null,"choices":null,"created":1,"model":null,"object":null,"usage":null}',
    b'{"choices": [ ],"usage":{"prompt_tokens":1}}',
    b'{"choices":{"0":{}}}',
    b'{"choices":[null]}',
    b'{"choices":["stop"]}',
    b'{"choices":"[{}]"}',
    b'{"object":"text_completion","choices":[]}',
]


@pytest.mark.parametrize("body", NO_ANSWERS)
def test_success_without_a_choice_is_no_answer(body: bytes) -> None:
    """Unary, as a stream of one body, and as an event of a stream: like 502."""
    for read in (read_answer, chunks_of):
        with pytest.raises(UpstreamInvalid, match="has no choices"):
            read(body)
    found = ChunkStream()
    assert fed(found, [body]) == []
    with pytest.raises(UpstreamInvalid, match="has no choices"):
        fed(found, [b"[DONE]"])
    with pytest.raises(UpstreamTruncated):
        ended(found)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"[]", b"null", b"1", ANSWER[:-1], ANSWER + b"x", b'{"a":NaN}',
        b'{"a":"\xff"}', b'{"a":' + b"[" * 100_000, b'{"choices":[{"x":"\n"}]}',
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_no_answer(body: bytes) -> None:
    """Whole or cut; like 502."""
    with pytest.raises(UpstreamInvalid):
        read_answer(body)


HIDDEN: dict[str, tuple[bytes, int, str | None]] = {
    "openrouter": (b'{"error":{"code":429,"message":"Rate limited"},"user_id":"u"}', 429, "429"),
    "status as text": (b'{"error":{"code":"503","message":"m"}}', 503, "503"),
    "groq": (
        b'{"error":{"message":"m","type":"invalid_request_error","code":"model_not_found"}}',
        502,
        "model_not_found",
    ),
    "text": (b'{"error":"boom"}', 502, None),
    "list": (b'{"error":["boom"]}', 502, None),
    "true": (b'{"error":true}', 502, None),
    "no status": (b'{"error":{"code":200,"message":"m"}}', 502, "200"),
    "boolean code": (b'{"error":{"code":true,"message":"m"}}', 502, "True"),
    "float code": (b'{"error":{"code":429.0,"message":"m"}}', 502, "429.0"),
    "wide digits": ('{"error":{"code":"４２９","message":"m"}}'.encode(), 502, "４２９"),
    "long code": (b'{"error":{"code":"' + b"4" * 5000 + b'"}}', 502, "4" * MAX_CODE_CHARS),
    "null choices": (b'{"choices":null,"error":{"code":500}}', 500, "500"),
    "no choices": (b'{"choices": [ ],"error":{"code":500}}', 500, "500"),
    "surrogate": (rb'{"error":{"code":400,"message":"\ud83d"}}', 400, "400"),
}
# Error objects without an envelope: vLLM's, FastChat's.
BARE: dict[str, tuple[bytes, int]] = {
    "vllm": (b'{"object":"error","message":"m","type":"BadRequestError","code":400}', 400),
    "fastchat": (b'{"object":"error","message":"m","code":50001}', 502),
    "spaced": (b'{"choices": [], "object" : "error", "message": "m", "code": "429"}', 429),
    "mute": (b'{"object":"error"}', 502),
}


@pytest.mark.parametrize("name", BARE)
def test_object_that_is_called_an_error_is_one(name: str) -> None:
    """In an answer and in an event, first or later; it leaves in the envelope."""
    body, status = BARE[name]
    later = ChunkStream()
    fed(later, [b'{"choices":[{"index":0}]}'])
    for read in (
        read_answer, chunks_of, lambda event: fed(ChunkStream(), [event]),
        lambda event: fed(later, [event]),
    ):  # fmt: skip
        with pytest.raises(UpstreamRefusal) as caught:
            read(body)
        assert caught.value.status == status
        assert json.loads(error_body(caught.value)) == {"error": json.loads(body)}


def test_what_only_mentions_an_error_is_none() -> None:
    """The word in a text, a name or another field."""
    for event in (
        b'{"choices":[{"index":0,"delta":{"content":"error"}}],"object":"error"}',
        b'{"object":"chat.completion.chunk","x":"error","choices":[]}',
        b'{"object":["error"]}',
    ):
        fed(ChunkStream(), [event])


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"", 502, "the upstream answered 502 without a body"),
        (b"overloaded", 502, "overloaded"),
        (b'"overloaded"', 502, '"overloaded"'),
        (b'{"message":"m","code":429}', 429, "m"),
        (b'[{"error":{"message":"m"}}]', 502, "m"),
        (b'{"detail":"m"}', 502, "the upstream answered 502"),
    ],
)
def test_event_named_error_is_one_whatever_its_data(data: bytes, status: int, message: str) -> None:
    """With the status that it tells, else like 502."""
    found = read_named_error(data)
    assert (found.status, found.message) == (status, message)
    assert isinstance(json.loads(error_body(found))["error"], dict)


@pytest.mark.parametrize("name", HIDDEN)
def test_error_hidden_in_a_success_is_found(name: str) -> None:
    """In an answer and in an event; the error goes on as it came, or wrapped."""
    body, status, code = HIDDEN[name]
    for read in (read_answer, chunks_of, lambda event: fed(ChunkStream(), [event])):
        with pytest.raises(UpstreamRefusal) as caught:
            read(body)
        assert (caught.value.status, caught.value.upstream_code) == (status, code)
        told = json.loads(error_body(caught.value))["error"]
        asked = json.loads(body)["error"]
        assert told == asked if isinstance(asked, dict) else isinstance(told["message"], str)


@pytest.mark.parametrize("odd", [b'"usage":7', b'"choices":[{"index":"0"}]', b'"x_groq":[]'])
def test_error_in_an_odd_event_is_found(odd: bytes) -> None:
    """A field of another type than OpenAI's beside it hides no error."""
    with pytest.raises(UpstreamRefusal) as caught:
        fed(ChunkStream(), [b'{%b,"error":{"code":429,"message":"m"}}' % odd])
    assert (caught.value.status, caught.value.message) == (429, "m")


def test_error_with_an_endless_number_is_found() -> None:
    """It cannot be read, but it is there."""
    for number in (b"1e999", b"9" * 5000):
        with pytest.raises(UpstreamRefusal) as caught:
            read_answer(b'{"error":{"code":%b}}' % number)
        assert caught.value.status == 502


@pytest.mark.parametrize("error", [b"null", b"{}", b'""', b"false", b"0", b"[]"])
def test_no_error_is_no_error(error: bytes) -> None:
    """Some always send the field."""
    body = b'{"error":%b,"choices":[{"index":0,"finish_reason":"stop"}]}' % error
    read_answer(body)
    with pytest.raises(UpstreamInvalid, match="has no choices"):
        read_answer(b'{"error":%b}' % error)
    assert fed(ChunkStream(), [body]) == [body]


def test_answer_with_choices_is_an_answer() -> None:
    """Whatever else it says."""
    read_answer(b'{"choices":[{}],"error":{"code":500}}')


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the upstream answered 500 without a body"),
        (b"  \n", "the upstream answered 500 without a body"),
        (b"<html>Bad Gateway</html>", "<html>Bad Gateway</html>"),
        (b'{"error":"boom"}', "boom"),
        (b'{"error":""}', "the upstream answered 500 without a body"),
        (b'{"detail":"Not Found"}', '{"detail":"Not Found"}'),
        (b'["a"]', '["a"]'),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (rb'{"error":"\ud83d!"}', "\ufffd!"),
        (b"x" * 10_000, "x" * MAX_QUOTED_CHARS),
        (b'{"error":"' + b"x" * 10_000 + b'"}', "x" * MAX_QUOTED_CHARS),
        (b"[" * 3000, "[" * MAX_QUOTED_CHARS),
    ],
)
def test_error_without_an_error_object_is_wrapped(body: bytes, message: str) -> None:
    """Its text, bounded, is the message."""
    found = read_error(500, body)
    assert json.loads(error_body(found)) == {
        "error": {"message": message, "type": "upstream_error", "param": None, "code": None}
    }


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error":{"message":"m","code":"c"}}', "m", "c"),
        (b'{"error":{"message":"m","code":7}}', "m", "7"),
        (b'{"error":{"message":null}}', "the upstream answered 418", None),
        (b'{"error":{}}', "the upstream answered 418", None),
        (rb'{"error":{"message":"a\ud83d","code":"\ude00"}}', "a\ufffd", "\ufffd"),
        (b'{"error":{"message":{"a":1}}}', "{'a': 1}", None),
    ],
)
def test_error_object_is_forwarded_as_it_came(body: bytes, message: str, code: str | None) -> None:
    """Byte for byte."""
    found = read_error(418, body)
    assert (found.message, found.upstream_code, found.status) == (message, code, 418)
    assert error_body(found) == body
    assert found.retry_after_s is None


def _quota(delay: object, **more: object) -> dict[str, object]:
    details = [{"@type": "type.googleapis.com/google.rpc.Help"}, 5, {"retryDelay": delay}]
    return {"error": {"code": 429, "message": "Quota exceeded", "details": details, **more}}


@pytest.mark.parametrize(
    ("body", "asked_s"),
    [
        (_quota("27s"), 27),
        ([_quota("27s")], 27),
        (_quota("3.5s"), 3.5),
        (_quota("0s"), 0),
        (_quota(27), None),
        (_quota("soon"), None),
        (_quota("-1s"), None),
        (_quota("9999999999s"), None),
        (_quota("27s", details={"retryDelay": "27s"}), None),
        ({"object": "error", "message": "Quota exceeded", "details": [{"retryDelay": "1s"}]}, 1),
        ([_quota("27s"), _quota("27s")], None),
    ],
)
def test_wait_that_an_error_asks_for_in_its_body(body: object, asked_s: float | None) -> None:
    """google.rpc.RetryInfo; a list of one error is that error."""
    found = read_error(429, dump(body))
    assert found.retry_after_s == asked_s
    told = json.loads(error_body(found))["error"]
    if isinstance(body, dict) or len(body) == 1:  # type: ignore[arg-type]
        assert told["message"] == "Quota exceeded"
    for read in (read_answer, lambda event: fed(ChunkStream(), [event])):
        with pytest.raises(UpstreamError) as caught:
            read(dump(body))
        if isinstance(body, dict):
            assert isinstance(caught.value, UpstreamRefusal)
            assert caught.value.retry_after_s == asked_s


def test_list_of_one_error_sent_as_a_success() -> None:
    """It keeps its status and its wait."""
    with pytest.raises(UpstreamRefusal) as caught:
        read_answer(dump([_quota("27s")]))
    assert (caught.value.status, caught.value.retry_after_s) == (429, 27)
    for body in (b"[]", b"[{}]", b"[1]", b'[{"error":null}]', b"["):
        with pytest.raises(UpstreamInvalid):
            read_answer(body)


def test_what_is_no_object_is_an_empty_one() -> None:
    """For those who read what may be there."""
    for body in (b"", b"[1]", b"{", b"\xff", b'{"a":' * 100_000, b'{"a":1e999}'):
        assert read_object(body) == {}
    assert read_object(b'{"a":1}') == {"a": 1}


LONE = [rb'{"choices":[{"index":0,"delta":{"content":"\ud83d"}}]}', rb'{"x":"\ude00","choices":[]}']
ODD: list[bytes] = [
    b'{"choices":null}',
    b'{"choices":{}}',
    b'{"choices":[null,5,"x"]}',
    b'{"choices":[{"index":null,"finish_reason":null}]}',
    b'{"choices":[{"index":"0"}]}',
    b'{"usage":{"prompt_tokens":"many"},"choices":[]}',
    b'{"usage":5}',
    b'{"type":"ping"}',
    b"{}",
    b'{"x":1e999}',
    b' {"choices" : [ ] } ',
]


@pytest.mark.parametrize("event", [*LONE, *ODD])
def test_chunk_passes_as_it_came(event: bytes) -> None:
    """Also halves of characters, and types that are not OpenAI's."""
    found = ChunkStream()
    opening = dump(chunk({"content": "a"}))
    assert fed(found, [opening, event, event]) == [opening, event, event]
    assert fed(found, [event]) == [event]
    with pytest.raises(UpstreamTruncated):
        ended(found)


def test_choice_without_an_index_is_the_first() -> None:
    """Whichever of its chunks leaves it out."""
    found = ChunkStream()
    fed(found, [dump(chunk({"content": "a"})), b'{"choices":[{"finish_reason":"stop"}]}'])
    assert ended(found) == []


def test_chunks_before_the_first_choice_wait_for_it() -> None:
    """Azure's filter results: in order, and not lost; up to a bound."""
    before = [b'{"choices":[],"prompt_filter_results":[%d]}' % at for at in range(3)]
    opening = dump(chunk({"content": "a"}))
    found = ChunkStream()
    assert fed(found, before[:2]) == fed(found, before[2:]) == []
    assert fed(found, [opening]) == [*before, opening]
    assert fed(found, before) == before
    large = [b'{"x":"%b"}' % (b"x" * MAX_HELD_BYTES)]
    bounded = ChunkStream()
    fed(bounded, before)
    assert fed(bounded, large) == before + large
    assert fed(bounded, before) == before
    with pytest.raises(UpstreamInvalid, match="has no choices"):
        fed(bounded, [b"[DONE]"])


@pytest.mark.parametrize("event", [b"x", b"[1]", b"null", b'"a"', b"{", b"{}x", b'{"a":' * 100_000])
def test_event_that_is_no_object_is_invalid(event: bytes) -> None:
    """An SDK would choke on it."""
    with pytest.raises(UpstreamInvalid):
        fed(ChunkStream(), [event])


@pytest.mark.parametrize("done", [b"[DONE]", b"[DONE] ", b" [DONE]\t", b"[DONE]\n"])
def test_white_space_around_the_end_mark_is_nothing(done: bytes) -> None:
    """SDKs take it for the end as well."""
    found = ChunkStream()
    event = dump(chunk({"content": "a"}))
    assert fed(found, [event, done, b"rubbish"]) == [event]
    assert found.is_over


def finished(*choices: tuple[object, object]) -> ChunkStream:
    found = ChunkStream()
    for index, reason in choices:
        fed(found, [dump({"choices": [{"index": index, "delta": {}, "finish_reason": reason}]})])
    return found


@pytest.mark.parametrize(
    ("choices", "done"),
    [
        ([], False),
        ([(0, None)], False),
        ([(0, "")], False),
        ([(0, None), (0, "stop")], True),
        ([(0, "stop"), (1, None)], False),
        ([(0, "stop"), (1, "length")], True),
        ([(0, "stop"), (0, None)], True),
        ([(None, "stop")], True),
        ([(0, 5)], True),
        ([("a", "stop")], True),
        ([(0, None), ("a", "stop")], True),
        ([(0, None), (None, "stop")], True),
        ([(3, "tool_calls")], True),
    ],
)
def test_stream_is_done_when_every_choice_has_finished(
    choices: list[tuple[object, object]], done: bool
) -> None:
    """Else its end without [DONE] is a cut."""
    found = finished(*choices)
    if done:
        assert ended(found) == []
    else:
        with pytest.raises(UpstreamTruncated):
            ended(found)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b"{}", 1),
        (b'{"n":null}', 1),
        (b'{"n":3}', 3),
        (b'{"n":0}', 1),
        (b'{"n":-1}', 1),
        (b'{"n":1}', 1),
        (b'{"n":"3"}', 1),
        (b'{"n":2,"prompt":"p"}', 2),
        (b'{"n":2,"prompt":["p","q"]}', 4),
        (b'{"prompt":[1,2,3]}', 1),
        (b'{"prompt":[[1,2],[3]]}', 2),
        (b'{"prompt":[]}', 1),
        (b'{"n":1e999}', 1),
        (b"[]", 1),
    ],
)
def test_choices_that_were_asked_for(body: bytes, asked: int) -> None:
    """`n` for each prompt."""
    assert choices_asked(body) == asked


def test_stream_without_done_lacks_no_choice_that_was_asked_for() -> None:
    """One finished of two is half an answer; with [DONE] it is the upstream's own word."""
    first = dump({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    second = dump({"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]})
    found = ChunkStream(lambda: 2)
    fed(found, [first])
    with pytest.raises(UpstreamTruncated):
        ended(found)
    fed(found, [second])
    assert ended(found) == []
    marked = ChunkStream(lambda: 2)
    fed(marked, [first, b"[DONE]"])
    assert marked.is_over


@pytest.mark.parametrize(("finish", "bare"), [(None, 1), ("", 1), ("stop", 0)])
def test_end_mark_without_a_finish_reason_is_whole_and_told(finish: str | None, bare: int) -> None:
    """The upstream's own word."""
    told: list[None] = []
    found = ChunkStream(on_bare_end=lambda: told.append(None))
    event = dump({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": finish}]})
    assert fed(found, [event, b"[DONE]"]) == [event]
    assert found.is_over
    assert len(told) == bare


def test_stream_tells_its_usage() -> None:
    """The last that came."""
    found = ChunkStream()
    fed(found, [dump(chunk({}, usage=None)), b'{"usage":{"prompt_tokens":1}}'])
    fed(found, [b'{"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3}}'])
    fed(found, [b'{"usage":"x"}'])
    assert found.usage == Usage(2, 3)


def test_answer_becomes_a_stream() -> None:
    """The message whole in one chunk, the usage in the last."""
    first, last = map(json.loads, chunks_of(ANSWER))
    answer = json.loads(ANSWER)
    assert first["object"] == last["object"] == "chat.completion.chunk"
    assert (first["id"], first["model"]) == (answer["id"], answer["model"])
    [choice] = first["choices"]
    assert choice["delta"] == answer["choices"][0]["message"]
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert "usage" not in first
    assert (last["choices"], last["usage"]) == ([], answer["usage"])
    stream = ChunkStream()
    fed(stream, chunks_of(ANSWER))
    assert ended(stream) == []


def test_choice_of_a_stream_has_a_delta_in_place_of_its_message() -> None:
    """Its other fields stay; a finish_reason is there, and an index."""
    choices = [{"message": {"content": "a"}, "x": 1}, {"index": 5, "finish_reason": "length"}, 7]
    (event,) = chunks_of(dump({"id": "i", "choices": choices, "usage": None}))
    assert json.loads(event) == {
        "id": "i",
        "object": "chat.completion.chunk",
        "choices": [
            {"index": 0, "x": 1, "delta": {"content": "a"}, "finish_reason": "stop"},
            {"index": 5, "delta": {}, "finish_reason": "length"},
        ],
    }


def test_tool_calls_get_their_index() -> None:
    """As streams have it; one that is there stays."""
    body = tool_calls(("f", {"a": 1}), ("g", {})).wire_bytes().partition(b"\r\n\r\n")[2]
    calls = json.loads(chunks_of(body)[0])["choices"][0]["delta"]["tool_calls"]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "f"), (1, "g")]


def test_malformed_calls_are_left_out_of_a_stream() -> None:
    """What is no object among them, or in their place."""
    for calls in (b'[5,null,{"id":"a"},"x"]', b"5", b'{"a":1}', b"null", b'"x"'):
        body = b'{"choices":[{"message":{"content":"a","tool_calls":%b}}]}' % calls
        delta = json.loads(chunks_of(body)[0])["choices"][0]["delta"]
        if calls.startswith(b"["):
            assert delta["tool_calls"] == [{"index": 2, "id": "a"}]
        assert delta["content"] == "a"
    for message in (b"5", b"null", b"[]"):
        [first] = chunks_of(b'{"choices":[{"message":%b}]}' % message)
        assert json.loads(first)["choices"][0]["delta"] == {}
    [first] = chunks_of(b'{"choices":[{"message":{"content":"a"}},5,null]}')
    assert len(json.loads(first)["choices"]) == 1


def test_surrogates_survive_the_change_to_a_stream() -> None:
    """As the escapes that they were."""
    [first] = chunks_of(rb'{"choices":[{"message":{"content":"\ud83d x \ud83d\ude00"}},{}]}')
    assert rb'"\ud83d x \ud83d\ude00"' in first
    assert [choice["index"] for choice in json.loads(first)["choices"]] == [0, 1]


@pytest.mark.parametrize(
    "choices", [b"null", b"[]", b"5", b"{}", b'"x"', b"[null]", b"[5]", b'{"a":{}}', b"true"]
)
def test_answer_without_choices_is_no_stream(choices: bytes) -> None:
    """Whatever is in their place."""
    with pytest.raises(UpstreamInvalid):
        chunks_of(b'{"choices":%b}' % choices)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "index", "finish_reason", "error", "code", "message", "usage"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON.map(dump) | st.binary(max_size=30))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """As an answer, an event, an error: nothing but our errors is raised."""
    reads: list[Callable[[bytes], object]] = [
        read_answer, chunks_of, lambda event: fed(ChunkStream(), [event]),
    ]  # fmt: skip
    for read in reads:
        try:
            read(body)
        except UpstreamError as error:
            json.loads(error_body(error))
    told = json.loads(error_body(read_error(500, body)))
    assert isinstance(told["error"], dict)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        *[(UpstreamRefusal("m", status=code), "overloaded") for code in (429, 503, 529)],
        *[(UpstreamRefusal("m", status=code), "timeout") for code in (408, 504)],
        *[(UpstreamRefusal("m", status=code), "server error") for code in (500, 502, 599)],
        *[(UpstreamRefusal("m", status=code), None) for code in (400, 401, 404, 499)],
        (UpstreamRefusal("m", status=400, upstream_code="overloaded_error"), "overloaded"),
        (UpstreamTimeout("m"), "timeout"),
        (NoClientFree("m"), "overloaded"),
        (UpstreamTruncated("m"), "connection error"),
        (UpstreamInvalid("m"), "connection error"),
        (UpstreamTooLarge("m"), None),
        (UpstreamAuthentication("m"), None),
        (InvalidRequest("m"), None),
    ],
)
def test_error_event_says_whether_to_try_again(error: ProxyError, fault: str | None) -> None:
    """There is no status any more: agents look for these words in the message."""
    message = json.loads(error_event(error, code=None))["error"]["message"]
    assert message == (f"upstream {fault}: m" if fault else "m")


def test_error_event_makes_sdks_raise() -> None:
    """`error` an object, `message` a string."""
    event = error_event(UpstreamTruncated("cut"), code="502")
    message = "upstream connection error: cut"
    assert json.loads(event) == {
        "error": {"message": message, "type": "upstream_error", "param": None, "code": "502"}
    }
    assert encode({"a": 1}) == b'{"a":1}'


@pytest.mark.parametrize(
    "make_body",
    [
        lambda size: b'{"error":{"message":"' + rb"\ud83d" * (size // 6) + b'"}}',
        lambda size: b'{"choices":[' + b'{"index":1},' * (size // 12) + b"{}]}",
        lambda size: b'{"choices":[' + b'{"index":null},' * (size // 15) + b"{}]}",
        lambda size: b"[" * min(size, 100_000),
        lambda size: b"\xff" * size,
    ],
)
def test_time_is_linear(make_body: Callable[[int], bytes]) -> None:
    """Whatever the upstream sends."""

    def make(size: int) -> Callable[[], object]:
        body = make_body(size)

        def work() -> None:
            read_error(500, body)
            try:
                fed(ChunkStream(), [body])
                chunks_of(body)
            except UpstreamError:
                pass

        return work

    cases.assert_linear(make, 30_000)


def test_embeddings_tell_the_tokens_of_their_prompts() -> None:
    """Zero where they are not known, as OpenAI always tells some."""
    for tokens, told in ((7, 7), (None, 0)):
        made = json.loads(embeddings([[0.5], "AAAA"], "m", tokens))
        assert made["usage"] == {"prompt_tokens": told, "total_tokens": told}
        assert [(each["index"], each["embedding"]) for each in made["data"]] == [
            (0, [0.5]),
            (1, "AAAA"),
        ]
