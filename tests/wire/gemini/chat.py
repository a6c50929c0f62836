"""Chat answers for the tests: checked by the openai SDK's types, chunks joined to a message."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.wire.gemini.answer import ChatStream, to_chat
from tests.support.translators import ended, fed

Json = dict[str, Any]

MODEL = "my-alias"
CREATED = 1_790_000_000
REPLY_ID = "chatcmpl-0123456789abcdef0123"


def new_stream(*, include_usage: bool = True, **asked: Any) -> ChatStream:
    return ChatStream(
        request=json.dumps(asked).encode(),
        model=MODEL,
        created=CREATED,
        include_usage=include_usage,
        reply_id=REPLY_ID,
    )


def chat_of(body: bytes, **asked: Any) -> Json:
    """The unary translation, validated as the openai SDK reads it; `asked`: of the request."""
    request = json.dumps(asked).encode()
    answer = to_chat(body, request=request, model=MODEL, created=CREATED, reply_id=REPLY_ID)
    made: Json = msgspec.json.decode(answer)
    ChatCompletion.model_validate(made)
    return made


def chunks_of(
    batches: Iterable[Sequence[bytes]], *, include_usage: bool = True, **asked: Any
) -> list[Json]:
    """All chunks of a stream fed in these batches to its end, validated."""
    stream = new_stream(include_usage=include_usage, **asked)
    payloads = [chunk for batch in batches for chunk in fed(stream, batch)]
    payloads += ended(stream)
    return validated(payloads)


def validated(payloads: Iterable[bytes]) -> list[Json]:
    chunks = [json.loads(payload) for payload in payloads]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    return chunks


def join(chunks: Sequence[Json]) -> Json:
    """The chat.completion that a caller puts together of the chunks."""
    choices: dict[int, Json] = {}
    usage = None
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        for piece in chunk["choices"]:
            choice = choices.setdefault(
                piece["index"],
                {
                    "index": piece["index"],
                    "message": {"content": None, "refusal": None},
                    "logprobs": None,
                },
            )
            _add(choice["message"], piece["delta"])
            if piece["logprobs"] is not None:
                choice["logprobs"] = piece["logprobs"]
            choice["finish_reason"] = piece["finish_reason"]
    first = chunks[0]
    return {
        "id": first["id"],
        "object": "chat.completion",
        "created": first["created"],
        "model": first["model"],
        "choices": [choices[index] for index in sorted(choices)],
        "usage": usage,
    }


def _add(message: Json, delta: Json) -> None:
    for field, value in delta.items():
        if isinstance(value, list):
            entries = message.setdefault(field, [])
            for entry in value:
                index = entry["index"] if field == "images" else entry.pop("index")
                assert index == len(entries)
                entries.append(entry)
        elif field in ("content", "reasoning_content"):
            message[field] = (message.get(field) or "") + value
        else:
            assert field != "role" or "role" not in message
            message[field] = value
