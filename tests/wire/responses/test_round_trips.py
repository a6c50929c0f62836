"""What a model said goes out as items, and comes back to its own kind of client as it was.

To another kind everything comes but signatures.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.chat import chunks_of
from proxy.wire.reasoning import MAX_CHARS
from tests.support.responses import read_response
from tests.wire.responses.test_items import output
from tests.wire.responses.test_request import KINDS, taken, translated
from tests.wire.responses.test_stream import HEAD, TOOLS, events

Json = dict[str, Any]

SIGNATURE = "c2lnbmVk"
USER = {"role": "user", "content": "Hi"}


def answered(message: Json, kind: str) -> list[Json]:
    """The items that the caller gets of this message in an answer of chat."""
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    choice = {"index": 0, "message": message, "finish_reason": finish}
    body = json.dumps({**HEAD, "choices": [choice]}).encode()
    found: list[Json] = read_response(events(kind).whole(chunks_of(body)))["output"]
    return found


def returned(items: list[Json], kind: str, *, reasons: bool = True) -> list[Json]:
    """The messages of the next request, with a result for each call."""
    results = [output(item["call_id"]) for item in items if "call_id" in item]
    asked = {"tools": TOOLS, "input": [USER, *items, *results]}
    body = translated(asked, kind, reasons=reasons).request.body
    taken(body, kind)
    made: list[Json] = json.loads(body)["messages"]
    return made[1:]


def call(at: int, name: str = "weather", arguments: str = '{"a":1}', **more: Any) -> Json:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{at}", "type": "function", "function": function, **more}


def block(at: int, text_at: int, call_at: int, **more: Any) -> Json:
    signed = {"type": "thinking", "thinking": f"Hm {at}.", "signature": SIGNATURE}
    return {**signed, "index": at, "content_offset": text_at, "tool_call_offset": call_at, **more}


def google(signature: str = SIGNATURE) -> Json:
    return {"google": {"thought_signature": signature}}


@st.composite
def _messages(draw: st.DrawFn) -> Json:
    """What Claude may say: text and calls, and thinking before, between and behind them."""
    content = draw(st.sampled_from(["", "I look.", "Zürich 🌍"]))
    names = draw(st.lists(st.sampled_from(["weather", "patch", "crm__find"]), max_size=3))
    if not content and not names:
        content = "Hi"
    calls = [
        call(at, name, '{"input":"x"}' if name == "patch" else '{"a":1}')
        for at, name in enumerate(names)
    ]
    places = draw(st.lists(st.tuples(st.sampled_from([0, 1, 99]), st.integers(0, 3)), max_size=3))
    places = sorted((min(a, len(content)), min(b, len(calls))) for a, b in places)
    ordered = [(a, b if a == len(content) else 0) for a, b in places]
    blocks = [block(at, *place) for at, place in enumerate(sorted(ordered))]
    message: Json = {"role": "assistant", "content": content or None}
    if calls:
        message["tool_calls"] = calls
    if blocks:
        message["thinking_blocks"] = blocks
    return message


def _said(messages: list[Json]) -> list[Json]:
    """What Claude sees of some messages: its blocks in their order."""
    body = json.dumps({"messages": [USER, *messages], "tools": _DECLARED}).encode()
    turns = taken(body, "claude")["messages"]
    return [b for turn in turns if turn["role"] == "assistant" for b in turn["content"]]


_DECLARED = [
    {"type": "function", "function": {"name": name}} for name in ("weather", "patch", "crm__find")
]


@pytest.mark.long
@settings(max_examples=80)
@given(_messages())
def test_claude_gets_back_what_it_said(message: Json) -> None:
    """Text, thinking and calls in the order in which they were made."""
    results = [
        {"role": "tool", "tool_call_id": each["id"], "content": "done"}
        for each in message.get("tool_calls", ())
    ]
    back = returned(answered(message, "claude"), "claude")
    assert _joined(_said(back)) == _joined(_said([message, *results]))


def _joined(blocks: list[Json]) -> list[Json]:
    """Neighbouring texts as one: an answer's text that thinking interrupts has several parts."""
    made: list[Json] = []
    for each in blocks:
        if made and each["type"] == made[-1]["type"] == "text":
            made[-1] = {**each, "text": made[-1]["text"] + each["text"]}
        else:
            made.append(each)
    return made


@settings(max_examples=40)
@given(_messages(), st.sampled_from(["openai", "gemini"]))
def test_other_kinds_get_all_but_the_thinking(message: Json, kind: str) -> None:
    """Not one byte of a foreign signature."""
    back = returned(answered(message, "claude"), kind)
    text = json.dumps(back)
    assert SIGNATURE not in text
    assert "Hm" not in text
    assert "".join(each.get("content") or "" for each in back if each["role"] == "assistant") == (
        message["content"] or ""
    )
    assert [each for turn in back for each in turn.get("tool_calls", ())] == (
        message.get("tool_calls", [])
    )


def test_hidden_thinking_of_claude_comes_back_too() -> None:
    """It has no text that could be shown."""
    hidden = {"type": "redacted_thinking", "data": "c2VjcmV0", "index": 0}
    message = {"role": "assistant", "content": "Hi", "thinking_blocks": [hidden]}
    thought, _ = items = answered(message, "claude")
    assert (thought["type"], thought["summary"]) == ("reasoning", [])
    assert _said(returned(items, "claude"))[0] == {"type": "redacted_thinking", "data": "c2VjcmV0"}


def test_signatures_of_gemini_come_back() -> None:
    """Those of calls, and that of a text."""
    signed = call(0, extra_content=google())
    message = {"role": "assistant", "content": "I look.", "tool_calls": [signed, call(1)]}
    items = answered(message, "gemini")
    assert [item["type"] for item in items] == ["message", "reasoning", *["function_call"] * 2]
    assert returned(items, "gemini")[0] == message
    for kind in ("openai", "claude"):
        assert SIGNATURE not in json.dumps(returned(items, kind))
    said = {"role": "assistant", "content": "Hi", "extra_content": google()}
    assert returned(answered(said, "gemini"), "gemini") == [said]


def test_plain_reasoning_comes_back_while_its_tools_run() -> None:
    """To look-alikes of OpenAI's alone."""
    message = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm",
        "tool_calls": [call(0)],
    }
    items = answered(message, "openai")
    assert returned(items, "openai")[0] == message
    for kind in ("claude", "gemini"):
        assert "Hm" not in json.dumps(returned(items, kind))
    assert "Hm" not in json.dumps(returned(items, "openai", reasons=False))


@pytest.mark.parametrize("kind", KINDS)
def test_reasoning_can_be_left_out(kind: str) -> None:
    """If the upstream refused it."""
    message = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm 0.",
        "thinking_blocks": [block(0, 0, 0)],
        "tool_calls": [call(0, extra_content=google())],
    }
    back = returned(answered(message, kind), kind, reasons=False)
    assert back[0] == {"role": "assistant", "content": None, "tool_calls": [call(0)]}


def test_what_is_too_large_is_left_out() -> None:
    """A block of thinking over the limit, and nothing else."""
    large = block(0, 0, 0, signature="A" * MAX_CHARS)
    message = {"role": "assistant", "content": "Hi", "thinking_blocks": [large, block(1, 0, 0)]}
    assert [each["type"] for each in _said(returned(answered(message, "claude"), "claude"))] == [
        "thinking",
        "text",
    ]


@pytest.mark.parametrize("packed", ["cG9vbHByb3h5", "cG9vbHByb3h5MWNsYXVkZQ==", "cG9vbHByb3h5!", 5])
def test_damaged_containers_are_left_out(packed: Any) -> None:
    """Whoever gets them."""
    thought = {"type": "reasoning", "summary": [], "encrypted_content": packed}
    said = {"role": "assistant", "content": "Hi"}
    for kind in KINDS:
        assert returned([thought, said], kind) == [said]


def test_look_alikes_get_back_what_they_signed() -> None:
    """Gateways like OpenAI give out what other vendors signed, and want it back in its place."""
    signed = call(0, extra_content=google())
    message = {
        "role": "assistant",
        "content": None,
        "thinking_blocks": [block(0, 0, 0)],
        "tool_calls": [signed],
    }
    items = answered(message, "openai")
    assert returned(items, "openai")[0] == message
    for kind in ("claude", "gemini"):
        assert SIGNATURE not in json.dumps(returned(items, kind))
