"""`poolproxy status`, `reload`, `disable`, `enable`, `health`, `usage`: what an instance does.

The first four ask all its workers over Unix sockets, `health` any one by HTTP, as callers do.
`usage` reads the ledger, and no instance need run.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import http.client
import os
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from ..api.status import Answers, moment, overview, problems_of
from ..config import count, default_path, in_ascii, load_config, names
from ..config.wording import printable
from ..errors import ConfigError
from ..server.control.sockets import ask_all
from ..server.control.sockets import ports as running_ports
from .terminal import Exit, Failure, table

_TIMEOUT_S = 4.0  # for `health`, which is answered from memory, by a thread of its own

# Where an instance that listens at all addresses can be asked.
_NEAR = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def status(args: argparse.Namespace) -> int:
    """Print the clients' state, summed over all workers; raises Failure, ConfigError."""
    model = _model(args)
    port, _, answers = _ask(args, {"do": "overview", "model": model})
    facts = overview(answers)
    errors = _report_errors(answers)
    if model and not facts["models"] and not errors:
        raise Failure(f"there is no model {model!r}")
    if args.json:
        told = msgspec.json.encode({"port": port, **facts, "workers": answers})
        print(msgspec.json.format(told, indent=2).decode())
    elif any("error" not in answer for answer in answers):
        print("\n".join(_lines(port, facts)))
    return errors


def order(args: argparse.Namespace, *, verb: str) -> int:
    """Have all workers `disable`, `enable` or `reset` a client; raises Failure, ConfigError."""
    model = _model(args)
    port, control_dir, answers = _ask(args, {"do": "status"})
    clients = (each for answer in answers for each in answer.get("clients", ()))
    label = _find(args.client, sorted({one["client"] for one in clients if not one["leaving"]}))
    request = {"do": verb, "client": label, "model": model}
    answers = ask_all(port, request, control_dir=control_dir)
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
    if problems := problems_of(answers):
        raise ConfigError(problems)
    return _report_errors(answers)


def health(args: argparse.Namespace) -> None:
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


def usage(args: argparse.Namespace) -> None:
    """Print the sums that are asked for; raises Failure, ConfigError."""
    from ..usage.ledger import FILE, SUMS, default_dirs, report  # SQLite: no other command needs it

    by, wrong = args.by.split(","), None
    try:
        config = load_config(args.file, or_built_in=True)
        places = [config.state_dir] if config.state_dir else default_dirs(config.path)
    except ConfigError as error:  # of variables that the server has, and who asks has not
        wrong, places = error, default_dirs(args.file or default_path())
    found = [place for place in places if os.path.exists(os.path.join(place, FILE))]
    if not found:
        raise wrong or Failure(f"there is no ledger in {', '.join(places)}: is `usage` on?")
    try:
        rows = report(found[0], since=args.since, by=by)
    except (OSError, ValueError) as error:
        is_asked_wrong = isinstance(error, ValueError)
        raise Failure(str(error), Exit.CONFIG if is_asked_wrong else Exit.FAILED) from error
    columns = [*by, *SUMS]
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
    elif args.csv:
        writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        head = [name.removesuffix("_tokens").replace("_", " ") for name in columns]
        cells = [[printable(str(row[name])) or "-" for name in columns] for row in rows]
        print(table(head, cells, right=range(len(by), len(columns))))


def _model(args: argparse.Namespace) -> str:
    """The model that is meant; "": none. What names a file is FILE."""
    model: str = getattr(args, "model", None) or ""
    if model and args.file is None and (model.endswith((".yaml", ".yml")) or os.path.isfile(model)):
        args.file, model = model, ""
    return model


def _ask(args: argparse.Namespace, request: dict[str, str]) -> tuple[int, str, Answers]:
    """The port and `control-dir` of an instance, and its workers' answers, at least one."""
    port, control_dir = _place(args)
    if answers := ask_all(port, request, control_dir=control_dir):
        return port, control_dir, answers
    others = ", ".join(f"--port {other}" for other in running_ports(control_dir))
    hint = f"; there is one with {others}" if others else ", nor on any other"
    raise Failure(f"no instance that this user may ask runs on port {port}{hint}", Exit.NOT_RUNNING)


def _place(args: argparse.Namespace) -> tuple[int, str]:
    """The port and the `control-dir` of the file; if that is wrong, of the only instance."""
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


def _lines(port: int, facts: dict[str, Any]) -> Iterator[str]:
    """What a person reads of an `overview`, but for the errors."""
    workers = [one for one in facts["workers"] if "error" not in one]
    versions = " and ".join(sorted({one["version"] for one in workers}))
    servers = len({one["instance"] for one in workers})
    of = f" of {servers} servers" if servers > 1 else ""
    pids = names([str(one["pid"]) for one in workers])
    waiting = count(sum(facts["waiting"].values()), "request")
    about = f"{count(len(workers), 'worker')}{of} (pid {pids}), {waiting} waiting"
    yield f"poolproxy {versions} on port {port}: {about}"
    config = facts["configuration"]
    if config["path"]:
        yield f"{config['path']}, read {moment(config['read_at'])}"
    told = {one.get("error") for one in facts["workers"]}
    yield from (each for each in facts["wrong"] if each not in told)
    rows = []
    for one in facts["clients"]:
        in_flight = f"{one['in_flight']}/{one['permits'] or '∞'}"
        counts = (str(one[name]) for name in ("waiting", "answered", "failed"))
        models = one["models"] or "the upstream's own"
        rows.append((one["client"], one["state"], in_flight, *counts, models))
    head = ("client", "state", "in flight", "waiting", "answered", "failed", "models")
    yield table(head, rows, right=(2, 3, 4, 5))
    yield from (why for one in facts["clients"] for why in one["why"] if why not in facts["wrong"])
