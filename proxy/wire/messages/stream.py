"""Chunks of a chat completion as the events of a Message's stream.

One block is open at a time. Chunks of parallel calls may come in any order, so a call whose turn
has not come waits; a call is over when another thing comes and its arguments are whole JSON. What
comes while it is not waits for the end (build-with-claude/streaming, 2026-11).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Raw

from ...errors import UpstreamInvalid
from ..call_ids import bare, plain_id
from ..chat import Usage, chunks_of, objects
from ..chat.usage import as_object, read_usage
from ..lenient_json import decoder, encode
from ..tool_calls import FunctionCall
from .answer import Asked, ending, opening, signature, text_of, usage_of

Json = dict[str, Any]

_decode = decoder(dict[str, Any])


class _Use:
    """A call of a tool. `pieces`: of its arguments, before its turn came."""

    def __init__(self, given: str) -> None:
        self.id = given
        self.name = ""
        self.pieces: list[str] = []
        self.signed: object = None


class MessageStream:
    """One answer. `feed` the chunks, then `end` once: what is written then comes to `message`."""

    def __init__(self, asked: Asked) -> None:
        self.message: Json = {}
        self._asked = asked
        self._out: list[bytes] = []
        self._block: Json | None = None  # the one that is open
        self._field = ""  # of it, where the pieces of its deltas go
        self._pieces: list[str] = []
        self._delta = b""  # what its deltas begin with
        self._thoughts: list[str] = []
        self._uses: dict[int, _Use] = {}  # by the calls' index
        self._turn: _Use | None = None  # the call whose turn it is
        self._waiting: list[_Use] = []
        self._late: list[str] = []  # text that came while a call was not whole
        self._used: set[str] = set()  # ids
        self._finish: tuple[object, object] = (None, None)
        self._signed: object = None  # what signs the text
        self._usage: Usage | None = None

    def feed(self, chunks: Sequence[bytes]) -> bytes:
        """The events for some chunks; raises UpstreamInvalid."""
        for data in chunks:
            try:
                chunk = _decode(data)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise UpstreamInvalid(f"the upstream's chunk can't be read: {error}") from error
            if not self.message:
                self._begin(chunk.get("id"))
            if told := chunk.get("usage"):
                self._usage = read_usage(told)
            for choice in objects(chunk.get("choices")):
                if not choice.get("index"):
                    self._take(as_object(choice.get("delta")))
                    if finish := choice.get("finish_reason"):
                        self._finish = (finish, choice.get("stop_reason"))
        return self._written()

    def end(self) -> bytes:
        """The events still due where the answer is whole."""
        if not self.message:
            self._begin(None)
        self._end_turn()
        for use in self._waiting:
            self._write_use(use)
        self._turn = None  # whole or not
        self._say("".join(self._late))
        self._close()
        if self._signed is not None and (self._uses or self._asked.thinks):
            self._open_thoughts()
            self._close(self._signed)
        told = ending(*self._finish, has_calls=bool(self._uses), stops=self._asked.stops)
        usage = usage_of(self._usage)
        self.message |= {**told, "usage": usage}
        self._send("message_delta", delta=told, usage=usage)
        self._send("message_stop")
        return self._written()

    def _begin(self, chat_id: object) -> None:
        self.message = opening(chat_id, self._asked)
        self._send("message_start", message=self.message)

    def _take(self, delta: Json) -> None:
        thoughts = delta.get("reasoning_content") or delta.get("reasoning")
        if thoughts and isinstance(thoughts, str):
            self._think(thoughts)
        self._say(text_of(delta.get("content")) or text_of(delta.get("refusal")))
        for call in objects(delta.get("tool_calls")):
            self._call(call)
        self._signed = delta.get("extra_content") or self._signed

    # Thoughts and text

    def _think(self, text: str) -> None:
        self._thoughts.append(text)
        if self._asked.shows and (self._is_open("thinking") or self._end_turn()):
            if not self._is_open("thinking"):
                self._open_thoughts()
            self._write(text)

    def _open_thoughts(self) -> None:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        self._open(block, "thinking_delta", "thinking")

    def _say(self, text: str) -> None:
        if not text:
            return
        if not self._is_open("text"):
            if not self._end_turn():
                self._late.append(text)
                return
            self._settle_thoughts(None)
            self._open({"type": "text", "text": ""}, "text_delta", "text")
        self._write(text)

    def _settle_thoughts(self, signed: object, *, for_call: bool = False) -> None:
        """End the thoughts that came before a block, which they may sign.

        Where they are not shown, a block of them is due only if the caller knows thinking, or if
        the upstream wants to have them back with a call.
        """
        is_due = signed is not None or (
            bool(self._thoughts)
            and (self._asked.thinks or (for_call and self._asked.kind != "gemini"))
        )
        if is_due and not self._is_open("thinking"):
            self._open_thoughts()
        self._close(signed)

    # Calls

    def _call(self, call: Json) -> None:
        index, function = call.get("index"), as_object(call.get("function"))
        index = index if isinstance(index, int) else 0
        given, name = text_of(call.get("id")), text_of(function.get("name"))
        piece = function.get("arguments")
        # Some servers send the object itself.
        piece = encode(piece).decode() if isinstance(piece, dict) else text_of(piece)
        use = self._uses.get(index)
        if use is None or (given and use.id and given != use.id and name):
            use = self._uses[index] = _Use(given)
            self._waiting.append(use)
        use.id = use.id or given
        use.name += "" if use.pieces else name
        use.signed = call.get("extra_content") or use.signed
        if use is self._turn:
            self._write(piece)
        elif use in self._waiting:
            use.pieces += [piece] if piece else []
            if use.pieces and use is self._waiting[0] and self._end_turn():
                self._write_use(self._waiting.pop(0))
        elif piece.strip():
            raise UpstreamInvalid("the upstream went back to a call that was whole")

    def _end_turn(self) -> bool:
        """End the call whose turn it is; False: it is not whole, what comes has to wait."""
        if self._turn is not None:
            if not _is_whole(self._pieces):
                return False
            self._turn = None
            self._close()
        return True

    def _write_use(self, use: _Use) -> None:
        """Begin the block of a call, with what came of it."""
        self._settle_thoughts(use.signed, for_call=True)
        call_id = plain_id(bare(use.id), self._used, "toolu_")
        block = {"type": "tool_use", "id": call_id, "name": use.name, "input": {}}
        self._open(block, "input_json_delta", "partial_json")
        self._turn = use
        for piece in use.pieces:
            self._write(piece)

    # Blocks

    def _is_open(self, kind: str) -> bool:
        return self._block is not None and self._block["type"] == kind

    def _open(self, block: Json, delta: str, field: str) -> None:
        self._close()
        content = self.message["content"]
        self._send("content_block_start", index=len(content), content_block=block)
        self._delta = (
            b"event: content_block_delta\n"
            b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (len(content), delta.encode(), field.encode())
        )
        content.append(block)
        self._block, self._field, self._pieces = block, field, []

    def _write(self, piece: str) -> None:
        """A delta: what an answer has most of."""
        if piece:
            self._pieces.append(piece)
            self._out.append(self._delta + encode(piece) + b"}}\n\n")

    def _close(self, signed: object = None) -> None:
        block = self._block
        if block is None:
            return
        index, text = len(self.message["content"]) - 1, "".join(self._pieces)
        if block["type"] == "tool_use":
            block["input"] = Raw(FunctionCall("", Raw(msgspec.json.encode(text))).as_object())
        else:
            block[self._field] = text
        if block["type"] == "thinking":
            block["signature"] = made = signature("".join(self._thoughts), signed, self._asked)
            delta = {"type": "signature_delta", "signature": made}
            self._send("content_block_delta", index=index, delta=delta)
        self._thoughts.clear()
        self._block = None
        self._send("content_block_stop", index=index)

    def _send(self, name: str, **members: Any) -> None:
        data = encode({"type": name, **members})
        self._out.append(b"event: %b\ndata: %b\n\n" % (name.encode(), data))

    def _written(self) -> bytes:
        written = b"".join(self._out)
        self._out.clear()
        return written


def _is_whole(pieces: list[str]) -> bool:
    """Whether the pieces of a call's arguments are all of them."""
    # Only where it looks like it, as it is asked for each chunk that has to wait.
    if pieces and not pieces[-1].rstrip().endswith("}"):
        return False
    with suppress(ValueError, RecursionError):
        msgspec.json.decode("".join(pieces) or "{}")
        return True
    return False


def to_message(body: bytes, asked: Asked) -> bytes:
    """The Message for a chat completion that was checked: what its stream would come to."""
    stream = MessageStream(asked)
    stream.feed(chunks_of(body))
    stream.end()
    return encode(stream.message)
