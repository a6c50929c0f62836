"""A chat's messages as turns, for vendors that want a strict order of them: Claude and Gemini.

What these refuse (tests/support/claude_rules.py and gemini_rules.py) shapes it: the first turn is
the user's, turns alternate, and the turn behind one with calls begins with a result for each of
them. So results go to their calls wherever they stand, an unanswered call gets a result that says
so, and what was said in between comes behind the results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from ..errors import InvalidRequest
from .chat.shapes import Message
from .reasoning import bare

Block = dict[str, Any]
_Result = TypeVar("_Result")
_Turn = TypeVar("_Turn")
_Call = TypeVar("_Call")

# Words that a model gets where its vendor has no place for what a request says, or wants more. They
# are the same for every vendor: a history that moves from one to another reads the same.

# Of the user, where a turn of the user has to be.
CONTINUE: Final = "Continue."

# The result of a call that has none.
NOT_RUN: Final = "This call was not run, or its result is lost."


def result_without_call(text: str) -> str:
    """What a call gave that was cut off with the beginning of the history."""
    return f"<result>\n{text}\n</result>"


class Call(msgspec.Struct, Generic[_Result]):
    """A call of an earlier message, by the vendor's name and id, and what came of it."""

    name: str
    wire_id: str
    result: _Result | None = None
    is_error: bool = False


class Turn(msgspec.Struct, Generic[_Result]):
    """`closed`: a result of its calls was seen, so that what the model says next is another."""

    role: Literal["user", "assistant", "system"]
    content: list[Block]
    calls: list[Call[_Result]] = []
    closed: bool = False


class CallResults(Generic[_Turn, _Call]):
    """The calls of the turns so far, for the results that follow them.

    The ids of calls are equal, empty or used again in some programs' histories, and results are
    missing or doubled. Within a turn, results come to calls of equal ids in order; an id means the
    latest turn that has it.
    """

    def __init__(self) -> None:
        # By id: the calls of the latest turn that has it.
        self._called: dict[str, tuple[_Turn, list[_Call]]] = {}

    def expect(self, call: _Call, turn: _Turn, *ids: str) -> None:
        """Keep a call of this turn; a result may name it by any of the ids."""
        for name in set(ids):
            if name not in self._called or self._called[name][0] is not turn:
                self._called[name] = (turn, [])
            self._called[name][1].append(call)

    def take(self, *ids: str) -> tuple[_Turn, _Call] | None:
        """The turn and the call that the next result of the first known id belongs to.

        It is the first call without a result; the last one if all have theirs.
        """
        for name in ids:
            if name in self._called:
                turn, calls = self._called[name]
                return turn, calls.pop(0) if calls[1:] else calls[0]
        return None


class History(ABC, Generic[_Result]):
    """Grows message by message; a subclass makes the vendor's blocks, and results of its calls."""

    def __init__(self) -> None:
        self._system: list[Block] = []
        self._turns: list[Turn[_Result]] = []
        self._results: CallResults[Turn[_Result], Call[_Result]] = CallResults()

    @abstractmethod
    def _blocks(self, message: Message, path: str, *, text_only: bool = False) -> list[Block]:
        """What the user says, or the system, which has no media; none: the message is empty."""

    @abstractmethod
    def _assistant(self, message: Message, path: str) -> None:
        """Take what the model said and called."""

    @abstractmethod
    def _result(self, message: Message, path: str) -> _Result:
        """What a call gave."""

    @abstractmethod
    def _orphan(self, result: _Result) -> list[Block]:
        """The same in the user's words: its call was cut off with the beginning of the history."""

    @abstractmethod
    def _answers(self, calls: list[Call[_Result]]) -> tuple[list[Block], list[Block]]:
        """The results of a turn's calls: those of a turn of their own, and what begins the next."""

    def add(self, messages: Sequence[Message]) -> None:
        """Raises InvalidRequest naming the message or part that has no place at the vendor."""
        for number, message in enumerate(messages):
            path = f"messages[{number}]"
            if message.role in ("system", "developer"):
                self._say_as_system(self._blocks(message, path, text_only=True))
            elif message.role == "user":
                if not (blocks := self._blocks(message, path)):
                    raise InvalidRequest.at(f"{path}.content", "the message is empty")
                self._say_as_user(blocks)
            elif message.role == "assistant":
                self._assistant(message, path)
            elif message.role in ("tool", "function"):
                self._take_result(message, path)
            else:
                expected = "expected system, developer, user, assistant, tool or function"
                raise InvalidRequest.at(f"{path}.role", f"{expected}, got {message.role!r}")

    def _say_as_system(self, blocks: list[Block]) -> None:
        """In place, so that the beginning stays as it is in the vendor's cache."""
        if self._turns:
            told = [{**each, "text": f"<system>\n{each['text']}\n</system>"} for each in blocks]
            self._say_as_user(told)
        else:
            self._system += blocks

    def _say_as_user(self, blocks: list[Block]) -> None:
        if self._turns and self._turns[-1].role == "user":
            self._turns[-1].content += blocks
        elif blocks:
            self._turns.append(Turn("user", blocks))

    def _turn_of_model(self, *, speaks: bool) -> Turn[_Result]:
        """The turn that another message of the model's belongs to; `speaks`: not only calls."""
        last = self._turns[-1] if self._turns else None
        # Programs give each of several parallel calls a message of its own.
        if last is None or last.role != "assistant" or last.closed or (speaks and last.calls):
            last = Turn("assistant", [])
            self._turns.append(last)
        return last

    def _expect(self, turn: Turn[_Result], call_id: str, call: Call[_Result]) -> None:
        turn.calls.append(call)
        self._results.expect(call, turn, call_id, bare(call_id))

    def _take_result(self, message: Message, path: str) -> None:
        result = self._result(message, path)
        # Before there were ids, a result had its function's name.
        call_id = (message.tool_call_id if message.role == "tool" else message.name) or ""
        found = self._results.take(call_id, bare(call_id))
        if found is None:
            self._say_as_user(self._orphan(result))
            return
        turn, call = found
        call.result, call.is_error = result, message.is_error
        turn.closed = True

    def _woven(self, go_on: Block) -> Iterator[tuple[str, list[Block]]]:
        """The turns with the results of calls, and the user's where the vendor wants some."""
        behind: list[Block] = []
        for number, turn in enumerate(self._turns):
            if turn.role == "user":
                yield "user", [*behind, *turn.content] or [go_on]
            else:
                if behind or number == 0:
                    yield "user", behind or [go_on]
                yield turn.role, turn.content
            apart, behind = self._answers(turn.calls)
            if apart:
                yield "user", apart
        if behind:
            yield "user", behind
