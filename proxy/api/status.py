"""What an operator sees: the clients, the queue, the last hour, and what is wrong now.

Each worker tells facts of its own (`answer`), and obeys orders. Whoever asks them all makes one of
their answers (`overview`): the page at `/status`, and `poolproxy status`. Each has a pool of its
own, so what they say about a client is summed. Where there is a page each worker remembers its last
calls.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from operator import add, itemgetter
from statistics import fmean
from typing import TYPE_CHECKING, Any

import msgspec

from ..config import names
from ..config.wording import printable
from ..usage.recent import MINUTES, MOST_REQUESTS
from ..version import __version__

if TYPE_CHECKING:
    from ..gateway import Gateway

Answers = list[dict[str, Any]]

ORDERS = ("disable", "enable", "reset")

# Of a client in a worker: the worse, the later. A trial is one whether or not it is under way.
_STATES = ("ready", "resting", "on trial", "cooling down", "out of service", "disabled by hand")
_RANKS = {state: rank for rank, state in enumerate(_STATES)} | {"trying": 2, "disabled": 5}
_COUNTED = ("in_flight", "waiting", "answered", "failed")

_LONG_S = 30  # shorter cooldowns come and go with each burst of requests: nobody need do anything

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
    shut = {
        (client["client"], name)  # the upstream's for the model; "": whatever the model
        for client in facts["clients"]
        for name, health in client["models"].items()
        if not client["leaving"] and _RANKS[health["state"]] >= _RANKS["cooling down"]
    }
    offered = defaultdict[str, dict[str, str]](dict)  # by client, upstreams' names by alias
    models = dict[str, str]()
    for alias, entry in table.items():
        routes = [(route.client.label, route.name) for route in entry.routes]
        is_served = any(shut.isdisjoint([(label, ""), (label, name)]) for label, name in routes)
        models[alias] = "" if is_served else names([label for label, _ in routes])
        for label, name in routes:
            offered[label][alias] = name
    for client in facts["clients"]:
        its = {} if client["leaving"] else offered[client["client"]]
        known, all_ = {"", *its.values()}, client.pop("models").items()
        client["offered"] = printable(names(list(its)))
        if error := client["last_error"]:
            client["last_error"] = round(time.time() - error["age_s"]), error["cause"]
        client["troubles"] = {
            name: _trouble(it) for name, it in all_ if name in known and it["state"] != "ready"
        }
    return {
        **facts,
        "clients": [one for one in facts["clients"] if one["offered"] or not model],
        "models": models,
        "path": gateway.config.path,
        "read_at": reloader.read_at,
        "problems": reloader.source.problems,
        "recent": gateway.recent and gateway.recent(),
    }


def _trouble(health: dict[str, Any]) -> dict[str, Any]:
    """Why a client cannot be used for a model; moments in Unix time, 0: not known."""
    now, state = time.time(), _STATES[_RANKS[health["state"]]]
    until = math.ceil(now + health["for_s"]) if "for_s" in health else 0
    since = math.floor(now - health.get("since_s", now))
    return {"state": state, "until": until, "since": since, "cause": health.get("cause", "")}


def added_up(workers: Answers) -> dict[str, Any]:
    """One client in all workers; of its troubles with a model ("": any) the worst."""
    found = {name: workers[0][name] for name in ("client", "kind", "leaving")}
    found |= {name: sum(one[name] for one in workers) for name in _COUNTED}
    told = [one["troubles"].items() for one in workers]
    ranks = [max([0, *(_RANKS[one["state"]] for _, one in each)]) for each in told]
    troubles = dict[str, dict[str, Any]]()
    for name, one in (item for each in told for item in each):
        old = troubles.get(name, one)
        troubles[name] = max(old, one, key=lambda it: (_RANKS[it["state"]], it["until"]))
    errors = [one["last_error"] for one in workers if one["last_error"]]
    rank, permits = max(ranks), [one["permits"] for one in workers]
    if workers[0].get("elsewhere") is not None:  # all have one count
        permits = permits[:1]
        found["in_flight"] = max(one["in_flight"] + one["elsewhere"] for one in workers)
    most = sum(permits) if all(permits) else None  # None: no limit
    state = _STATES[rank]
    if found["leaving"]:  # not configured any more: only requests under way still use it
        state = "leaving"
    elif not rank and most and found["in_flight"] >= most:
        state = "in use (max-concurrency)"
    elif min(ranks) < rank:
        state += f" in {ranks.count(rank)} of {len(ranks)} workers"
    found |= {
        "rank": -rank,  # the worse, the lower
        "state": state,
        "models": max(one["offered"] for one in workers),  # "": none of them knows
        "permits": most,
        "troubles": troubles,
        "last_error": max(errors, default=None),
    }
    return found | {"why": [*_causes([found])]}


def _causes(clients: Answers, *, is_grave: bool = False) -> Iterator[str]:
    """Why they cannot be used, and for what; `is_grave`: what of it an operator has to know."""
    # What is alike in state and cause is one line, of however many clients and models.
    groups = defaultdict[tuple[str, str], list[tuple[str, str, dict[str, Any]]]](list)
    for client in clients:
        for name, one in client["troubles"].items():
            lasts_s = (one["until"] or time.time()) - one["since"]
            # After a cooldown it is well, as far as anybody knows.
            is_well = one["state"] == "on trial" and one["cause"].startswith("429")
            if not is_grave or (lasts_s >= _LONG_S and not is_well):
                groups[one["state"], one["cause"]].append((client["client"], name, one))
    for (state, cause), group in groups.items():
        models = defaultdict[str, list[str]](list)
        for label, name, _ in group:
            models[label].append(name)
        whose = [
            it if "" in its else f"{it} ({printable(names(its))})" for it, its in models.items()
        ]
        first, last = min(one["since"] for *_, one in group), max(one["until"] for *_, one in group)
        since = f" since {moment(first)}" if first else ""
        until = f" until {moment(last)}" if last else ""
        why = f": {printable(cause)}" if cause else ""
        yield f"{names(whose)}: {state}{since}{until}{why}"


def overview(answers: Answers) -> dict[str, Any]:
    """What all workers say (`answer`). Clients in trouble come first, those that leave last."""
    good = [each for each in answers if "error" not in each]
    waiting = Counter[str]()  # by alias
    models: dict[str, str] = {}  # by alias the clients that none can use; "": some can
    workers: dict[tuple[bool, str], Answers] = {}
    for one in good:
        waiting.update({alias: queue["waiting"] for alias, queue in one["queues"].items()})
        for alias, unable in one["models"].items():
            models[alias] = unable and models.get(alias, unable)
        for facts in one["clients"]:  # one that leaves may have the name of another
            workers.setdefault((facts["leaving"], facts["client"]), []).append(facts)
    clients = sorted(map(added_up, workers.values()), key=itemgetter("leaving", "rank"))
    recents = [one["recent"] for one in good if one["recent"]]
    requests = [request for recent in recents for request in recent["requests"]]
    requests.sort(key=lambda request: request["times"]["arrived"], reverse=True)
    firsts = defaultdict[str, list[float]](list)  # by client, s to the first events of streams
    for one in (attempt for request in requests for attempt in request["attempts"]):
        if one["first_event_s"] is not None:
            firsts[one["client"]].append(one["first_event_s"])
    for one in clients:
        one["first_event_s"] = fmean(found) if (found := firsts[one["client"]]) else None
    path, about = good[0]["path"] if good else "", ("pid", "instance", "version", "error")
    read_at = min((round(one["read_at"]) for one in good), default=None)
    return {
        "wrong": list(_wrong(answers, models, clients)),
        "workers": [{key: one[key] for key in about if key in one} for one in answers],
        "configuration": {"path": path, "read_at": read_at, "problems": problems_of(answers)},
        "waiting": dict(+waiting),
        "minutes": _minutes(minute for recent in recents for minute in recent["minutes"]),
        "clients": clients,
        "models": {alias: not unable for alias, unable in models.items()},  # whether it is served
        "requests": requests[:MOST_REQUESTS],
    }


def _wrong(answers: Answers, models: dict[str, str], clients: Answers) -> Iterator[str]:
    """What an operator has to know now, the gravest first."""
    yield from (f"the configuration stays as it was: {each}" for each in problems_of(answers))
    yield from (one["error"] for one in answers if "error" in one)
    for unable in dict.fromkeys(filter(None, models.values())):
        unserved = names([printable(alias) for alias, whose in models.items() if whose == unable])
        yield f"not served: {unserved}, as {unable} cannot be used"
    yield from _causes(clients, is_grave=True)


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
