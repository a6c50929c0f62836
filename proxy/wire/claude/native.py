"""What passes between Claude and callers of the same API, who get its bytes.

Of answers it is read how they end and what they cost. Of requests thoughts are left out that are
not Claude's: a conversation that another kind of client answered before has theirs in containers
(`reasoning`). All other bytes stay as they came, but for `thinking` with a budget where the tool
loop that goes on has lost its thoughts: Claude wants them at the beginning of each of its turns
(build-with-claude/extended-thinking, 2026-11).
"""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar

import msgspec
from msgspec import Raw

from ...errors import UpstreamInvalid, UpstreamRefusal, UpstreamTruncated
from .. import reasoning
from ..chat import Speech, Usage
from ..lenient_json import decode_any, decode_object, decoder, encode
from ..native import NativeStream
from ..sse import named
from .answer import Counts
from .api import UNREADABLE, hidden_refusal, refusal_of_event

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


def read_answer(body: bytes, *, is_count: bool = False) -> Usage | None:
    """Check a whole message, and tell its tokens, or (`is_count`) the answer to count_tokens.

    Raises UpstreamRefusal for an error sent as 2xx, UpstreamInvalid.
    """
    with suppress(*UNREADABLE):
        body.decode()  # msgspec takes invalid UTF-8 in what it skips
        answer = _decode(body)
        if is_count and answer.input_tokens is not None:
            return None
        if not is_count and answer.type == "message":
            return None if answer.usage is None else answer.usage.told()
    what = "the upstream's answer is no message or count"
    raise hidden_refusal(body) or UpstreamInvalid(what)


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
        return hidden_refusal(data) or refusal_of_event()

    def finish(self, chunks: list[bytes]) -> None:
        if not self._has_stopped:
            raise UpstreamTruncated("the upstream's stream ended before message_stop")
        chunks.append(_STOP)


_MARK = reasoning.MARK.encode()
_USER = Raw(b'"user"')


class _Block(msgspec.Struct):
    type: str = ""
    signature: str = ""
    data: str = ""


_items = decoder(list[Raw])
_messages = decoder(list[dict[str, Raw]])
_block = decoder(_Block)


def without_thoughts(body: bytes, *, every: bool) -> bytes:
    """The request without any thoughts of earlier turns, or those of others than Claude."""
    if not every and _MARK not in body:
        return body
    with suppress(msgspec.DecodeError, RecursionError):  # Claude answers for what is odd
        fields = decode_object(body)
        turns: list[tuple[dict[str, Raw], list[str]]] = []  # with the types of their blocks
        is_same = True
        for message in _messages(fields["messages"]):
            types = [""]  # a text has none
            if bytes(message.get("content", Raw())).startswith(b"["):
                blocks = [(raw, _block(raw)) for raw in _items(message["content"])]
                kept = [each for each in blocks if not _is_left_out(each[1], every)]
                is_same = is_same and len(kept) == len(blocks)
                message["content"] = Raw(encode([raw for raw, _ in kept]))
                types = [block.type for _, block in kept]
            if types:
                turns.append((message, types))
        if is_same:
            return body
        fields["messages"] = Raw(encode([message for message, _ in turns]))
        if not reasoning.loop_thinks([(one.get("role") == _USER, types) for one, types in turns]):
            _stop_thinking(fields)
        return encode(fields)
    return body


def _is_left_out(block: _Block, every: bool) -> bool:
    is_thought = block.type in reasoning.BLOCKS
    return is_thought and (every or reasoning.unpack(block.signature or block.data) is not None)


def _stop_thinking(fields: dict[str, Raw]) -> None:
    thinking = decode_any(fields.get("thinking", Raw(b"null")))
    if isinstance(thinking, dict) and thinking.get("type") == "enabled":
        del fields["thinking"]
        # Its edits of thoughts are refused where there is no thinking.
        if b"clear_thinking" in bytes(fields.get("context_management", Raw())):
            del fields["context_management"]
