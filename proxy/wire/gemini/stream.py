"""The events of streamGenerateContent?alt=sse as chat.completion.chunk payloads.

Each event is a GenerateContentResponse that adds to those before it; `usageMetadata` counts up.
There is no end mark (look-alikes have OpenAI's): the answer is whole when every candidate seen has
a `finishReason` and the body has ended. Old models and look-alikes put a finishReason in every
event, so the chunk with `finish_reason` is due only at the end.
"""

from __future__ import annotations

from typing import Any

from ...errors import UpstreamInvalid, UpstreamTruncated
from ..chat import Usage
from ..chat.made import ChunkMaker
from ..sse import DONE
from . import events
from .choice import Choice, Choices, Delta


class ChatStream(ChunkMaker):
    """`request`: the body of the chat request that it answers.

    The chunks' id is Gemini's `responseId`, `reply_id` where there is none.
    """

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

    def _take(self, data: bytes, chunks: list[bytes]) -> None:
        try:
            response = events.read(data)
        except UpstreamInvalid:
            if data.strip() != DONE:
                raise
            self._end(chunks)
            self.is_over = True
            return
        if not self._head:
            self._set_id(response.response_id or self._reply_id)
        if response.usage_metadata is not None:
            self._told = response.usage_metadata
        for choice, delta, logprobs in self._choices.add(response):
            if delta or logprobs or not choice.started:
                chunks.append(self._chunk_of(choice, delta, logprobs))

    def _end(self, chunks: list[bytes]) -> None:
        """The finish reasons and, if asked for, the usage."""
        choices = self._choices.by_index.values()
        if not choices or not all(choice.finished for choice in choices):
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
