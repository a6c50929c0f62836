"""Each value of a request or chunk in turn of another type: nothing but our errors is raised."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from proxy.dialects.messages import COUNT_TOKENS, MESSAGES
from proxy.errors import CallerError, UnsupportedParameter, UpstreamError
from proxy.wire.chat import chunks_of
from proxy.wire.lenient_json import encode
from proxy.wire.messages.answer import MessageStream, events_of
from proxy.wire.reasoning import pack
from tests.support import claude_upstream as claude
from tests.wire.test_odd_types import variants

Json = dict[str, Any]

REQUEST: Json = {
    "model": "m",
    "max_tokens": 9,
    "system": [{"type": "text", "text": "s"}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "a/b", "data": "AA"}},
                {"type": "document", "source": {"type": "content", "content": [{"text": "x"}]}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "", "signature": pack("gemini", b"{}")},
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
                {"type": "x_tool_result", "content": [{"title": "t"}]},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": []}]},
    ],
    "tools": [{"name": "f", "input_schema": {}}],
    "tool_choice": {"type": "tool", "name": "f"},
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
    "metadata": {"user_id": "u"},
}


@pytest.mark.long
def test_requests() -> None:
    """Of every kind of client, natively, without reasoning, and counted."""
    for odd in variants(REQUEST):
        body = json.dumps(odd).encode()
        with contextlib.suppress(CallerError):
            ask = MESSAGES.read(body, {})
            for kind in ("openai", "gemini", "claude"):
                for natively in (False, True):
                    with contextlib.suppress(CallerError):
                        ask.request(0, kind, natively=natively)
                        ask.plain_request(0, kind, natively=natively)
            COUNT_TOKENS.read(body, {}).unserved(UnsupportedParameter("no"))


@pytest.mark.parametrize("bad", ["1e999", "[" * 3000 + "]" * 3000])
def test_numbers_and_depths_out_of_range(bad: str) -> None:
    """Wherever they stand; an estimate is never an error."""
    for place in (
        '"messages":[{"role":"user","content":"x"}],"x":%s',
        '"messages":[{"role":"user","content":"x"}],"tools":[{"input_schema":{"x":%s}}]',
        '"messages":[{"role":"assistant","content":[{"type":"x_tool_result","content":%s}]}]',
        '"messages":[{"role":"user","content":[{"type":"document","source":{"content":%s}}]}]',
        '"messages":[{"role":"assistant","content":[{"type":"tool_use","input":{"x":%s}}]}]',
    ):
        body = b'{"model":"m",%b}' % (place % bad).encode()
        with contextlib.suppress(CallerError):
            ask = MESSAGES.read(body, {})
            with contextlib.suppress(CallerError):
                ask.request(0, "openai", natively=False)
            ask.plain_request(0, "claude", natively=True)
            answer, _ = COUNT_TOKENS.read(body, {}).unserved(UnsupportedParameter("no"))
            assert json.loads(answer.body)["input_tokens"] > 0


ANSWER: Json = {
    "id": "x",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": [{"type": "text", "text": "x"}],
                "reasoning_content": "r",
                "refusal": None,
                "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}],
                "extra_content": {"google": {}},
            },
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ],
    "usage": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}},
}


def test_answers() -> None:
    """What is left can be read as a message."""
    for odd in variants(ANSWER):
        with contextlib.suppress(UpstreamError):
            chunks = chunks_of(json.dumps(odd).encode())
            stream = MessageStream("m", stops=[], thinks=True, shows=True, kind="gemini")
            found = claude.joined(stream.feed(chunks) + stream.end())
            assert json.loads(encode(stream.answer)) == found


def test_native_answers() -> None:
    """As events, whatever is in them."""
    for odd in variants(claude.ANSWERS["parallel calls with thinking between"]):
        events_of(json.dumps(odd).encode())


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning": {"effort": "x"}},
        {"reasoning_content": [1], "content": "x"},
        {"tool_calls": [{"index": "0", "id": 7, "function": {"name": "f", "arguments": {"x": 1}}}]},
    ],
)
def test_what_servers_have_been_seen_to_send(delta: Json) -> None:
    """Is no reason to fail: chat lets it pass, too."""
    chunk = json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode()
    stream = MessageStream("m", stops=[], thinks=True, shows=True, kind="openai")
    found = claude.joined(stream.feed([chunk]) + stream.end())
    for block in found["content"]:
        if block["type"] == "tool_use":
            assert block["input"] == {"x": 1}
