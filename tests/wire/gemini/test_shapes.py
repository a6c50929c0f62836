"""A caller's SDK builds of our stream what google-genai builds of Gemini's, however it was cut."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from google.genai import types
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from proxy.errors import UpstreamTruncated
from proxy.wire.sse import SseDecoder
from tests.support import gemini_upstream as upstream
from tests.support.gemini_upstream import read_as_sdk
from tests.support.translators import ended, fed
from tests.wire.gemini.chat import Json, chunks_of, new_stream

# What google-genai leaves in parts: see test_gemini_stream.py for what becomes of these.
WHOLE = [
    name for name in upstream.STREAMS if "in parts" not in name and "a name before" not in name
]
FINISH = {"STOP": "stop", "MAX_TOKENS": "length"}


def of_gemini(events: Iterable[Json]) -> list[Json]:
    """By candidate, as google-genai reads the events."""
    found: dict[int, Json] = {}
    for response in map(read_as_sdk, events):
        for candidate in response.candidates or ():
            one = found.setdefault(candidate.index or 0, {"text": "", "thoughts": "", "calls": []})
            for part in candidate.content.parts or () if candidate.content else ():
                if part.text:
                    one["thoughts" if part.thought else "text"] += part.text
                if part.function_call:
                    call = part.function_call
                    one["calls"].append((call.name, call.args or {}))
            if candidate.finish_reason:
                one["finish"] = candidate.finish_reason.value
    return [found[index] for index in sorted(found)]


def of_chat(chunks: Iterable[Json]) -> list[Json]:
    """By choice, as the openai SDK joins the chunks."""
    state = ChatCompletionStreamState()
    for chunk in chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    return [
        {
            "text": choice.message.content or "",
            "thoughts": (choice.message.model_extra or {}).get("reasoning_content") or "",
            "calls": [
                (call.function.name, json.loads(call.function.arguments))
                for call in choice.message.tool_calls or ()
            ],
            "finish": choice.finish_reason,
        }
        for choice in state.current_completion_snapshot.choices
    ]


@pytest.mark.parametrize("name", WHOLE)
def test_callers_sdk_builds_what_geminis_builds(name: str) -> None:
    """Text, thinking, calls, finish, tokens."""
    events = upstream.STREAMS[name]
    chunks = chunks_of([[payload] for payload in upstream.payloads(events)])
    built = of_chat(chunks)
    for ours, theirs in zip(built, of_gemini(events), strict=False):
        reason = theirs.pop("finish")
        expected = FINISH.get(reason, "content_filter")
        if theirs["calls"] and reason in ("STOP", "UNEXPECTED_TOOL_CALL"):
            expected = "tool_calls"
        assert ours.pop("finish") == expected
        assert ours == theirs
    told = read_as_sdk(events[-1]).usage_metadata or types.GenerateContentResponseUsageMetadata()
    usage: Any = chunks[-1]["usage"]
    thoughts = told.thoughts_token_count or 0
    assert usage["completion_tokens"] == (told.candidates_token_count or 0) + thoughts
    assert usage["completion_tokens_details"]["reasoning_tokens"] == thoughts


@pytest.mark.parametrize("ending", [b"\r\n\r\n", b"\n\n", b"\r\r"])
@pytest.mark.parametrize("name", upstream.STREAMS)
def test_stream_may_be_cut_at_every_byte(name: str, ending: bytes) -> None:
    """In two pieces at each place, and in pieces of one byte: the same events, the same chunks."""
    events = upstream.STREAMS[name]
    raw = b"".join(event.replace(b"\r\n\r\n", ending) for event in upstream.sse(events))
    whole = read_events(raw)
    assert whole == upstream.payloads(events)
    for cut in range(len(raw)):
        assert read_events(raw[:cut], raw[cut:]) == whole
    decoder, stream = SseDecoder(max_event_bytes=1 << 20), new_stream()
    chunks = []
    for at in range(len(raw)):
        chunks += fed(stream, list(decoder.feed(raw[at : at + 1])))
    chunks += fed(stream, decoder.finish()) + ended(stream)
    assert [json.loads(chunk) for chunk in chunks] == chunks_of([whole])


def read_events(*pieces: bytes) -> list[bytes]:
    decoder = SseDecoder(max_event_bytes=1 << 20)
    return [event for piece in pieces for event in decoder.feed(piece)] + decoder.finish()


@pytest.mark.parametrize("name", upstream.STREAMS)
def test_stream_that_ends_at_any_byte_is_whole_or_an_error(name: str) -> None:
    """Never a shorter answer that looks whole."""
    events = upstream.STREAMS[name]
    raw = b"".join(upstream.sse(events))
    last = raw.index(b"finishReason") if b"finishReason" in raw else raw.index(b"blockReason")
    for end in range(0, last, 7):
        decoder, stream = SseDecoder(max_event_bytes=1 << 20), new_stream()
        fed(stream, list(decoder.feed(raw[:end])))
        with pytest.raises(UpstreamTruncated):
            ended(stream)
