"""Streams in the shapes that services really send: what a caller's SDK builds of ours is the same.

The shapes are facts about the wire, found in the services' references and in the tests of public
SDKs and gateways, 2026-11; the texts are our own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from openai._streaming import SSEDecoder as SdkDecoder
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk
from pydantic import TypeAdapter

from proxy.clients.base import ChunkTranslator
from proxy.errors import UpstreamTruncated
from proxy.wire.chat import ChunkStream, Usage
from proxy.wire.claude.answer import ChatStream
from proxy.wire.sse import DONE, SseDecoder, encode
from tests.support import cases
from tests.support.translators import ended, fed

Json = dict[str, Any]

_EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def chunk(*choices: Json, **more: Any) -> Json:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": list(choices), **more}


def choice(delta: Json, finish: str | None = None, **more: Any) -> Json:
    return {"index": 0, "delta": delta, "finish_reason": finish, **more}


def call(index: int, call_id: str | None, name: str | None, arguments: str) -> Json:
    made: Json = {"index": index, "function": {"arguments": arguments}}
    if call_id is not None:
        made |= {"id": call_id, "type": "function"}
        made["function"]["name"] = name
    return made


_COUNTS = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
_FILTERED = {"hate": {"filtered": False, "severity": "safe"}}
_TOLD = Usage(11, 7)
_TOLD_WITH_CACHE = Usage(11, 7, cached_tokens=0)

# The payloads, what stands between them, and the tokens that the record is to have.
CHAT: dict[str, tuple[list[Json], bytes, Usage | None]] = {
    "openai": (
        [
            chunk(
                choice({"role": "assistant", "content": "", "refusal": None}, logprobs=None),
                service_tier="default", system_fingerprint=None, usage=None, obfuscation="aX3",
            ),
            chunk(choice({"content": "Grüße 🌍"}, logprobs=None), usage=None, obfuscation="b"),
            chunk(choice({}, "stop", logprobs=None), usage=None, obfuscation=""),
            chunk(usage={**_COUNTS, "prompt_tokens_details": {"cached_tokens": 0}}),
        ],
        b"",
        _TOLD_WITH_CACHE,
    ),
    "openai calls": (
        [
            chunk(choice({"role": "assistant", "content": None})),
            chunk(choice({"tool_calls": [call(0, "call_1", "weather", "")]})),
            chunk(choice({"tool_calls": [call(0, None, None, '{"city":')]})),
            chunk(choice({"tool_calls": [call(0, None, None, '"Oslo"}')]})),
            chunk(choice({"tool_calls": [call(1, "call_2", "weather", "{}")]})),
            chunk(choice({}, "tool_calls")),
        ],
        b"",
        None,
    ),
    "azure": (
        [
            {
                "choices": [], "created": 0, "id": "", "model": "", "object": "",
                "prompt_filter_results": [
                    {"prompt_index": 0, "content_filter_results": _FILTERED}
                ],
            },
            chunk(choice({"role": "assistant", "content": ""}, content_filter_results={})),
            chunk(choice({"content": "Hi"}, content_filter_results=_FILTERED)),
            chunk(choice({}, "stop", content_filter_results={})),
        ],
        b"",
        None,
    ),
    "openrouter": (
        [
            chunk(
                choice(
                    {
                        "role": "assistant", "content": "", "reasoning": "Hm.",
                        "reasoning_details": [
                            {"type": "reasoning.text", "text": "Hm.", "format": None, "index": 0}
                        ],
                    },
                    native_finish_reason=None,
                ),
                provider="Some",
            ),
            chunk(choice({"role": "assistant", "content": "Hi"}), provider="Some"),
            chunk(
                choice({"role": "assistant", "content": ""}, "stop", native_finish_reason="end"),
                provider="Some",
            ),
            chunk(
                choice({"role": "assistant", "content": ""}),
                usage={**_COUNTS, "cost": 0.00014, "is_byok": False, "cost_details": {}},
            ),
        ],
        b": OPENROUTER PROCESSING\n\n",
        _TOLD,
    ),
    "groq": (
        [
            chunk(choice({"role": "assistant", "content": ""}), x_groq={"id": "req_1"}),
            chunk(choice({"content": "Hi"})),
            chunk(
                choice({}, "stop"),
                x_groq={"id": "req_1", "usage": {**_COUNTS, "queue_time": 0.02}},
            ),
        ],
        b"",
        _TOLD,
    ),
    "deepseek": (
        [
            chunk(choice({"role": "assistant", "content": None, "reasoning_content": ""})),
            chunk(choice({"content": None, "reasoning_content": "Hm."})),
            chunk(choice({"content": "Hi", "reasoning_content": None})),
            chunk(
                choice({"content": "", "reasoning_content": None}, "stop"),
                usage={**_COUNTS, "prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": 11},
            ),
        ],
        b": keep-alive\n\n",
        _TOLD_WITH_CACHE,
    ),
    "xai": (
        [
            chunk(
                choice({"role": "assistant", "content": text}),
                usage={**_COUNTS, "completion_tokens": at, "num_sources_used": 0},
            )
            for at, text in enumerate(["Hi", " you"], 1)
        ]
        + [chunk(choice({"role": "assistant"}, "stop"), usage=_COUNTS, citations=["https://e.org"])],
        b"",
        _TOLD,
    ),
    "ollama": (
        [
            chunk(choice({"role": "assistant", "content": "", "reasoning": "Hm."})),
            chunk(
                choice(
                    {"role": "assistant", "content": "",
                     "tool_calls": [call(0, "call_ab12", "f", "{}")]}
                )
            ),
            chunk(choice({"role": "assistant", "content": ""}, "tool_calls")),
            chunk(usage=_COUNTS),
        ],
        b"",
        _TOLD,
    ),
    "vllm": (
        [
            chunk(choice({"role": "assistant", "content": ""}), prompt_token_ids=None),
            chunk(choice({"reasoning_content": "Hm."}, token_ids=None)),
            chunk(choice({"content": "Hi"}, stop_reason=None), usage={**_COUNTS}),
            chunk(choice({"content": ""}, "stop", stop_reason=None), usage=_COUNTS),
        ],
        b"",
        _TOLD,
    ),
    "llama.cpp": (
        [
            chunk(choice({"role": "assistant", "content": None})),
            chunk(choice({"content": "Hi"})),
            chunk(choice({}, "stop"), usage=_COUNTS, timings={"prompt_n": 11, "prompt_ms": 3.5}),
        ],
        b"",
        _TOLD,
    ),
    "mistral": (
        [
            chunk(choice({"role": "assistant", "content": ""}), p="abc"),
            chunk(
                choice({"content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
                ]}),
                p="abcdefg",
            ),
            chunk(choice({"content": [{"type": "text", "text": "Hi"}]}), p="a"),
            chunk(choice({"content": "!"}, "stop"), usage=_COUNTS, p="ab"),
        ],
        b"",
        _TOLD,
    ),
}  # fmt: skip


def written(payloads: Sequence[Json], between: bytes = b"") -> bytes:
    """The bytes of the service."""
    events = [b"data: %b\n\n" % json.dumps(each).encode() for each in payloads]
    return between + between.join(events) + b"data: [DONE]\n\n"


def relayed(pieces: Iterable[bytes], translator: ChunkTranslator) -> bytes:
    """The bytes of ours."""
    decoder = SseDecoder(max_event_bytes=1 << 20)
    made: list[bytes] = []
    for piece in pieces:
        for event in decoder.feed(piece):
            made += fed(translator, [event])
            if translator.is_over:
                return encode([*made, DONE])
    return encode([*made, *ended(translator), DONE])


def sdk_events(raw: bytes) -> list[Json]:
    """What the official SDK reads of a stream."""
    found: list[Json] = []
    for event in SdkDecoder().iter_bytes(iter([raw])):
        if event.data.startswith("[DONE]"):
            return found
        found.append(json.loads(event.data))
    raise AssertionError("the stream has no end")


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("name", CHAT)
def test_chat_passes_as_it_came(name: str, newline: bytes) -> None:
    """However it is cut: each payload as it was, comments gone, the tokens in the record."""
    payloads, between, usage = CHAT[name]
    raw = written(payloads, between).replace(b"\n", newline)
    assert sdk_events(relayed([raw], ChunkStream())) == sdk_events(raw) == payloads
    expected = relayed([raw], ChunkStream())
    for pieces in cases.every_way(raw):
        stream = ChunkStream()
        assert relayed(pieces, stream) == expected
        assert stream.usage == usage
    # Cut off before its end it never looks whole.
    for cut in range(len(raw)):
        stream = ChunkStream()
        decoder = SseDecoder(max_event_bytes=1 << 20)
        seen = [event for event in decoder.feed(raw[:cut]) if fed(stream, [event]) is not None]
        has_finished = b'"finish_reason": "' in b"".join(seen)
        if not stream.is_over:
            with nullcontext() if has_finished else pytest.raises(UpstreamTruncated):
                ended(stream)


@pytest.mark.parametrize("name", [name for name in CHAT if name != "mistral"])
def test_sdk_builds_the_same_of_chat(name: str) -> None:
    """Text, calls, finish, usage: from the service directly and through us."""

    def built(raw: bytes) -> Json:
        state = ChatCompletionStreamState()
        for event in sdk_events(raw):
            if event["choices"]:  # the SDK's state knows no Azure
                state.handle_chunk(ChatCompletionChunk.model_construct(**_typed(event)))
        return state.current_completion_snapshot.to_dict()

    payloads, between, _ = CHAT[name]
    raw = written(payloads, between)
    assert built(relayed([raw], ChunkStream())) == built(raw)


def _typed(event: Json) -> Json:
    chunk = ChatCompletionChunk.model_validate(event)
    return {name: getattr(chunk, name) for name in type(chunk).model_fields}


_START: Json = {
    "type": "message_start",
    "message": {
        "model": "claude-opus-5", "id": "msg_01", "type": "message", "role": "assistant",
        "content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None,
        "usage": {
            "input_tokens": 25, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 100,
            "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 1, "service_tier": "standard", "inference_geo": "global",
        },
    },
}  # fmt: skip


def _block(index: int, block: Json, *deltas: Json) -> list[Json]:
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def _text(index: int, *texts: str) -> list[Json]:
    deltas = [{"type": "text_delta", "text": text} for text in texts]
    return _block(index, {"type": "text", "text": ""}, *deltas)


def _call(index: int, call_id: str, *pieces: str, name: str = "weather") -> list[Json]:
    kind = "server_tool_use" if name == "web_search" else "tool_use"
    block = {"type": kind, "id": call_id, "name": name, "input": {}}
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return _block(index, block, *deltas)


def _end(reason: str, **usage: Any) -> list[Json]:
    return [
        {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": None, "stop_details": None},
            "usage": {"output_tokens": 42, **usage},
            "context_management": {"applied_edits": []},
        },
        {"type": "message_stop"},
    ]


_THOUGHT = _block(
    0,
    {"type": "thinking", "thinking": "", "signature": ""},
    {"type": "thinking_delta", "thinking": "Let me "},
    {"type": "thinking_delta", "thinking": "see."},
    {"type": "signature_delta", "signature": "EqQBCkYIBx"},
)
_SEARCHED = {
    "type": "web_search_tool_result", "tool_use_id": "srvtoolu_1",
    "content": [{"type": "web_search_result", "title": "T", "url": "https://e.org",
                 "encrypted_content": "Eo8B", "page_age": None}],
}  # fmt: skip
_PING: Json = {"type": "ping"}

CLAUDE: dict[str, list[Json]] = {
    "text": [_START, _PING, *_text(0, "Grü", "ße ", "🌍"), *_end("end_turn")],
    "thinking": [_START, *_THOUGHT, _PING, *_text(1, "4."), *_end("end_turn", input_tokens=25)],
    "calls": [
        _START,
        *_text(0, "Looking."),
        *_call(1, "toolu_1", "", '{"city"', ': "Oslo"}'),
        *_call(2, "toolu_2", ""),
        *_end("tool_use"),
    ],
    "search": [
        _START,
        *_call(0, "srvtoolu_1", '{"query": "x"}', name="web_search"),
        *_block(1, _SEARCHED),
        *_text(2, "It says so."),
        *_end("end_turn", server_tool_use={"web_search_requests": 1, "web_fetch_requests": 0}),
    ],
    "counted at the end": [
        _START,
        *_text(0, "Hi"),
        *_end("max_tokens", input_tokens=30, cache_read_input_tokens=90),
    ],
}


def claude_gist(events: Sequence[Json]) -> Json:
    """What Anthropic's SDK builds."""
    snapshot = None
    buffers: dict[int, bytes] = {}
    for event in events:
        if event["type"] != "ping":
            parsed = _EVENTS.validate_python(event)
            snapshot = accumulate_event(event=parsed, current_snapshot=snapshot, json_bufs=buffers)
    assert snapshot is not None
    usage = snapshot.usage
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    blocks = snapshot.content
    return {
        "text": "".join(block.text for block in blocks if block.type == "text"),
        "thinking": "".join(block.thinking for block in blocks if block.type == "thinking"),
        "calls": [(b.id, b.name, b.input) for b in blocks if b.type == "tool_use"],
        "finish": snapshot.stop_reason,
        "usage": (usage.input_tokens + cached, usage.output_tokens),
    }


_FINISH = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}


def chat_gist(raw: bytes) -> Json:
    """What OpenAI's SDK builds of our stream."""
    state = ChatCompletionStreamState()
    for event in sdk_events(raw):
        state.handle_chunk(ChatCompletionChunk.model_validate(event, strict=True))
    built = state.current_completion_snapshot
    (only,) = built.choices
    message = only.message
    assert built.usage is not None
    return {
        "text": message.content or "",
        "thinking": (message.model_extra or {}).get("reasoning_content", ""),
        "calls": [
            (each.id.partition("__")[0], each.function.name, json.loads(each.function.arguments))
            for each in message.tool_calls or ()
        ],
        "finish": _FINISH[only.finish_reason],
        "usage": (built.usage.prompt_tokens, built.usage.completion_tokens),
    }


def new_stream() -> ChatStream:
    return ChatStream(model="m", created=1, include_usage=True)


_SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda raw: raw,
    "crlf": lambda raw: raw.replace(b"\n", b"\r\n"),
    "without names": lambda raw: b"\n".join(
        line for line in raw.split(b"\n") if not line.startswith(b"event:")
    ),
    "comments": lambda raw: raw.replace(b"event:", b": hi\n\nevent:"),
}


@pytest.mark.parametrize("spelling", _SPELLINGS)
@pytest.mark.parametrize("name", CLAUDE)
def test_sdks_build_the_same_of_claude(name: str, spelling: str) -> None:
    """Text, thinking, calls, finish, usage; however the bytes are cut."""
    events = CLAUDE[name]
    raw = b"".join(
        b"event: %b\ndata: %b\n\n"
        % (event["type"].encode(), json.dumps(event, ensure_ascii=False).encode())
        for event in events
    )
    raw = _SPELLINGS[spelling](raw)
    whole = relayed([raw], new_stream())
    assert chat_gist(whole) == claude_gist(events)
    for pieces in cases.every_way(raw):
        assert relayed(pieces, new_stream()) == whole
