"""One process's end: its facts as plain data, and the orders that it obeys. Nothing here blocks."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import msgspec

from ..version import __version__

if TYPE_CHECKING:
    from ..gateway import Gateway

_WELL = {"state": "ready", "failures": 0}  # which an overview need not say of each model

log = logging.getLogger("proxy.control")


ORDERS = ("disable", "enable", "reset")


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """A question, `status` or `overview`, or an order to a client. `by`: who gives it."""

    do: str
    client: str = ""
    model: str = ""
    by: str = ""


def answer(gateway: Gateway, request: Request) -> dict[str, Any]:
    """What to say to a request; `error`: why it was not done."""
    told = {"pid": os.getpid(), "version": __version__}
    if request.do in ("status", "overview"):
        return told | _facts(gateway, is_brief=request.do == "overview")
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


def _facts(gateway: Gateway, *, is_brief: bool) -> dict[str, Any]:
    """The pool's snapshot, and what is known of the configuration and of the last hour.

    What a client offers is a place in `offers`, which clients of one provider share.
    """
    generation, reloader = gateway.generation, gateway.reloader
    standing = gateway.facts()
    lists = generation.registry.lists()
    offers: list[dict[str, list[str]]] = []
    places: dict[int, int] = {}  # by the identity of what clients share: their models, or a list
    offered: dict[str, int | None] = {}
    for client in generation.clients:
        models = client.config.models or lists.get(client, ())
        place = places.get(id(models))
        if models and place is None:
            place = places[id(models)] = len(offers)
            offers.append({})
            for one in models:
                name, alias = (one, one) if isinstance(one, str) else (one.name, one.alias)
                offers[place].setdefault(name, []).append(alias)
        offered[client.label] = place
    for facts in standing["clients"]:
        if is_brief:
            models = facts["models"].items()
            facts["models"] = {name: one for name, one in models if one != _WELL}
        facts["offered"] = offered.get(facts["client"])
    return {
        **standing,
        "offers": offers,
        "path": generation.config.path,
        "read_at": reloader.read_at,
        "problems": reloader.problems,
        "recent": gateway.recent and gateway.recent(),
    }
