"""/v1/embeddings: as it came for OpenAI-compatible clients, in batches of texts for others.

Source: platform.openai.com/docs/api-reference/embeddings, read 2026-11; the openai SDK's types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from ..errors import UpstreamInvalid
from ..wire.chat import ChatRequest, error_body, read_any
from ..wire.chat.reply import embeddings
from ..wire.chat.request import EMBED, HUB_EMBED, MAX_TEXTS, read_outer
from ..wire.chat.usage import Usage, read_usage
from ..wire.lenient_json import decoder, encode
from .base import Answer, Ask, Dialect, Writer

# OpenAI takes so many. What is beside them is in each batch.
MAX_INPUTS = 2048
MAX_REPEATED_BYTES = 4096


class _Item(Struct):
    embedding: Raw


class _Answer(Struct):
    data: list[_Item]
    usage: Any = None


_decode_answer = decoder(_Answer)


class EmbedAsk(Ask):
    """Never a stream. Batches are served one after the other."""

    speech = EMBED
    hub_speech = HUB_EMBED

    def __init__(self, body: bytes, headers: Mapping[str, str], query: str = "") -> None:
        outer = read_outer(body)
        super().__init__(outer.model, headers, stream=False, session=outer.session)
        self._body = body
        self._fields = outer.fields

    def prompts(self, *, natively: bool) -> int:
        self._batches = [self._body]
        inputs = self._fields.get("input", Raw(b"null"))
        if not natively and len(self._body) - len(inputs) <= MAX_REPEATED_BYTES:
            items = read_any(inputs)
            is_long = isinstance(items, list) and MAX_TEXTS < len(items) <= MAX_INPUTS
            if is_long and not isinstance(items[0], int):  # else it is one input, in tokens
                parts = [items[at : at + MAX_TEXTS] for at in range(0, len(items), MAX_TEXTS)]
                self._batches = [encode({**self._fields, "input": part}) for part in parts]
        return len(self._batches)

    def request(self, at: int, kind: str, *, natively: bool) -> ChatRequest:
        speech = EMBED if natively else HUB_EMBED
        return ChatRequest(self._batches[at], self.model, stream=False, speech=speech)

    def whole(self, answers: Sequence[Answer]) -> bytes:
        if len(answers) == 1:
            return answers[0].body
        try:
            read = [_decode_answer(answer.body) for answer in answers]
        except (msgspec.ValidationError, RecursionError) as error:
            raise UpstreamInvalid(f"the upstream's embeddings cannot be read: {error}") from error
        if any(len(each.data) != MAX_TEXTS for each in read[:-1]):
            raise UpstreamInvalid("the upstream did not send an embedding for each input")
        vectors = [item.embedding for each in read for item in each.data]
        tokens = sum((read_usage(each.usage) or Usage()).prompt_tokens or 0 for each in read)
        return embeddings(vectors, self.model, tokens)

    def writer(self) -> Writer:
        raise AssertionError("no embeddings are streamed")


EMBEDDINGS = Dialect(EmbedAsk, error_body)
