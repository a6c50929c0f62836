"""What is read of Claude's answers on their way to callers of the same API, who get their bytes."""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar

import msgspec

from ...errors import UpstreamInvalid, UpstreamRefusal, UpstreamTruncated
from ..chat import Speech, Usage
from ..native import NativeStream
from ..sse import named
from .api import UNREADABLE, hidden_refusal, refusal_of_event
from .reply import Counts

MESSAGES: Speech = ("chat", "messages")
COUNT: Speech = ("count", "messages")


class _Message(msgspec.Struct):
    type: str | None = None
    id: str | None = None
    usage: Counts | None = None
    stop_reason: str | None = None
    input_tokens: int | None = None


class _Event(msgspec.Struct):
    message: _Message | None = None
    delta: _Message | None = None
    usage: Counts | None = None


_decode = msgspec.json.Decoder(_Message).decode
_decode_event = msgspec.json.Decoder(_Event).decode

_STOP = named(b'{"type":"message_stop"}', b"message_stop")


def read_message(body: bytes) -> Usage | None:
    """Check a whole answer; raises UpstreamRefusal for an error sent as 2xx, UpstreamInvalid."""
    message = _read(body)
    if message.type != "message":
        raise _no_answer(body)
    return None if message.usage is None else message.usage.told()


def read_count(body: bytes) -> None:
    """Check the answer to count_tokens; raises as `read_message` does."""
    if _read(body).input_tokens is None:
        raise _no_answer(body)


def _read(body: bytes) -> _Message:
    try:
        body.decode()  # msgspec takes invalid UTF-8 in what it skips
        return _decode(body)
    except UNREADABLE as error:
        raise _no_answer(body) from error


def _no_answer(body: bytes) -> UpstreamRefusal | UpstreamInvalid:
    return hidden_refusal(body) or UpstreamInvalid("the upstream's answer is no message or count")


class MessageEvents(NativeStream):
    """The events of a message."""

    preamble: ClassVar = frozenset((b"message_start", b"ping"))
    errors: ClassVar = frozenset((b"error",))
    watched: ClassVar = frozenset((b"message_start", b"message_delta", b"message_stop"))

    def __init__(self) -> None:
        super().__init__()
        self._counts = Counts()
        self._message_id: str | None = None
        self._has_stopped = False  # a `stop_reason` was told

    def _watch(self, name: bytes, data: bytes) -> None:
        self.is_over = name == b"message_stop"
        event = _Event()
        with suppress(*UNREADABLE):  # it is the caller's to read
            event = _decode_event(data)
        told = event.message or event.delta
        if event.message is not None and event.message.id:
            if self._message_id not in (None, event.message.id):
                raise UpstreamTruncated("the upstream's message was cut off by another one")
            self._message_id = event.message.id
        if told is not None and told.stop_reason is not None:
            self._has_stopped = True
        usage = event.usage or (None if event.message is None else event.message.usage)
        if usage is not None:
            self._counts.update(usage)
            self.usage = self._counts.told()

    def _refusal(self, data: bytes) -> UpstreamRefusal:
        return hidden_refusal(data) or refusal_of_event(None)

    def finish(self) -> list[bytes]:
        if self.is_over:
            return []
        if not self._has_stopped:
            raise UpstreamTruncated("the upstream's stream ended before message_stop")
        return [_STOP]
