"""Callers of the OpenAI SDK, served by each kind of upstream."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from tests.support import claude_upstream as claude
from tests.support.dialects import (
    DIALECTS,
    SIGNATURE,
    Call,
    Dialect,
    Said,
    configuration,
    gist,
    joined,
)
from tests.support.gateway import CHAT, Gateway
from tests.support.upstream import Upstream

Json = dict[str, Any]

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]
QUESTION: Any = {"role": "user", "content": "Which is colder?"}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()

PARIS = Call("call_paris", "weather", {"city": "Paris"})
ZURICH = Call("call_zurich", "weather", {"city": "Zürich"})
BOTH = Said("I will look.", calls=(PARIS, ZURICH), finish="tool_calls")
TRANSCRIPT = (
    BOTH,
    Said("Zürich is colder, at\n-2 °C 🌍."),
    Said("Once upon a", finish="length"),
)
THOUGHT = Said("It is 4.", reasoning="2 + 2 is 4.", reasoning_tokens=3)


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    clients = [one.client(upstream.origin, f"key-{one.kind}", one.kind) for one in DIALECTS]
    config = configuration(*clients)
    with Gateway(config, secrets=[f"key-{one.kind}" for one in DIALECTS]) as running:
        yield running


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.kind)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


@pytest.fixture(params=DIALECTS[1:], ids=lambda dialect: dialect.kind)
def foreign(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


@pytest.fixture
def sdk(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with gateway.sdk() as client:
        yield client


def says(upstream: Upstream, dialect: Dialect, *said: Said) -> None:
    upstream.reply(f"key-{dialect.kind}", *[dialect.answer(one) for one in said])


def sent(upstream: Upstream, dialect: Dialect) -> Json:
    """The latest request, as its API reads it."""
    return dialect.read(upstream.received(f"key-{dialect.kind}")[-1])


def converse(gateway: Gateway, model: str, *, stream: bool) -> list[ChatCompletion]:
    """The answers of a whole conversation, tool results and all; each checked strictly."""
    messages: list[Json] = [QUESTION]
    answers = []
    for turn in range(len(TRANSCRIPT)):
        asked = {"model": model, "messages": messages, "tools": TOOLS, "stream": stream}
        if stream:
            asked["stream_options"] = {"include_usage": True}
        response = gateway.call("POST", CHAT, asked)
        assert response.status == 200, response
        if stream:
            *chunks, done = response.data
            assert done == b"[DONE]"
            answer = joined(chunks)
        else:
            answer = ChatCompletion.model_validate_json(response.body, strict=True)
        answers.append(answer)
        message = answer.choices[0].message
        messages.append(message.to_dict(mode="json", exclude_none=True))
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": f"{turn} °C"}
            for call in message.tool_calls or ()
        ]
        if not message.tool_calls:
            messages.append({"role": "user", "content": "Tell me a story."})
    return answers


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
def test_a_transcript_gives_the_same_answers_from_every_kind(
    gateway: Gateway, upstream: Upstream, dialect: Dialect, stream: bool
) -> None:
    """Unary or joined of chunks: content, calls, finish reasons and usage are what was said."""
    says(upstream, dialect, *TRANSCRIPT)
    answers = converse(gateway, dialect.kind, stream=stream)
    assert [gist(answer) for answer in answers] == [said.gist() for said in TRANSCRIPT]
    for answer in answers:
        assert answer.id
        assert answer.model in (dialect.kind, dialect.model, "gpt-4.1-mini")
        assert answer.created


def test_sdk_loops_over_two_parallel_calls(
    sdk: openai.OpenAI, upstream: Upstream, dialect: Dialect
) -> None:
    """The streaming helper's message goes back as it came, with a result for each call."""
    says(upstream, dialect, BOTH, Said("Zürich."))
    with sdk.chat.completions.stream(
        model=dialect.kind, messages=[QUESTION], tools=TOOLS
    ) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    calls = message.tool_calls or []
    assert len({call.id for call in calls}) == 2
    results: list[Any] = [
        {"role": "tool", "tool_call_id": call.id, "content": f"result {place}"}
        for place, call in enumerate(calls)
    ]
    history: list[Any] = [QUESTION, message.to_dict(exclude_none=True), *results]
    answer = sdk.chat.completions.create(model=dialect.kind, messages=history, tools=TOOLS)
    assert answer.choices[0].message.content == "Zürich."
    last = json.dumps(sent(upstream, dialect)[dialect.messages])
    assert re.search("call_paris.*call_zurich.*result 0.*result 1", last), last
    assert last.count("call_paris") == last.count("call_zurich") == 2


def test_vision(sdk: openai.OpenAI, upstream: Upstream, dialect: Dialect) -> None:
    """An image in a data URL reaches the model with its type and bytes."""
    says(upstream, dialect, Said("A dot."))
    content: Any = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]
    answer = sdk.chat.completions.create(
        model=dialect.kind, messages=[{"role": "user", "content": content}]
    )
    assert answer.choices[0].message.content == "A dot."
    last = json.dumps(sent(upstream, dialect))
    assert PNG in last
    assert "image/png" in last


class City(BaseModel):
    name: str
    people: int


def test_json_schema(sdk: openai.OpenAI, upstream: Upstream, dialect: Dialect) -> None:
    """The SDK parses the answer into the class whose schema it sent."""
    says(upstream, dialect, Said('{"name": "Zürich", "people": 443037}'))
    answer = sdk.chat.completions.parse(
        model=dialect.kind, messages=[QUESTION], response_format=City
    )
    assert answer.choices[0].message.parsed == City(name="Zürich", people=443037)
    assert '"people"' in json.dumps(sent(upstream, dialect))


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
def test_reasoning(sdk: openai.OpenAI, upstream: Upstream, dialect: Dialect, stream: bool) -> None:
    """The effort is asked for; the thoughts come apart from the answer, and are counted."""
    says(upstream, dialect, THOUGHT)
    asked: Any = {"model": dialect.kind, "messages": [QUESTION], "reasoning_effort": "low"}
    if stream:
        chunks = sdk.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        answer = joined(chunk.to_json().encode() for chunk in chunks)
    else:
        answer = sdk.chat.completions.create(**asked)
    assert gist(answer) == THOUGHT.gist()
    wanted: dict[str, Json] = {
        "openai": {"reasoning_effort": "low"},
        "claude": {
            "thinking": {"type": "adaptive", "display": "summarized"},
            "output_config": {"effort": "low"},
        },
        "gemini": {
            "generationConfig": {
                "thinkingConfig": {"includeThoughts": True, "thinkingLevel": "LOW"}
            }
        },
    }
    assert sent(upstream, dialect).items() >= wanted[dialect.kind].items()


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": True}])
def test_usage_chunk_comes_exactly_if_asked_for(
    gateway: Gateway, upstream: Upstream, foreign: Dialect, options: Json | None
) -> None:
    """Once, last, without choices; the others have `usage: null` then, and no `usage` else."""
    says(upstream, foreign, Said("Hello there."))
    response = gateway.chat(foreign.kind, stream=True, stream_options=options)
    chunks = [json.loads(payload) for payload in response.data[:-1]]
    if options == {"include_usage": True}:
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["total_tokens"] == 18
        assert {chunk["usage"] for chunk in chunks[:-1]} == {None}
    else:
        assert not any("usage" in chunk for chunk in chunks)
    assert all(chunk["choices"] for chunk in chunks[:-1])


def test_what_no_kind_but_openai_can_do_is_named(
    gateway: Gateway, upstream: Upstream, foreign: Dialect
) -> None:
    """Before anything is sent."""
    before = len(upstream.received())
    response = gateway.chat(foreign.kind, logit_bias={"5": 1})
    assert response.status == 400
    assert response.error["code"] == "unsupported_parameter"
    assert response.error["param"] == "logit_bias"
    assert len(upstream.received()) == before


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("drops_extras", [False, True])
def test_signed_thoughts_survive_a_tool_loop(
    sdk: openai.OpenAI, upstream: Upstream, foreign: Dialect, stream: bool, drops_extras: bool
) -> None:
    """In extra fields for a caller that returns what it was given, in the call's id for all."""
    thought = Said("Hm.", "Both cities.", BOTH.calls, "tool_calls", reasoning_tokens=3)
    says(upstream, foreign, thought, Said("Zürich."))
    asked: Any = {"model": foreign.kind, "tools": TOOLS, "reasoning_effort": "low"}
    if stream:
        chunks = sdk.chat.completions.create(**asked, messages=[QUESTION], stream=True)
        message = joined(chunk.to_json().encode() for chunk in chunks).choices[0].message
    else:
        answer = sdk.chat.completions.create(**asked, messages=[QUESTION])
        message = answer.choices[0].message
    returned: Any = message.to_dict(exclude_none=True)
    calls = returned["tool_calls"]
    if drops_extras:
        known = ("id", "type", "function")
        calls = [{name: call[name] for name in known} for call in calls]
        returned = {"role": "assistant", "content": message.content, "tool_calls": calls}
    results: Any = [
        {"role": "tool", "tool_call_id": call["id"], "content": "1 °C"} for call in calls
    ]
    sdk.chat.completions.create(**asked, messages=[QUESTION, returned, *results])
    turn = sent(upstream, foreign)[foreign.messages][1]
    parts = turn["content"] if foreign.kind == "claude" else turn["parts"]
    if foreign.kind == "claude":
        assert parts[0] == claude.thinking("Both cities.")
    else:
        signed = [part for part in parts if "thoughtSignature" in part]
        assert [part["thoughtSignature"] for part in signed] == [SIGNATURE]
        assert signed[0]["functionCall"]["id"] == "call_paris"
    assert "__th" not in json.dumps(parts)
