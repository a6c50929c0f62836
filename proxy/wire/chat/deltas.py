"""Chunks of chat, read for a dialect whose streams are made of them: one thing at a time.

Upstreams mix the chunks of parallel calls, and some number all calls 0. Here a call has the turn
until another thing comes and its arguments are whole JSON. What comes before that waits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from ...errors import UpstreamInvalid
from ..lenient_json import decoder, encode
from .reply import objects
from .request import ChatRequest
from .usage import Usage, as_object, read_usage

Json = dict[str, Any]

_decode = decoder(dict[str, Any])


class Call(msgspec.Struct, eq=False):
    """A call of a tool. `pieces`: of its arguments; `signed`: what signs it, Google's field."""

    id: str = ""
    name: str = ""
    pieces: list[str] = []
    signed: Any = None

    @property
    def is_whole(self) -> bool:
        """Whether its arguments are JSON: as far as can be told, nothing more will come."""
        # Only where it looks like it, as it is asked for each chunk that has to wait.
        if not self.pieces or not self.pieces[-1].rstrip().endswith("}"):
            return False
        try:
            msgspec.json.decode("".join(self.pieces))
        except (ValueError, RecursionError):
            return False
        return True


class DeltaReader(ABC):
    """One answer: its first choice. A subclass writes, into `_out`, what it hears."""

    answer: Json  # the whole of it, in the end

    def __init__(self) -> None:
        self.usage: Usage | None = None  # as the last chunk told it
        self._ending: Json = {}  # the choice that had a `finish_reason`
        self._out: list[bytes] = []
        self._is_begun = False
        self._calls: dict[int, Call] = {}  # the latest of each number
        self._waiting: list[Call] = []
        self._turn: Call | None = None
        self._late: list[Callable[[], None]] = []  # what a turn keeps from being written

    @abstractmethod
    def _finish(self) -> None:
        """End all that is open, and the answer, which is whole."""

    @abstractmethod
    def _send_last(self) -> None:
        """Write the events that say so."""

    def end(self) -> bytes:
        """The events that are due at the end of an answer that is whole."""
        self._finish()
        self._send_last()
        return self._written()

    def whole(self, chunks: Sequence[bytes]) -> bytes:
        """The answer in one piece, which the events come to; raises UpstreamInvalid."""
        self.feed(chunks)
        self._finish()
        return encode(self.answer)

    @abstractmethod
    def _start(self, chunk: Json) -> None:
        """The answer begins, with this chunk."""

    @abstractmethod
    def _say(self, kind: str, text: str, choice: Json) -> None:
        """Write a piece of a `thought`, of `text` or of a `refusal`, which is never empty."""

    @abstractmethod
    def _take_more(self, delta: Json) -> None:
        """What a delta has beside texts and calls, behind its texts."""

    @abstractmethod
    def _open_call(self, call: Call) -> None:
        """A call has its turn: write what came of it."""

    @abstractmethod
    def _write(self, text: str) -> None:
        """More of what is open: of the call that has its turn, for one."""

    @abstractmethod
    def _close_call(self, call: Call) -> None:
        """Its turn is over; it may have been cut off."""

    def feed(self, chunks: Sequence[bytes]) -> bytes:
        """The events for some chunks; raises UpstreamInvalid."""
        try:
            for data in chunks:
                chunk = _decode(data)
                if not self._is_begun:
                    self._begin(chunk)
                if told := chunk.get("usage"):
                    self.usage = read_usage(told)
                for choice in objects(chunk.get("choices")):
                    if not choice.get("index"):
                        delta = as_object(choice.get("delta"))
                        text = delta.get("content")
                        # The usual is a piece of text alone.
                        if len(delta) == 1 and text and type(text) is str and self._turn is None:
                            self._say("text", text, choice)
                        else:
                            self._take(delta, choice)
                        self._ending = choice if choice.get("finish_reason") else self._ending
        except (RecursionError, ValueError) as error:
            raise UpstreamInvalid(f"the upstream's chunk can't be read: {error}") from error
        return self._written()

    def _begin(self, chunk: Json) -> None:
        if not self._is_begun:
            self._is_begun = True
            self._start(chunk)

    def _written(self) -> bytes:
        written = b"".join(self._out)
        self._out.clear()
        return written

    def _send(self, name: str, **members: Any) -> None:
        data = encode({"type": name, **members})
        self._out.append(b"event: %b\ndata: %b\n\n" % (name.encode(), data))

    def _take(self, delta: Json, choice: Json) -> None:
        content = delta.get("content")
        self._tell("thought", delta.get("reasoning_content") or delta.get("reasoning"), choice)
        self._tell("text", content, choice)
        for part in objects(content):  # as Mistral's models answer
            for thought in objects(part.get("thinking")):
                self._tell("thought", thought.get("text"), choice)
            self._tell("text", part.get("text"), choice)
        self._tell("refusal", delta.get("refusal"), choice)
        self._take_more(delta)
        for place, call in enumerate(objects(delta.get("tool_calls"))):
            self._take_call(call, place)

    def _tell(self, kind: str, text: object, choice: Json) -> None:
        if text and isinstance(text, str):
            self._once_free(self._say, kind, text, choice)

    def _once_free(self, write: Callable[..., None], *told: Any) -> None:
        """Write something that is no call: now, or at the end if a call has its turn until then."""
        if self._end_turn():
            write(*told)
        else:
            self._late.append(partial(write, *told))

    def _take_call(self, told: Json, place: int) -> None:
        """A call, the beginning of one, or more of one; `place`: its number if it has none."""
        number, function = told.get("index"), as_object(told.get("function"))
        number = number if isinstance(number, int) else place
        given, name, piece = told.get("id"), function.get("name"), function.get("arguments")
        given, name = (one if isinstance(one, str) else "" for one in (given, name))
        # Some servers send the object itself.
        piece = encode(piece).decode() if isinstance(piece, dict) else piece
        call = self._calls.get(number)
        is_other = call is not None and given and call.id and given != call.id
        if call is None or (name and (is_other or call.is_whole)):
            if not (given or name):
                return  # nobody knows of what
            call = self._calls[number] = Call()
            self._waiting.append(call)
        call.id = call.id or given
        call.name += name if name != call.name else ""  # in pieces, or again each time
        call.signed = told.get("extra_content") or call.signed
        if not piece or not isinstance(piece, str):
            return
        call.pieces.append(piece)
        if call is self._turn:
            self._write(piece)
        elif call not in self._waiting:
            if piece.strip():
                raise UpstreamInvalid("the upstream went back to a call that was whole")
        elif call is self._waiting[0] and call.name and self._end_turn():
            self._open_call(self._waiting.pop(0))
            self._turn = call

    def _end_turn(self) -> bool:
        """End the call that has its turn; False: it is not whole, what comes has to wait."""
        if self._turn is not None:
            if not self._turn.is_whole:
                return False
            self._close_call(self._turn)
            self._turn = None
        return True

    def _end_turns(self) -> None:
        """At the end of an answer: what waits comes now, and each call is as whole as it came."""
        if self._turn is not None:
            self._close_call(self._turn)
        for call in self._waiting:
            self._open_call(call)
            self._close_call(call)
        self._turn = None
        for write in self._late:
            write()


class Translation(NamedTuple):
    """A request of another dialect as chat. `dropped`: what of it nobody will see. `answer`: makes
    the answer to it in its dialect, for the model that serves.
    """

    request: ChatRequest
    dropped: list[str]
    answer: Callable[[str], DeltaReader]
