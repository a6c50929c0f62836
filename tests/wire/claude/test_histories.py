"""Conversations from anywhere, as Claude gets them: none is refused, none breaks a rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.wire import reasoning
from proxy.wire.chat import read_request
from proxy.wire.claude.answer import ChatStream, to_chat
from proxy.wire.claude.families import family_of
from proxy.wire.claude.request import to_request
from proxy.wire.gemini.request import to_request as to_gemini
from tests.support import claude_upstream as claude
from tests.support import gemini_upstream as gemini
from tests.support.claude_rules import violations
from tests.support.claude_upstream import read_request as read_claude
from tests.support.translators import fed
from tests.wire.claude.test_stream import join
from tests.wire.gemini import chat as gemini_chat
from tests.wire.histories import conversations

Json = dict[str, Any]

MODELS = (
    "claude-opus-4-8",
    "claude-sonnet-5",
    "claude-haiku-4-5",
    "claude-3-haiku",
    "some-other-model",
)
# These can't be made to call a tool, and check thinking against what comes before it.
BOUND = ("claude-opus-5-5", "claude-sonnet-5-5")


def translated(chat: Json, model: str) -> Json:
    """The request for Claude, which breaks no rule."""
    wire = read_claude(to_request(json.dumps(chat).encode(), model=model, stream=True))
    assert violations(wire) == []
    return wire


def _is_forced(chat: Json) -> bool:
    return isinstance(chat.get("tool_choice"), dict)


def _judge(chat: Json, model: str, effort: str | None) -> None:
    if effort is not None:
        chat = {**chat, "reasoning_effort": effort}
    if _is_forced(chat) and not family_of(model).forced_tools:
        chat = {**chat, "tool_choice": "auto"}
    translated(chat, model)


_EFFORTS = st.sampled_from([None, None, "none", "low", "max"])


@pytest.mark.long
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(chat=conversations(), model=st.sampled_from(MODELS + BOUND), effort=_EFFORTS)
def test_no_conversation_is_refused_or_breaks_a_rule(
    chat: Json, model: str, effort: str | None
) -> None:
    """Whatever agents did to it."""
    _judge(chat, model, effort)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=1500, suppress_health_check=list(HealthCheck))
@given(chat=conversations(), model=st.sampled_from(MODELS + BOUND), effort=_EFFORTS)
def test_none_of_many_conversations_is_refused_or_breaks_a_rule(
    chat: Json, model: str, effort: str | None
) -> None:
    """The same, for longer; `make fuzz N=10000` is for long."""
    _judge(chat, model, effort)


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(chat=conversations())
def test_translation_depends_on_the_request_alone(chat: Json) -> None:
    """Equal beginnings stay equal, so that the cache of prompts holds."""
    body = json.dumps(chat).encode()
    for model in ("claude-opus-4-8", "claude-haiku-4-5"):
        whole = to_request(body, model=model, stream=True)
        assert to_request(body, model=model, stream=True) == whole


# What the gateway gave out


_PARTS: list[Json] = [
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "closed": True},
            {"type": "text", "text": "42"},
            {"type": "reference", "reference_ids": [1]},
        ],
    },
    {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": []},
    {
        "role": "assistant",
        "content": None,
        "reasoning": "hm",
        "reasoning_details": [{"type": "reasoning.text", "text": "hm", "index": 0}],
        "tool_calls": [
            {"id": None, "type": "function", "function": {"name": "f", "arguments": None}},
            {"id": "", "index": 1, "function": {"name": "g", "arguments": {"a": 1.50}}},
        ],
    },
    {"role": "assistant", "content": "x", "audio": None, "function_call": None, "annotations": []},
    {"role": "assistant", "content": "x", "executed_tools": [], "x_groq": {"id": "r"}},
]


def _given_out() -> list[Json]:
    """Every message that a caller may hold after an answer of the fakes'."""
    made = list(_PARTS)
    for answer in claude.ANSWERS.values():
        body = to_chat(json.dumps(answer).encode(), model="m", created=1)
        made.append(json.loads(body)["choices"][0]["message"])
        stream = ChatStream(model="m", created=1, include_usage=True)
        chunks = fed(stream, claude.data(claude.events(answer)))
        made.append(join([json.loads(chunk) for chunk in chunks])["choices"][0]["message"])
    for events in gemini.STREAMS.values():
        chunks_of = gemini_chat.chunks_of([gemini.payloads(events)])
        made += [choice["message"] for choice in gemini_chat.join(chunks_of)["choices"]]
        whole = gemini_chat.chat_of(gemini.unary(gemini.joined(events)))
        made += [choice["message"] for choice in whole["choices"]]
    return [{"role": "assistant", **message} for message in made]


GIVEN_OUT = _given_out()


@pytest.mark.parametrize("message", GIVEN_OUT)
def test_what_was_given_out_is_taken_back(message: Json) -> None:
    """By every kind of client, with results of its calls and without."""
    user = {"role": "user", "content": "Hi"}
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "done"}
        for call in message.get("tool_calls") or ()
    ]
    for rest in ([], results, [*results, user], [user], [{**message}, user]):
        chat = {"model": "m", "messages": [user, message, *rest]}
        body = json.dumps(chat).encode()
        for model in MODELS + BOUND:
            translated(chat, model)
        read_request(reasoning.strip(body))
        for model in ("gemini-2.5-flash", "gemini-3.5-flash") if message not in _PARTS else ():
            to_gemini(reasoning.strip(body, [reasoning.THINKING]), model=model, stream=True)
