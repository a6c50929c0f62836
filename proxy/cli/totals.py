"""Sums of what all workers say about a client, because each worker has a pool of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple

COUNTED = ("in_flight", "waiting", "answered", "failed")

# The worse, the later. A model in none of these states is ready.
GRAVITY = ("resting", "on trial", "cooling down", "out of service")


class Trouble(NamedTuple):
    """Why a client cannot be used for a model: the worst state in any worker."""

    gravity: int
    for_s: float  # 0: until something happens
    since_s: float  # for how long it has been so
    cause: str  # in the upstream's words; "": not known

    @property
    def state(self) -> str:
        return GRAVITY[self.gravity]

    def __str__(self) -> str:
        return f"{self.state} for {math.ceil(self.for_s)} s" if self.for_s else self.state


class ClientSum:
    """Sums the facts of one client, as each worker has them (`ClientPool.snapshot`)."""

    def __init__(self, workers: list[dict[str, Any]]) -> None:
        self.label: str = workers[0]["client"]
        # No longer configured: only requests under way still use it.
        self.leaving: bool = workers[0]["leaving"]
        permits = [facts["permits"] for facts in workers]
        self.permits = sum(permits) if all(permits) else None  # None: no limit
        self.counts = {name: sum(facts[name] for facts in workers) for name in COUNTED}
        self.troubles: dict[str, Trouble] = {}  # by the upstream's name of the model
        self._models: dict[str, list[str]] = {}
        self._disabled_in = sum(facts["disabled"] for facts in workers)
        self._troubled_in = 0
        for facts in workers:
            self._models |= facts["offered"] or {}
            troubles = dict(_troubles(facts["models"]))
            self._troubled_in += bool(troubles)
            for name, trouble in troubles.items():
                self.troubles[name] = max(trouble, self.troubles.get(name, trouble))
        self._asked_for = sorted({name for facts in workers for name in facts["models"]})

    def state(self, workers: int) -> str:
        """The state in words, with the number of workers unless it is the same in all."""
        if self.leaving:
            return "leaving"
        if self._disabled_in:
            return _in_some("disabled", self._disabled_in, workers)
        if not self.troubles:
            return "ready"
        return _in_some(str(max(self.troubles.values())), self._troubled_in, workers)

    def models(self) -> dict[str, list[str]]:
        """The aliases by the upstream's name. Without configured models, those asked for so far."""
        return self._models or {name: [name] for name in self._asked_for}

    def facts(self) -> dict[str, Any]:
        """The sums as plain data."""
        return {
            "client": self.label,
            "permits": self.permits,
            **self.counts,
            "leaving": self.leaving,
            "disabled_in_workers": self._disabled_in,
            "troubles": {
                name: {"state": t.state, "for_s": t.for_s, "since_s": t.since_s, "cause": t.cause}
                for name, t in self.troubles.items()
            },
        }


def add_up(answers: Iterable[dict[str, Any]]) -> list[ClientSum]:
    """Sum the answers of all workers, by client, in the order of the configuration.

    Those that leave come last, and may have the name of one that came.
    """
    workers: dict[tuple[bool, str], list[dict[str, Any]]] = {}
    for answer in answers:
        for facts in answer["clients"]:
            workers.setdefault((facts["leaving"], facts["client"]), []).append(facts)
    return sorted(map(ClientSum, workers.values()), key=attrgetter("leaving"))


def _troubles(models: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Trouble]]:
    for name, health in models.items():
        state = "on trial" if health["state"] == "trying" else health["state"]
        if state in GRAVITY:
            for_s, since_s = health.get("for_s", 0.0), health.get("since_s", 0.0)
            yield name, Trouble(GRAVITY.index(state), for_s, since_s, health.get("cause", ""))


def _in_some(state: str, number: int, workers: int) -> str:
    return state if number == workers else f"{state} in {number} of {workers} workers"
