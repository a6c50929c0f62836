"""Legacy completions as chat: requests byte for byte, and what chat cannot do."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import CallerError, InvalidRequest, UnsupportedParameter
from proxy.wire.completions import (
    EMPTY_PROMPT,
    MAX_PROMPTS,
    MAX_REPEATED_BYTES,
)
from proxy.wire.lenient_json import shield, unshield
from tests.support.upstream import Json
from tests.wire.completions.requests import JSON, REQUESTS, asked, completion_of, read


def chats(body: bytes) -> list[Json]:
    """The chat requests that it becomes."""
    return [json.loads(request.for_model("up")) for request in read(body).hubs]


def problem(body: bytes) -> InvalidRequest:
    """Why chat cannot serve it."""
    with pytest.raises(InvalidRequest) as raised:
        _ = read(body).hubs[0]
    assert raised.value.status == 400
    return raised.value


# Requests


def test_prompt_becomes_the_users_message() -> None:
    """And the model gets its upstream's name."""
    (chat,) = chats(asked(prompt="Say", max_tokens=5))
    assert chat == {
        "model": "up",
        "messages": [{"role": "user", "content": "Say"}],
        "max_tokens": 5,
    }


@pytest.mark.parametrize("fields", [{}, {"prompt": None}, {"prompt": ""}, {"prompt": []}])
def test_missing_or_empty_prompt(fields: Json) -> None:
    """Becomes the seed's own; nothing is there to echo."""
    completion = read(asked(**fields, echo=True))
    assert completion.prompts == ("",)
    (chat,) = chats(asked(**fields))
    assert chat["messages"][0]["content"] == EMPTY_PROMPT == "Complete this:"


def test_empty_prompt_within_a_list() -> None:
    """The same, in its place."""
    contents = [chat["messages"][0]["content"] for chat in chats(asked(prompt=["a", "", "b"]))]
    assert contents == ["a", EMPTY_PROMPT, "b"]


def test_list_of_prompts() -> None:
    """A chat request each, in order, with all other fields."""
    prompts = [f"p{number}" for number in range(MAX_PROMPTS)]
    completion = read(asked(prompt=prompts, n=2, seed=7, stream=True))
    assert (completion.prompts, completion.choices) == (tuple(prompts), 2)
    for prompt, chat in zip(prompts, chats(asked(prompt=prompts, n=2, seed=7)), strict=True):
        assert chat == {
            "model": "up", "n": 2, "seed": 7, "messages": [{"role": "user", "content": prompt}]
        }  # fmt: skip
    assert all(request.stream for request in completion.hubs)


@pytest.mark.parametrize(("n", "choices"), [(2, 2), (1, 1), (0, 1), (-1, 1), ("2", 1), (None, 1)])
def test_choices_of_each_prompt(n: Any, choices: int) -> None:
    """As many as are asked for, and one where that is no number of any."""
    assert read(asked(prompt="p", n=n)).choices == choices


def test_more_prompts_than_are_served() -> None:
    """A 400 that names the limit."""
    error = problem(asked(prompt=["p"] * (MAX_PROMPTS + 1)))
    assert "128" in error.message
    assert error.param == "prompt"


@pytest.mark.parametrize(
    "prompt", [[1, 2, 3], [[1, 2], [3]], ["a", 1], [["a"]], 7, {"a": 1}, True, [None]]
)
def test_tokens_are_refused(prompt: Any) -> None:
    """A 400 that says so, whatever else is no text."""
    error = problem(asked(prompt=prompt))
    assert (error.code, error.param) == ("invalid_request", "prompt")
    assert "tokens are not supported" in error.message


CARRIED: dict[str, bytes] = {
    "max_tokens": b"1e2",
    "temperature": b"0.1000000000000000000000001",
    "top_p": b"1.00",
    "frequency_penalty": b"-0.0",
    "presence_penalty": b"2E-1",
    "stop": rb'["\n", "\u00e9\ud83d", "\/"]',
    "stream": b"true",
    "stream_options": b'{ "include_usage" : true }',
    "n": b"2",
    "seed": b"12345678901234567890123456789",
    "user": rb'"\ud800 \u0041"',
    "logit_bias": b'{"50256": -1e2, "50256": 3}',
    "unknown": b'{"big": 1e999, "deep": [[{}]], "lone": "\\udfff"}',
    "extra_body": "\u2028é😀".encode().join([b'"', b'"']),
}


def test_fields_are_carried_over_byte_for_byte() -> None:
    """Big integers, float spellings, escapes, lone surrogates, fields that nobody knows."""
    members = b",".join(b'"%b": %b' % (name.encode(), value) for name, value in CARRIED.items())
    body = b'{"model":"m","prompt":["a","b"],' + members + b"}"
    for request in read(body).hubs:
        sent = request.for_model("up")
        raw = msgspec.json.decode(shield(sent), type=dict[str, msgspec.Raw])
        assert {name: unshield(bytes(raw[name])) for name in CARRIED} == CARRIED
        assert list(raw) == ["model", *CARRIED, "messages"]


def test_prompt_survives_as_it_was_meant() -> None:
    """Half an emoji too."""
    body = rb'{"model":"m","prompt":["\ud83d", "\u0000\"\\\u2028 \ude00x"]}'
    assert [chat["messages"][0]["content"] for chat in chats(body)] == json.loads(body)["prompt"]


@pytest.mark.parametrize("value", [b"0", b"1", b"5", b"20", b"2.0", b'"x"'])
def test_logprobs_become_top_logprobs(value: bytes) -> None:
    """0 asks for those of the chosen tokens alone."""
    (request,) = read(b'{"model":"m","prompt":"p","logprobs":' + value + b"}").hubs
    assert b'"logprobs":true,"top_logprobs":' + value + b"}" in request.body


@pytest.mark.parametrize("value", [None, False])
def test_no_logprobs(value: bool | None) -> None:
    """Neither field is sent."""
    (chat,) = chats(asked(prompt="p", logprobs=value))
    assert not chat.keys() & {"logprobs", "top_logprobs"}


def test_logprobs_in_chats_manner() -> None:
    """`true` leaves `top_logprobs` alone."""
    (chat,) = chats(asked(prompt="p", logprobs=True, top_logprobs=4))
    assert (chat["logprobs"], chat["top_logprobs"]) == (True, 4)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 4, "n": 3}, "best_of"),
        ({"best_of": 2.0}, "best_of"),
        ({"echo": True, "logprobs": 2}, "echo"),
        ({"echo": True, "logprobs": 0}, "echo"),
    ],
)
def test_unsupported_parameters(fields: Json, param: str) -> None:
    """What chat cannot do is refused, not ignored."""
    error = problem(asked(prompt=["p", "q"], **fields))
    assert isinstance(error, UnsupportedParameter)
    assert (error.code, error.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    "fields",
    [{"suffix": None}, {"suffix": ""}, {"best_of": 1}, {"best_of": 3, "n": 3}, {"best_of": None},
     {"echo": True, "logprobs": None}, {"echo": False, "logprobs": 3}],
)  # fmt: skip
def test_harmless_values_pass(fields: Json) -> None:
    """And what chat does not know is not sent."""
    completion = read(asked(prompt="p", **fields))
    hub = json.loads(completion.hubs[0].body)
    assert not {"suffix", "best_of", "echo", "prompt"} & hub.keys()


def test_native_request_is_whole_and_untouched() -> None:
    """Lists, tokens and all; another model's name is all that changes."""
    body = b'{ "model":"m", "prompt":[[1,2]], "suffix":"x", "best_of":1e999, "n": 9 }'
    completion = completion_of(body, is_native=True)
    (request,) = completion.natives
    assert request.for_model("m") == body
    assert request.for_model("up") == (
        b'{"model":"up","prompt":[[1,2]],"suffix":"x","best_of":1e999,"n":9}'
    )


def test_request_that_either_kind_may_serve() -> None:
    """Prompt by prompt for both; what chat cannot do is left to those who can."""
    requests = read(asked(prompt=["a", "b"], suffix="x", logprobs=2)).natives
    assert [json.loads(request.for_model("up")) for request in requests] == [
        {"model": "up", "prompt": prompt, "suffix": "x", "logprobs": 2} for prompt in "ab"
    ]
    body = b'{"model":"m", "prompt": ["a"], "x": 1.0}'
    assert [request.for_model("m") for request in read(body).natives] == [body]
    body = b'{"model":"m", "prompt": [[1], [2]]}'
    assert [request.for_model("m") for request in read(body).natives] == [body]


# Whatever comes


@given(REQUESTS, st.booleans())
def test_any_request_is_read_or_refused(fields: Json, is_native: bool) -> None:
    """By CallerError and nothing else; what is read makes JSON with one message each."""
    with suppress(CallerError):
        completion = completion_of(asked(**fields), is_native=is_native)
        for request in completion.natives:
            assert json.loads(request.for_model("up"))["model"] == "up"
        for request in [] if is_native else completion.hubs:
            (message,) = json.loads(request.for_model("up"))["messages"]
            assert message["role"] == "user"


@given(JSON | st.binary(max_size=30))
def test_any_body_is_read_or_refused(value: Any) -> None:
    """Also what is no object, or no JSON."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    for each in (body, b'{"model":"m","prompt":' + body + b"}"):
        with suppress(CallerError):
            read(each)


@pytest.mark.parametrize("depth", [100, 900, 950, 970, 980, 985, 990, 10_000])
@pytest.mark.parametrize("name", ["prompt", "logprobs", "n", "x"])
def test_depth_is_refused_or_carried(depth: int, name: str) -> None:
    """Near the limit of recursion as well."""
    with suppress(CallerError):
        read(b'{"model":"m","%b":' % name.encode() + b"[" * depth + b"]" * depth + b"}")


def test_fields_are_not_repeated_for_each_prompt_without_end() -> None:
    """32 MB with 128 prompts would be 8 GB; what the limit leaves to a list is plenty."""

    def with_others(times: int, other: int) -> bytes:
        return json.dumps({"model": "m", "x": "x" * other, "prompt": ["a"] * times}).encode()

    assert len(completion_of(with_others(1, 30 << 20), is_native=False).natives) == 1
    assert len(completion_of(with_others(128, 100_000), is_native=False).natives) == 128
    large = with_others(128, 8 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match="128 strings in `prompt`") as caught:
            completion_of(large, is_native=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.param == "prompt"
    assert peak < 3 * len(large)


@pytest.mark.parametrize("more", [0, 1])
def test_limit_of_repeated_fields_holds_to_the_byte(more: int) -> None:
    """Of all other fields, times the prompts."""
    body = b'{"model":"m","x":"%b","prompt":["a","b"]}'
    left = MAX_REPEATED_BYTES // 2 - len(body % b"") + len(b'["a","b"]')
    body %= b"x" * (left + more)
    if more:
        with pytest.raises(InvalidRequest):
            completion_of(body, is_native=False)
    else:
        assert len(completion_of(body, is_native=False).natives) == 2
