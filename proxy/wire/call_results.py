"""Which call of a history a result belongs to.

The ids of calls are equal, empty or used again in some programs' histories, and results are
missing or doubled. Within a turn, results come to calls of equal ids in order; an id means the
latest turn that has it.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

_Turn = TypeVar("_Turn")
_Call = TypeVar("_Call")


class _Same(msgspec.Struct, Generic[_Turn, _Call]):
    """Calls of one turn whose ids are equal."""

    turn: _Turn
    calls: list[_Call]
    answered: int = 0

    def next(self) -> _Call:
        """The first without a result; the last one if all have theirs."""
        self.answered = min(self.answered + 1, len(self.calls))
        return self.calls[self.answered - 1]


class CallResults(Generic[_Turn, _Call]):
    """The calls of the turns so far, for the results that follow them."""

    def __init__(self) -> None:
        self._same: dict[str, _Same[_Turn, _Call]] = {}

    def expect(self, call: _Call, turn: _Turn, *ids: str) -> None:
        """Keep a call of this turn; a result may name it by any of the ids."""
        for name in set(ids):
            same = self._same.get(name)
            if same is None or same.turn is not turn:
                same = self._same[name] = _Same(turn, [])
            same.calls.append(call)

    def take(self, *ids: str) -> tuple[_Turn, _Call] | None:
        """The turn and the call that the next result of the first known id belongs to."""
        same = next(filter(None, map(self._same.get, ids)), None)
        return None if same is None else (same.turn, same.next())
