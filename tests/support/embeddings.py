"""Upstreams that embed: each takes what its API would take, and answers in its own words."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence
from typing import Any

from openai.types.create_embedding_response import CreateEmbeddingResponse
from openai.types.embedding_create_params import EmbeddingCreateParams
from pydantic import TypeAdapter

from tests.support import gemini_upstream as gemini
from tests.support.upstream import Received, Reply, json_reply

Json = dict[str, Any]

_ASKED: TypeAdapter[Any] = TypeAdapter(EmbeddingCreateParams)
SIZE = 4
GEMINI_MODEL = "gemini-embedding-2"


def vector(text: str, size: int | None = None) -> list[float]:
    """What a text is embedded as, in numbers that a float32 holds."""
    return [len(text) / 8, *(ord(text[at % len(text)]) / 4096 for at in range((size or SIZE) - 1))]


def openai(received: Received) -> Reply:
    """As OpenAI answers, in the format that was asked for."""
    assert received.path == "/v1/embeddings"
    asked = received.json()
    _ASKED.validate_python(asked)
    given = asked["input"]
    texts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    found = [vector(str(text), asked.get("dimensions")) for text in texts]
    spelled: list[Any] = [*found]
    if asked.get("encoding_format") == "base64":
        spelled = [
            base64.b64encode(struct.pack(f"<{len(each)}f", *each)).decode() for each in found
        ]
    return json_reply(openai_answer(spelled, len(texts)))


def openai_answer(vectors: Sequence[Any], tokens: int = 5) -> Json:
    data = [
        {"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": "text-embedding-3-small", "usage": usage}


def tells(*, tokens: bool) -> Callable[[Received], Reply]:
    """As Gemini answers, with the usage or, as older models do, without."""

    def answer(received: Received) -> Reply:
        assert received.path == f"/v1beta/models/{GEMINI_MODEL}:batchEmbedContents"
        texts, size = gemini.read_embed_request(received.body, model=GEMINI_MODEL)
        found = gemini.embeddings([vector(text, size) for text in texts])
        if tokens:
            found = gemini.embeddings([vector(text, size) for text in texts], len(texts))
        return json_reply(found)

    return answer


def read(body: bytes) -> CreateEmbeddingResponse:
    """An answer in floats, by the official SDK's type."""
    return CreateEmbeddingResponse.model_validate_json(body, strict=True)
