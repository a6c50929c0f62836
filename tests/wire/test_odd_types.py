"""Each value in what an upstream sends, in turn of each other type, or missing: nothing but our
errors is raised.

Look-alikes, gateways in between and new versions send null, text or an object where their documents
say something else. One that reads an answer may refuse it; one that raises TypeError is a 500.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy.errors import UpstreamError, UpstreamRefusal
from proxy.wire import chat as openai
from proxy.wire.claude import api as claude_errors
from proxy.wire.claude import api as claude_models
from proxy.wire.claude.answer import ChatStream as ClaudeStream
from proxy.wire.claude.answer import to_chat as claude_chat
from proxy.wire.completions import TextAnswers
from proxy.wire.gemini import events as gemini_errors
from proxy.wire.gemini import models as gemini_models
from proxy.wire.gemini.answer import ChatStream as GeminiStream
from proxy.wire.gemini.answer import to_chat as gemini_chat
from tests.support.translators import ended, fed
from tests.wire.completions.requests import completion_of

NOW_S = 1_760_000_000
MISSING = object()
ODD: list[Any] = [
    MISSING,
    None,
    True,
    0,
    -1,
    1.5,
    10**30,
    "",
    "text",
    "\ud83d",  # half an emoji, as a stream may cut it
    [],
    [None],
    [[]],
    ["text"],
    [{}],
    {},
    {"type": "text"},
    {"a": None},
]


def variants(value: Any) -> Iterator[Any]:
    """The document with one of its values replaced by each odd one; each place once."""
    for path in _paths(value):
        for odd in ODD:
            changed = copy.deepcopy(value)
            if not path:
                if odd is not MISSING:
                    yield odd
                continue
            holder = changed
            for step in path[:-1]:
                holder = holder[step]
            if odd is MISSING:
                del holder[path[-1]]
            else:
                holder[path[-1]] = odd
            yield changed


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else items:
        yield from _paths(item, (*path, key))


# What upstreams send, with all that is read of it.

LOGPROB = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": [{"token": "b"}]}
OPENAI_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
OPENAI_HEAD = {"id": "x", "created": 1, "model": "m", "system_fingerprint": "fp"}
OPENAI_USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 1},
}
OPENAI_CHOICE = {
    "index": 0,
    "message": {"role": "assistant", "content": "a", "tool_calls": [OPENAI_CALL]},
    "logprobs": {"content": [LOGPROB]},
    "finish_reason": "stop",
}
OPENAI_ANSWER = {**OPENAI_HEAD, "choices": [OPENAI_CHOICE], "usage": OPENAI_USAGE}
OPENAI_CHUNK = {
    **OPENAI_HEAD,
    "choices": [{**OPENAI_CHOICE, "delta": OPENAI_CHOICE["message"]}],
    "usage": OPENAI_USAGE,
}
OPENAI_TEXT = {**OPENAI_HEAD, "choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}
OPENAI_ERROR = {"error": {"message": "no", "type": "t", "param": None, "code": "429"}}

CLAUDE_USAGE = {
    "input_tokens": 3,
    "output_tokens": 2,
    "cache_read_input_tokens": 1,
    "cache_creation_input_tokens": 1,
    "output_tokens_details": {"thinking_tokens": 1},
}
CLAUDE_CITATION = {"type": "web_search_result_location", "url": "https://a.example", "title": "A"}
CLAUDE_TEXT = {"type": "text", "text": "a", "citations": [CLAUDE_CITATION]}
CLAUDE_BLOCKS = [
    {"type": "thinking", "thinking": "hm", "signature": "sig"},
    {"type": "redacted_thinking", "data": "d"},
    CLAUDE_TEXT,
    {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
]
CLAUDE_ANSWER = {
    "type": "message",
    "id": "msg",
    "role": "assistant",
    "content": CLAUDE_BLOCKS,
    "stop_reason": "tool_use",
    "stop_details": {"type": "refusal", "category": "c", "explanation": "e"},
    "usage": CLAUDE_USAGE,
}
CLAUDE_EVENTS = [
    {"type": "message_start", "message": {"id": "msg", "usage": CLAUDE_USAGE}},
    {"type": "content_block_start", "index": 0, "content_block": CLAUDE_BLOCKS[0]},
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "thinking_delta", "thinking": "x"},
    },
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "signature_delta", "signature": "s"},
    },
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "a"}},
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "citations_delta", "citation": CLAUDE_CITATION},
    },
    {"type": "content_block_stop", "index": 1},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    },
    {
        "type": "content_block_delta",
        "index": 2,
        "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'},
    },
    {"type": "content_block_stop", "index": 2},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_details": CLAUDE_ANSWER["stop_details"]},
        "usage": CLAUDE_USAGE,
    },
    {"type": "message_stop"},
]
CLAUDE_ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}

GEMINI_LOGPROBS = {
    "chosenCandidates": [{"token": "a", "logProbability": -0.1}],
    "topCandidates": [{"candidates": [{"token": "b", "logProbability": -1.0}]}],
}
GEMINI_ANSWER = {
    "candidates": [
        {
            "content": {
                "role": "model",
                "parts": [
                    {"text": "hm", "thought": True, "thoughtSignature": "c2ln"},
                    {"text": "a"},
                    {"functionCall": {"name": "f", "args": {"a": 1}, "id": "i"}},
                    {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
                ],
            },
            "index": 0,
            "finishReason": "STOP",
            "finishMessage": "m",
            "citationMetadata": {
                "citationSources": [{"uri": "https://a.example", "startIndex": 0, "endIndex": 1}]
            },
            "groundingMetadata": {
                "groundingChunks": [{"web": {"uri": "https://a.example", "title": "A"}}],
                "groundingSupports": [
                    {"segment": {"startIndex": 0, "endIndex": 1}, "groundingChunkIndices": [0]}
                ],
            },
            "logprobsResult": GEMINI_LOGPROBS,
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 3,
        "candidatesTokenCount": 2,
        "thoughtsTokenCount": 1,
        "toolUsePromptTokenCount": 1,
        "cachedContentTokenCount": 1,
        "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 1}],
    },
    "responseId": "r",
    "promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "m"},
}
GEMINI_ERROR = {
    "error": {
        "code": 429,
        "message": "Quota exceeded",
        "status": "RESOURCE_EXHAUSTED",
        "details": [
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "27s"},
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "R", "metadata": {}},
        ],
    }
}


# Who reads it


def _openai_unary(data: bytes) -> None:
    for read in (openai.read_answer, openai.chunks_of):
        with contextlib.suppress(UpstreamError):
            read(data)
    _prompt_answers().add(data, 0)


def _openai_stream(data: bytes) -> None:
    stream = openai.ChunkStream()
    chunks = fed(stream, [data])
    answers = _prompt_answers()
    answers.chunks(chunks, 0)
    answers.last_chunk()
    ended(stream)


def _prompt_answers() -> TextAnswers:
    asked = b'{"model":"m","prompt":["a","b"],"stream_options":{"include_usage":true}}'
    return TextAnswers(completion_of(asked, is_native=False))


def _openai_error(data: bytes) -> None:
    found = openai.read_error(429, data)
    assert isinstance(found, UpstreamRefusal)
    openai.error_body(found)


def _openai_hidden(data: bytes) -> None:
    with contextlib.suppress(UpstreamError):
        openai.read_answer(data)
    fed(openai.ChunkStream(), [data])


def _claude_unary(data: bytes) -> None:
    json.loads(claude_chat(data, model="m", created=NOW_S))


def _claude_error(data: bytes) -> None:
    openai.error_body(claude_errors.read_error(429, {}, data, now_s=NOW_S).refusal())
    with contextlib.suppress(UpstreamError):
        claude_chat(data, model="m", created=NOW_S)
    fed(_claude_stream(), [data])


def _claude_stream() -> ClaudeStream:
    return ClaudeStream(model="m", created=NOW_S, include_usage=True)


def _gemini_unary(data: bytes) -> None:
    json.loads(gemini_chat(data, request=b"{}", model="m", created=NOW_S, reply_id="r"))


def _gemini_error(data: bytes) -> None:
    openai.error_body(gemini_errors.read_error(429, {}, data, now_s=NOW_S).refusal())
    with contextlib.suppress(UpstreamError):
        _gemini_unary(data)
    _gemini_stream(data)


def _gemini_stream(data: bytes) -> None:
    stream = GeminiStream(request=b"{}", model="m", created=NOW_S, include_usage=True, reply_id="r")
    for chunk in [*fed(stream, [data, data]), *ended(stream)]:
        json.loads(chunk)


READERS: dict[str, tuple[Any, Callable[[bytes], object]]] = {
    "openai answer": (OPENAI_ANSWER, _openai_unary),
    "openai text": (OPENAI_TEXT, _openai_unary),
    "openai chunk": (OPENAI_CHUNK, _openai_stream),
    "openai text chunk": (OPENAI_TEXT, _openai_stream),
    "openai error": (OPENAI_ERROR, _openai_error),
    "openai hidden error": (OPENAI_ERROR, _openai_hidden),
    "claude answer": (CLAUDE_ANSWER, _claude_unary),
    "claude error": (CLAUDE_ERROR, _claude_error),
    "claude models": (
        {"data": [{"id": "a", "type": "model"}], "has_more": True, "last_id": "a"},
        claude_models.read_page,
    ),
    "gemini answer": (GEMINI_ANSWER, _gemini_unary),
    "gemini event": (GEMINI_ANSWER, _gemini_stream),
    "gemini error": (GEMINI_ERROR, _gemini_error),
    "gemini errors": ([GEMINI_ERROR], _gemini_error),
    "gemini models": (
        {
            "models": [{"name": "models/a", "supportedGenerationMethods": ["generateContent"]}],
            "nextPageToken": "t",
        },
        gemini_models.read_page,
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_documents_are_read(name: str) -> None:
    """As they are, or the rest here would show nothing."""
    document, read = READERS[name]
    if "error" in name:
        with contextlib.suppress(UpstreamRefusal):
            read(json.dumps(document).encode())
    else:
        read(json.dumps(document).encode())


@pytest.mark.parametrize("name", READERS)
def test_odd_values_raise_nothing_but_our_errors(name: str) -> None:
    """Whole answers, events, errors and lists of models, in every dialect."""
    document, read = READERS[name]
    for variant in variants(document):
        data = json.dumps(variant).encode()
        try:
            read(data)
        except UpstreamError:
            pass
        except Exception as error:
            raise AssertionError(f"{error!r} for {data!r}") from error


@pytest.mark.parametrize("at", range(len(CLAUDE_EVENTS)))
def test_odd_events_of_claude_raise_nothing_but_our_errors(at: int) -> None:
    """Each event of a whole stream in turn; what leaves stays JSON."""
    for variant in variants(CLAUDE_EVENTS[at]):
        events = [*CLAUDE_EVENTS[:at], variant, *CLAUDE_EVENTS[at + 1 :]]
        stream = _claude_stream()
        try:
            for event in events:
                for chunk in fed(stream, [json.dumps(event).encode()]):
                    json.loads(chunk)
            ended(stream)
        except UpstreamError:
            pass
        except Exception as error:
            raise AssertionError(f"{error!r} for {variant!r}") from error
