"""Chat completions in chunks: on their way through, or made from a whole answer."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ...errors import ProxyError, UpstreamInvalid, UpstreamTruncated, envelope
from ..sse import DONE
from ..surrogates import decoder, encode
from .reply import Usage, read_answer, read_object, refuse_hidden_error


class _Choice(Struct, gc=False):
    index: int = 0
    finish_reason: str | None = None


class _Chunk(Struct, gc=False):
    choices: list[_Choice] | None = None
    error: Raw | UnsetType = UNSET
    usage: Usage | None = None


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_shielded = decoder(_Chunk)


class ChunkStream:
    """Chat chunks on their way through: they pass as they are, and are watched for their end.

    `done`: every choice seen has its `finish_reason`, so that an end without `[DONE]` is whole.
    `ended`: `[DONE]` came.
    """

    def __init__(self) -> None:
        self.ended = False
        self.usage: Usage | None = None
        self._seen: set[int] = set()
        self._finished: set[int] = set()

    @property
    def done(self) -> bool:
        """Whether the stream may end here."""
        return bool(self._seen) and self._seen == self._finished

    def feed(self, events: list[bytes]) -> list[bytes]:
        """The chunks to pass on; raises UpstreamRefusal for an error event, UpstreamInvalid."""
        for place, event in enumerate(events):
            try:
                chunk = _decode(event)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                if event.strip() == DONE:
                    self.ended = True
                    return events[:place]
                chunk = _read_odd_chunk(event)
            if chunk.error is not UNSET:
                refuse_hidden_error(chunk.error)
            if chunk.usage is not None:
                self.usage = chunk.usage
            for choice in chunk.choices or ():
                self._seen.add(choice.index)
                if choice.finish_reason:
                    self._finished.add(choice.index)
        return events

    def finish(self) -> list[bytes]:
        """The upstream ended without `[DONE]`; raises UpstreamTruncated if it was cut off."""
        if not self.done:
            raise UpstreamTruncated("the upstream's stream was cut off before its end")
        return []


def _read_odd_chunk(event: bytes) -> _Chunk:
    """A chunk with lone surrogates, or fields of other types than OpenAI's, as far as it goes."""
    with suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _decode_shielded(event)
    found = read_object(event)
    if not found:
        raise UpstreamInvalid("the upstream sent an event that is not a JSON object")
    choices = found.get("choices")
    chunk = _Chunk(choices=[])
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            index, reason = choice.get("index"), choice.get("finish_reason")
            assert chunk.choices is not None
            chunk.choices.append(
                _Choice(index if isinstance(index, int) else 0, str(reason) if reason else None)
            )
    if "error" in found:
        chunk.error = Raw(encode(found["error"]))
    return chunk


def chunks_of(body: bytes, *, with_usage: bool = True) -> list[bytes]:
    """A unary answer as the chunks of a stream; raises as `read_answer` does.

    For upstreams that answer a stream request with one JSON body. The first chunk carries the whole
    message; `with_usage`: the last one the usage, as streams with `include_usage` do.
    """
    read_answer(body)
    answer = read_object(body)
    head = {key: value for key, value in answer.items() if key not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    found = answer.get("choices")
    choices = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    if not choices:
        raise UpstreamInvalid("the upstream's answer has no choices")
    chunks = [encode({**head, "choices": [_streamed(*each) for each in enumerate(choices)]})]
    if with_usage and answer.get("usage"):
        chunks.append(encode({**head, "choices": [], "usage": answer["usage"]}))
    return chunks


def _streamed(index: int, choice: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    delta = dict(message) if isinstance(message, dict) else {}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [
            {"index": at, **call} for at, call in enumerate(calls) if isinstance(call, dict)
        ]
    rest = {key: value for key, value in choice.items() if key != "message"}
    finish = choice.get("finish_reason") or "stop"
    return {"index": index, **rest, "delta": delta, "finish_reason": finish}


def error_event(error: ProxyError, *, code: str | None) -> bytes:
    """The event that ends a stream that failed, in a shape that makes the official SDKs raise.

    openai-python and openai-node raise on an event whose `error` is an object with a string
    `message`, when no `event:` line came with it (their streaming modules, read 2026-11).
    """
    return envelope(error.message, type=error.type, code=code)
