"""`poolproxy status`, `reload`, `disable`, `enable`, `health`: ask a running instance.

The first four ask all its workers over Unix sockets, `health` any one by HTTP, as callers do. Each
worker has a pool of its own, so what they say about a client is summed.
"""

from __future__ import annotations

import argparse
import difflib
import http.client
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

from ..config import count, in_ascii, load_config, names
from ..errors import ConfigError
from ..server.control.sockets import ask_all
from ..server.control.sockets import ports as running_ports
from .terminal import Exit, Failure, printable, table

# For the answer to `health`. The gateway answers from memory, by a thread of its own.
_TIMEOUT_S = 4.0

# Where an instance that listens at all addresses can be asked.
_NEAR = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}

COUNTED = ("in_flight", "waiting", "answered", "failed")

# The worse, the later. A model in none of these states is ready.
GRAVITY = ("resting", "on trial", "cooling down", "out of service")

_YAML = (".yaml", ".yml")

Answers = list[dict[str, Any]]


def status(args: argparse.Namespace) -> int:
    """Print the clients' state, summed over all workers; raises Failure, ConfigError."""
    model = _model(args)
    port, _, answers = _ask(args, {"do": "status", **({"model": model} if model else {})})
    good = [answer for answer in answers if "error" not in answer]
    sums = add_up(good)
    if args.json:
        facts = {"port": port, "clients": [each.facts() for each in sums], "workers": answers}
        print(json.dumps(facts, indent=2))
    elif good:
        print(_heading(port, good))
        for problem in _problems(good):
            print(f"the configuration stays as it was: {problem}")
        print(_client_table(sums, workers=len(good)))
        print("".join(_causes(sums)), end="")
    return _report_errors(answers)


def order(args: argparse.Namespace, *, verb: str) -> int:
    """Have all workers `disable`, `enable` or `reset` a client; raises Failure, ConfigError."""
    request = {"do": verb, "model": model} if (model := _model(args)) else {"do": verb}
    port, control_dir, answers = _ask(args, {"do": "status"})
    sums = add_up(answer for answer in answers if "error" not in answer)
    label = _find(args.client, sorted(each.label for each in sums if not each.leaving))
    answers = ask_all(port, {**request, "client": label}, control_dir=control_dir)
    done = sum("error" not in answer for answer in answers)
    did = verb if verb == "reset" else f"{verb}d"
    print(f"{label}: {did} in {done} of {count(len(answers), 'worker')}")
    return _report_errors(answers)


def reload(args: argparse.Namespace) -> int:
    """Have all workers read the configuration; prints what changed. Raises Failure, ConfigError."""
    _, _, answers = _ask(args, {"do": "reload"})
    done = [answer for answer in answers if "changed" in answer]
    of = f"in {len(done)} of {count(len(answers), 'worker')}"
    for changed in dict.fromkeys(answer["changed"] for answer in done):
        print(f"configuration read again {of}: {changed}")
    if problems := _problems(answers):
        raise ConfigError(problems)
    return _report_errors(answers)


def health(args: argparse.Namespace) -> int:
    """Print `ok` if it serves; raises Failure, ConfigError. Blocks for some seconds at most."""
    host, port = "127.0.0.1", args.port
    if port is None or args.file is not None:
        config = load_config(args.file, or_built_in=True)
        host, port = _NEAR.get(config.host, config.host), config.port if port is None else port
    path = "/readyz" if args.ready else "/healthz"
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"no answer from {host}, port {port}: {error}") from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise Failure(f"{host}, port {port}: {path} says {status}")
    print("ok")
    return Exit.OK


def _model(args: argparse.Namespace) -> str:
    """The model that is meant; "": none. What names a file is FILE."""
    model: str = getattr(args, "model", None) or ""
    if model and args.file is None and (model.endswith(_YAML) or os.path.isfile(model)):
        args.file, model = model, ""
    return model


def _problems(answers: Answers) -> list[str]:
    """What is wrong with the configuration, in any worker's eyes."""
    return list(dict.fromkeys(each for one in answers for each in one.get("problems", ())))


def _ask(args: argparse.Namespace, request: dict[str, str]) -> tuple[int, str, Answers]:
    """The port and `control-dir` of an instance, and its workers' answers, at least one."""
    port, control_dir = _place(args)
    if answers := ask_all(port, request, control_dir=control_dir):
        return port, control_dir, answers
    others = ", ".join(f"--port {other}" for other in running_ports(control_dir))
    hint = f"; there is one with {others}" if others else ", nor on any other"
    raise Failure(f"no instance that this user may ask runs on port {port}{hint}", Exit.NOT_RUNNING)


def _place(args: argparse.Namespace) -> tuple[int, str]:
    """The port and the `control-dir` that are meant.

    A file that is wrong names neither: then the only instance is meant.
    """
    if args.port is not None and args.file is None:
        return args.port, ""
    try:
        config = load_config(args.file, or_built_in=True)
    except ConfigError:
        running = running_ports() if args.port is None else [args.port]
        if len(running) != 1:
            raise
        return running[0], ""
    return config.port if args.port is None else args.port, config.control_dir


def _report_errors(answers: Answers) -> int:
    errors = [answer["error"] for answer in answers if "error" in answer]
    for error in errors:
        print(f"poolproxy: {error}", file=sys.stderr)
    return Exit.FAILED if errors else Exit.OK


def _find(wanted: str, labels: list[str]) -> str:
    """The label that is `wanted`, or the only one that contains it; raises Failure."""
    wanted = in_ascii(wanted)
    if wanted in labels:
        return wanted
    found = [label for label in labels if wanted.lower() in label.lower()]
    if len(found) == 1:
        return found[0]
    if found:
        raise Failure(f"{wanted!r} may be any of {names(found)}: say more of its name")
    near = " or ".join(difflib.get_close_matches(wanted, labels, cutoff=0.4))
    hint = f"did you mean {near}?" if near else f"there are {names(labels)}"
    raise Failure(f"there is no client {wanted!r}: {hint}")


def _heading(port: int, answers: Answers) -> str:
    servers = len({answer["instance"] for answer in answers})
    of = f" of {servers} servers" if servers > 1 else ""
    waiting = sum(queue["waiting"] for answer in answers for queue in answer["queues"].values())
    versions = " and ".join(sorted({answer["version"] for answer in answers}))
    pids = names([str(answer["pid"]) for answer in answers])
    workers = f"{count(len(answers), 'worker')}{of} (pid {pids})"
    return f"poolproxy {versions} on port {port}: {workers}, {count(waiting, 'request')} waiting"


def _client_table(sums: list[ClientSum], *, workers: int) -> str:
    head = ("client", "state", "in flight", "waiting", "answered", "failed", "models")
    rows = []
    for each in sums:
        in_flight, *counts = (str(each.counts[name]) for name in COUNTED)
        models = [
            printable(alias) + (f" ({each.troubles[name].state})" if name in each.troubles else "")
            for name, aliases in each.models().items()
            for alias in aliases
        ]
        shown = names(models) or "the upstream's own"
        permits = f"{in_flight}/{each.permits or '∞'}"
        rows.append((each.label, each.state(workers), permits, *counts, shown))
    return table(head, rows, right=(2, 3, 4, 5))


def _causes(sums: list[ClientSum]) -> Iterator[str]:
    """A line for each client and model that can't be used: since when, until when, and why."""
    now = time.time()
    for each in sums:
        for name, trouble in each.troubles.items():
            if trouble.cause:
                since = datetime.fromtimestamp(now - trouble.since_s).isoformat(" ", "seconds")
                end = datetime.fromtimestamp(now + trouble.for_s).isoformat(" ", "seconds")
                until = f" until {end}" if trouble.for_s else ""
                where = f"{each.label}, {printable(name)}: {trouble.state}"
                yield f"{where} since {since}{until}: {printable(trouble.cause)}\n"


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
            is_full = self.permits and self.counts["in_flight"] >= self.permits
            return "in use (max-concurrency)" if is_full else "ready"
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
