"""What changes in a request that Claude itself gets: thoughts of others, and nothing else."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from proxy.wire.claude.native import without_thoughts
from proxy.wire.reasoning import MARK, pack

Json = dict[str, Any]

without_containers = partial(without_thoughts, every=False)

HI = {"role": "user", "content": "Hi"}
OWN = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
OTHERS = {"type": "thinking", "thinking": "Ho.", "signature": pack("gemini", b"x")}
REDACTED = {"type": "redacted_thinking", "data": pack("openai", b"x")}
CALL = {"type": "tool_use", "id": "a", "name": "f", "input": {"big": 12345678901234567890}}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "1"}]}
BUDGET = {"type": "enabled", "budget_tokens": 2000}


def said(*blocks: Json) -> Json:
    return {"role": "assistant", "content": list(blocks)}


def body(*messages: Any, **more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": list(messages), **more}).encode()


@pytest.mark.parametrize(
    "untouched",
    [
        body(HI, said(OWN, CALL), RESULT, thinking=BUDGET),
        body({"role": "user", "content": MARK}),
        body(said({"type": "text", "text": MARK})),
        b'{"messages": "%b"}' % MARK.encode(),
        b'{"messages": [7, "%b"]}' % MARK.encode(),
    ],
)
def test_without_containers_it_is_the_same_bytes(untouched: bytes) -> None:
    """Whatever speaks of them."""
    assert without_containers(untouched) is untouched


def test_containers_are_left_out() -> None:
    """All else stays as it came; a message of nothing else goes."""
    made = json.loads(
        without_containers(
            body(HI, said(OTHERS), said(OWN, REDACTED, OTHERS, CALL), RESULT, x=1.50)
        )
    )
    assert made == {"model": "m", "messages": [HI, said(OWN, CALL), RESULT], "x": 1.5}


def test_thinking_stops_where_its_loop_has_none() -> None:
    """Claude would refuse it. It takes adaptive thinking, and asks for nothing in old loops."""
    edits = {"edits": [{"type": "clear_thinking_20251015"}]}
    loop = [HI, said(OTHERS, CALL), RESULT]
    made = json.loads(without_containers(body(*loop, thinking=BUDGET, context_management=edits)))
    assert made.keys() == {"model", "messages"}
    adaptive = {"type": "adaptive"}
    assert json.loads(without_containers(body(*loop, thinking=adaptive)))["thinking"] == adaptive
    over = json.loads(without_containers(body(*loop, HI, thinking=BUDGET)))
    assert over["thinking"] == BUDGET
    mixed = [HI, said(OWN, OTHERS, CALL), RESULT]
    assert json.loads(without_containers(body(*mixed, thinking=BUDGET)))["thinking"] == BUDGET


def test_thoughts_are_left_out_though_nothing_was_said_of_thinking() -> None:
    """A request without the parameter, one that begins with the model's turn, odd blocks."""
    loop = [HI, said(OTHERS, CALL), RESULT]
    assert json.loads(without_containers(body(*loop))) == {
        "model": "m",
        "messages": [HI, said(CALL), RESULT],
    }
    begins = json.loads(without_containers(body(said(OWN, OTHERS, CALL), RESULT, thinking=BUDGET)))
    assert (begins["messages"], begins["thinking"]) == ([said(OWN, CALL), RESULT], BUDGET)
    odd = {"text": "x"}
    made = without_containers(body(HI, said(OTHERS, odd), thinking=BUDGET))
    assert json.loads(made)["messages"] == [HI, said(odd)]


def test_without_thoughts() -> None:
    """None of any kind; the same bytes where there were none."""
    made = without_thoughts(body(HI, said(OWN, CALL), RESULT, thinking=BUDGET), every=True)
    assert json.loads(made) == {"model": "m", "messages": [HI, said(CALL), RESULT]}
    said_text = {"role": "user", "content": "thinking"}
    for untouched in (body(HI), body(HI, thinking=BUDGET), body(said_text)):
        assert without_thoughts(untouched, every=True) is untouched
