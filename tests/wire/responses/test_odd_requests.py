"""Whatever stands in a request or in a chunk: an answer or an error of ours, never another one."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dialects.responses import RESPONSES
from proxy.errors import CallerError, InvalidRequest, UpstreamInvalid
from proxy.wire.chat import chunks_of
from proxy.wire.chat.request import read_outer
from proxy.wire.responses.native import without_reasoning
from tests.support.responses import RECORDED
from tests.wire.responses.test_items import PNG
from tests.wire.responses.test_request import KINDS
from tests.wire.responses.test_round_trips import block, call, google
from tests.wire.responses.test_stream import HEAD, TOOLS, USAGE, events

Json = dict[str, Any]

ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    10**40,
    "",
    "x",
    "\ud83d",
    [],
    {},
    [None],
    [[]],
    {"type": 5},
]
ODD += [{"type": "text"}, "data:,", "cG9vbHByb3h5", [{"type": "reasoning", "encrypted_content": 5}]]
EVERYTHING: Json = {
    "model": "m",
    "instructions": "Be brief.",
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 2,
    "max_output_tokens": 5,
    "reasoning": {"effort": "low", "context": "auto"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
    "tools": [*TOOLS, {"type": "web_search"}, {"type": "mcp", "allowed_callers": ["direct"]}],
    "tool_choice": {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "weather"}],
    },
    "input": [
        {"role": "user", "content": [{"type": "input_image", "image_url": PNG, "detail": "auto"}]},
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Hm"}],
            "encrypted_content": None,
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}], "phase": "x"},
        {"type": "function_call", "call_id": "a", "name": "f", "namespace": "n", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "a",
            "output": [{"type": "input_text", "text": "x"}],
        },
        {"type": "shell_call", "call_id": "b", "action": {"commands": ["ls"]}},
        {
            "type": "shell_call_output",
            "call_id": "b",
            "output": [{"stdout": "x", "outcome": {"type": "exit"}}],
        },
        {"type": "file_search_call", "results": [{"text": "x"}]},
        {"type": "tool_search_output", "tools": [{"type": "function", "name": "g"}]},
    ],
}
REQUESTS = [EVERYTHING, *[body for bodies in RECORDED.values() for body in bodies]]
MESSAGE: Json = {
    "role": "assistant",
    "content": "Hi",
    "refusal": "No",
    "reasoning_content": "Hm",
    "thinking_blocks": [block(0, 0, 0), block(1, 1, 1)],
    "annotations": [{"type": "url_citation", "url_citation": {"url": "u", "start_index": 0}}],
    "images": [{"image_url": {"url": "data:image/png;base64,AA=="}}],
    "tool_calls": [call(0, extra_content=google()), call(1, "patch", '{"input":"x"}')],
    "extra_content": google(),
}
LOGPROBS = {"content": [{"token": "x", "logprob": -1, "bytes": [1], "top_logprobs": [{}]}]}
ANSWER: Json = {
    **HEAD,
    "choices": [{"index": 0, "message": MESSAGE, "logprobs": LOGPROBS, "finish_reason": "stop"}],
    "usage": USAGE,
}


def _places(value: Any) -> list[list[Any]]:
    """The paths to all values in it."""
    found: list[list[Any]] = [[]]
    members = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, inner in members:
        found += [[name, *path] for path in _places(inner)]
    return found


def _with(value: Any, path: list[Any], other: Any) -> Any:
    if not path:
        return other
    first, *rest = path
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[first] = _with(value[first], rest, other)
    return changed


@st.composite
def odd(draw: st.DrawFn, whole: Any) -> bytes:
    """A request or an answer in which a value or two are others."""
    for _ in range(draw(st.integers(1, 3))):
        whole = _with(whole, draw(st.sampled_from(_places(whole))), draw(st.sampled_from(ODD)))
    return json.dumps(whole).encode()


@settings(max_examples=150)
@given(st.sampled_from(REQUESTS).flatmap(odd), st.sampled_from(KINDS))
def test_any_request_is_translated_or_refused(body: bytes, kind: str) -> None:
    """By an error that names what it is about."""
    with contextlib.suppress(CallerError):
        read_outer(body)
        without_reasoning(body, every=False)
        without_reasoning(body, every=True)
        json.loads(RESPONSES.read(body, {}).request(0, kind, natively=False).body)
        events(kind).whole(chunks_of(json.dumps(ANSWER).encode()))


@pytest.mark.long
@settings(max_examples=150)
@given(odd(ANSWER), st.sampled_from(KINDS))
def test_any_answer_is_translated_or_refused(body: bytes, kind: str) -> None:
    """Whatever an upstream that looks like OpenAI's sends."""
    with contextlib.suppress(UpstreamInvalid):
        stream = events(kind)
        stream.feed([body, body.replace(b'"message"', b'"delta"')])
        stream.end()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("item", ["[", '{"type":"x","output":[', '{"type":"x","tools":['])
def test_nesting_beyond_all_bounds_is_refused(kind: str, item: str) -> None:
    """And crashes nothing."""
    for depth in (200, 400, *range(840, 1000, 5), 5000):
        closing = "".join({"[": "]", "{": "}"}[each] for each in reversed(item) if each in "[{")
        deep = item + "[" * depth + "]" * depth + closing
        with contextlib.suppress(InvalidRequest):
            found = RESPONSES.read(b'{"model":"m","input":[%b]}' % deep.encode(), {})
            found.request(0, kind, natively=False)


@pytest.mark.long
@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": "x"},
        {"role": "developer", "content": "x"},
        {"role": "assistant", "content": "x"},
        {"type": "function_call", "call_id": "", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "x"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "x"}]},
    ],
    ids=lambda item: str(item.get("role") or item["type"]),
)
def test_time_grows_with_the_number_of_items_alone(item: Json) -> None:
    """A body may hold hundreds of thousands: what grew with their square would take minutes."""
    items = [{"role": "user", "content": "Hi"}, *[item] * 40_000]
    body = json.dumps({"model": "m", "input": items}).encode()
    begun = time.thread_time()
    RESPONSES.read(body, {}).request(0, "openai", natively=False)
    assert time.thread_time() - begun < 20
