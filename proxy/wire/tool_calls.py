"""Calls in the messages of a history, in whichever form OpenAI has had for them.

Today's are `tool_calls`, of functions or of custom tools, which take free text. Before there were
tools a message had one `function_call`, and its result a message of role `function`
(platform.openai.com/docs/api-reference/chat/create, "deprecated", read 2026-11). Agents send old
conversations on, to other vendors too: there all of them are calls of functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw

from .lenient_json import without_lone

_Turn = TypeVar("_Turn")
_Call = TypeVar("_Call")


class FunctionCall(msgspec.Struct):
    """`arguments`: a string that holds JSON; some programs send the object itself."""

    name: str
    arguments: Raw = Raw(b"null")

    def as_object(self) -> bytes:
        """The arguments as they came if they are a JSON object, else an object that tells them.

        What a model began and did not end, or another vendor's model left empty, stays in the
        history for ever: it must not refuse every later request.
        """
        raw = bytes(self.arguments)
        if raw[:1] == b'"':
            raw = without_lone(msgspec.json.decode(raw, type=str).encode())
        try:
            found = msgspec.json.decode(raw) if raw.strip() else None
        except (ValueError, RecursionError):
            found = raw
        if found is None:
            return b"{}"
        return raw if isinstance(found, dict) else msgspec.json.encode({"arguments": raw.decode()})


class CustomCall(msgspec.Struct):
    """A call of a tool that takes free text."""

    name: str
    input: Raw = Raw(b'""')


class ToolCall(msgspec.Struct):
    """`extra_content`: Google's."""

    id: str | None = None
    type: str | None = "function"
    function: FunctionCall | None = None
    custom: CustomCall | None = None
    extra_content: Any = None

    def as_function(self) -> FunctionCall | None:
        """What is called; a custom tool as a function with one parameter, `input`."""
        if self.custom is None:
            return self.function
        return FunctionCall(self.custom.name, Raw(b'{"input":%b}' % bytes(self.custom.input)))


class LegacyCall(msgspec.Struct):
    """`name` is empty in what some programs keep of a message without a call."""

    name: str = ""
    arguments: Raw = Raw(b"null")


def calls_of(tools: list[ToolCall] | None, legacy: LegacyCall | None) -> Sequence[ToolCall]:
    """An assistant's calls; one of before there were tools has its function's name for an id."""
    if tools or legacy is None or not legacy.name:
        return tools or ()
    return [ToolCall(legacy.name, function=FunctionCall(legacy.name, legacy.arguments))]


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
