"""What Anthropic's API puts on the wire, for tests: messages, their event streams, errors, models.

`test_claude_upstream.py` proves it faithful with the types and the stream accumulator of the
official SDK. Values are plain JSON; `sse` makes the bytes that a fake upstream sends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from anthropic.types import beta
from anthropic.types.message_create_params import MessageCreateParams
from pydantic import TypeAdapter

from tests.support.claude_rules import violations

Json = dict[str, Any]

MODEL = "claude-opus-4-6"

_STABLE: TypeAdapter[Any] = TypeAdapter(MessageCreateParams)
_BETA: TypeAdapter[Any] = TypeAdapter(beta.message_create_params.MessageCreateParams)
_KNOWN = frozenset(
    (
        *MessageCreateParams.__args__[0].__annotations__,  # type: ignore[attr-defined]
        "stream",
        # Gone from the SDK's types, not from the API's first version.
        "temperature",
        "top_p",
        "top_k",
    )
)


def read_request(body: bytes) -> Json:
    """A request for a message; fails if the SDK's types don't have it so, or the API refuses it."""
    wire: Json = json.loads(body)
    bound = "block_binding" in wire.get("thinking", {})
    exhaust((_BETA if bound else _STABLE).validate_python(wire))
    assert wire.keys() <= _KNOWN
    assert violations(wire) == []
    return wire


def exhaust(value: Any) -> None:
    """pydantic validates an Iterable as it is read."""
    if isinstance(value, Mapping):
        for inner in value.values():
            exhaust(inner)
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        for inner in value:
            exhaust(inner)


def text(content: str, *, citations: list[Json] | None = None) -> Json:
    return {"type": "text", "text": content, "citations": citations}


def thinking(content: str, signature: str = "EqQBCkYIBxgCKkD+sig/nature==") -> Json:
    return {"type": "thinking", "thinking": content, "signature": signature}


def redacted_thinking(data: str = "EmwKAhgBEgy3va3pzix/LafPsn4a") -> Json:
    return {"type": "redacted_thinking", "data": data}


def tool_use(call_id: str, name: str, arguments: Json) -> Json:
    return {
        "type": "tool_use",
        "id": call_id,
        "name": name,
        "input": arguments,
        "caller": {"type": "direct"},
    }


def web_citation(url: str, title: str | None) -> Json:
    return {
        "type": "web_search_result_location",
        "url": url,
        "title": title,
        "cited_text": "as it says there",
        "encrypted_index": "Eo8BCioIAhgBIiQy",
    }


def message(
    *blocks: Json,
    stop_reason: str = "end_turn",
    stop_details: Json | None = None,
    input_tokens: int = 25,
    output_tokens: int = 15,
    cache_read: int = 0,
    cache_creation: int = 0,
    thinking_tokens: int = 0,
    model: str = MODEL,
) -> Json:
    """The body of a unary answer."""
    return {
        "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": list(blocks),
        "stop_reason": stop_reason,
        "stop_sequence": "END" if stop_reason == "stop_sequence" else None,
        "stop_details": stop_details,
        "container": None,
        "usage": {
            "input_tokens": input_tokens,
            "cache_creation_input_tokens": cache_creation,
            "cache_read_input_tokens": cache_read,
            "output_tokens": output_tokens,
            "output_tokens_details": {"thinking_tokens": thinking_tokens},
            "service_tier": "standard",
        },
    }


def events(answer: Json, *, piece_chars: int = 5) -> list[Json]:
    """The stream of `answer`, its texts in pieces of `piece_chars`."""
    usage = answer["usage"]
    opening = {
        **answer,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "usage": {**usage, "output_tokens": 1, "output_tokens_details": None},
    }
    stream: list[Json] = [{"type": "message_start", "message": opening}, {"type": "ping"}]
    for index, block in enumerate(answer["content"]):
        opened, deltas = _block_events(block, piece_chars)
        stream.append({"type": "content_block_start", "index": index, "content_block": opened})
        stream += (
            {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
        )
        stream.append({"type": "content_block_stop", "index": index})
    ending = {key: answer[key] for key in ("stop_reason", "stop_sequence", "stop_details")}
    stream.append(
        {
            "type": "message_delta",
            "delta": {**ending, "container": None},
            "usage": {key: usage[key] for key in usage if key != "service_tier"},
        }
    )
    return [*stream, {"type": "message_stop"}]


def _block_events(block: Json, piece_chars: int) -> tuple[Json, list[Json]]:
    """The block as it starts, and its deltas."""
    if block["type"] == "text":
        pieces = _pieces(block["text"], piece_chars)
        deltas: list[Json] = [{"type": "text_delta", "text": piece} for piece in pieces]
        for citation in block["citations"] or ():
            deltas.insert(0, {"type": "citations_delta", "citation": citation})
        return {**block, "text": "", "citations": [] if block["citations"] else None}, deltas
    if block["type"] == "thinking":
        pieces = _pieces(block["thinking"], piece_chars)
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {**block, "thinking": "", "signature": ""}, deltas
    if block["type"].endswith("tool_use"):
        arguments = json.dumps(block["input"]) if block["input"] else ""
        pieces = ["", *_pieces(arguments, piece_chars)]
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        return {**block, "input": {}}, deltas
    return block, []


def _pieces(content: str, size: int) -> list[str]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def joined(written: bytes) -> Json:
    """The Message that a whole stream of events is; input that is no object stays text."""
    message: Json = {}
    for event in written.split(b"\n\n")[:-1]:
        told: Json = json.loads(event.partition(b"\ndata: ")[2])
        if told["type"] == "message_start":
            message = told["message"]
        elif told["type"] == "content_block_start":
            message["content"].append({**told["content_block"], "pieces": ""})
        elif told["type"] == "content_block_delta":
            *_, (name, piece) = told["delta"].items()
            name = "pieces" if name == "partial_json" else name
            message["content"][-1][name] += piece
        elif told["type"] == "content_block_stop":
            pieces = message["content"][-1].pop("pieces")
            if pieces:
                message["content"][-1]["input"] = _input(pieces)
        elif told["type"] == "message_delta":
            message |= {**told["delta"], "usage": told["usage"]}
    return message


def _input(pieces: str) -> Json:
    try:
        return json.loads(pieces) or {}
    except ValueError:
        return {"arguments": pieces}


def data(stream: Iterable[Json]) -> list[bytes]:
    """The payloads of the `data:` fields."""
    return [json.dumps(event, ensure_ascii=False).encode() for event in stream]


def sse(stream: Iterable[Json]) -> list[bytes]:
    """The events as bytes on the wire."""
    return [
        b"event: %s\ndata: %s\n\n" % (event["type"].encode(), payload)
        for event, payload in ((event, data([event])[0]) for event in stream)
    ]


def error(kind: str, words: str, *, error_code: str | None = None) -> Json:
    """The body of an error answer, and the data of an `error` event."""
    about: Json = {"type": kind, "message": words}
    if error_code is not None:
        about["details"] = {"error_code": error_code}
    return {"type": "error", "error": about, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}


def rate_limit_headers(*, bucket: str, resets_at: str, retry_after: str | None) -> dict[str, str]:
    """The headers of a 429: `bucket` (requests, tokens, input-tokens, output-tokens) is at 0."""
    headers = {}
    for name in ("requests", "tokens", "input-tokens", "output-tokens"):
        spent = name == bucket
        headers[f"anthropic-ratelimit-{name}-limit"] = "1000"
        headers[f"anthropic-ratelimit-{name}-remaining"] = "0" if spent else "900"
        headers[f"anthropic-ratelimit-{name}-reset"] = (
            resets_at if spent else "2026-11-22T12:00:01Z"
        )
    if retry_after is not None:
        headers["retry-after"] = retry_after
    return headers


def models(*ids: str, retired: Iterable[str] = ()) -> Json:
    """The body of the list of models."""
    listed = [
        {
            "type": "model",
            "id": model,
            "display_name": model.replace("-", " ").title(),
            "created_at": "2026-02-04T00:00:00Z",
            "lifecycle": "retired" if model in retired else "active",
            "max_input_tokens": 200_000,
            "max_tokens": 64_000,
        }
        for model in ids
    ]
    return {"data": listed, "has_more": False, "first_id": ids[0], "last_id": ids[-1]}


# One answer per shape that a caller can meet.
ANSWERS: dict[str, Json] = {
    "text": message(text("Hello there, “café” 🌍.\n")),
    "empty": message(),
    "thinking then text": message(
        thinking("Let me see: 2 + 2."), text("It is 4."), thinking_tokens=9, output_tokens=21
    ),
    "hidden thinking": message(thinking(""), text("It is 4.")),
    "redacted thinking": message(redacted_thinking(), thinking("and"), text("Done.")),
    "tool call": message(
        text("I'll look."),
        tool_use("toolu_01A", "weather", {"city": "Paris"}),
        stop_reason="tool_use",
    ),
    "parallel calls with thinking between": message(
        thinking("Both cities."),
        text("Looking."),
        tool_use("toolu_01A", "weather", {"city": "Paris", "days": [1, 2]}),
        thinking("And the other.", "U2Vjb25k"),
        tool_use("toolu_01B", "weather", {"city": "Zürich"}),
        stop_reason="tool_use",
        cache_read=100,
        cache_creation=7,
    ),
    "call without arguments": message(tool_use("toolu_01A", "now", {}), stop_reason="tool_use"),
    "cut by max_tokens": message(text("It was a dark and"), stop_reason="max_tokens"),
    "context window": message(text("Thus"), stop_reason="model_context_window_exceeded"),
    "stop sequence": message(text("one two"), stop_reason="stop_sequence"),
    "paused": message(text("one"), stop_reason="pause_turn"),
    "refused": message(
        stop_reason="refusal",
        stop_details={"type": "refusal", "category": "bio", "explanation": "Not this."},
    ),
    "refused midway": message(
        text("First, you"),
        stop_reason="refusal",
        stop_details={"type": "refusal", "category": "cyber", "explanation": None},
    ),
    "cited": message(
        text("As said, "),
        text("water is wet", citations=[web_citation("https://example.org/w", "Wet")]),
        text("."),
    ),
}
