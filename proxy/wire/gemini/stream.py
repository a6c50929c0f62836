"""The events of streamGenerateContent?alt=sse as chat.completion.chunk payloads.

Each event is a GenerateContentResponse that adds to those before it; `usageMetadata` counts up.
There is no end mark (look-alikes have OpenAI's): the answer is whole when every candidate seen has
a `finishReason` and the body has ended. Old models and look-alikes put a finishReason in every
event, so the chunk with `finish_reason` is due only at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ...errors import UpstreamError, UpstreamInvalid, UpstreamTruncated
from ..chat import Usage
from ..sse import DONE
from . import events
from .choice import Choice, Choices, Delta

_encode: Final = msgspec.json.Encoder().encode


class ChatStream:
    """Feed it the `data:` payloads of the upstream's events, then `finish()`, once.

    `request`: the body of the chat request that it answers.
    `is_over`: an end mark came. The chunks' id is Gemini's `responseId`, `reply_id` where there is
    none. After an exception it is of no more use.
    """

    def __init__(
        self, *, request: bytes, model: str, created: int, include_usage: bool, reply_id: str
    ) -> None:
        self.is_over = False
        self._choices = Choices(request, reply_id)
        kind = "chat.completion.chunk"
        self._common = {"id": "", "object": kind, "created": created, "model": model}
        self._include_usage = include_usage
        self._reply_id = reply_id
        self._told: events.UsageMetadata | None = None
        self._failure: UpstreamError | None = None
        self._head = b""
        self._tail = b'],"usage":null}' if include_usage else b"]}"

    @property
    def usage(self) -> Usage | None:
        """The tokens, as far as the answer told them by now."""
        return None if self._told is None else events.tokens(self._told)

    def feed(self, payloads: Sequence[bytes]) -> list[bytes]:
        """The chunks that these events make.

        Raises UpstreamRefusal for an error event, UpstreamInvalid for what is no event or when
        the model failed; not before the chunks of the events ahead of it were returned, so it may
        be the next call, `finish` too, that raises.
        """
        if self._failure is not None:
            raise self._failure
        chunks: list[bytes] = []
        try:
            for payload in payloads:
                try:
                    response = events.read(payload)
                except UpstreamInvalid:
                    if payload.strip() != DONE:
                        raise
                    chunks += self.finish()
                    self.is_over = True
                    break
                self._event(response, chunks)
        except UpstreamError as error:
            self._failure = error
            if not chunks:
                raise
        return chunks

    def finish(self) -> list[bytes]:
        """The last chunks: finish reasons and, if asked for, the usage.

        Raises UpstreamTruncated if the answer was cut off.
        """
        if self._failure is not None:
            raise self._failure
        if self.is_over:
            return []
        choices = self._choices.by_index.values()
        if not choices or not all(choice.finished for choice in choices):
            what = "in the middle of" if choices else "before"
            raise UpstreamTruncated(f"Gemini's stream ended {what} its answer")
        chunks = [
            self._chunk(choice, choice.closing, finish_reason=choice.finish_reason)
            for choice in choices
        ]
        if self._include_usage:
            usage = _encode(events.chat_usage(self._told))
            chunks.append(self._head + b'],"usage":' + usage + b"}")
        return chunks

    def _event(self, response: events.Response, chunks: list[bytes]) -> None:
        if not self._head:
            head = {**self._common, "id": response.response_id or self._reply_id}
            self._head = _encode(head)[:-1] + b',"choices":['
        if response.usage_metadata is not None:
            self._told = response.usage_metadata
        for choice, delta, logprobs in self._choices.add(response):
            if delta or logprobs or not choice.started:
                chunks.append(self._chunk(choice, delta, logprobs))

    def _chunk(
        self, choice: Choice, delta: Delta, logprobs: Any = None, finish_reason: str | None = None
    ) -> bytes:
        if not choice.started:
            choice.started = True
            delta = {"role": "assistant", **delta}
        made = {"index": choice.index, "delta": delta, "logprobs": logprobs}
        return self._head + _encode({**made, "finish_reason": finish_reason}) + self._tail
