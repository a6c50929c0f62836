"""Chat answers as legacy completions: in the SDK's own shape, unary and streamed."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion as SdkCompletion

from proxy.errors import CallerError, ProxyError, UpstreamInvalid
from proxy.wire.chat import chunks_of
from proxy.wire.completions import TextAnswers
from tests.support.upstream import Json, chunk
from tests.wire.completions.requests import JSON, REQUESTS, asked, objects, read


def answers(**fields: Any) -> TextAnswers:
    return TextAnswers(read(asked(**{"prompt": "p", **fields})))


def chat_answer(*texts: str | None, **more: Any) -> bytes:
    choices = [
        {"index": at, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for at, text in enumerate(texts)
    ]
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "up"}
    return json.dumps({**head, "choices": choices, **more}).encode()


def strictly(body: bytes) -> Json:
    """The object, which fits the SDK's type; a stream's choices have no finish before the end."""
    found: Json = json.loads(body)
    typed = json.loads(body)
    for choice in typed["choices"]:
        assert choice.keys() == {"text", "index", "logprobs", "finish_reason"}
        assert choice["finish_reason"] != ""
        choice["finish_reason"] = choice["finish_reason"] or "stop"
    SdkCompletion.model_validate(typed, strict=True)
    return found


TOKENS = [("Hé", -0.5), (" 😀", -1.25)]
CHAT_LOGPROBS = {
    "content": [
        {
            "token": token, "logprob": logprob, "bytes": [1],
            "top_logprobs": [{"token": token, "logprob": logprob, "bytes": None},
                             {"token": "x", "logprob": -9.0, "bytes": None}],
        }
        for token, logprob in TOKENS
    ],
    "refusal": None,
}  # fmt: skip
LEGACY_LOGPROBS = {
    "tokens": ["Hé", " 😀"],
    "token_logprobs": [-0.5, -1.25],
    "top_logprobs": [{"Hé": -0.5, "x": -9.0}, {" 😀": -1.25, "x": -9.0}],
    "text_offset": [0, 2],
}


def test_unary_answer() -> None:
    """Every field of it, in the SDK's type."""
    made = answers(n=2)
    made.add(chat_answer("a", None, system_fingerprint="fp", usage=usage(1, 2)), 0)
    assert strictly(made.whole()) == {
        "id": "chatcmpl-1",
        "created": 5,
        "model": "up",
        "system_fingerprint": "fp",
        "object": "text_completion",
        "choices": [
            {"text": "a", "index": 0, "logprobs": None, "finish_reason": "stop"},
            {"text": "", "index": 1, "logprobs": None, "finish_reason": "stop"},
        ],
        "usage": usage(1, 2),
    }


def usage(prompt: int, completion: int, **more: Any) -> Json:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {**counts, "total_tokens": prompt + completion, **more}


def test_answers_to_several_prompts() -> None:
    """Index = prompt * n + choice, the first one's id, and usage added up with its details."""
    made = answers(prompt=["p", "q"], n=2)
    for prompt, cost in enumerate([0.5, 1]):
        more = {"completion_tokens_details": {"reasoning_tokens": 3, "x": None}, "is_byok": True}
        told = usage(4, 2, cost=cost, **more)
        made.add(chat_answer("a", "b", id=f"id-{prompt}", created=prompt + 1, usage=told), prompt)
    answer = strictly(made.whole())
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert (answer["id"], answer["created"]) == ("id-0", 1)
    details = {"reasoning_tokens": 6, "x": None}
    assert answer["usage"] == usage(8, 4, cost=1.5, completion_tokens_details=details, is_byok=True)


_HM = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([_HM, {"type": "text", "text": "42"}], "42"),
        ([{"type": "text", "text": "4"}, _HM, {"type": "text", "text": "2"}], "42"),
        ([{"type": "output_text", "text": "42"}], "42"),
        ([{"text": "42"}], "42"),
        ([_HM], ""),
        ([{"type": "reference", "reference_ids": [1], "text": "x"}], ""),
        ([5, None, "42", {"type": "text", "text": 42}, {"type": "text"}], ""),
        ([], ""),
        ({"type": "text", "text": "42"}, ""),
    ],
)
def test_text_of_an_answer_in_parts(content: Any, text: str) -> None:
    """Its text parts, whole and streamed; the thinking is none."""
    choice = {"index": 0, "finish_reason": "stop"}
    made = answers(echo=True)
    made.add(json.dumps({"choices": [{**choice, "message": {"content": content}}]}).encode(), 0)
    assert json.loads(made.whole())["choices"][0]["text"] == f"p{text}"
    event = json.dumps({"choices": [{**choice, "delta": {"content": content}}]}).encode()
    [sent] = answers().chunks([event], 0)
    assert json.loads(sent)["choices"][0]["text"] == text


def test_malformed_choices_of_a_stream_are_left_out() -> None:
    """A choice, delta or list of them that is none."""
    for event in (
        b'{"choices":[5,null]}',
        b'{"choices":{}}',
        b'{"choices":[{"delta":5}]}',
        b'{"choices":[{"delta":null,"finish_reason":{}}]}',
        b'{"choices":[{"delta":{"content":{}}}]}',
    ):
        assert answers().chunks([event], 0) == []


def test_choices_without_index_are_counted() -> None:
    """By their place, so that none takes another's."""
    choices = [{"message": {"content": text}, "finish_reason": ""} for text in "ab"]
    made = answers(prompt=["p", "q"], n=2)
    made.add(json.dumps({"choices": choices}).encode(), 1)
    found = json.loads(made.whole())["choices"]
    assert [(choice["index"], choice["text"]) for choice in found] == [(2, "a"), (3, "b")]
    assert [choice["finish_reason"] for choice in found] == [None, None]


@pytest.mark.parametrize(
    "body", [b"{}", b'{"choices":[]}', b'{"choices":[1]}', b'{"choices":[{"index":1e999}]}']
)
def test_answer_without_choices_is_none(body: bytes) -> None:
    """It would leave a prompt without its answer, silently."""
    with pytest.raises(UpstreamInvalid):
        answers().add(body, 0)


def test_legacy_logprobs() -> None:
    """Parallel lists; offsets are characters, not bytes."""
    made = answers(logprobs=1)
    body = json.loads(chat_answer("Hé 😀"))
    body["choices"][0]["logprobs"] = CHAT_LOGPROBS
    made.add(json.dumps(body).encode(), 0)
    (choice,) = strictly(made.whole())["choices"]
    assert choice["logprobs"] == LEGACY_LOGPROBS


def streamed(made: TextAnswers, *chunks: Json, prompt: int = 0) -> list[Json]:
    """The chunks that leave, ASCII-escaped on the way in as some upstreams do."""
    events = [json.dumps(one).encode() for one in chunks]
    return [strictly(one) for one in made.chunks(events, prompt)]


def test_offsets_go_on_over_chunks() -> None:
    """For each choice of its own; half an emoji counts as a character."""
    made = answers(logprobs=1, n=2)

    def piece(text: str, index: int) -> Json:
        token = {"token": text, "logprob": -1.0, "top_logprobs": []}
        one = chunk({"content": text}, index=index)
        one["choices"][0]["logprobs"] = {"content": [token]}
        return one

    found = streamed(
        made, piece("Hé", 0), piece("abc", 1), piece("\ud83d", 0), piece("x", 1), piece(" b", 0)
    )
    offsets = [one["choices"][0]["logprobs"]["text_offset"] for one in found]
    assert offsets == [[0], [0], [2], [3], [3]]
    assert [one["choices"][0]["text"] for one in found][2] == "\ud83d"


def test_chunks_that_say_nothing_are_dropped() -> None:
    """Role, reasoning, empty text; `finish_reason` is null until the end, never ""."""
    found = streamed(
        answers(),
        {"id": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": []},
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "hm"}),
        chunk({"content": "a"}, finish=""),
        chunk({"content": None}, finish=""),
        chunk({"content": "b"}),
        chunk({}, finish="stop"),
    )
    choices = [one["choices"][0] for one in found]
    assert [(one["text"], one["finish_reason"]) for one in choices] == [
        ("a", None), ("b", None), ("", "stop")
    ]  # fmt: skip
    assert {(one["id"], one["created"], one["system_fingerprint"]) for one in found} == {
        ("chatcmpl-1", 1_760_000_000, "fp_44709d6fcb")
    }


def test_echo_precedes_each_choice_once() -> None:
    """Also where a choice says nothing but its end."""
    made = answers(prompt=["P", "Q"], n=2, echo=True)
    found = streamed(
        made,
        chunk({"content": "a"}, index=1),
        chunk({"content": "b"}, index=1),
        chunk({}, index=0, finish="stop"),
    ) + streamed(made, chunk({"content": "c"}), prompt=1)
    said = [(one["choices"][0]["index"], one["choices"][0]["text"]) for one in found]
    assert said == [(1, "Pa"), (1, "b"), (0, "P"), (2, "Qc")]
    whole = answers(echo=True)
    whole.add(chat_answer(" there"), 0)
    assert strictly(whole.whole())["choices"][0]["text"] == "p there"


USAGE_CHUNK = chunk(None, usage=usage(3, 4))
FULL_LAST = chunk({}, finish="stop", usage=usage(3, 4))


@pytest.mark.parametrize(
    ("wants", "chunks", "is_told"),
    [
        (True, [USAGE_CHUNK], True),
        (True, [FULL_LAST], True),
        (True, [chunk({"content": "a"})], False),
        (False, [USAGE_CHUNK], True),
        (False, [FULL_LAST], False),
        (False, [chunk({}, usage=None)], False),
    ],
)
def test_usage_chunk(wants: bool, chunks: list[Json], is_told: bool) -> None:
    """One without choices, at the end, if it was asked for or the upstream sent one."""
    made = answers(stream_options={"include_usage": wants})
    assert all(one["choices"] for one in streamed(made, *chunks))
    last = [strictly(one) for one in made.last_chunk()]
    assert [(one["choices"], one["usage"]) for one in last] == [([], usage(3, 4))] * is_told


@pytest.mark.parametrize(
    ("first", "second", "total"),
    [
        (1, 2, 3),
        (1.5, 1, 2.5),
        (1, True, True),
        (1, "a", "a"),
        (1, None, 1),
        (None, 1, 1),
        ({"a": 1}, {"a": 2, "b": 3}, {"a": 3, "b": 3}),
        ({"a": 1}, 2, 2),
        (1, {"a": 2}, {"a": 2}),
    ],
)
def test_counts_of_usage_are_added_up(first: Any, second: Any, total: Any) -> None:
    """What is no count is kept of the last."""
    made = answers(prompt=["p", "q"])
    for place, count in enumerate((first, second)):
        made.add(chat_answer("a", usage={"x": count}), place)
    assert json.loads(made.whole())["usage"] == {"x": total}


def test_usage_told_with_every_chunk_counts_once() -> None:
    """The last of a prompt's is its whole; prompts are added up."""
    made = answers(prompt=["p", "q"], stream_options={"include_usage": True})
    for prompt in (0, 1):
        told = [chunk({"content": "a"}, usage=usage(3, count)) for count in (1, 2, 3)]
        streamed(made, *told, prompt=prompt)
    assert [json.loads(one)["usage"] for one in made.last_chunk()] == [usage(6, 6)]


def test_native_choices_keep_their_text() -> None:
    """Logprobs and echo are their upstream's own; a JSON body cut into chunks is no exception."""
    logprobs = {
        "tokens": ["pa"],
        "token_logprobs": [None],
        "text_offset": [0],
        "top_logprobs": None,
    }
    choice = {"text": "pa", "index": 0, "logprobs": logprobs, "finish_reason": "length"}
    body = json.dumps({"id": "i", "created": 1, "model": "m", "choices": [choice]}).encode()
    whole = answers(echo=True)
    whole.add(body, 0)
    assert json.loads(whole.whole())["choices"] == [choice]
    (piece,) = answers(echo=True).chunks(chunks_of(body), 0)
    assert json.loads(piece)["choices"] == [choice]
    assert json.loads(piece)["object"] == "text_completion"


# Whatever comes

LOGPROBS = objects("token", "logprob") | JSON
TOKEN = objects("token", "logprob", "top_logprobs", value=JSON | st.lists(LOGPROBS, max_size=2))
CHOICE = st.fixed_dictionaries(
    {},
    optional={
        "index": JSON | st.integers(0, 2),
        "text": JSON,
        "delta": JSON | objects("content", value=JSON | st.text(max_size=3)),
        "message": JSON | objects("content", value=JSON | st.text(max_size=3)),
        "finish_reason": JSON,
        "logprobs": JSON | st.fixed_dictionaries({"content": st.lists(TOKEN, max_size=2) | JSON}),
    },
)
COUNTS = objects("prompt_tokens", "completion_tokens", value=JSON | st.integers(0, 9))
CHUNK = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["id", "created", "model", "system_fingerprint"], JSON),
        "choices": JSON | st.lists(CHOICE | JSON, max_size=3),
        "usage": JSON | COUNTS,
    },
)


@pytest.mark.long
@given(st.lists(st.tuples(CHUNK, st.integers(0, 1)), max_size=5), REQUESTS)
def test_any_chunk_is_translated_or_refused(chunks: list[tuple[Json, int]], fields: Json) -> None:
    """By ProxyError and nothing else; what leaves is a completion's."""
    with suppress(CallerError):
        completion = read(asked(**{**fields, "prompt": ["p", "q"]}))
        made, whole = TextAnswers(completion), TextAnswers(completion)
        for one, prompt in chunks:
            with suppress(ProxyError):
                event = json.dumps(one).encode()
                for left in made.chunks([event], prompt) + made.last_chunk():
                    found = json.loads(left)
                    assert found["object"] == "text_completion"
                    assert all(choice["finish_reason"] != "" for choice in found["choices"])
                whole.add(event, prompt)
                json.loads(whole.whole())


@pytest.mark.parametrize("depth", [100, 900, 940, 960, 970, 980, 990, 2000])
@pytest.mark.parametrize(
    "shape",
    [b'{"id":%b}', b'{"usage":{"a":%b}}', b'{"choices":[{"text":"a","logprobs":%b}]}',
     b'{"choices":[{"delta":{"content":"a"},"logprobs":{"content":%b}}]}'],
)  # fmt: skip
def test_depth_of_a_chunk(shape: bytes, depth: int) -> None:
    """Near the limit of recursion, where reading may succeed and writing not."""
    event = shape % (b"[" * depth + b"]" * depth)
    made = answers(stream_options={"include_usage": True})
    with suppress(ProxyError):
        made.chunks([event, b'{"choices":[{"delta":{"content":"a"}}]}'], 0)
        made.last_chunk()


@pytest.mark.parametrize("digits", ["9" * 4300, "9" * 5000, "1e999"])
def test_endless_numbers(digits: str) -> None:
    """Of a request or an answer."""
    for body in ('"n":%s,"prompt":["a","b"]', '"logprobs":%s', '"best_of":%s'):
        with suppress(CallerError):
            completion = read(('{"model":"m",' + body % digits + "}").encode())
            made = TextAnswers(completion)
            with suppress(ProxyError):
                made.chunks([b'{"choices":[{"index":1,"delta":{"content":"a"}}]}'], 1)
    for counts in ('"usage":{"prompt_tokens":%s}', '"created":%s'):
        made = answers(prompt=["p", "q"], stream_options={"include_usage": True})
        with suppress(ProxyError):
            for prompt in (0, 1):
                made.chunks([("{" + counts % digits + "}").encode()], prompt)
            made.last_chunk()
