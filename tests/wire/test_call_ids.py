"""What ids of tool calls carry is taken off, and nothing else is touched."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import reasoning
from proxy.wire.claude.thinking import ThinkingBlock, carry
from proxy.wire.gemini.calls import make_id

SIGNED = make_id("call_1", "c2lnbmF0dXJl")
THOUGHTFUL = carry("toolu_1", [ThinkingBlock(type="thinking", thinking="ü", signature="s/+=")])


def body(call_id: str, text: str = "") -> bytes:
    call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": text}}
    result = {"role": "tool", "tool_call_id": call_id, "content": text}
    return json.dumps({"messages": [{"role": "assistant", "tool_calls": [call]}, result]}).encode()


def test_ids_of_calls_and_results_lose_what_they_carry() -> None:
    """Both kinds, unless one is to be kept."""
    assert reasoning.strip(body(SIGNED)) == body("call_1")
    assert reasoning.strip(body(THOUGHTFUL)) == body("toolu_1")
    assert reasoning.strip(body(SIGNED), [reasoning.THINKING]) == body(SIGNED)
    assert reasoning.strip(body(THOUGHTFUL), [reasoning.THOUGHT]) == body(THOUGHTFUL)


def test_what_was_said_is_left_alone() -> None:
    """Arguments and results that quote such an id, in JSON or not."""
    for quoted in (SIGNED, THOUGHTFUL, f'{{"id": "{SIGNED}", "tool_call_id":"{THOUGHTFUL}"}}'):
        assert reasoning.strip(body("call_1", quoted)) == body("call_1", quoted)


@given(st.text(max_size=30), st.text(max_size=30))
def test_bodies_without_marks_are_the_same_object(call_id: str, text: str) -> None:
    """Nothing is copied."""
    made = body(call_id, text)
    assert reasoning.strip(made) is made
