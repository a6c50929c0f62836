"""Embeddings of texts by `batchEmbedContents` (ai.google.dev/api/embeddings, read 2026-11)."""

from __future__ import annotations

import base64
import struct
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ...errors import InvalidRequest, UnsupportedParameter, UpstreamInvalid
from ..chat import Usage
from ..chat.reply import embeddings
from ..chat.request import MAX_TEXTS
from ..lenient_json import without_lone
from .events import Answer, UsageMetadata, reader
from .request import resource


class _Asked(Struct, forbid_unknown_fields=True):
    """OpenAI's request. `user` and `stream` change no answer."""

    input: str | list[str]
    model: Any = None
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: Any = None
    stream: Any = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class _Vector(Struct):
    values: list[float]


class _Embeddings(Answer, rename="camel"):
    embeddings: list[_Vector] = msgspec.field(default_factory=list)
    usage_metadata: UsageMetadata | None = None


_decode_asked = msgspec.json.Decoder(_Asked).decode
_read = reader(_Embeddings, "embeddings")


def to_request(body: bytes, *, model: str) -> bytes:
    """The body, of an OpenAI request; raises InvalidRequest."""
    try:
        asked = _decode_asked(without_lone(body))
    except (msgspec.ValidationError, RecursionError) as error:
        why = f"an OpenAI-compatible client alone could take this request: {error}"
        raise UnsupportedParameter(why, param="input") from error
    if not asked.input or len(asked.texts) > MAX_TEXTS:
        raise InvalidRequest("`input` must be a text, or a list of 1 to 2048", param="input")
    each: dict[str, Any] = {"model": resource(model)}
    if asked.dimensions is not None:
        each["outputDimensionality"] = asked.dimensions
    requests = [{**each, "content": {"parts": [{"text": text}]}} for text in asked.texts]
    return msgspec.json.encode({"requests": requests})


def to_hub(body: bytes, *, request: bytes, model: str) -> tuple[bytes, Usage | None]:
    """OpenAI's answer, and the tokens if they are told; raises UpstreamInvalid, UpstreamRefusal.

    Base64 is of little-endian float32, as the official SDKs read it.
    """
    asked = _decode_asked(without_lone(request))
    answer = _read(body)
    vectors: list[Any] = [each.values for each in answer.embeddings]
    if len(vectors) != len(asked.texts) or not all(vectors):
        raise UpstreamInvalid(f"Gemini sent {len(vectors)} of {len(asked.texts)} embeddings")
    if asked.encoding_format == "base64":
        try:
            packed = [struct.pack(f"<{len(each)}f", *each) for each in vectors]
        except OverflowError as error:
            raise UpstreamInvalid(f"Gemini sent no embeddings: {error}") from error
        vectors = [base64.b64encode(each).decode() for each in packed]
    told = answer.usage_metadata
    tokens = told.prompt_token_count if told else None
    return embeddings(vectors, model, tokens), None if tokens is None else Usage(tokens)
