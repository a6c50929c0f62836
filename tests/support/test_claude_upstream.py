"""The fake Claude is faithful: the official SDK's types take all that it sends."""

from __future__ import annotations

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, ModelInfo, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from pydantic import TypeAdapter

from tests.support import claude_upstream

_EVENTS: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)


@pytest.mark.parametrize("name", claude_upstream.ANSWERS)
def test_every_answer_is_a_message_of_the_sdk(name: str) -> None:
    """Unary answers have the fields, types and words of the API."""
    Message.model_validate(claude_upstream.ANSWERS[name], strict=True)


@pytest.mark.parametrize("name", claude_upstream.ANSWERS)
def test_the_sdk_joins_every_stream_to_its_message(name: str) -> None:
    """The events of a stream add up to the unary answer in the SDK's own accumulator."""
    answer = claude_upstream.ANSWERS[name]
    snapshot = None
    buffers: dict[int, bytes] = {}
    for event in claude_upstream.events(answer):
        if event["type"] == "ping":
            continue
        parsed = _EVENTS.validate_python(event)
        snapshot = accumulate_event(event=parsed, current_snapshot=snapshot, json_bufs=buffers)
    assert snapshot is not None
    expected = Message.model_validate(answer)
    assert snapshot.stop_reason == expected.stop_reason
    assert snapshot.stop_details == expected.stop_details
    assert snapshot.usage.output_tokens == expected.usage.output_tokens
    assert [block.to_dict() for block in snapshot.content] == [
        block.to_dict() for block in expected.content
    ]


def test_errors_and_models_are_those_of_the_sdk() -> None:
    """Error bodies and model lists parse as the SDK's types."""
    ErrorResponse.model_validate(claude_upstream.error("overloaded_error", "Overloaded"))
    for model in claude_upstream.models("claude-opus-5", "claude-haiku-4-5")["data"]:
        ModelInfo.model_validate(model)


def test_events_on_the_wire_have_their_names() -> None:
    """Claude names each event; its data is one line."""
    wire = claude_upstream.sse(claude_upstream.events(claude_upstream.ANSWERS["text"]))
    assert wire[0].startswith(b'event: message_start\ndata: {"type": "message_start"')
    assert all(event.endswith(b"}\n\n") for event in wire)
