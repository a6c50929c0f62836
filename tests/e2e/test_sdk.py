"""The official `openai` SDK against the gateway: sync, async, streamed, with tools."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pydantic
import pytest

from proxy.wire.made_names import plain_name
from tests.support.gateway import MESSAGES, Gateway, Lot
from tests.support.upstream import Upstream, chat, error, stream, stream_tool_calls, tool_calls
from tests.wire.chat.rules import violations

WEATHER = ("get_weather", {"city": "Zürich", "unit": "celsius"})
TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]


class City(pydantic.BaseModel):
    """A structured answer."""

    name: str
    people: int


def test_unary(gateway: Gateway, lot: Lot) -> None:
    """An answer, its usage, and the request's id where the SDK looks for it."""
    with gateway.sdk() as sdk:
        answer = sdk.chat.completions.create(model=lot.model, messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello there!"
    assert answer.usage
    assert answer.usage.total_tokens == 12
    assert answer._request_id
    assert gateway.record_of(answer._request_id)["end"] == "ok"


def test_several_choices(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """`n` and its choices pass."""
    upstream.reply(lot.key, chat("a", "b"))
    with gateway.sdk() as sdk:
        answer = sdk.chat.completions.create(model=lot.model, messages=MESSAGES, n=2, seed=7)
    assert [choice.message.content for choice in answer.choices] == ["a", "b"]
    asked = upstream.received(lot.key)[0].json()
    assert (asked["n"], asked["seed"]) == (2, 7)


def test_stream(gateway: Gateway, lot: Lot) -> None:
    """Chunk by chunk, with usage at the end if asked for."""
    with gateway.sdk() as sdk:
        answer = sdk.chat.completions.create(
            model=lot.model,
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(answer)
    texts = [one.choices[0].delta.content or "" for one in chunks if one.choices]
    assert "".join(texts) == "Hello there!"
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == 12


def test_stream_helper(gateway: Gateway, lot: Lot) -> None:
    """The SDK's own accumulator is content with what it gets."""
    with (
        gateway.sdk() as sdk,
        sdk.chat.completions.stream(model=lot.model, messages=MESSAGES) as answer,
    ):
        final = answer.get_final_completion()
    assert final.choices[0].message.content == "Hello there!"
    assert final.choices[0].finish_reason == "stop"


def test_async_unary_and_streamed(gateway: Gateway, lot: Lot) -> None:
    """Many at once on one connection pool."""

    async def one(sdk: openai.AsyncOpenAI) -> str | None:
        answer = await sdk.chat.completions.create(model=lot.model, messages=MESSAGES)
        return answer.choices[0].message.content

    async def streamed(sdk: openai.AsyncOpenAI) -> str:
        answer = await sdk.chat.completions.create(model=lot.model, messages=MESSAGES, stream=True)
        return "".join([each.choices[0].delta.content or "" async for each in answer])

    async def many() -> list[str | None]:
        async with openai.AsyncOpenAI(**gateway.sdk_options()) as sdk:
            return await asyncio.gather(*(call(sdk) for call in (one, streamed) * 8))

    assert asyncio.run(many()) == ["Hello there!"] * 16


def test_tools(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """Tools go up, calls come down."""
    upstream.reply(lot.key, tool_calls(WEATHER, WEATHER))
    with gateway.sdk() as sdk:
        answer = sdk.chat.completions.create(model=lot.model, messages=MESSAGES, tools=TOOLS)
    calls = answer.choices[0].message.tool_calls
    assert calls
    assert [call.id for call in calls] == ["call_0", "call_1"]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert upstream.received(lot.key)[0].json()["tools"] == TOOLS


def test_streamed_tools(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """Arguments in pieces, by the index of their call."""
    upstream.reply(lot.key, stream_tool_calls(WEATHER, WEATHER))
    with (
        gateway.sdk() as sdk,
        sdk.chat.completions.stream(model=lot.model, messages=MESSAGES, tools=TOOLS) as answer,
    ):
        final = answer.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls
    functions = [call.function for call in calls]
    assert [
        (one.name, pydantic.TypeAdapter(dict[str, str]).validate_json(one.arguments))
        for one in functions
    ] == [WEATHER, WEATHER]


@pytest.mark.parametrize("is_stream", [False, True])
def test_names_that_the_upstream_may_not_take(
    gateway: Gateway, upstream: Upstream, lot: Lot, is_stream: bool
) -> None:
    """Declared, chosen and called before by others, which the caller never sees."""
    name = "mcp/files.read"
    tool: Any = {"type": "function", "function": {"name": name}}
    before = {"id": "call_9", "type": "function", "function": {"name": name, "arguments": "{}"}}
    history: Any = [
        *MESSAGES,
        {"role": "assistant", "tool_calls": [before]},
        {"role": "tool", "tool_call_id": "call_9", "name": name, "content": "x"},
    ]
    tell = stream_tool_calls if is_stream else tool_calls
    upstream.reply(lot.key, tell((plain_name(name), {"path": "a"})))
    asked: Any = {"model": lot.model, "messages": history, "tools": [tool], "tool_choice": tool}
    with gateway.sdk() as sdk:
        if is_stream:
            with sdk.chat.completions.stream(**asked) as answer:
                whole: Any = answer.get_final_completion()
        else:
            whole = sdk.chat.completions.create(**asked)
    [call] = whole.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == (name, '{"path": "a"}')
    assert violations(upstream.received(lot.key)[0].json()) == []


def test_structured_output(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """`response_format` goes up as it is; the answer parses."""
    upstream.reply(lot.key, chat('{"name": "Zürich", "people": 450000}'))
    with gateway.sdk() as sdk:
        answer = sdk.chat.completions.parse(
            model=lot.model, messages=MESSAGES, response_format=City
        )
    assert answer.choices[0].message.parsed == City(name="Zürich", people=450000)
    assert upstream.received(lot.key)[0].json()["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_errors_are_the_sdks_own(
    gateway: Gateway,
    upstream: Upstream,
    lot: Lot,
    status: int,
    kind: type[openai.APIStatusError],
    is_stream: bool,
) -> None:
    """With message and code as the upstream put them."""
    upstream.always(lot.key, error(status, "No.", code="c", headers={"Retry-After": "99"}))
    with gateway.sdk() as sdk, pytest.raises(kind, match=r"No\.") as raised:
        sdk.chat.completions.create(model=lot.model, messages=MESSAGES, stream=is_stream)
    assert raised.value.code == "c"
    assert raised.value.request_id


def test_sdk_is_told_whether_to_retry(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """A long cooldown stops its retries: it asks once."""
    upstream.always(lot.key, error(429, headers={"Retry-After": "100"}))
    with gateway.sdk(max_retries=2) as sdk, pytest.raises(openai.RateLimitError) as raised:
        sdk.chat.completions.create(model=lot.model, messages=MESSAGES)
    gateway.record_of(raised.value.response.headers["x-request-id"])
    lines = [record for record in gateway.records() if record["model"] == lot.model]
    assert len(lines) == 1


def test_unknown_model(gateway: Gateway) -> None:
    """404, as OpenAI says it."""
    with gateway.sdk() as sdk, pytest.raises(openai.NotFoundError) as raised:
        sdk.chat.completions.create(model="nobody-offers-this", messages=MESSAGES)
    assert raised.value.code == "model_not_found"
    assert raised.value.param == "model"


def test_closing_a_stream_early(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """The upstream's connection ends with it, and the next request is served."""
    upstream.reply(lot.key, stream(*"abcdefghij" * 20, gap_s=0.05))
    with gateway.sdk() as sdk:
        with sdk.chat.completions.create(model=lot.model, messages=MESSAGES, stream=True) as answer:
            next(iter(answer))
        (received,) = upstream.received(lot.key)
        assert received.wait_ended().aborted
        assert sdk.chat.completions.create(model=lot.model, messages=MESSAGES).choices
