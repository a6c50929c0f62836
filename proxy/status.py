"""What an operator sees: the clients, the queue, the last hour, and what is wrong now.

Each worker tells facts of its own (`answer`), and obeys orders. Whoever asks them all makes one of
their answers (`overview`): the page at `/status`, and `poolproxy status`. Each has a pool of its
own, so what they say about a client is summed. Nothing that serves a request imports this.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .config import names
from .config.wording import printable
from .record.recent import MINUTES, MOST_REQUESTS, NOTHING, summed
from .version import __version__

if TYPE_CHECKING:
    from .gateway import Gateway

Answers = list[dict[str, Any]]

ORDERS = ("disable", "enable", "reset")

# Of a client in a worker: the worse, the later. A trial is one whether or not it is under way.
_STATES = ("ready", "resting", "on trial", "cooling down", "out of service", "disabled")
_RANKS = {state: rank for rank, state in enumerate(_STATES)} | {"trying": 2}
_SHUT, _DISABLED = _RANKS["cooling down"], _RANKS["disabled"]

# A shorter cooldown comes and goes with each burst of requests: nobody need do anything.
_LONG_S = 30

log = logging.getLogger("proxy.control")


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """A question, `status` or `overview`, or an order to a client. `by`: who gives it."""

    do: str
    client: str = ""
    model: str = ""
    by: str = ""


def answer(gateway: Gateway, request: Request) -> dict[str, Any]:
    """What to say to a request; `error`: why it was not done."""
    told = {"pid": os.getpid(), "version": __version__}
    if request.do == "status":
        return told | gateway.facts()
    if request.do == "overview":
        return told | _overview(gateway, request.model)
    if request.do not in ORDERS:
        return told | {"error": f"not a control request: {request.do!r}"}
    if request.do == "reset":
        found = gateway.pool.reset(request.client, request.model)
    else:
        found = gateway.pool.set_disabled(request.client, request.do == "disable")
    if not found:
        return told | {"error": f"there is no client {request.client!r}"}
    by = f", by {request.by}" if request.by else ""
    log.warning("%s: %s by hand%s", request.client, request.do, by)
    return told


def _overview(gateway: Gateway, model: str) -> dict[str, Any]:
    """How it stands, and what is known of the configuration and of the last hour.

    `models`: by alias, the clients that offer it if none of them can be used, else "". With a
    `model`, only what concerns that one.
    """
    facts, table, reloader = gateway.facts(), gateway.generation.registry.table, gateway.reloader
    if model:
        table = {model: table[model]} if model in table else {}
    offered = dict[str, dict[str, str]]()  # by client, the upstream's names of models by alias
    for alias, entry in table.items():
        for route in entry.routes:
            offered.setdefault(route.client.label, {})[alias] = route.name
    able = dict[str, set[str]]()  # by client, those names for which it can be used
    for client in facts["clients"]:
        its = {} if client["leaving"] else offered.get(client["client"], {})
        known, all_ = {"", *its.values()}, client["models"].items()
        client["offered"] = printable(names(list(its)))
        client["models"] = bad = {
            name: health for name, health in all_ if name in known and health["state"] != "ready"
        }
        shut = {name for name, health in bad.items() if _RANKS[health["state"]] >= _SHUT}
        if its and not client["disabled"] and "" not in shut:
            able[client["client"]] = known - shut
    models = dict[str, str]()
    for alias, entry in table.items():
        is_served = any(one.name in able.get(one.client.label, ()) for one in entry.routes)
        models[alias] = "" if is_served else names([one.client.label for one in entry.routes])
    return {
        **facts,
        "clients": [one for one in facts["clients"] if one["offered"] or not model],
        "models": models,
        "path": gateway.config.path,
        "read_at": reloader.read_at,
        "problems": reloader.problems,
        "recent": gateway.recent and gateway.recent.facts(),
    }


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
    """One client in all workers, each of which has told facts of it (`ClientPool.snapshot`)."""

    def __init__(self, workers: Answers) -> None:
        self.label: str = workers[0]["client"]
        # No longer configured: only requests under way still use it.
        self.leaving: bool = workers[0]["leaving"]
        troubles = [dict(_troubles(one["models"])) for one in workers]
        self.troubles: dict[str, Trouble] = {}  # by the upstream's name of the model; "": of any
        for name, trouble in (item for each in troubles for item in each.items()):
            self.troubles[name] = max(trouble, self.troubles.get(name, trouble))
        ranks = [
            max([one["disabled"] * _DISABLED, *(it.rank for it in each.values())])
            for one, each in zip(workers, troubles, strict=True)
        ]
        self.rank = max(ranks)
        permits = [one["permits"] for one in workers]
        most = sum(permits) if all(permits) else None  # None: no limit
        counted = ("in_flight", "waiting", "answered", "failed")
        counts = {name: sum(one[name] for one in workers) for name in counted}
        self.state = _STATES[self.rank]
        if self.leaving:
            self.state = "leaving"
        elif not self.rank and most and counts["in_flight"] >= most:
            self.state = "in use (max-concurrency)"
        elif min(ranks) < self.rank:
            self.state += f" in {ranks.count(self.rank)} of {len(ranks)} workers"
        self.facts = {
            "client": self.label,
            "kind": workers[0]["kind"],
            "models": max(one["offered"] for one in workers),  # "": none of them knows
            "state": self.state,
            "why": [one.told(whose) for whose, one in self.causes()],
            "permits": most,
            **counts,
            "leaving": self.leaving,
            "disabled_in_workers": ranks.count(_DISABLED),
            "troubles": {
                name: {"state": _STATES[rank], "since": since, "until": until, "cause": cause}
                for name, (rank, until, since, cause) in self.troubles.items()
            },
        }

    def causes(self, *, is_grave: bool = False) -> Iterator[tuple[str, Trouble]]:
        """Why it cannot be used, and for what; or only what an operator has to know."""
        found = self.troubles.items()
        told = [(name, one) for name, one in found if one.cause and one.is_grave >= is_grave]
        for models, one in _alike(told):
            yield self.label if "" in models else f"{self.label} ({printable(names(models))})", one


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
    clients = sorted(map(ClientSum, workers.values()), key=lambda it: (it.leaving, -it.rank))
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
            {**client.facts, "hour": hours.get(client.label, NOTHING)} for client in clients
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
        if client.rank == _DISABLED:
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
