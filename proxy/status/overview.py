"""The facts of all workers as one, and what is wrong now, in words.

Each worker has a pool of its own, so what they say about a client is summed.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from operator import add
from typing import Any, NamedTuple

from ..config import names
from ..config.wording import printable
from ..record.recent import MINUTES, MOST_REQUESTS, NOTHING, summed

Answers = list[dict[str, Any]]

# Of a client in a worker: the worse, the later. A trial is one whether or not it is under way.
_STATES = ("ready", "resting", "on trial", "cooling down", "out of service", "disabled")
_RANKS = {state: rank for rank, state in enumerate(_STATES)} | {"trying": 2}
_DISABLED = _RANKS["disabled"]

# A shorter cooldown comes and goes with each burst of requests: nobody need do anything.
_LONG_S = 30


class Trouble(NamedTuple):
    """Why a client cannot be used for a model: the worst state in any worker."""

    rank: int
    until: int  # in Unix time; 0: until something happens
    since: int
    cause: str  # in the upstream's words; "": not known

    def told(self, whose: str) -> str:
        """All of it in one line."""
        until = f" until {moment(self.until)}" if self.until else ""
        since = f"{_STATES[self.rank]} since {moment(self.since)}"
        return f"{whose}: {since}{until}: {printable(self.cause)}"

    @property
    def is_grave(self) -> bool:
        """Whether an operator has to know. After a cooldown it is well, as far as anybody knows."""
        is_over = self.rank == _RANKS["on trial"] and self.cause.startswith("429")
        return not is_over and (self.until or time.time()) - self.since >= _LONG_S


class ClientSum:
    """One client in all workers; each has told facts of it (`ClientPool.snapshot`), in order."""

    def __init__(self, workers: Answers) -> None:
        self.label: str = workers[0]["client"]
        troubles = [dict(_troubles(one["models"])) for one in workers]
        self.troubles: dict[str, Trouble] = {}  # by the upstream's name of the model; "": of any
        for name, trouble in (item for each in troubles for item in each.items()):
            self.troubles[name] = max(trouble, self.troubles.get(name, trouble))
        self.ranks = [
            _DISABLED if one["disabled"] else max([it.rank for it in each.values()], default=0)
            for one, each in zip(workers, troubles, strict=True)
        ]
        counted = ("in_flight", "waiting", "answered", "failed")
        self.counts = {name: sum(one[name] for one in workers) for name in counted}
        permits = [one["permits"] for one in workers]
        self.permits = sum(permits) if all(permits) else None  # None: no limit
        # No longer configured: only requests under way still use it.
        self.leaving: bool = workers[0]["leaving"]
        self._kind = workers[0]["kind"]
        self._models = next((one["offered"] for one in workers if one["offered"]), "")

    @property
    def state(self) -> str:
        """The worst state in words, with the number of workers unless it is the same in all."""
        worst = max(self.ranks)
        if self.leaving:
            return "leaving"
        if not worst and self.permits and self.counts["in_flight"] >= self.permits:
            return "in use (max-concurrency)"
        of = f" in {self.ranks.count(worst)} of {len(self.ranks)} workers"
        return _STATES[worst] + (of if min(self.ranks) < worst else "")

    def causes(self, *, is_grave: bool = False) -> Iterator[tuple[str, Trouble]]:
        """Why it cannot be used, and for what; or only what an operator has to know."""
        found = self.troubles.items()
        told = [(name, one) for name, one in found if one.cause and one.is_grave >= is_grave]
        for models, one in _alike(told):
            yield self.label if "" in models else f"{self.label} ({printable(names(models))})", one

    def facts(self) -> dict[str, Any]:
        """The sums as plain data."""
        return {
            "client": self.label,
            "kind": self._kind,
            "models": self._models,
            "state": self.state,
            "why": [one.told(whose) for whose, one in self.causes()],
            "permits": self.permits,
            **self.counts,
            "leaving": self.leaving,
            "disabled_in_workers": self.ranks.count(_DISABLED),
            "troubles": {
                name: {"state": _STATES[rank], "since": since, "until": until, "cause": cause}
                for name, (rank, until, since, cause) in self.troubles.items()
            },
        }


def overview(answers: Answers) -> dict[str, Any]:
    """All that workers say (`worker.answer`); of the last hour nothing, where none remembers any.

    Clients in trouble come first. Those that leave come last, and may have the name of another.
    """
    good = [each for each in answers if "error" not in each]
    waiting = Counter[str]()  # by alias
    models: dict[str, str] = {}  # by alias the clients that none can use; "": some can
    workers: dict[tuple[bool, str], Answers] = {}
    for one in good:
        waiting.update({alias: queue["waiting"] for alias, queue in one["queues"].items()})
        for alias, unable in one["models"].items():
            models[alias] = unable and models.get(alias, unable)
        for facts in one["clients"]:
            workers.setdefault((facts["leaving"], facts["client"]), []).append(facts)
    clients = sorted(map(ClientSum, workers.values()), key=lambda it: (it.leaving, -max(it.ranks)))
    recents = [one["recent"] for one in good if one["recent"]]
    hours = summed(recent["clients"] for recent in recents)
    requests = [request for recent in recents for request in recent["requests"]]
    requests.sort(key=lambda request: request["times"]["arrived"], reverse=True)
    about = ("pid", "instance", "version", "error")
    return {
        "wrong": list(_wrong(answers, models, clients)),
        "workers": [{key: one[key] for key in about if key in one} for one in answers],
        "configuration": {
            "path": good[0]["path"] if good else "",
            "read_at": min((round(one["read_at"]) for one in good), default=None),
            "problems": problems_of(answers),
        },
        "waiting": dict(+waiting),
        "minutes": _minutes(minute for recent in recents for minute in recent["minutes"]),
        "clients": [
            {**client.facts(), "hour": _hour(*hours.get(client.label, NOTHING))}
            for client in clients
        ],
        "models": {alias: not unable for alias, unable in models.items()},  # whether it is served
        "requests": requests[:MOST_REQUESTS],
    }


def _wrong(answers: Answers, models: dict[str, str], clients: list[ClientSum]) -> Iterator[str]:
    """What an operator has to know now, the gravest first."""
    yield from (f"the configuration stays as it was: {each}" for each in problems_of(answers))
    yield from (one["error"] for one in answers if "error" in one)
    for unable in dict.fromkeys(filter(None, models.values())):
        unserved = names([printable(alias) for alias, whose in models.items() if whose == unable])
        yield f"not served: {unserved}, as {unable} cannot be used"
    for client in clients:
        if _DISABLED in client.ranks:
            yield f"{client.label}: {client.state} by hand"
    for whose, one in _alike(each for it in clients for each in it.causes(is_grave=True)):
        yield one.told(names(whose))


def _minutes(told: Iterable[list[int]]) -> list[list[int]]:
    """Of each minute of the last hour: its begin, requests, those of them that failed, tokens."""
    now = time.monotonic()
    last = int(now // 60)
    sums = {at: [0, 0, 0] for at in range(last - MINUTES + 1, last + 1)}
    for at, *counts in told:
        if at in sums:
            sums[at] = [*map(add, sums[at], counts)]
    return [[round(time.time() - now + at * 60), *counts] for at, counts in sums.items()]


def _hour(good: int, failed: int, firsts: int, first_s: float, error: Any) -> dict[str, Any]:
    """What came of a client's attempts in the last hour; the last error's time and words."""
    mean_s = round(first_s / firsts, 3) if firsts else None
    return {"good": good, "failed": failed, "first_event_s": mean_s, "last_error": error}


def problems_of(answers: Answers) -> list[str]:
    """What is wrong with the configuration's files, in any worker's eyes."""
    return list(dict.fromkeys(each for one in answers for each in one.get("problems", ())))


def moment(at: float) -> str:
    """A moment of Unix time, in the time of this machine's zone."""
    return datetime.fromtimestamp(at).isoformat(" ", "seconds")


def _troubles(models: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Trouble]]:
    now = time.time()
    for name, health in models.items():
        if rank := _RANKS[health["state"]]:
            until = math.ceil(now + health["for_s"]) if "for_s" in health else 0
            since = math.floor(now - health.get("since_s", 0.0))
            yield name, Trouble(rank, until, since, health.get("cause", ""))


def _alike(found: Iterable[tuple[str, Trouble]]) -> Iterator[tuple[list[str], Trouble]]:
    """Troubles of the same state and cause as one, and whose they are."""
    groups: dict[tuple[int, str], dict[str, Trouble]] = {}
    for whose, one in found:
        groups.setdefault((one.rank, one.cause), {})[whose] = one
    for (rank, cause), group in groups.items():
        untils, sinces = [it.until for it in group.values()], [it.since for it in group.values()]
        yield list(group), Trouble(rank, max(untils), min(sinces), cause)
