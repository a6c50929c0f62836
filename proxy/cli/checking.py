"""`poolproxy check`: what a configuration would serve, and whether its upstreams answer."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import msgspec

from ..clients import Client, make_clients
from ..config import (
    Caller,
    ClientConfig,
    Config,
    Model,
    Secrets,
    count,
    json_schema,
    load_config,
    names,
)
from ..errors import ConfigError, ProxyError
from ..net.watch import CallerConnection
from .exit import Exit
from .table import printable, table

# An upstream that takes longer for its model list will not serve anybody well.
PROBE_TIMEOUT_S = 15.0

# Upstreams asked at the same time.
MAX_PROBES = 32


def check(args: argparse.Namespace) -> int:
    """Print what would be served, and with `--probe` ask each upstream. Raises ConfigError."""
    if args.schema:
        print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        return Exit.OK
    config = load_config(args.file, or_built_in=True)
    if problems := config.listen_problems():
        raise ConfigError(problems)
    print("\n".join(_report(config)), flush=True)
    if not args.probe:
        return Exit.OK
    probes = list(_probe_all(config))
    print(f"\nupstreams\n{_probe_table(probes)}")
    return Exit.FAILED if any(probe.error for probe in probes) else Exit.OK


def _report(config: Config) -> Iterator[str]:
    where = f"{config.host or 'all interfaces'}, port {config.port or 'any free one'}"
    yield f"{config.path}: valid; would listen on {where}"
    yield f"\nclients ({len(config.clients)})"
    yield _client_table(config.clients) if config.clients else "  none: nothing can be served"
    yield from (f"  {provider}: off, {reason}" for provider, reason in config.providers_off)
    yield f"\ncallers ({len(config.callers) or 'no keys'})"
    yield _caller_table(config.callers) if config.callers else f"  {_access(config)}"
    yield "\nlimits"
    first_s = config.first_byte_timeout_s or config.request_timeout_s
    limits = msgspec.structs.replace(config, first_byte_timeout_s=first_s).limits()
    yield from (f"  {key:<22}  {_amount(number, unit)}" for key, number, unit in limits)
    if config.warnings:
        yield "\nwarnings"
        yield from (f"  {warning}" for warning in config.warnings)


def _access(config: Config) -> str:
    if config.allow_unauthenticated:
        return "open to everybody who can connect (allow-unauthenticated)"
    return "open, to this machine only"


def _client_table(clients: tuple[ClientConfig, ...]) -> str:
    return table(
        ("  client", "upstream", "at once per worker", "weight", "models"),
        [
            (
                f"  {client.label}",
                client.base_url or "in-process",
                _at_once(client.max_concurrency),
                str(client.weight),
                "the upstream's own"
                if client.models is None
                else names([_model(model) for model in client.models]),
            )
            for client in clients
        ],
        right=(2, 3),
    )


def _caller_table(callers: tuple[Caller, ...]) -> str:
    return table(
        ("  caller", "key", "at once per worker", "models"),
        [
            (
                f"  {caller.name or '(unnamed)'}",
                str(caller.key),
                _at_once(caller.max_concurrency),
                "all" if caller.models is None else names(list(caller.models)),
            )
            for caller in callers
        ],
        right=(2,),
    )


def _at_once(permits: int) -> str:
    return str(permits) if permits else "no limit"


def _model(model: Model) -> str:
    return model.alias if model.alias == model.name else f"{model.alias} (its {model.name})"


def _amount(number: float, unit: str) -> str:
    if unit == "bytes" and number >= 2**20:
        return f"{number / 2**20:.4g} MiB"
    return f"{number:g} {unit}" if unit == "s" else f"{number} {unit}"


class _Probe(NamedTuple):
    client: ClientConfig
    took_s: float
    found: list[str]
    error: str  # "": it answered


def _probe_all(config: Config) -> Iterator[_Probe]:
    clients = make_clients(config)
    try:
        with ThreadPoolExecutor(min(MAX_PROBES, len(clients)) or 1) as threads:
            yield from threads.map(partial(_probe, secrets=config.secrets), clients)
    finally:
        for client in clients:
            client.close()


def _probe(client: Client, *, secrets: Secrets) -> _Probe:
    began = time.monotonic()
    found: list[str] = []
    said = ""
    try:
        found = client.list_models(caller=CallerConnection(None), deadline=began + PROBE_TIMEOUT_S)
    except ProxyError as error:
        error.hide(secrets)
        said = printable(error.message)
    return _Probe(client.config, time.monotonic() - began, found, said)


def _probe_table(probes: list[_Probe]) -> str:
    return table(
        ("  client", "took", "result"),
        [
            (f"  {probe.client.label}", f"{probe.took_s * 1000:.0f} ms", _result(probe))
            for probe in probes
        ],
        right=(1,),
    )


def _result(probe: _Probe) -> str:
    if probe.error:
        return f"failed: {probe.error}"
    unknown = sorted({model.name for model in probe.client.models or ()} - set(probe.found))
    listed = f"ok, lists {count(len(probe.found), 'model')}"
    return f"{listed}, but not {names(unknown)}" if unknown else listed
