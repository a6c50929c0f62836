"""The clients of one priority."""

from __future__ import annotations


class Tier:
    """Made with a queue. `place`: the lower, the sooner. `turn`: of its round, see `queue`."""

    __slots__ = ("place", "turn")

    def __init__(self, place: int) -> None:
        self.place = place
        self.turn = 0.0
