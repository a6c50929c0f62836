"""`poolproxy check`: what a configuration would serve, and whether its upstreams answer."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec

from ..clients import Client, make_clients
from ..config import Caller, ClientConfig, Config, Model, count, json_schema, load_config, names
from ..config.wording import printable
from ..errors import ConfigError, ProxyError
from ..net.watch import CallerConnection
from .terminal import Exit, table

PROBE_TIMEOUT_S = 15.0  # who takes longer for its model list will not serve anybody well
MAX_PROBES = 32  # upstreams asked at the same time


def check(args: argparse.Namespace) -> int:
    """Print what would be served, and with `--probe` ask each upstream. Raises ConfigError."""
    if args.schema:
        print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        return Exit.OK
    config = load_config(args.file, or_built_in=True)
    if problems := config.listen_problems():
        raise ConfigError(problems)
    print("\n".join(_report(config)), flush=True)
    fault = None
    if config.state:
        from ..pool.shared.connection import survey

        said, fault = survey(config.state)
        print(f"\nstate\n  {'failed: ' if fault else ''}{printable(said)}")
    if not args.probe:
        return Exit.FAILED if fault else Exit.OK
    print("\nupstreams")
    clients = make_clients(config)
    try:
        with ThreadPoolExecutor(min(MAX_PROBES, len(clients)) or 1) as threads:
            probes = list(threads.map(partial(_probe, config), clients))
    finally:
        for client in clients:
            client.close()
    print(table(("  client", "took", "result"), [row for row, _ in probes], right=(1,)))
    return Exit.FAILED if fault or any(failed for _, failed in probes) else Exit.OK


def _report(config: Config) -> Iterator[str]:
    where = f"{config.host or 'all interfaces'}, port {config.port or 'any free one'}"
    yield f"{config.path}: valid; would listen on {where}"
    yield f"\nclients ({len(config.clients)})"
    at_once = "at once" if config.state else "at once per worker"
    head: tuple[str, ...] = ("  client", "upstream", at_once, "weight", "models")
    rows = [_client_row(client) for client in config.clients]
    yield table(head, rows, right=(2, 3)) if rows else "  none: nothing can be served"
    yield from (f"  {provider}: off, {reason}" for provider, reason in config.providers_off)
    yield f"\ncallers ({len(config.callers) or 'no keys'})"
    if config.callers:
        head = ("  caller", "key", "limits" if config.state else "limits, per worker", "models")
        yield table(head, [_caller_row(caller) for caller in config.callers])
    elif config.allow_unauthenticated:
        yield "  open to everybody who can connect (allow-unauthenticated)"
    else:
        yield "  open, to this machine only"
    yield "\nlimits"
    first_s = config.first_byte_timeout_s or config.request_timeout_s
    limits = msgspec.structs.replace(config, first_byte_timeout_s=first_s).limits()
    yield from (f"  {key:<22}  {_amount(number, unit)}" for key, number, unit in limits)
    if config.warnings:
        yield "\nwarnings"
        yield from (f"  {warning}" for warning in config.warnings)


def _client_row(client: ClientConfig) -> tuple[str, ...]:
    own = client.models
    models = "the upstream's own" if own is None else names([_model(each) for each in own])
    turns = f"{client.weight}" + (f", priority {client.priority}" if client.priority else "")
    permits, where = client.max_concurrency or "no limit", client.base_url or "in-process"
    return f"  {client.label}", where, str(permits), turns, models


def _model(model: Model) -> str:
    return model.alias if model.alias == model.name else f"{model.alias} (its {model.name})"


def _caller_row(caller: Caller) -> tuple[str, ...]:
    models = "all" if caller.models is None else names(list(caller.models))
    name, limits = caller.name or "(unnamed)", caller.limits() or "none"
    return f"  {name}", str(caller.key), limits, models


def _amount(number: float, unit: str) -> str:
    if unit == "bytes" and number >= 2**20:
        return f"{number / 2**20:.4g} MiB"
    return f"{number:g} {unit}" if unit == "s" else f"{number} {unit}"


def _probe(config: Config, client: Client) -> tuple[tuple[str, str, str], bool]:
    """A row of the table, and whether the upstream failed."""
    began = time.monotonic()
    said = failure = ""
    try:
        found = client.list_models(caller=CallerConnection(None), deadline=began + PROBE_TIMEOUT_S)
        said = f"ok, lists {count(len(found), 'model')}"
        if unknown := {model.name for model in client.config.models or ()} - set(found):
            said += f", but not {names(sorted(unknown))}"
    except ProxyError as error:
        config.secrets.mask_error(error)
        said = failure = f"failed: {printable(error.message)}"
    took = f"{(time.monotonic() - began) * 1000:.0f} ms"
    return (f"  {client.config.label}", took, said), bool(failure)
