"""Which call of a history a result belongs to.

The ids of calls are equal, empty or used again in some programs' histories, and results are
missing or doubled. Within a turn, results come to calls of equal ids in order; an id means the
latest turn that has it.
"""

from __future__ import annotations

from typing import Generic, TypeVar

_Turn = TypeVar("_Turn")
_Call = TypeVar("_Call")


class CallResults(Generic[_Turn, _Call]):
    """The calls of the turns so far, for the results that follow them."""

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
