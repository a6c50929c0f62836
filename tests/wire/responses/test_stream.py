"""Chat answers as Responses: whole, and as streams of events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dialects.responses import RESPONSES, ResponsesAsk
from proxy.errors import (
    AllCoolingDown,
    InvalidRequest,
    ProxyError,
    UpstreamInvalid,
    UpstreamRefusal,
    UpstreamTruncated,
)
from proxy.wire.chat import chunks_of
from proxy.wire.responses.answer import Events
from tests.support.responses import read_events, read_response, replayed, shapes

Json = dict[str, Any]

TOOLS = [
    {"type": "function", "name": "weather"},
    {"type": "custom", "name": "patch", "format": {"type": "text"}},
    {
        "type": "namespace",
        "name": "crm",
        "description": "d",
        "tools": [{"type": "function", "name": "find"}],
    },
    {"type": "local_shell"},
    {"type": "shell"},
    {"type": "apply_patch"},
]
USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 5},
}
HEAD = {"id": "chatcmpl-1", "created": 1_763_000_000, "model": "u"}


def events(kind: str = "openai", **asked: Any) -> Events:
    body = json.dumps({"model": "m", "input": "Hi", "tools": TOOLS, **asked}).encode()
    found = RESPONSES.read(body, {})
    assert isinstance(found, ResponsesAsk)
    stream = found.events(kind)
    assert isinstance(stream, Events)
    return stream


def chunk(finish: str | None = None, logprobs: Any = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
    return json.dumps({**HEAD, "choices": [choice]}).encode()


def call(
    index: int, call_id: str | None = None, name: str | None = None, arguments: str = ""
) -> Json:
    function: Json = {"arguments": arguments, **({"name": name} if name else {})}
    return {"index": index, "function": function, **({"id": call_id} if call_id else {})}


def usage_chunk(usage: Any = USAGE) -> bytes:
    return json.dumps({**HEAD, "choices": [], "usage": usage}).encode()


def run(chunks: Iterable[bytes], kind: str = "openai", **asked: Any) -> list[Json]:
    stream = events(kind, **asked)
    written = b"".join([stream.feed([each]) for each in chunks])
    return read_events(written + stream.end())


def items(chunks: Iterable[bytes], kind: str = "openai") -> list[Json]:
    output: list[Json] = shapes(replayed(run(chunks, kind))["output"])
    return output


def text_of(item: Json) -> str:
    return "".join(part["text"] for part in item["content"])


def test_text_is_a_message_in_the_documented_order() -> None:
    """Every event of it, and the whole Response at the end."""
    told = run(
        [
            chunk(role="assistant", content=""),
            chunk(content="He"),
            chunk("stop", content="y"),
            usage_chunk(),
        ]
    )
    assert [event["type"].removeprefix("response.") for event in told] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    response = replayed(told)
    assert (response["model"], response["created_at"]) == ("m", HEAD["created"])
    assert response["store"] is False
    assert len(response["id"].removeprefix("resp_")) == 32
    assert [text_of(item) for item in response["output"]] == ["Hey"]
    assert response["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 18,
    }


def test_first_chunk_opens_the_response() -> None:
    """However little it says."""
    told = read_events(events().feed([chunk(role="assistant")]))
    assert [event["type"] for event in told] == ["response.created", "response.in_progress"]


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("stop", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_reason_of_the_end(finish: str, status: str, reason: str | None) -> None:
    """An answer that was cut is not complete, nor is what it was cut in."""
    told = run([chunk(content="Hey"), chunk(finish)])
    response = replayed(told)
    assert told[-1]["type"] == f"response.{status}"
    assert (response["incomplete_details"] or {}).get("reason") == reason
    assert [item["status"] for item in response["output"]] == [status]


def test_answer_without_a_word_is_an_empty_message() -> None:
    """Of no usage either."""
    response = replayed(run([chunk("stop", role="assistant", content=None)]))
    assert [text_of(item) for item in response["output"]] == [""]
    assert response["usage"]["total_tokens"] == 0


def test_call_of_a_function() -> None:
    """Announced with its first arguments, which follow piece by piece."""
    told = run(
        [
            chunk(tool_calls=[call(0, "call_1", "weather")]),
            chunk(tool_calls=[call(0, arguments='{"city":')]),
            chunk("tool_calls", tool_calls=[call(0, arguments='"Paris"}')]),
        ]
    )
    deltas = [each["delta"] for each in told if each["type"].endswith("arguments.delta")]
    assert deltas == ['{"city":', '"Paris"}']
    (made,) = shapes(replayed(told)["output"])
    assert made == {
        "type": "function_call",
        "status": "completed",
        "call_id": "call_1",
        "name": "weather",
        "arguments": '{"city":"Paris"}',
    }


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        (
            "crm__find",
            "{}",
            {"type": "function_call", "name": "find", "namespace": "crm", "arguments": "{}"},
        ),
        ("weather", "", {"type": "function_call", "name": "weather", "arguments": "{}"}),
        ("nobody", "{}", {"type": "function_call", "name": "nobody", "arguments": "{}"}),
        (
            "patch",
            '{"input":"*** Begin"}',
            {"type": "custom_tool_call", "name": "patch", "input": "*** Begin"},
        ),
        ("patch", "*** Begin", {"type": "custom_tool_call", "name": "patch", "input": "*** Begin"}),
        (
            "local_shell",
            '{"command":["ls"],"timeout_ms":5}',
            {
                "type": "local_shell_call",
                "action": {
                    "type": "exec",
                    "command": ["ls"],
                    "env": {},
                    "timeout_ms": 5,
                    "user": None,
                    "working_directory": None,
                },
            },
        ),
        (
            "shell",
            '{"commands":["ls"]}',
            {
                "type": "shell_call",
                "action": {"commands": ["ls"], "timeout_ms": None, "max_output_length": None},
            },
        ),
        (
            "apply_patch",
            '{"type":"delete_file","path":"x"}',
            {
                "type": "apply_patch_call",
                "operation": {"type": "delete_file", "path": "x", "diff": ""},
            },
        ),
        (
            "apply_patch",
            '{"type":"rename_file"}',
            {"type": "function_call", "name": "apply_patch", "arguments": '{"type":"rename_file"}'},
        ),
    ],
)
def test_call_is_of_the_tool_that_the_caller_declared(
    name: str, arguments: str, expected: Json
) -> None:
    """By its own kind, name and namespace; what a tool cannot be called with is a function's."""
    (made,) = items([chunk("tool_calls", tool_calls=[call(0, "call_1", name, arguments)])])
    assert made == {"status": "completed", "call_id": "call_1", **expected}


def test_calls_one_after_the_other_end_in_turn() -> None:
    """So that an agent may run the first one already."""
    told = run(
        [
            chunk(tool_calls=[call(0, "a", "weather", "{}")]),
            chunk(tool_calls=[call(1, "b", "weather", "{}")]),
            chunk("tool_calls"),
        ]
    )
    found = [
        (event["type"].removeprefix("response."), event["output_index"])
        for event in told
        if "output_item" in event["type"]
    ]
    kinds = ["output_item.added", "output_item.done"] * 2
    assert found == list(zip(kinds, [0, 0, 1, 1], strict=True))


def test_mixed_arguments_of_parallel_calls_find_their_calls() -> None:
    """Each delta says whose it is."""
    made = items(
        [
            chunk(tool_calls=[call(0, "a", "weather", '{"n":')]),
            chunk(tool_calls=[call(1, "b", "weather", '{"n":')]),
            chunk(tool_calls=[call(0, arguments="1}"), call(1, arguments="2}")]),
            chunk("tool_calls"),
        ]
    )
    assert [(each["call_id"], each["arguments"]) for each in made] == [
        ("a", '{"n":1}'),
        ("b", '{"n":2}'),
    ]


@pytest.mark.parametrize(
    "deltas",
    [
        # The name in pieces, again each time, and late.
        [call(0, "a", "wea"), call(0, name="ther"), call(0, arguments="{}")],
        [call(0, "a", "weather", "{"), call(0, "a", "weather", "}")],
        [call(0, "a", arguments="{"), call(0, name="weather", arguments="}")],
    ],
)
def test_odd_deltas_of_one_call(deltas: Sequence[Json]) -> None:
    """As several upstreams are known to send them."""
    (made,) = items([chunk(tool_calls=[each]) for each in deltas])
    assert (made["call_id"], made["name"], made["arguments"]) == ("a", "weather", "{}")


def test_calls_that_all_have_the_number_0() -> None:
    """Are told apart by their ids."""
    made = items([chunk(tool_calls=[call(0, each, "weather", "{}")]) for each in "abc"])
    assert [each["call_id"] for each in made] == ["a", "b", "c"]


@pytest.mark.parametrize("mark", ["__thinking__eJabc", "__thought__QUJD"])
def test_carriers_are_taken_off_the_ids_of_calls(mark: str) -> None:
    """They are chat's own; here an item of reasoning has what they carry."""
    (made,) = items([chunk(tool_calls=[call(0, f"call_1{mark}", "weather", "{}")])])
    assert made["call_id"] == "call_1"


def test_call_without_an_id_gets_one() -> None:
    """Which no other call has."""
    made = items(
        [chunk(tool_calls=[call(0, None, "weather", "{}"), call(1, None, "weather", "{}")])]
    )
    assert len({each["call_id"] for each in made}) == 2


def test_call_that_is_cut_off_is_incomplete() -> None:
    """With the arguments as far as they came."""
    (made,) = items([chunk("length", tool_calls=[call(0, "a", "weather", '{"ci')])])
    assert (made["status"], made["arguments"]) == ("incomplete", '{"ci')


def test_reasoning_is_a_summary_before_what_it_led_to() -> None:
    """Whatever its name in chat."""
    for name in ("reasoning_content", "reasoning"):
        thought, said = items(
            [chunk(**{name: "H"}), chunk(**{name: "m"}), chunk("stop", content="Hey")]
        )
        assert thought["summary"] == [{"type": "summary_text", "text": "Hm"}]
        assert text_of(said) == "Hey"


def test_parts_of_mistral_are_thoughts_and_text() -> None:
    """Its models answer in lists of parts."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
    thought, said = items([chunk("stop", content=[thinking, {"type": "text", "text": "Hey"}])])
    assert thought["summary"] == [{"type": "summary_text", "text": "Hm"}]
    assert text_of(said) == "Hey"


def test_refusal_is_a_part_of_its_own() -> None:
    """Behind the text, in the same message."""
    (said,) = items([chunk(content="I"), chunk(refusal="No"), chunk("content_filter", refusal=".")])
    assert said["content"][1] == {"type": "refusal", "refusal": "No."}


def test_citations_count_from_their_own_part() -> None:
    """In chat they count from the answer's begin."""
    cited = {"url": "https://a.example", "title": "A", "start_index": 7, "end_index": 9}
    annotation = {"type": "url_citation", "url_citation": cited}
    made = items(
        [
            chunk(content="Before."),
            chunk(tool_calls=[call(0, "a", "weather", "{}")]),
            chunk(content="So"),
            chunk("stop", annotations=[annotation, {"type": "file_citation"}]),
        ]
    )
    (found,) = made[2]["content"][0]["annotations"]
    assert found == {**cited, "type": "url_citation", "start_index": 0, "end_index": 2}


def test_citation_that_leaves_things_out() -> None:
    """It is of the beginning, and has the address for a title."""
    annotation = {"type": "url_citation", "url_citation": {"url": "https://a.example"}}
    (made,) = items([chunk(content="So"), chunk("stop", annotations=[annotation])])
    (found,) = made["content"][0]["annotations"]
    assert (found["start_index"], found["end_index"]) == (0, 0)
    assert (found["title"], found["url"]) == ("https://a.example",) * 2


def test_probabilities_of_tokens() -> None:
    """With each delta, and whole at its end."""
    token = {
        "token": "Hey",
        "logprob": -0.5,
        "bytes": None,
        "top_logprobs": [{"token": "Ho", "logprob": -1.5}, {"token": "Hu"}],
    }
    (said,) = items([chunk(logprobs={"content": [token]}, content="Hey"), chunk("stop")])
    (found,) = said["content"][0]["logprobs"]
    assert (found["token"], found["logprob"], found["bytes"]) == ("Hey", -0.5, [])
    assert found["top_logprobs"] == [
        {"token": "Ho", "logprob": -1.5, "bytes": []},
        {"token": "Hu", "logprob": 0.0, "bytes": []},
    ]


def test_image_of_the_model_is_an_item() -> None:
    """If its data is there."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}
    other = {"image_url": "data:image/png;base64,AAAA"}
    made, second, _said = items(
        [chunk(images=[image, {"image_url": {"url": "https://x"}}, other]), chunk(content="!")]
    )
    assert (made["type"], made["result"]) == ("image_generation_call", "iVBO")
    assert second["result"] == "AAAA"


def test_parameters_are_given_back() -> None:
    """As they came; OpenAI's defaults for others."""
    asked: Json = {
        "instructions": "Be brief",
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "parallel_tool_calls": None,
        "reasoning": {"effort": "low"},
        "temperature": 0.5,
        "text": {"format": {"type": "json_object"}},
        "tool_choice": "required",
        "user": "u",
    }
    response = replayed(run([chunk("stop", content="Hey")], **asked))
    assert {name: response[name] for name in asked} == {**asked, "parallel_tool_calls": True}
    assert response["tools"] == TOOLS
    assert (response["truncation"], response["top_p"]) == ("disabled", None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UpstreamTruncated("cut"), "server_error"),
        (AllCoolingDown("all are"), "rate_limit_exceeded"),
        (UpstreamRefusal("no", status=429), "rate_limit_exceeded"),
        (UpstreamRefusal("no", status=400), "invalid_prompt"),
        (UpstreamRefusal("no", status=500), "server_error"),
        (InvalidRequest("no", param="tools"), "invalid_prompt"),
    ],
)
@pytest.mark.parametrize("is_begun", [False, True])
def test_failure_is_the_last_event(error: ProxyError, code: str, is_begun: bool) -> None:
    """Also of a stream in which nothing was said yet; nothing about it looks complete."""
    stream = events()
    written = stream.feed([chunk(content="He")]) if is_begun else b""
    told = read_events(written + stream.fail(error, "upstream gone"))
    response = replayed(told)
    assert told[-1]["type"] == "response.failed"
    more = {"type": error.type, "param": error.param}
    assert response["error"] == {"code": code, "message": "upstream gone", **more}
    assert not any(event["type"].endswith(("done", "completed")) for event in told)
    assert response["usage"] is None
    assert response["created_at"] == (HEAD["created"] if is_begun else 0)


def test_failure_tells_the_usage_that_is_known() -> None:
    """It may have to be paid for."""
    stream = events()
    written = stream.feed([chunk(content="He"), usage_chunk()])
    told = read_events(written + stream.fail(UpstreamTruncated("cut"), "cut"))
    assert replayed(told)["usage"]["total_tokens"] == 18


@pytest.mark.parametrize("number", [b"9" * 5000, b"1e999"])
def test_numbers_out_of_all_range_are_the_upstreams_fault(number: bytes) -> None:
    """Not ours."""
    with pytest.raises(UpstreamInvalid):
        events().feed([b'{"choices":[],"usage":{"prompt_tokens":%b}}' % number])


_DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, st.text(max_size=5)),
    st.builds(lambda text: {"reasoning_content": text}, st.text(max_size=5)),
    st.builds(lambda text: {"refusal": text}, st.text(max_size=5)),
    st.builds(
        lambda number, name: {"tool_calls": [call(number, f"call_{number}", name, '{"a":1}')]},
        st.integers(0, 3),
        st.sampled_from(["weather", "patch", "crm__find", "shell", "x"]),
    ),
    st.just({"role": "assistant", "content": None}),
    st.just({"tool_calls": [None, {"index": 0}], "annotations": [1], "images": "x"}),
)


@pytest.mark.long
@settings(max_examples=40)
@given(st.lists(_DELTAS, max_size=12), st.sampled_from(["stop", "length", "tool_calls"]))
def test_any_stream_adds_up(deltas: list[Json], finish: str) -> None:
    """To its last Response, whichever way the chunks come: alone, all at once, or unary."""
    chunks = [*[chunk(**delta) for delta in deltas], chunk(finish), usage_chunk()]
    response = replayed(run(chunks))
    at_once = events()
    assert shapes(
        replayed(read_events(at_once.feed(chunks) + at_once.end(), strictly=False))
    ) == shapes(response)
    assert shapes(read_response(events().whole(chunks))) == shapes(response)


def test_unary_answer_is_a_stream_of_one_chunk() -> None:
    """With everything in one message."""
    message = {
        "role": "assistant",
        "content": "Hey",
        "refusal": None,
        "reasoning_content": "Hm",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        ],
    }
    answer = {
        **HEAD,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": USAGE,
    }
    response = read_response(events().whole(chunks_of(json.dumps(answer).encode())))
    assert [item["type"] for item in response["output"]] == [
        "reasoning",
        "message",
        "function_call",
    ]
    assert response["usage"]["input_tokens"] == 11


def test_thoughts_of_a_unary_answer_are_told_once() -> None:
    """Their text stands beside the blocks of which it was made, under one name or the other."""
    block = {"type": "thinking", "thinking": "Hm", "signature": "c2ln"}
    for name in ("reasoning_content", "reasoning"):
        message = {"role": "assistant", "content": "Hey", "thinking_blocks": [block], name: "Hm"}
        answer = {**HEAD, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        response = read_response(events().whole(chunks_of(json.dumps(answer).encode())))
        thought, said = response["output"]
        assert thought["summary"] == [{"type": "summary_text", "text": "Hm"}]
        assert text_of(said) == "Hey"


def test_what_comes_during_a_call_waits_for_its_end() -> None:
    """Text, signatures and other calls: one item is open at a time."""
    block = {"type": "thinking", "thinking": "Hm", "signature": "c2ln"}
    told = run(
        [
            chunk(
                tool_calls=[call(0, "a", "weather", '{"n":'), call(1, "b", "weather", '{"n":2}')]
            ),
            chunk(content="late", thinking_blocks=[block]),
            chunk(tool_calls=[call(0, arguments="1}")]),
            chunk("tool_calls"),
        ],
        "claude",
    )
    moves = [event["type"] for event in told if "output_item" in event["type"]]
    assert moves == ["response.output_item.added", "response.output_item.done"] * 4
    found = replayed(told)["output"]
    kinds = ["function_call", "function_call", "reasoning", "message"]
    assert sorted(item["type"] for item in found) == sorted(kinds)
    assert [item["arguments"] for item in found[:2]] == ['{"n":1}', '{"n":2}']


def test_upstream_that_goes_back_to_a_call_is_refused() -> None:
    """Its item is over: the caller may have run it already."""
    stream = events()
    stream.feed([chunk(tool_calls=[call(0, "a", "weather", "{}")]), chunk(content="Hey")])
    stream.feed([chunk(tool_calls=[call(0, arguments=" ")])])
    with pytest.raises(UpstreamInvalid, match="went back"):
        stream.feed([chunk(tool_calls=[call(0, arguments="{")])])
