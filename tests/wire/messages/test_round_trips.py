"""There and back: `wire/messages` and `wire/claude` undo each other in what both can say."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.messages import MESSAGES
from proxy.wire.chat import chunks_of
from proxy.wire.claude.answer import ChatStream, to_chat
from proxy.wire.claude.request import to_request
from proxy.wire.messages.answer import MessageStream, events_of
from proxy.wire.sse import SseDecoder, encode_named
from tests.support import claude_upstream as claude
from tests.support.translators import fed

Json = dict[str, Any]

ASKED: Json = {"stops": [], "thinks": True, "shows": True, "kind": "openai"}

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: text.strip() == text and text.strip() != ""
)
ids = st.from_regex(r"[a-zA-Z0-9_-]{1,30}", fullmatch=True).filter(lambda name: "__" not in name)
arguments = st.dictionaries(words, words | st.integers(-(2**53), 2**53) | st.none(), max_size=3)


@st.composite
def histories(draw: st.DrawFn) -> list[Json]:
    """Turns as Anthropic's API takes them: the user's first, results behind their calls."""
    turns: list[Json] = [{"role": "user", "content": [claude_text(draw(words))]}]
    names = draw(st.lists(ids, min_size=4, max_size=4, unique=True))
    for name in names[: draw(st.integers(0, 4))]:
        content = [claude_text(draw(words))] if draw(st.booleans()) else []
        call = {"type": "tool_use", "id": name, "name": "run", "input": draw(arguments)}
        result = {"type": "tool_result", "tool_use_id": name, "content": [claude_text(draw(words))]}
        behind = [claude_text(draw(words))] if draw(st.booleans()) else []
        turns.append({"role": "assistant", "content": [*content, call]})
        turns.append({"role": "user", "content": [result, *behind]})
    return turns


def claude_text(text: str) -> Json:
    return {"type": "text", "text": text}


@given(
    turns=histories(),
    system=words,
    stops=st.lists(words, min_size=1, max_size=3),
    choice=st.sampled_from(["auto", "any", "none"]),
    effort=st.sampled_from([None, "low", "high"]),
)
def test_requests(
    turns: list[Json], system: str, stops: list[str], choice: str, effort: str | None
) -> None:
    """Messages -> chat -> Messages."""
    tool = {"name": "run", "description": "Runs.", "input_schema": {"type": "object"}}
    wire: Json = {"model": "claude-opus-4-8", "max_tokens": 99, "system": [claude_text(system)]}
    wire |= {"messages": turns, "stop_sequences": stops, "tools": [tool]}
    wire |= {"tool_choice": {"type": choice}, "stream": True}
    if effort is not None:
        wire["output_config"] = {"effort": effort}
    chat = MESSAGES.read(json.dumps(wire).encode(), {}).request(0, "claude", natively=False)
    back = json.loads(to_request(chat.body, model="claude-opus-4-8", stream=True))
    if choice == "auto":  # it is the default
        wire.pop("tool_choice")
    if effort is not None:
        back.pop("thinking", None)  # which effort switches on
    assert back == wire


@st.composite
def answers(draw: st.DrawFn) -> Json:
    """A Message."""
    blocks = [claude_text(draw(words))] if draw(st.booleans()) else []
    names = draw(st.lists(ids, max_size=3, unique=True))
    uses = [{"type": "tool_use", "id": name, "name": "run"} for name in names]
    blocks += [{**use, "input": draw(arguments)} for use in uses]
    counts = st.integers(0, 10**9)
    reason = "tool_use" if names else draw(st.sampled_from(["end_turn", "max_tokens"]))
    usage = {
        "input_tokens": draw(counts),
        "output_tokens": draw(counts),
        "cache_read_input_tokens": draw(counts),
        "cache_creation_input_tokens": draw(counts),
    }
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": blocks,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": usage,
    }


@given(message=answers())
def test_answers(message: Json) -> None:
    """Message -> chat -> Message, unary and streamed."""
    chat = to_chat(json.dumps(message).encode(), model="m", created=1)
    assert json.loads(MessageStream("m", **ASKED).whole(chunks_of(chat))) == message


@given(message=answers(), size=st.integers(1, 9))
def test_streams(message: Json, size: int) -> None:
    """Events -> chunks -> events: whatever the pieces, the same message comes of them."""
    whole = json.loads(
        MessageStream("m", **ASKED).whole(
            chunks_of(to_chat(json.dumps(message).encode(), model="m", created=1))
        )
    )
    blocks = [{"citations": None, **block} for block in message["content"]]
    details = {"stop_details": None, "content": blocks}
    pieces = claude.data(claude.events({**message, **details}, piece_chars=size))
    in_one = encode_named(events_of(json.dumps(message).encode()))
    for payloads in (pieces, list(SseDecoder(max_event_bytes=1 << 20).feed(in_one))):
        chunks = ChatStream(model="m", created=1, include_usage=True)
        made = MessageStream("m", **ASKED)
        written = made.feed(fed(chunks, payloads)) + made.end()
        assert claude.joined(written) == whole
