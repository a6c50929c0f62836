"""Whatever callers and upstreams send, only errors of our own tree come out."""

from __future__ import annotations

import json
from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.errors import InvalidRequest, UpstreamError, UpstreamInvalid
from proxy.wire.claude.answer import ChatStream, to_chat
from proxy.wire.claude.api import read_error, read_page
from proxy.wire.claude.request import KNOWN, to_request
from tests.support import claude_upstream as claude
from tests.support.translators import ended, fed

pytestmark = pytest.mark.slow

Json = Any

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
_MODELS = st.sampled_from(
    [
        "claude-opus-5-5",
        "claude-sonnet-5-5",
        "claude-opus-5",
        "claude-haiku-4-5",
        "claude-3-haiku",
        "x",
    ]
)
_CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":[1]}'}}
_THINKING = {"type": "thinking", "thinking": "t", "signature": "s", "content_offset": 1, "index": 0}
_SCHEMA = {"type": "object", "properties": {"x": {"anyOf": [{"type": "string", "minLength": 1}]}}}
_REQUEST = {
    "model": "alias",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {
                    "type": "file",
                    "file": {"filename": "a", "file_data": "data:text/plain;base64,AAAA"},
                },
            ],
        },
        {
            "role": "assistant",
            "content": "Hm",
            "tool_calls": [_CALL],
            "thinking_blocks": [_THINKING],
        },
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "1"}]},
        {"role": "assistant", "content": "So"},
    ],
    "max_tokens": 2000,
    "reasoning_effort": "high",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": _SCHEMA}},
    "stop": ["x"],
    "temperature": 0.5,
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "tools": [
        {"type": "function", "function": {"name": "f", "parameters": _SCHEMA, "strict": True}},
    ],
}


def _places(value: Json) -> list[tuple[Json, Any]]:
    """Every member of every container in `value`."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    else:
        return []
    here = [(value, key) for key in keys]
    return here + [place for key in keys for place in _places(value[key])]


@st.composite
def mutated(draw: st.DrawFn, original: Json) -> Json:
    """`original` with up to three members replaced, removed or doubled."""
    value = deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(value)
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        what = draw(st.sampled_from(["replace", "remove", "double"]))
        if what == "remove":
            del container[key]
        elif what == "double" and isinstance(container, list):
            container.insert(key, deepcopy(container[key]))
        else:
            container[key] = draw(_JSON)
    return value


def _encode(value: Json) -> bytes:
    return json.dumps(value).encode("utf-8", "replace")


def _check_request(body: bytes, model: str) -> None:
    try:
        wire = to_request(body, model=model, stream=True)
    except InvalidRequest:
        return
    assert json.loads(wire)["messages"][0]["role"] == "user"


def _check_stream(batches: list[list[bytes]]) -> None:
    stream = ChatStream(model="alias", created=1, include_usage=True)
    chunks: list[bytes] = []
    try:
        for batch in batches:
            chunks += fed(stream, batch)
        chunks += ended(stream)
    except UpstreamError:
        assert not stream.is_over
    for chunk in chunks:
        ChatCompletionChunk.model_validate_json(chunk)


@settings(max_examples=300)
@given(request=mutated(_REQUEST), model=_MODELS)
def test_mutated_requests_are_translated_or_refused(request: Json, model: str) -> None:
    """InvalidRequest or a request."""
    _check_request(_encode(request), model)


@settings(max_examples=150)
@given(
    parameters=st.dictionaries(st.sampled_from(sorted(KNOWN)), _JSON, max_size=5),
    model=_MODELS,
)
def test_arbitrary_parameters_are_translated_or_refused(parameters: Json, model: str) -> None:
    """InvalidRequest or a request."""
    messages = [{"role": "user", "content": "Hi"}]
    _check_request(_encode({"messages": messages, **parameters}), model)


@settings(max_examples=100)
@given(body=st.binary(max_size=200) | _JSON.map(_encode), model=_MODELS)
def test_arbitrary_bytes_raise_only_our_errors(body: bytes, model: str) -> None:
    """For every reader of foreign bytes."""
    _check_request(body, model)
    _check_stream([[body]])
    with suppress(UpstreamInvalid):
        to_chat(body, model="m", created=1)
    with suppress(UpstreamInvalid):
        read_page(body)


@settings(max_examples=300)
@given(
    events=st.sampled_from(list(claude.ANSWERS.values())).flatmap(
        lambda answer: mutated(claude.events(answer))
    ),
    single=st.booleans(),
)
def test_mutated_streams_give_valid_chunks_or_our_errors(events: Json, single: bool) -> None:
    """What does come out is what the official SDK reads."""
    payloads = [_encode(event) for event in events]
    _check_stream([[payload] for payload in payloads] if single else [payloads])


@settings(max_examples=200)
@given(answer=st.sampled_from(list(claude.ANSWERS.values())).flatmap(mutated))
def test_mutated_answers_give_valid_completions_or_our_errors(answer: Json) -> None:
    """What does come out is what the official SDK reads."""
    try:
        chat = to_chat(_encode(answer), model="alias", created=1)
    except UpstreamInvalid:
        return
    ChatCompletion.model_validate_json(chat)


@settings(max_examples=200)
@given(
    status=st.integers(300, 599),
    headers=st.dictionaries(
        st.sampled_from(
            [
                "retry-after",
                "anthropic-ratelimit-tokens-remaining",
                "anthropic-ratelimit-tokens-reset",
            ]
        ),
        st.text(max_size=30)
        | st.sampled_from(["0", "2026-11-22T12:00:00Z", "0001-01-01T00:00:00"]),
    ),
    body=st.binary(max_size=50)
    | mutated(claude.error("api_error", "x", error_code="y")).map(_encode),
)
def test_error_answers_always_give_facts(status: int, headers: dict[str, str], body: bytes) -> None:
    """Reading an error never fails, and its envelope is whole."""
    facts = read_error(status, headers, body, now_s=0.0)
    assert json.loads(facts.refusal().body or b"")["error"]["message"]
    assert facts.retry_after_s is None or facts.retry_after_s >= 0
