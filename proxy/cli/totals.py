"""Sums of what all workers say about a client, because each worker has a pool of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable
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
    """Sums the facts of one client over all workers."""

    def __init__(self, label: str, *, leaving: bool = False) -> None:
        self.label = label
        self.leaving = leaving  # no longer configured: only requests under way still use it
        self.permits: int | None = 0  # None: no limit
        self.counts = dict.fromkeys(COUNTED, 0)
        self.troubles: dict[str, Trouble] = {}  # by the upstream's name of the model
        self._offered: dict[str, list[str]] = {}
        self._asked_for: set[str] = set()
        self._disabled_in = 0
        self._troubled_in = 0

    def add(self, facts: dict[str, Any]) -> None:
        """Add the facts of one worker (`ClientPool.snapshot`)."""
        own = facts["permits"]
        self.permits = self.permits + own if own and self.permits is not None else None
        for name in COUNTED:
            self.counts[name] += facts[name]
        self._disabled_in += facts["disabled"]
        self._offered |= facts["offered"] or {}
        self._asked_for |= set(facts["models"])
        is_troubled = False
        for name, health in facts["models"].items():
            state = "on trial" if health["state"] == "trying" else health["state"]
            if state in GRAVITY:
                is_troubled = True
                for_s, since_s = health.get("for_s", 0.0), health.get("since_s", 0.0)
                trouble = Trouble(GRAVITY.index(state), for_s, since_s, health.get("cause", ""))
                self.troubles[name] = max(trouble, self.troubles.get(name, trouble))
        self._troubled_in += is_troubled

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
        return self._offered or {name: [name] for name in sorted(self._asked_for)}

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
    sums: dict[tuple[bool, str], ClientSum] = {}
    for answer in answers:
        for facts in answer["clients"]:
            key = leaving, label = facts["leaving"], facts["client"]
            if key not in sums:
                sums[key] = ClientSum(label, leaving=leaving)
            sums[key].add(facts)
    return sorted(sums.values(), key=attrgetter("leaving"))


def _in_some(state: str, number: int, workers: int) -> str:
    return state if number == workers else f"{state} in {number} of {workers} workers"
