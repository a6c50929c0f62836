"""The manners of well-known upstreams, through the gateway, as the official SDK sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from tests.support.gateway import MESSAGES, Gateway, Lot
from tests.support.manners import (
    BROKEN,
    COMPLETION_TOKENS,
    LOADING,
    PASSING,
    REFUSALS,
    STREAMS,
    TEXT,
    USAGE,
    Refusal,
    untyped,
)
from tests.support.upstream import Pause, Reply, Upstream, chat, json_reply, not_found


def listen(gateway: Gateway, model: str) -> list[ChatCompletionChunk]:
    """The chunks of a stream, usage included; the request's id is the model's name."""
    options: Any = {"include_usage": True}
    with gateway.sdk(default_headers={"x-request-id": model}) as sdk:
        chunks = sdk.chat.completions.create(
            model=model, messages=MESSAGES, stream=True, stream_options=options
        )
        return list(chunks)


@pytest.mark.parametrize(("reply", "has_usage"), STREAMS.values(), ids=STREAMS)
def test_stream_is_understood(
    gateway: Gateway, upstream: Upstream, lot: Lot, reply: Reply, has_usage: bool
) -> None:
    """All of the text and one finish arrive; the log has what any chunk's `usage` told last."""
    upstream.reply(lot.key, reply)
    chunks = listen(gateway, lot.model)
    choices = [choice for each in chunks for choice in each.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == TEXT
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    record = gateway.record_of(lot.model)
    assert (record["end"], record["attempts"]) == ("ok", "1")
    counted = str(COMPLETION_TOKENS) if has_usage else None
    assert record.get("completion_tokens") == counted


def test_what_only_they_say_passes(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """Fields that OpenAI doesn't have reach the caller: reasoning, x_groq, timings, provider."""
    names = ("deepseek", "groq", "llama.cpp", "openrouter")
    upstream.reply(lot.key, *(STREAMS[name][0] for name in names))
    deepseek, groq, llama, openrouter = (listen(gateway, lot.model) for _ in names)
    thought = [
        (one.choices[0].delta.model_extra or {}).get("reasoning_content") for one in deepseek
    ]
    assert "They greet." in thought
    assert (groq[-1].model_extra or {})["x_groq"]["usage"] == USAGE
    assert (llama[-1].model_extra or {})["timings"]["predicted_n"] == 3
    assert (openrouter[0].model_extra or {})["provider"] == "DeepInfra"


# Unary answers


def test_blank_lines_before_the_answer(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """DeepSeek: a unary request that waits is sent empty lines until its JSON comes."""
    whole = chat(TEXT)
    body = [b"\n", Pause(0.05), b"\n\n", Pause(0.05), *whole.body]
    upstream.reply(lot.key, replace(whole, body=body, framing="chunked"))
    with gateway.sdk() as sdk:
        answer = sdk.chat.completions.create(model=lot.model, messages=MESSAGES)
    assert answer.choices[0].message.content == TEXT
    assert answer.usage


@pytest.mark.parametrize("content_type", [(), ("text/plain",), ("text/html",)])
def test_answer_under_another_content_type(
    gateway: Gateway, upstream: Upstream, lot: Lot, content_type: tuple[str, ...]
) -> None:
    """The caller, whose SDK goes by it, gets JSON as JSON."""
    upstream.reply(lot.key, untyped(chat(TEXT), *content_type))
    with gateway.sdk() as sdk:
        answer = sdk.chat.completions.create(model=lot.model, messages=MESSAGES)
    assert answer.choices[0].message.content == TEXT


def test_error_inside_a_choice(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """OpenRouter: an answer that failed after it began is an answer; the caller sees both."""
    failed = {"code": 502, "message": "Upstream error"}
    upstream.reply(lot.key, chat("Hel", finish="error", error=failed))
    with gateway.sdk() as sdk:
        answer = sdk.chat.completions.create(model=lot.model, messages=MESSAGES)
    assert answer.choices[0].finish_reason == "error"  # type: ignore[comparison-overlap]
    assert (answer.model_extra or {})["error"] == failed


# Errors


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("is_stream", [False, True])
def test_refusal_arrives(
    gateway: Gateway, upstream: Upstream, lot: Lot, refusal: Refusal, is_stream: bool
) -> None:
    """Its status, its message and what else its error object holds, at the first attempt."""
    upstream.reply(lot.key, refusal.reply)
    with gateway.sdk() as sdk, pytest.raises(refusal.kind) as raised:
        sdk.chat.completions.create(model=lot.model, messages=MESSAGES, stream=is_stream)
    status = 400 if refusal.reply.status == 200 else refusal.reply.status
    assert raised.value.status_code == status
    assert refusal.message in raised.value.message
    assert isinstance(raised.value.body, dict)
    assert raised.value.body | refusal.fields == raised.value.body
    assert len(upstream.received(lot.key)) == 1


@pytest.mark.parametrize(("unary", "streamed"), PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("is_stream", [False, True])
def test_passing_fault_is_not_the_callers(
    gateway: Gateway, upstream: Upstream, trio: Lot, unary: Reply, streamed: Reply, is_stream: bool
) -> None:
    """Another client serves the request, whatever hid the fault."""
    upstream.reply(None, streamed if is_stream else unary)
    answer = gateway.chat(trio.model, stream=is_stream)
    assert answer.status == 200
    record = gateway.record_of(answer.headers["x-request-id"])
    assert (record["end"], record["attempts"]) == ("ok", "2")


def test_only_client_is_asked_again(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """llama.cpp answers 503 while it loads its model: a moment later it may be there."""
    upstream.reply(lot.key, LOADING)
    answer = gateway.chat(lot.model)
    assert answer.status == 200
    assert answer.headers["x-proxy-attempts"] == "2"


# Failures in mid-stream


@pytest.mark.parametrize(("reply", "message"), BROKEN.values(), ids=BROKEN)
def test_failure_in_mid_stream_is_raised(
    gateway: Gateway, upstream: Upstream, lot: Lot, reply: Reply, message: str
) -> None:
    """The text up to there, then an exception that says why: never half an answer for a whole."""
    upstream.reply(lot.key, reply)
    heard: list[str] = []
    with gateway.sdk(default_headers={"x-request-id": lot.model}) as sdk:
        stream = sdk.chat.completions.create(model=lot.model, messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match=message):
            heard += [each.choices[0].delta.content or "" for each in stream]
    assert len(upstream.received(lot.key)) == 1
    assert gateway.record_of(lot.model)["end"] != "ok"


# Without a model list


@pytest.mark.long
@pytest.mark.parametrize(
    "page",
    [not_found, json_reply({"object": "list", "data": None}), LOADING],
    ids=["not-found", "ollama-nothing-pulled", "llama.cpp-loading"],
)
def test_upstream_without_a_model_list(upstream: Upstream, page: Any) -> None:
    """Models that the configuration names are served; others can't be known: 503, not 404."""
    upstream.pages["/elsewhere/models"] = page
    place = {"base-url": f"{upstream.origin}/elsewhere"}
    named = {"name": "named", **place, "api-keys": ["sk-named"], "models": ["known"]}
    listed = {"name": "listed", **place, "api-keys": ["sk-listed"]}
    upstream.reply("sk-named", chat(TEXT))
    with (
        Gateway({"openai-compatibility": [named, listed]}, secrets=["sk-named"]) as gateway,
        gateway.sdk() as sdk,
    ):
        answer = sdk.chat.completions.create(model="known", messages=MESSAGES)
        assert answer.choices[0].message.content == TEXT
        with pytest.raises(openai.InternalServerError) as raised:
            sdk.chat.completions.create(model="unknown", messages=MESSAGES)
    assert (raised.value.status_code, raised.value.code) == (503, "models_unknown")
