"""One process's end: its facts as plain data, and the orders that it obeys. Nothing here blocks."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import msgspec

from ..config import names
from ..config.wording import printable
from ..version import __version__

if TYPE_CHECKING:
    from ..gateway import Gateway

ORDERS = ("disable", "enable", "reset")

_SHUT = ("cooling down", "out of service")

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
    shut = dict[str, set[str]]()  # by client, the models that it cannot be used for; "": any
    for client in facts["clients"]:
        if not client["leaving"]:
            states = client["models"].items()
            out = {name for name, health in states if health["state"] in _SHUT}
            shut[client["client"]] = {""} if client["disabled"] else out
    models, offered = dict[str, str](), dict[str, dict[str, str]]()
    for alias, entry in table.items():
        routes = [(route.client.label, route.name) for route in entry.routes]
        is_served = any(shut.get(label, {""}).isdisjoint(("", name)) for label, name in routes)
        models[alias] = "" if is_served else names([label for label, _ in routes])
        for label, name in routes:
            offered.setdefault(label, {})[alias] = name
    for client in facts["clients"]:
        its = {} if client["leaving"] else offered.get(client["client"], {})
        known, told = {"", *its.values()}, client["models"].items()
        client["offered"] = printable(names(list(its)))
        client["models"] = {
            name: health for name, health in told if name in known and health["state"] != "ready"
        }
    return {
        **facts,
        "clients": [one for one in facts["clients"] if one["offered"] or not model],
        "models": models,
        "path": gateway.config.path,
        "read_at": reloader.read_at,
        "problems": reloader.problems,
        "recent": gateway.recent and gateway.recent.facts(),
    }
