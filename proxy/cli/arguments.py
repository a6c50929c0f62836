"""The commands of `poolproxy` and their options."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from ..config import Config, Seen, load_config, write_built_in
from ..version import __version__
from .checking import check
from .running import health, order, reload, status, usage
from .terminal import Exit, Failure

EPILOG = f"""\
exit status:
  {Exit.OK:<4} done
  {Exit.FAILED:<4} failed: an upstream did not answer the probe, there is no such client,
       a worker could not be asked, the instance does not serve, or FILE could
       not be written
  {Exit.CONFIG:<4} the configuration, or the command line, is wrong; every problem is printed
  {Exit.BUSY:<4} cannot listen: the port is in use, or is not ours to have
  {Exit.NOT_RUNNING:<4} no instance is running on the port

FILE is a configuration; by default $PROXY_CONFIG, else ./config.yaml, else a
built-in one: the demo, and accounts whose keys are in the environment.
"""

ASKS = """\
Asks each worker of the instance on FILE's port over a Unix socket. Run this as
the user that runs the instance, whose sockets are in $XDG_RUNTIME_DIR or the
temporary directory. A service's are in its `control-dir`, or /run/poolproxy:
there root may ask, and members of its group."""

Command = Callable[[Namespace], int | None]


def parser() -> ArgumentParser:
    """Make the parser. Call `command` of its result with that result to run the command.

    A command returns its exit status; None: done.
    """
    about = "One OpenAI-compatible endpoint in front of a pool of LLM accounts."
    style: dict[str, Any] = {"epilog": EPILOG, "formatter_class": RawDescriptionHelpFormatter}
    top = ArgumentParser(prog="poolproxy", description=about, **style)
    top.add_argument("--version", action="version", version=f"poolproxy {__version__}")
    top.set_defaults(command=lambda _: top.print_help())
    commands = top.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, command: Command, what: str, *more: str, **flags: str) -> ArgumentParser:
        about = "\n\n".join([f"{what[0].upper()}{what[1:]}.", *filter(None, more)])
        sub = commands.add_parser(name, help=what, description=about, **style)
        sub.set_defaults(command=command)
        for flag, said in flags.items():
            sub.add_argument(f"--{flag}", action="store_true", help=said)
        return sub

    sub = add("serve", serve, "answer callers until a signal ends it", SERVE)
    sub.add_argument("--host", type=_host, help="listen there, whatever FILE says")
    sub.add_argument("--port", type=_port, help="listen on it, whatever FILE says")
    workers = partial(_whole_number, least=1, most=1024)
    sub.add_argument("--workers", type=workers, metavar="N", help="processes (default: 1)")
    sub.add_argument("--debug", action="store_true", help="log more")
    sub = add("check", check, "validate a configuration and print what would be served")
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--probe", action="store_true", help="ask each upstream for its models")
    said = "print a JSON Schema of FILE, for editors, and end"
    which.add_argument("--schema", action="store_true", help=said)
    add("init", init, "write the built-in configuration to a new FILE, to be edited")
    ready, own = "ask whether it has a client in service, too", "every worker's own facts, as JSON"
    asking = [
        add("health", health, "ask a running instance whether it serves", HEALTH, ready=ready),
        add("status", status, "print the state of a running instance's clients", ASKS, json=own),
        add("reload", reload, "have a running instance read its configuration now", RELOAD, ASKS),
    ]
    asking[1].add_argument(
        "model", nargs="?", metavar="MODEL", help="only its clients, and why not"
    )
    for verb, what, more in (
        ("disable", "take a client of a running instance out of service", DISABLE),
        ("enable", "put a disabled client back into service", ""),
        ("reset", "end a client's cooldowns and times out of service", RESET),
    ):
        sub = add(verb, partial(order, verb=verb), what, more, ASKS)
        sub.add_argument("client", metavar="CLIENT", help="its name in `status`, or a part of it")
        if verb == "reset":
            sub.add_argument("model", nargs="?", metavar="MODEL", help="of this model alone")
        asking.append(sub)
    sub = add("usage", usage, "print the requests and tokens of callers", USAGE)
    sub.add_argument("--since", default="", metavar="DAY", help="from it on: 2026-11-30, in UTC")
    by = "day,caller,model,client"
    said = f"sums of these (default: {by}); `end` is how requests ended"
    sub.add_argument("--by", default=by, metavar="LIST", help=said)
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="for spreadsheets and programs")
    form.add_argument("--json", action="store_true", help="the same as a list of objects")
    for sub in asking:
        said = "the instance's port; without FILE none is read"
        sub.add_argument("--port", type=_port, help=said)
    for sub in commands.choices.values():
        sub.add_argument("file", nargs="?", metavar="FILE", help="the configuration")
    return top


SERVE = """\
SIGTERM ends it after the requests in flight. FILE is read again when it
changes, or at SIGHUP, without dropping any. $WEB_CONCURRENCY is the number of
workers if --workers is not given; $GUNICORN_CMD_ARGS may hold further settings
of gunicorn's."""

HEALTH = """\
For checks of containers: prints `ok`, or why not and ends with status 1. Asks
at FILE's host and port over HTTP; with --port alone, at 127.0.0.1."""

USAGE = """\
Reads the ledger that `usage: true` keeps in `state-dir`. Run this as the user
that runs the instance, or as root. What it did within the last 2 s may be
missing. `partial` are answers that were cut off, and may have cost more."""

RELOAD = "It does so by itself within 2 s of a change. What is wrong changes nothing."

RESET = "Requests that wait for the client get it at once, if it is free."

DISABLE = """\
Requests in flight go on; it gets no new ones until it is enabled or the
instance is restarted. A reload and new workers don't change that."""


def serve(args: Namespace) -> None:
    """Serve in this process until a signal ends it. May raise SystemExit."""
    from ..server import settings  # gunicorn: no other command needs it

    def read(seen: Seen) -> Config:
        given = {"host": args.host, "port": args.port, "debug": args.debug or None}
        changes = {name: value for name, value in given.items() if value is not None}
        config = load_config(args.file, or_built_in=True, seen=seen)
        return msgspec.structs.replace(config, **changes)

    settings.run(read, workers=args.workers)


def init(args: Namespace) -> None:
    """Write the built-in configuration to a new file; raises Failure."""
    try:
        path = write_built_in(args.file)
    except FileExistsError as error:
        raise Failure(f"{error.filename} is there already, and stays as it is") from error
    except OSError as error:
        raise Failure(f"{error.filename} cannot be written: {error.strerror}") from error
    command = " ".join(["poolproxy check", *([args.file] if args.file else [])])
    print(f"{path}: written; put keys into it, and see what it serves with `{command}`")


def _host(text: str) -> str:
    return text[1:-1] if text[:1] + text[-1:] == "[]" else text


def _whole_number(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
        raise ArgumentTypeError(f"expected {least} to {most}, got {text!r}")
    return int(text)


_port = partial(_whole_number, least=0, most=65_535)
