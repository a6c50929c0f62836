"""Conversations of OpenAI callers, as Claude gets them: turns, parts, tools, thinking."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Generator
from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.wire.claude.reply import to_chat
from proxy.wire.claude.request import to_request
from proxy.wire.claude.stream import ChatStream
from tests import claude_upstream as claude
from tests.wire.test_claude_request import USER, Json, say, translate
from tests.wire.test_claude_stream import join

_PNG = "data:image/png;base64,iVBORw0KGgo="


def test_conversation_is_merged_and_begins_with_the_user() -> None:
    """System texts to the front, turns alternate, blank texts vanish."""
    wire = translate(
        say(
            {"role": "system", "content": "Be brief."},
            {"role": "assistant", "content": "Welcome."},
            {"role": "user", "content": "One"},
            {"role": "developer", "content": [{"type": "text", "text": "In French."}]},
            {
                "role": "user",
                "content": [{"type": "text", "text": "two"}, {"type": "text", "text": " "}],
            },
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        )
    )
    assert [block["text"] for block in wire["system"]] == ["Be brief.", "In French."]
    assert [turn["role"] for turn in wire["messages"]] == ["user", "assistant"] * 2 + ["user"]
    assert [block["text"] for block in wire["messages"][2]["content"]] == ["One", "two"]


def test_last_turn_of_the_assistant_is_a_prefill_where_there_are_such() -> None:
    """Newer models refuse it, older ones refuse trailing space in it."""
    chat = say(USER, {"role": "assistant", "content": "The answer is "})
    assert translate(chat)["messages"][-1]["role"] == "user"
    old = translate(chat, model="claude-haiku-4-5")["messages"][-1]
    assert old == {"role": "assistant", "content": [{"type": "text", "text": "The answer is"}]}


def test_lone_system_message_is_answered() -> None:
    """OpenAI answers it, Claude needs a turn of the user."""
    wire = translate(say({"role": "system", "content": "Say hi."}))
    assert "system" not in wire
    assert wire["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Say hi."}]}]


def test_images_and_files() -> None:
    """Data URLs and http URLs of images, PDF and text files, marks of the cache."""
    parts = [
        {"type": "image_url", "image_url": {"url": _PNG, "detail": "high"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.jpg"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBERi0xLjQK"}},
        {
            "type": "file",
            "file": {"file_data": "data:text/plain;base64," + b64encode("Grüße".encode()).decode()},
            "prompt_cache_breakpoint": {"mode": "explicit"},
        },
    ]
    content = translate(say({"role": "user", "content": parts}))["messages"][0]["content"]
    assert content[0]["source"] == {
        "type": "base64",
        "media_type": "image/png",
        "data": "iVBORw0KGgo=",
    }
    assert content[1]["source"] == {"type": "url", "url": "https://example.org/a.jpg"}
    assert (content[2]["source"]["media_type"], content[2]["title"]) == ("application/pdf", "a.pdf")
    assert content[3]["source"]["data"] == "Grüße"
    assert content[3]["cache_control"] == {"type": "ephemeral"}


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ({"type": "input_audio", "input_audio": {"data": "", "format": "mp3"}}, ""),
        (
            {"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AA"}},
            ".image_url.url",
        ),
        ({"type": "image_url", "image_url": {"url": "ftp://x"}}, ".image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,raw"}}, ".image_url.url"),
        ({"type": "file", "file": {"file_id": "file-1"}}, ".file"),
        (
            {"type": "file", "file": {"file_data": "data:application/zip;base64,AA"}},
            ".file.file_data",
        ),
        ({"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}}, ".file.file_data"),
        ({"type": "video_url", "video_url": {}}, ".type"),
        ({"type": "text", "text": 1}, ".text"),
    ],
)
def test_part_that_claude_can_not_take_is_named(part: Json, path: str) -> None:
    """The path leads to the part in the caller's own request."""
    with pytest.raises(InvalidRequest) as caught:
        translate(say(USER, {"role": "user", "content": [{"type": "text", "text": "x"}, part]}))
    assert caught.value.param == f"messages[1].content[1]{path}"


def _calls(*ids: str) -> Json:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": each, "type": "function", "function": {"name": "weather", "arguments": "{}"}}
            for each in ids
        ],
    }


def _result(call_id: str, content: Any = "sunny") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_results_of_parallel_calls_stand_first_in_one_turn() -> None:
    """Even if the caller has put a word before them; images in results pass."""
    image = [{"type": "image_url", "image_url": {"url": _PNG}}]
    wire = translate(
        say(
            USER,
            _calls("a", "b"),
            _result("a"),
            {"role": "user", "content": "And?"},
            _result("b", image),
        )
    )
    turn = wire["messages"][2]["content"]
    assert [block["type"] for block in turn] == ["tool_result", "tool_result", "text"]
    assert [block.get("tool_use_id") for block in turn] == ["a", "b", None]
    assert turn[1]["content"][0]["type"] == "image"
    assert wire["tools"] == [{"name": "weather", "input_schema": {"type": "object"}}]
    assert wire["tool_choice"] == {"type": "none"}


def test_ids_of_other_makers_are_made_fit() -> None:
    """Claude takes [a-zA-Z0-9_-] and each id once; call and result stay together."""
    odd, long = "functions.weather:0", "x" * 200
    wire = translate(
        say(USER, _calls(odd, long), _result(odd), _result(long), _calls(odd), _result(odd))
    )
    calls = [b["id"] for t in wire["messages"] for b in t["content"] if b["type"] == "tool_use"]
    results = [
        b["tool_use_id"]
        for t in wire["messages"]
        for b in t["content"]
        if b["type"] == "tool_result"
    ]
    assert calls == results
    assert len(set(calls)) == 3
    assert all(len(each) <= 64 and each.replace("_", "").isalnum() for each in calls)


def test_arguments_keep_their_bytes() -> None:
    """Numbers and escapes in arguments are not respelled."""
    call = _calls("a")
    call["tool_calls"][0]["function"]["arguments"] = '{"n": 1.50, "big": 123456789012345678901234}'
    body = to_request(
        json.dumps(say(USER, call, _result("a"))).encode(), model="claude-opus-5", stream=False
    )
    assert b'"input":{"n": 1.50, "big": 123456789012345678901234}' in body


@pytest.mark.parametrize("arguments", ["[1]", '"x"', "{", "nonsense"])
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    """Claude takes objects only."""
    call = _calls("a")
    call["tool_calls"][0]["function"]["arguments"] = arguments
    with pytest.raises(InvalidRequest) as caught:
        translate(say(USER, call, _result("a")))
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"


def _assistant_messages(answer: Json) -> Generator[Json]:
    """What a caller holds after `answer`, from a unary answer and from a stream."""
    body = to_chat(json.dumps(answer).encode(), model="alias", created=1)
    yield json.loads(body)["choices"][0]["message"]
    stream = ChatStream(model="alias", created=1, include_usage=True)
    chunks = [json.loads(chunk) for chunk in stream.feed(claude.data(claude.events(answer)))]
    yield join(chunks)["choices"][0]["message"]


_THINKING_ANSWERS = {
    "between": claude.ANSWERS["parallel calls with thinking between"],
    "after text": claude.message(
        claude.text("Ünï"),
        claude.thinking("hm"),
        claude.text("code"),
        claude.redacted_thinking(),
        claude.tool_use("toolu_01A", "weather", {"city": "Paris"}),
        stop_reason="tool_use",
    ),
    "hidden": claude.message(
        claude.thinking("", "A" * 5000),
        claude.tool_use("toolu_01A", "weather", {"city": "Paris"}),
        stop_reason="tool_use",
    ),
}


@pytest.mark.parametrize("keeps_extras", [True, False])
@pytest.mark.parametrize("name", _THINKING_ANSWERS)
def test_thinking_survives_a_tool_loop_through_a_caller(name: str, keeps_extras: bool) -> None:
    """Text, signature, order and place: by the extra field or, if it is dropped, by the ids."""
    answer = _THINKING_ANSWERS[name]
    for given in _assistant_messages(answer):
        fields = given.keys() if keeps_extras else ("role", "content", "tool_calls")
        message = {key: given[key] for key in fields}
        results = [_result(call["id"]) for call in message["tool_calls"]]
        wire = translate(say(USER, message, *results), model="claude-opus-5-5")
        shown = [
            {key: value for key, value in block.items() if key not in ("citations", "caller")}
            for block in answer["content"]
        ]
        assert wire["messages"][1]["content"] == shown
        assert wire["thinking"]["block_binding"] == {"prefix_mismatch_behavior": "drop_block"}
        assert [block["tool_use_id"] for block in wire["messages"][2]["content"]] == [
            block["id"] for block in answer["content"] if block["type"] == "tool_use"
        ]


def test_thinking_with_a_budget_needs_the_thinking_of_the_loop() -> None:
    """Calls that another upstream made have none: thinking rests until the loop is over."""
    loop = say(USER, _calls("a"), _result("a"))
    wire = translate({**loop, "reasoning_effort": "low"}, model="claude-haiku-4-5")
    assert "thinking" not in wire
    over = say(USER, _calls("a"), _result("a"), {"role": "assistant", "content": "Sunny."}, USER)
    wire = translate({**over, "reasoning_effort": "low"}, model="claude-haiku-4-5")
    assert wire["thinking"]["type"] == "enabled"


@pytest.mark.parametrize(
    ("model", "off"), [("claude-haiku-5-5", "disabled"), ("claude-sonnet-5-5", "between_tools")]
)
def test_thinking_that_is_off_is_not_sent_back_where_it_is_checked(model: str, off: str) -> None:
    """These models check blocks against the conversation even if they don't use them."""
    (message, _) = _assistant_messages(_THINKING_ANSWERS["after text"])
    chat = say(USER, message, _result(message["tool_calls"][0]["id"]))
    wire = translate({**chat, "reasoning_effort": "none"}, model=model)
    assert wire["thinking"] == {"type": off}
    assert [b["type"] for b in wire["messages"][1]["content"]] == ["text", "text", "tool_use"]


def test_turn_never_ends_in_thinking() -> None:
    """The API refuses that; an answer which was cut while thinking looks so."""
    block = {"type": "thinking", "thinking": "t", "signature": "s"}
    cut = {"role": "assistant", "content": "", "thinking_blocks": [block, {"type": "new"}]}
    wire = translate(say(USER, cut, {"role": "user", "content": "Go on"}))
    assert [turn["role"] for turn in wire["messages"]] == ["user"]
