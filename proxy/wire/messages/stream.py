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

from ...errors import UpstreamInvalid
from ..chat import Usage, chunks_of
from ..chat.usage import read_usage
from ..lenient_json import decoder, encode
from .answer import (
    Asked,
    call_id,
    ending,
    joined,
    opening,
    signature,
    text_of,
    usage_of,
)

Json = dict[str, Any]


class _Function(msgspec.Struct, gc=False):
    """Some servers send the object itself for `arguments`, and other types elsewhere."""

    name: Any = None
    arguments: Any = None


class _Call(msgspec.Struct, gc=False):
    index: Any = None
    id: Any = None
    function: _Function | None = None
    extra_content: Any = None


class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: list[_Call] | None = None
    extra_content: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: Any = None
    stop_reason: Any = None


class _Chunk(msgspec.Struct, gc=False):
    id: Any = None
    choices: list[_Choice] | None = None
    usage: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_shielded = decoder(_Chunk)


class _Use:
    """A call of a tool, as far as it came."""

    def __init__(self, given: str) -> None:
        self.id = given
        self.name = ""
        self.pieces: list[str] = []
        self.signed: object = None
        self.written = 0  # pieces that went out

    @property
    def is_whole(self) -> bool:
        # Only where it looks like it, as it is asked for each chunk that has to wait.
        if self.pieces and not self.pieces[-1].rstrip().endswith("}"):
            return False
        with suppress(ValueError, RecursionError):
            msgspec.json.decode("".join(self.pieces) or "{}")
            return True
        return False


class MessageStream:
    """One answer. `feed` the chunks, then `end` once."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._is_begun = False
        self._index = -1  # of the last block that was begun
        self._open = ""  # its type, while it is open
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
        out: list[bytes] = []
        for data in chunks:
            try:
                chunk = _decode(data)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                chunk = _read_odd(data)
            if not self._is_begun:
                self._begin(chunk.id, out)
            if chunk.usage is not None:
                self._usage = read_usage(chunk.usage)
            for choice in chunk.choices or ():
                if choice.index == 0:
                    if choice.delta is not None:
                        self._take(choice.delta, out)
                    if choice.finish_reason:
                        self._finish = (choice.finish_reason, choice.stop_reason)
        return b"".join(out)

    def end(self) -> bytes:
        """The events still due where the answer is whole."""
        out: list[bytes] = []
        if not self._is_begun:
            self._begin(None, out)
        self._end_turn(out)
        for use in self._waiting:
            self._write_use(use, out)
        self._close(out)
        self._say("".join(self._late), out)
        self._close(out)
        if self._signed is not None and (self._uses or self._asked.thoughts.asked):
            self._open_thoughts(out)
            self._close(out, self._signed)
        reason, sequence = ending(
            *self._finish, has_calls=bool(self._uses), stops=self._asked.stops
        )
        told = {"stop_reason": reason, "stop_sequence": sequence}
        usage = usage_of(self._usage)
        _event(out, "message_delta", {"delta": told, "usage": usage})
        _event(out, "message_stop", {})
        return b"".join(out)

    def _begin(self, chat_id: object, out: list[bytes]) -> None:
        self._is_begun = True
        _event(out, "message_start", {"message": opening(chat_id, self._asked)})

    def _take(self, delta: _Delta, out: list[bytes]) -> None:
        thoughts = delta.reasoning_content or delta.reasoning
        if thoughts.__class__ is str and thoughts:
            self._think(thoughts, out)
        text = delta.content
        if text.__class__ is not str:
            text = text_of(text) or text_of(delta.refusal)
        if text:
            self._say(text, out)
        for call in delta.tool_calls or ():
            self._call(call, out)
        if delta.extra_content is not None:
            self._signed = delta.extra_content

    # Thoughts and text

    def _think(self, text: str, out: list[bytes]) -> None:
        self._thoughts.append(text)
        if self._asked.thoughts.shown and (self._open == "thinking" or self._end_turn(out)):
            if self._open != "thinking":
                self._open_thoughts(out)
            out.append(self._delta + encode(text) + b"}}\n\n")

    def _open_thoughts(self, out: list[bytes]) -> None:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        self._open_block(block, "thinking_delta", "thinking", out)

    def _say(self, text: str, out: list[bytes]) -> None:
        if self._open != "text":
            if not text:
                return
            if not self._end_turn(out):
                self._late.append(text)
                return
            self._settle_thoughts(None, out)
            self._open_block({"type": "text", "text": ""}, "text_delta", "text", out)
        out.append(self._delta + encode(text) + b"}}\n\n")

    def _settle_thoughts(self, signed: object, out: list[bytes], *, for_call: bool = False) -> None:
        """End the thoughts that came before a block, which they may sign.

        Where they are not shown, a block of them is due only if the caller knows thinking, or if
        the upstream wants to have them back with a call.
        """
        is_due = signed is not None or (
            bool(self._thoughts)
            and (self._asked.thoughts.asked or (for_call and self._asked.kind != "gemini"))
        )
        if is_due and self._open != "thinking":
            self._open_thoughts(out)
        self._close(out, signed)

    # Calls

    def _call(self, call: _Call, out: list[bytes]) -> None:
        index = call.index if isinstance(call.index, int) else 0
        function = call.function or _Function()
        given, name, piece = text_of(call.id), text_of(function.name), function.arguments
        if isinstance(piece, dict):
            piece = encode(piece).decode()
        use = self._uses.get(index)
        if use is None or (given and use.id and given != use.id and name):
            use = self._uses[index] = _Use(given)
            self._waiting.append(use)
        use.id = use.id or given
        use.name += "" if use.pieces else name
        use.signed = use.signed if call.extra_content is None else call.extra_content
        if isinstance(piece, str) and piece:
            use.pieces.append(piece)
        if use is self._turn:
            self._write_pieces(use, out)
        elif use not in self._waiting:
            if isinstance(piece, str) and piece.strip():
                raise UpstreamInvalid("the upstream went back to a call that was whole")
        elif use.pieces and use is self._waiting[0] and self._end_turn(out):
            self._write_use(self._waiting.pop(0), out)

    def _end_turn(self, out: list[bytes]) -> bool:
        """End the call whose turn it is; False: it is not whole, what comes has to wait."""
        if self._turn is not None:
            if not self._turn.is_whole:
                return False
            self._turn = None
            self._close(out)
        return True

    def _write_use(self, use: _Use, out: list[bytes]) -> None:
        """Begin the block of a call, with what came of it."""
        self._settle_thoughts(use.signed, out, for_call=True)
        named = {"id": call_id(use.id, self._used), "name": use.name}
        block = {"type": "tool_use", **named, "input": {}}
        self._open_block(block, "input_json_delta", "partial_json", out)
        self._turn = use
        self._write_pieces(use, out)

    def _write_pieces(self, use: _Use, out: list[bytes]) -> None:
        out += (self._delta + encode(piece) + b"}}\n\n" for piece in use.pieces[use.written :])
        use.written = len(use.pieces)

    # Blocks

    def _open_block(self, block: Json, delta: str, field: str, out: list[bytes]) -> None:
        self._close(out)
        self._index += 1
        self._open = block["type"]
        _event(out, "content_block_start", {"index": self._index, "content_block": block})
        self._delta = (
            b"event: content_block_delta\n"
            b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (self._index, delta.encode(), field.encode())
        )

    def _close(self, out: list[bytes], signed: object = None) -> None:
        if not self._open:
            return
        if self._open == "thinking":
            made = signature("".join(self._thoughts), signed, self._asked)
            delta = {"type": "signature_delta", "signature": made}
            _event(out, "content_block_delta", {"index": self._index, "delta": delta})
        self._thoughts.clear()
        self._open = ""
        _event(out, "content_block_stop", {"index": self._index})


def to_message(body: bytes, asked: Asked) -> bytes:
    """The Message for a chat completion that was checked: what its stream would come to."""
    stream = MessageStream(asked)
    return joined(stream.feed(chunks_of(body)) + stream.end())


def _read_odd(data: bytes) -> _Chunk:
    """A chunk with lone surrogates."""
    try:
        return _decode_shielded(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise UpstreamInvalid(f"the upstream sent a chunk that can't be read: {error}") from error


def _event(out: list[bytes], name: str, members: Json) -> None:
    body = encode({"type": name, **members})
    out.append(b"event: %b\ndata: %b\n\n" % (name.encode(), body))
