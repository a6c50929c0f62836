"""Conversations from anywhere, as requests that Gemini takes: by its rules, by its SDK's types."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.wire.claude.answer import to_chat as claude_to_chat
from proxy.wire.gemini.request import to_request
from tests.support import claude_upstream as claude
from tests.support import gemini_upstream as upstream
from tests.wire.gemini.chat import Json, chat_of, chunks_of, join
from tests.wire.gemini.requests import HELLO, result, translate
from tests.wire.histories import conversations

MODELS = ["gemini-2.5-flash", "gemini-3.5-flash", "gemini-flash-latest"]


def check(request: Json, model: str) -> None:
    sent = to_request(json.dumps(request).encode(), model=model, stream=True)
    upstream.read_request(sent, model=model)


@pytest.mark.long
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(conversations(), st.sampled_from(MODELS))
def test_conversations_are_taken(request: Json, model: str) -> None:
    """None is refused, and none breaks a rule."""
    check(request, model)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=1500, suppress_health_check=list(HealthCheck))
@given(conversations(), st.sampled_from(MODELS))
def test_many_conversations_are_taken(request: Json, model: str) -> None:
    """The same, for longer; `make fuzz N=10000` is for long."""
    check(request, model)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("name", upstream.STREAMS)
def test_every_answer_is_taken_back(name: str, keeps: bool, model: str) -> None:
    """What was given out, unary or streamed, in the next request; fields kept or dropped."""
    events = upstream.STREAMS[name]
    for answer in (
        chat_of(upstream.unary(upstream.joined(events))),
        join(chunks_of([upstream.payloads(events)])),
    ):
        message = {"role": "assistant", **answer["choices"][0]["message"]}
        made = message.get("tool_calls", [])
        if not keeps:
            known = ("role", "content", "tool_calls", "refusal")
            message = {field: message[field] for field in known if field in message}
            made = [{k: v for k, v in call.items() if k != "extra_content"} for call in made]
            message |= {"tool_calls": made} if made else {}
        results = [result(call["id"], "done") for call in made]
        request = translate(model, messages=[*HELLO, message, *results])
        given_out = [part for event in events for part in parts_of(event)]
        if keeps and model != MODELS[0]:
            sent = [part for turn in request["contents"] for part in turn["parts"]]
            for part in given_out:
                if part.keys() & {"toolCall", "toolResponse"}:
                    assert part in sent


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", claude.ANSWERS)
def test_every_answer_of_claude_is_taken(name: str, model: str) -> None:
    """In a pool of both kinds, its thinking and its ids and all."""
    body = json.dumps(claude.ANSWERS[name]).encode()
    message = json.loads(claude_to_chat(body, model="m", created=1))["choices"][0]["message"]
    results = [result(call["id"], "done") for call in message.get("tool_calls") or ()]
    made = translate(model, messages=[*HELLO, message, *results, *HELLO])
    found = [part for turn in made["contents"] for part in turn["parts"]]
    assert sum("functionResponse" in part for part in found) == len(results)


def parts_of(event: Json) -> list[Json]:
    """The parts of the first candidate."""
    candidates = event.get("candidates", [])[:1]
    return [part for one in candidates for part in one["content"].get("parts", [])]
