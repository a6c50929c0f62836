"""Answers of generateContent as chat completions, of streamGenerateContent as their chunks.

Each event of a stream is a GenerateContentResponse that adds to those before it; `usageMetadata`
counts up. There is no end mark (look-alikes have OpenAI's): the answer is whole when every
candidate seen has a `finishReason` and the body has ended. Old models and look-alikes put a
finishReason in every event, so the chunk with `finish_reason` is due only at the end.
"""

from __future__ import annotations

from typing import Any, Final

from ...errors import UpstreamInvalid, UpstreamTruncated
from ..chat import Usage
from ..chat.made import ChunkMaker, completion
from ..sse import DONE
from . import events
from .choice import Choice, Choices, Delta


class _Count(events.Answer, rename="camel"):
    total_tokens: int | None = None


_read_count: Final = events.reader(_Count, "count of tokens")


def to_count(body: bytes) -> bytes:
    """The answer of `countTokens` as an object with `input_tokens`; raises as `to_chat` does."""
    count = _read_count(body)
    if count.total_tokens is None:
        raise UpstreamInvalid("Gemini's answer has no totalTokens")
    return b'{"input_tokens":%d}' % count.total_tokens


def to_chat(body: bytes, *, request: bytes, model: str, created: int, reply_id: str) -> bytes:
    """The chat.completion; its id is Gemini's `responseId`, `reply_id` where there is none.

    Raises UpstreamInvalid if it is not whole or the model failed, UpstreamRefusal for an error.
    """
    response = events.read(body)
    made = list(Choices(request, reply_id).add(response))
    if not made:
        raise UpstreamInvalid("Gemini's answer has no candidates and names no reason")
    if not all(choice.finish_reason for choice, *_ in made):
        raise UpstreamInvalid("Gemini's answer has a candidate without a finishReason")
    choices = [_as_chat(*one) for one in sorted(made, key=lambda one: one[0].index)]
    usage = events.chat_usage(response.usage_metadata)
    answer_id = response.response_id or reply_id
    return completion(answer_id, choices, usage, model=model, created=created)


def _as_chat(choice: Choice, delta: Delta, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    head = {"role": "assistant", "content": None, "refusal": None}
    message: dict[str, Any] = {**head, **delta, **choice.closing}
    for field in ("tool_calls", "annotations"):
        for entry in message.get(field, ()):
            del entry["index"]
    made: Delta = {"index": choice.index, "message": message, "logprobs": logprobs}
    return {**made, "finish_reason": choice.finish_reason}


class ChatStream(ChunkMaker):
    """The chunks' id is Gemini's `responseId`, `reply_id` where there is none."""

    def __init__(
        self, *, request: bytes, model: str, created: int, include_usage: bool, reply_id: str
    ) -> None:
        super().__init__(model=model, created=created, include_usage=include_usage)
        self._choices = Choices(request, reply_id)
        self._reply_id = reply_id
        self._told: events.UsageMetadata | None = None
        self._head = b""

    @property
    def usage(self) -> Usage | None:
        """The tokens, as far as the answer told them by now."""
        return None if self._told is None else events.tokens(self._told)

    def feed(self, data: bytes, chunks: list[bytes]) -> None:
        try:
            response = events.read(data)
        except UpstreamInvalid:
            if data.strip() != DONE:
                raise
            self.finish(chunks)
            self.is_over = True
            return
        if not self._head:
            self._set_id(response.response_id or self._reply_id)
        if response.usage_metadata is not None:
            self._told = response.usage_metadata
        for choice, delta, logprobs in self._choices.add(response):
            if delta or logprobs or not choice.started:
                chunks.append(self._chunk_of(choice, delta, logprobs))

    def finish(self, chunks: list[bytes]) -> None:
        """The finish reasons and, if asked for, the usage."""
        choices = self._choices.values()
        if not choices or not all(choice.finish_reason for choice in choices):
            what = "in the middle of" if choices else "before"
            raise UpstreamTruncated(f"Gemini's stream ended {what} its answer")
        chunks += [self._chunk_of(one, one.closing, finish=one.finish_reason) for one in choices]
        if self._include_usage:
            chunks.append(self._usage_chunk(events.chat_usage(self._told)))

    def _chunk_of(
        self, choice: Choice, delta: Delta, logprobs: Any = None, finish: str | None = None
    ) -> bytes:
        if not choice.started:
            choice.started = True
            delta = {"role": "assistant", **delta}
        made = {"index": choice.index, "delta": delta, "logprobs": logprobs}
        return self._chunk({**made, "finish_reason": finish})
