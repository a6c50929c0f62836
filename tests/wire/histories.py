"""Conversations as real agents send them: every oddity that made a recorded one fail.

`conversations()` draws chat requests. OpenAI's own service refuses some of them (a result without
its call, a part of type `thinking`); agents send them all the same, when they trim a history or
move it from one vendor to another, and a gateway that refuses one has killed the conversation.
No user's message in it is empty: that is a 400 by contract.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from proxy.wire.claude.thinking import ThinkingBlock, carry
from proxy.wire.gemini.calls import make_id

Json = dict[str, Any]

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
PDF = base64.b64encode(b"%PDF-1.7 tiny").decode()
SIGNATURE = base64.b64encode(bytes(range(60))).decode()
THINKING: Json = {"type": "thinking", "thinking": "Hm.", "signature": SIGNATURE}

# What one vendor takes and another one does not; the last are what MCP servers are known to offer.
NAMES = (
    "weather",
    "run",
    "get-page",
    "1password_get",
    "files.read",
    "mcp:server/do it",
    "größe",
    "mcp__a_server_with_a_long_name__and_a_tool_whose_name_is_longer_than_sixty_four",
)
ARGUMENTS = (
    "{}",
    '{"city":"Tokyo"}',
    ' {"n": 12345678901234567890, "deep": {"list": [1, null, "ü"]}} ',
    "",
    "null",
    '{"command": "ls -',
    "[1]",
    '"text"',
    "not JSON",
)

_INPUTS = ("ls -l", "", '{"a": 1}', "ü\n")
_STEPS = ("user", "round")

_TEXTS = st.sampled_from(["Hi", "Continue.", "Zürich 🌍", " \n", "a" * 300])
_SAID = st.sampled_from(["Hello.", "I will look.", "", " "])


def _part(kind: str, **fields: Any) -> Json:
    return {"type": kind, **fields}


_IMAGES = st.sampled_from(
    [
        _part("image_url", image_url={"url": f"data:image/png;base64,{PNG}"}),
        _part("image_url", image_url={"url": f"data:image/jpg;base64,{PNG}", "detail": "low"}),
        _part("image_url", image_url={"url": f"data:image/png;base64,{PNG[:8]}\r\n {PNG[8:]}"}),
        _part("image_url", image_url=f"data:image/png;base64,{PNG}"),
        _part("image_url", image_url={"url": "https://example.org/a.png"}),
    ]
)
_FILES = st.sampled_from(
    [
        _part(
            "file", file={"file_data": f"data:application/pdf;base64,{PDF}", "filename": "a.pdf"}
        ),
        _part("file", file={"file_data": PDF, "filename": "a.pdf"}),
    ]
)
_TEXT_PARTS = _TEXTS.map(lambda text: _part("text", text=text))
_EMPTY: Json = _part("text", text="")


@st.composite
def _user(draw: st.DrawFn) -> Json:
    if draw(st.booleans()):
        return {"role": "user", "content": draw(st.sampled_from(["Hi", "Go on.", "Zürich 🌍"]))}
    parts = draw(st.lists(_TEXT_PARTS | _IMAGES | _FILES | st.just(_EMPTY), max_size=3))
    return {"role": "user", "content": [*parts, _part("text", text="See?")]}


def _system(draw: st.DrawFn) -> Json:
    role = draw(st.sampled_from(["system", "developer"]))
    parts = [_part("text", text="Be kind."), _EMPTY]
    return {"role": role, "content": draw(st.sampled_from(["Be brief.", "", parts]))}


@st.composite
def _assistant(draw: st.DrawFn) -> Json:
    """What an assistant said, without calls, as some upstream gave it out."""
    said = draw(_SAID)
    content: Any = draw(
        st.sampled_from(
            [
                said,
                None,
                [],
                [_part("text", text=said)],
                [_part("refusal", refusal="No.")],
                # Mistral's
                [
                    _part("thinking", thinking=[_part("text", text="Hm.")]),
                    _part("text", text=said),
                ],
                [_part("thinking", thinking="Hm."), _part("text", text="Yes.")],
                [_part("reasoning", text="Hm."), _part("output_text", text="Yes.")],
            ]
        )
    )
    message: Json = {"role": "assistant", "content": content}
    more: list[Json] = [
        {},
        {"reasoning_content": "Hm."},
        {"reasoning": "Hm.", "reasoning_details": [_part("reasoning.text", text="Hm.")]},
        {"thinking_blocks": [THINKING]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "Hm."}]},
        {"extra_content": {"google": {"thought_signature": SIGNATURE}}},
        {"extra_content": {"google": {"thought_signature": "no base64!"}}},
        {"annotations": [], "audio": None, "function_call": None, "refusal": None},
        {"images": [_part("image_url", image_url={"url": f"data:image/png;base64,{PNG}"})]},
    ]
    return {**message, **draw(st.sampled_from(more))}


def _call_id(draw: st.DrawFn, number: int) -> str:
    bare = f"call_{number}"
    return draw(
        st.sampled_from(
            [
                bare,
                bare,
                bare,
                "call_1",  # reused
                "",
                "functions.run:0",
                "x" * 70,
                make_id(bare, SIGNATURE),
                carry(bare, [ThinkingBlock(type="thinking", thinking="Hm.", signature=SIGNATURE)]),
            ]
        )
    )


def _result(draw: st.DrawFn, call_id: str) -> Json:
    content: Any = draw(
        st.sampled_from(["sunny", "", '{"temperature": 20}', None, "list", "pictures", "nothing"])
    )
    if content == "list":
        content = [_part("text", text="one"), _EMPTY, _part("text", text="two")]
    elif content == "pictures":
        content = [draw(_TEXT_PARTS), draw(_IMAGES | _FILES)]
    elif content == "nothing":
        content = [_EMPTY]
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def _round(draw: st.DrawFn, names: Sequence[str], number: int) -> list[Json]:
    """Calls and what came of them: in order or not, missing, doubled, with talk between."""
    ids = [_call_id(draw, number + place) for place in range(draw(st.integers(1, 3)))]
    calls = []
    for call_id in ids:
        function = {
            "name": draw(st.sampled_from(names)),
            "arguments": draw(st.sampled_from(ARGUMENTS)),
        }
        call: Json = {"id": call_id, "type": "function", "function": function}
        if draw(st.integers(0, 7)) == 0:
            call = {"id": call_id, "type": "custom"}
            call["custom"] = {"name": function["name"], "input": draw(st.sampled_from(_INPUTS))}
        if draw(st.integers(0, 5)) == 0:
            call["extra_content"] = {"google": {"thought_signature": SIGNATURE}}
        calls.append(call)
    assistant = draw(_assistant())
    if draw(st.integers(0, 5)) == 0 and len(calls) > 1:  # each in a message of its own
        made = [{**assistant, "tool_calls": [call]} for call in calls]
    else:
        made = [{**assistant, "tool_calls": calls}]
    results = [_result(draw, call_id) for call_id in ids]
    fate = draw(st.sampled_from(["", "", "", "reversed", "missing", "doubled", "none"]))
    if fate == "reversed":
        results.reverse()
    elif fate == "missing":
        results.pop(draw(st.integers(0, len(results) - 1)))
    elif fate == "doubled":
        results.append(_result(draw, draw(st.sampled_from(ids))))
    elif fate == "none":
        results = []
    if draw(st.integers(0, 4)) == 0:
        between = draw(_user()) if draw(st.booleans()) else _system(draw)
        results.insert(draw(st.integers(0, len(results))), between)
    return [*made, *results]


def _legacy_round(draw: st.DrawFn, names: Sequence[str]) -> list[Json]:
    """A call of before there were tools, and mostly its result."""
    name = draw(st.sampled_from(names))
    call = {"name": name, "arguments": draw(st.sampled_from(ARGUMENTS))}
    said = {"role": "assistant", "content": draw(_SAID), "function_call": call}
    result = {
        "role": "function",
        "name": name,
        "content": draw(st.sampled_from(["sunny", "", None])),
    }
    return [said, result] if draw(st.integers(0, 3)) else [said]


@st.composite
def conversations(draw: st.DrawFn) -> Json:
    """A chat request: `messages`, mostly `tools`, sometimes how to use them."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    messages = [_system(draw) for _ in range(draw(st.integers(0, 2)))]
    number = 1
    for _ in range(draw(st.integers(1, 6))):
        step = draw(st.sampled_from([*_STEPS, *_STEPS, "assistant", "legacy", "system"]))
        if step == "user":
            messages.append(draw(_user()))
        elif step == "assistant":
            messages.append(draw(_assistant()))
        elif step == "round":
            messages += _round(draw, names, number)
            number += 3
        elif step == "legacy":
            messages += _legacy_round(draw, names)
        else:
            messages.append(_system(draw))
    # Agents cut what is too long, anywhere.
    messages = messages[draw(st.sampled_from([0, 0, 0, 1, 2, 3])) :]
    messages = messages[: len(messages) - draw(st.sampled_from([0, 0, 0, 1, 2]))]
    if not any(message["role"] in ("user", "tool", "function") for message in messages):
        messages.append(draw(_user()))
    request: Json = {"model": "m", "messages": messages}
    if draw(st.integers(0, 4)):
        request["tools"] = [tool(name) for name in names]
        more: list[Json] = [{}, {}, {"parallel_tool_calls": False}, {"tool_choice": "auto"}]
        request |= draw(st.sampled_from(more))
        if draw(st.integers(0, 5)) == 0:
            chosen = draw(st.sampled_from(names))
            request["tool_choice"] = {"type": "function", "function": {"name": chosen}}
    return request


def tool(name: str) -> Json:
    """A function of this name, as a request declares it."""
    properties = {"city": {"type": "string"}, "n": {"type": ["integer", "null"]}}
    parameters = {"type": "object", "properties": properties}
    function = {"name": name, "description": f"Does {name}.", "parameters": parameters}
    return {"type": "function", "function": function}
