"""The facts of all workers as one, and what is wrong now, in words.

Each worker has a pool of its own, so what they say about a client is summed.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from operator import add, attrgetter
from typing import Any, NamedTuple

from ..config import names
from ..config.wording import printable
from .recent import MINUTES, MOST_REQUESTS

Answers = list[dict[str, Any]]

COUNTED = ("in_flight", "waiting", "answered", "failed")

# The worse, the later. A model in none of these states is ready.
GRAVITY = ("resting", "on trial", "cooling down", "out of service")
_SHUT = GRAVITY.index("cooling down")

# A shorter cooldown comes and goes with each burst of requests: nobody need do anything.
_LONG_S = 30


class Trouble(NamedTuple):
    """Why a client cannot be used for a model: the worst state in any worker."""

    gravity: int
    until: int  # in Unix time; 0: until something happens
    since: int
    cause: str  # in the upstream's words; "": not known

    @property
    def state(self) -> str:
        return GRAVITY[self.gravity]

    def told(self, whose: str) -> str:
        until = f" until {moment(self.until)}" if self.until else ""
        return f"{whose}: {self.state} since {moment(self.since)}{until}: {printable(self.cause)}"


class ClientSum:
    """Sums the facts of one client, as each worker has them (`ClientPool.snapshot`)."""

    def __init__(self, workers: list[dict[str, Any]]) -> None:
        self.label: str = workers[0]["client"]
        self.kind: str = workers[0]["kind"]
        # No longer configured: only requests under way still use it.
        self.leaving: bool = workers[0]["leaving"]
        permits = [facts["permits"] for facts in workers]
        self.permits = sum(permits) if all(permits) else None  # None: no limit
        self.counts = {name: sum(facts[name] for facts in workers) for name in COUNTED}
        # By the upstream's name of the model; "": as a whole.
        self.troubles: dict[str, Trouble] = {}
        self.disabled_in = sum(facts["disabled"] for facts in workers)
        # The aliases by the upstream's name, as far as its own list is known.
        self.models: dict[str, list[str]] = {}
        self._troubled: list[set[str]] = []  # by those names too, in each worker
        down: set[str] | None = None  # the same, where none can use it; None: for any of them
        for facts in workers:
            self.models |= facts["offered"] or {}
            troubles = dict(_troubles(facts["models"]))
            self._troubled.append(set(troubles))
            shut = {name for name, one in troubles.items() if one.gravity >= _SHUT}
            if not facts["disabled"] and "" not in shut:
                down = shut if down is None else down & shut
            for name, trouble in troubles.items():
                self.troubles[name] = max(trouble, self.troubles.get(name, trouble))
        self._down = down

    @property
    def gravity(self) -> int:
        return max([one.gravity for one in self.troubles.values()], default=-1)

    @property
    def state(self) -> str:
        """The state in words, with the number of workers unless it is the same in all."""
        if self.leaving:
            return "leaving"
        if self.disabled_in:
            return self._in_some("disabled", self.disabled_in)
        if not self.troubles:
            is_full = self.permits and self.counts["in_flight"] >= self.permits
            return "in use (max-concurrency)" if is_full else "ready"
        number = sum(not names.isdisjoint(self.troubles) for names in self._troubled)
        return self._in_some(GRAVITY[self.gravity], number)

    def _in_some(self, state: str, number: int) -> str:
        workers = len(self._troubled)
        return state if number == workers else f"{state} in {number} of {workers} workers"

    def serves(self, name: str) -> bool:
        """Whether any worker may use it for this model."""
        return self._down is not None and name not in self._down

    def narrow(self, name: str, alias: str) -> None:
        """Leave out what does not concern this model."""
        self.models = {name: [alias]}
        self.troubles = {each: one for each, one in self.troubles.items() if each in ("", name)}

    def causes(self, least_s: int = 0) -> Iterator[tuple[str, Trouble]]:
        """Why it cannot be used, and for what; nothing of what passes sooner."""
        found = []
        for name, one in self.troubles.items():
            # On trial after a cooldown it is well, as far as anybody knows.
            is_well = one.gravity < _SHUT and one.cause.startswith("429")
            lasts_s = (one.until or time.time()) - one.since
            if one.cause and not (least_s and (is_well or lasts_s < least_s)):
                found.append((printable(name), one))
        for models, one in _alike(found):
            yield self.label if "" in models else f"{self.label} ({names(models)})", one

    def facts(self) -> dict[str, Any]:
        """The sums as plain data."""
        aliases = [alias for known in self.models.values() for alias in known]
        troubles = self.troubles.items()
        return {
            "client": self.label,
            "kind": self.kind,
            "models": printable(names(aliases)),
            "state": self.state,
            "why": [one.told(whose) for whose, one in self.causes()],
            "permits": self.permits,
            **self.counts,
            "leaving": self.leaving,
            "disabled_in_workers": self.disabled_in,
            "troubles": {name: {"state": one.state, **one._asdict()} for name, one in troubles},
        }


class Overview:
    """What all workers say."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.problems = problems_of(answers)
        self.good = [each for each in answers if "error" not in each]
        self.waiting = Counter[str]()  # by alias
        for answer in self.good:
            self.waiting.update({alias: one["waiting"] for alias, one in answer["queues"].items()})
            offers = answer.pop("offers")
            for facts in answer["clients"]:
                place = facts["offered"]
                facts["offered"] = None if place is None else offers[place]
        self.clients = add_up(self.good)
        # By alias, the clients that offer it, and the upstream's name for it.
        self.models: dict[str, list[tuple[ClientSum, str]]] = {}
        for client in self.clients:
            for name, aliases in client.models.items() if not client.leaving else ():
                for alias in aliases:
                    self.models.setdefault(alias, []).append((client, name))

    def narrow(self, alias: str) -> bool:
        """Leave out what does not concern this model; whether there is one so named."""
        offering = self.models.get(alias, [])
        for client, name in offering:
            client.narrow(name, alias)
        self.clients = [client for client, _ in offering]
        self.models = {alias: offering}
        return bool(offering)

    def wrong(self) -> Iterator[str]:
        """What an operator has to know now, the gravest first."""
        yield from (f"the configuration stays as it was: {each}" for each in self.problems)
        yield from (answer["error"] for answer in self.answers if "error" in answer)
        unserved: dict[str, list[str]] = {}  # models by their clients
        for alias, offering in self.models.items():
            if not any(client.serves(name) for client, name in offering):
                labels = names([client.label for client, _ in offering])
                unserved.setdefault(labels, []).append(printable(alias))
        for labels, aliases in unserved.items():
            yield f"not served: {names(aliases)}, as {labels} cannot be used"
        for client in self.clients:
            if client.disabled_in:
                yield f"{client.label}: {client.state} by hand"
        causes = (each for client in self.clients for each in client.causes(_LONG_S))
        for whose, one in _alike(causes):
            yield one.told(names(whose))

    def facts(self) -> dict[str, Any]:
        """All of it as plain data; of the last hour nothing, where no worker remembers any."""
        recents = [answer["recent"] for answer in self.good if answer["recent"]]
        requests = [request for each in recents for request in each["requests"]]
        requests.sort(key=lambda one: one["times"]["arrived"], reverse=True)
        clients = sorted(self.clients, key=attrgetter("disabled_in", "gravity"), reverse=True)
        about = ("pid", "instance", "version", "error")
        return {
            "wrong": list(self.wrong()),
            "workers": [{key: one[key] for key in about if key in one} for one in self.answers],
            "configuration": {
                "path": self.good[0]["path"] if self.good else "",
                "read_at": min((round(one["read_at"]) for one in self.good), default=None),
                "problems": self.problems,
            },
            "waiting": dict(+self.waiting),
            "minutes": _minutes(recents),
            "clients": [{**one.facts(), "hour": _hour(one.label, recents)} for one in clients],
            # How many clients can serve each now.
            "models": {
                alias: sum(one.serves(name) for one, name in offering)
                for alias, offering in self.models.items()
            },
            "requests": requests[:MOST_REQUESTS],
        }


def _minutes(recents: list[dict[str, Any]]) -> list[list[int]]:
    """Of each minute of the last hour: its begin, requests, those of them that failed, tokens."""
    now = time.monotonic()
    first = int(now // 60) - MINUTES + 1
    sums = [[round(time.time() - now + at * 60), 0, 0, 0] for at in range(first, first + MINUTES)]
    for at, *counts in (minute for each in recents for minute in each["minutes"]):
        if 0 <= at - first < MINUTES:
            begin, *old = sums[at - first]
            sums[at - first] = [begin, *map(add, old, counts)]
    return sums


def _hour(label: str, recents: list[dict[str, Any]]) -> dict[str, Any]:
    """What came of a client's attempts in the last hour; the last error's time and words."""
    found = [each["clients"][label] for each in recents if label in each["clients"]]
    good, failed, firsts, first_s = (sum(one[place] for one in found) for place in range(4))
    return {
        "good": good,
        "failed": failed,
        "first_event_s": round(first_s / firsts, 3) if firsts else None,
        "last_error": max([one[4] for one in found if one[4]], default=None),
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


def problems_of(answers: Answers) -> list[str]:
    """What is wrong with the configuration's files, in any worker's eyes."""
    return list(dict.fromkeys(each for one in answers for each in one.get("problems", ())))


def moment(at: float) -> str:
    """A moment of Unix time, in the time of this machine's zone."""
    return datetime.fromtimestamp(at).isoformat(" ", "seconds")


def _troubles(models: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Trouble]]:
    now = time.time()
    for name, health in models.items():
        state = "on trial" if health["state"] == "trying" else health["state"]
        if state in GRAVITY:
            until = math.ceil(now + health["for_s"]) if "for_s" in health else 0
            since = math.floor(now - health.get("since_s", 0.0))
            yield name, Trouble(GRAVITY.index(state), until, since, health.get("cause", ""))


def _alike(found: Iterable[tuple[str, Trouble]]) -> Iterator[tuple[list[str], Trouble]]:
    """Troubles of the same state and cause as one, and whose they are."""
    groups: dict[tuple[int, str], list[tuple[str, Trouble]]] = {}
    for whose, one in found:
        groups.setdefault((one.gravity, one.cause), []).append((whose, one))
    for group in groups.values():
        troubles = [one for _, one in group]
        since, until = min(one.since for one in troubles), max(one.until for one in troubles)
        yield [whose for whose, _ in group], troubles[0]._replace(since=since, until=until)
