"""Chunks of a chat completion as the events of a Message's stream, or as one Message.

One block is open at a time (build-with-claude/streaming, 2026-11).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from ..call_ids import bare, plain_id
from ..chat import chunks_of
from ..chat.deltas import Call, DeltaReader
from ..lenient_json import encode
from ..tool_calls import FunctionCall
from .answer import Asked, ending, opening, signature, usage_of

Json = dict[str, Any]

# By the type of a block: that of its deltas, and the member with the pieces.
_DELTAS: Final = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    "tool_use": (b"input_json_delta", b"partial_json"),
}


class MessageStream(DeltaReader):
    """One answer. `feed` the chunks, then `end` once: what is written then comes to `message`."""

    message: Json  # from its first chunk on
    _pieces: list[str]  # of the open block
    _delta: bytes  # what its deltas begin with

    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self._asked = asked
        self._block: Json | None = None  # the one that is open
        self._thoughts: list[str] = []  # that no block has
        self._used: set[str] = set()  # ids
        self._signed: object = None  # what signs the text

    def end(self) -> bytes:
        """The events still due where the answer is whole."""
        self._begin({})
        self._end_turns()
        self._close()
        if self._signed is not None and (self._calls or self._asked.thinks):
            self._open_thoughts()
            self._close(self._signed)
        told = ending(self._ending, has_calls=bool(self._calls), stops=self._asked.stops)
        usage = usage_of(self.usage)
        self.message |= {**told, "usage": usage}
        self._send("message_delta", delta=told, usage=usage)
        self._send("message_stop")
        return self._written()

    def _start(self, chunk: Json) -> None:
        self.message = opening(chunk.get("id"), self._asked)
        self._send("message_start", message=self.message)

    # Thoughts and text

    def _say(self, kind: str, text: str, choice: Json) -> None:
        if kind == "thought":
            self._thoughts.append(text)
            if not self._asked.shows:
                return
            if not self._is_open("thinking"):
                self._open_thoughts()
        elif not self._is_open("text"):
            self._settle_thoughts(None)
            self._open({"type": "text", "text": ""})
        self._write(text)

    def _take_more(self, delta: Json) -> None:
        self._signed = delta.get("extra_content") or self._signed

    def _open_thoughts(self) -> None:
        self._open({"type": "thinking", "thinking": "", "signature": ""})

    def _settle_thoughts(self, signed: object, *, for_call: bool = False) -> None:
        """End the thoughts that came before a block, which they may sign.

        Where they are not shown, a block of them is due only if the caller knows thinking, or if
        the upstream wants to have them back with a call.
        """
        is_wanted = self._asked.thinks or (for_call and self._asked.kind != "gemini")
        is_due = signed is not None or (self._thoughts and is_wanted)
        if is_due and not self._is_open("thinking"):
            self._open_thoughts()
        self._close(signed)

    # Calls

    def _open_call(self, call: Call) -> None:
        self._settle_thoughts(call.signed, for_call=True)
        call_id = plain_id(bare(call.id), self._used, "toolu_")
        self._open({"type": "tool_use", "id": call_id, "name": call.name, "input": {}})
        for piece in call.pieces:
            self._write(piece)

    def _close_call(self, call: Call) -> None:
        self._close()

    # Blocks

    def _is_open(self, kind: str) -> bool:
        return self._block is not None and self._block["type"] == kind

    def _open(self, block: Json) -> None:
        self._close()
        content = self.message["content"]
        self._send("content_block_start", index=len(content), content_block=block)
        self._delta = (
            b"event: content_block_delta\n"
            b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (len(content), *_DELTAS[block["type"]])
        )
        content.append(block)
        self._block, self._pieces = block, []

    def _write(self, piece: str) -> None:
        """A delta: what an answer has most of."""
        self._pieces.append(piece)
        self._out.append(self._delta + encode(piece) + b"}}\n\n")

    def _close(self, signed: object = None) -> None:
        block, self._block = self._block, None
        if block is None:
            return
        index, text = len(self.message["content"]) - 1, "".join(self._pieces)
        if block["type"] == "tool_use":
            block["input"] = Raw(FunctionCall("", Raw(msgspec.json.encode(text))).as_object())
        else:
            block[block["type"]] = text
        if block["type"] == "thinking":
            block["signature"] = made = signature("".join(self._thoughts), signed, self._asked)
            self._thoughts.clear()
            delta = {"type": "signature_delta", "signature": made}
            self._send("content_block_delta", index=index, delta=delta)
        self._send("content_block_stop", index=index)


def to_message(body: bytes, asked: Asked) -> bytes:
    """The Message for a chat completion that was checked: what its stream would come to."""
    stream = MessageStream(asked)
    stream.feed(chunks_of(body))
    stream.end()
    return encode(stream.message)
