"""What one process tells of itself."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from proxy.config import load_config
from proxy.gateway import Gateway
from proxy.net.watch import CallerConnection
from proxy.pool import Effect
from proxy.record.record import Record
from proxy.server.addresses import in_force
from proxy.status.worker import Request, answer
from tests.support.upstream import Upstream, json_reply

OVERVIEW = Request("overview")


def gateway_of(*providers: dict[str, Any]) -> Gateway:
    return Gateway(load_config({"openai-compatibility": list(providers)}))


def provider(name: str, url: str = "http://a.test/v1", **more: Any) -> dict[str, Any]:
    return {"name": name, "base-url": url, "api-keys": [f"sk-{name}-1", f"sk-{name}-2"], **more}


def test_clients_tell_what_they_offer() -> None:
    """Their models as callers know them; of each of those, who offers it if it is not served."""
    models = [{"name": "up", "alias": "a"}, {"name": "up", "alias": "b"}, {"name": "other"}]
    gateway = gateway_of(provider("x", models=models), provider("y", models=["z"]))
    told = answer(gateway, OVERVIEW)
    assert told["models"] == {"a": "", "b": "", "other": "", "z": ""}
    assert [facts["offered"] for facts in told["clients"]] == ["a, b, other"] * 2 + ["z"] * 2
    third, fourth = [client.label for client in gateway.generation.clients[2:]]
    for label, unable in ((third, ""), (fourth, f"{third}, {fourth}")):
        gateway.pool.set_disabled(label, True)
        assert answer(gateway, OVERVIEW)["models"]["z"] == unable


def test_upstreams_own_list_is_told_when_it_is_known() -> None:
    """Until then nobody knows what its clients offer."""
    with Upstream() as upstream:
        listed = {"object": "list", "data": [{"id": "listed", "object": "model"}]}
        upstream.pages["/v1/models"] = json_reply(listed)
        gateway = gateway_of(provider("x", upstream.url))
        told = answer(gateway, OVERVIEW)
        assert (told["models"], told["clients"][0]["offered"]) == ({}, "")
        record = Record("req_1", endpoint="", arrived=gateway.clock.monotonic())
        assert [one.alias for one in gateway.entries(CallerConnection(None), record)] == ["listed"]
        told = answer(gateway, OVERVIEW)
        assert (told["models"], told["clients"][1]["offered"]) == ({"listed": ""}, "listed")
        gateway.close()


def fail(gateway: Gateway, alias: str, effect: Effect) -> str:
    """Have an attempt at a model end so; returns the client's label."""
    record = Record("req_1", endpoint="", arrived=gateway.clock.monotonic())
    routes = gateway.find(alias, CallerConnection(None), record).routes
    ticket = gateway.pool.ticket(alias, CallerConnection(None), gateway.config)
    lease = gateway.pool.acquire(ticket, routes, record.arrived + 1)
    assert lease is not None
    lease.report(effect, cause="429: Wait")
    lease.release()
    return lease.client.label


def test_overview_leaves_out_what_is_well() -> None:
    """Which metrics count, and a page need not say of 100,000 models."""
    gateway = gateway_of(provider("x", models=["m"]))
    fail(gateway, "m", Effect.GOOD)
    told = [answer(gateway, Request(do))["clients"][0] for do in ("status", "overview")]
    assert [one["models"] for one in told] == [{"m": {"state": "ready", "failures": 0}}, {}]


def test_overview_of_one_model() -> None:
    """Its clients, and what is wrong with them for it, or as a whole."""
    gateway = gateway_of(provider("x", models=["m", "n"]), provider("y", models=["z"]))
    cold = fail(gateway, "m", Effect.COOL)
    fail(gateway, "n", Effect.REST)
    out = fail(gateway, "z", Effect.OUT)
    for alias, troubled in (("m", {cold: ["m"]}), ("z", {out: [""]}), ("none", {})):
        told = answer(gateway, Request("overview", model=alias))
        found = {one["client"]: [*one["models"]] for one in told["clients"] if one["models"]}
        assert {label: sorted(models)[:1] for label, models in found.items()} == troubled
        assert len(told["clients"]) == (2 if troubled else 0)
        assert told["models"] == ({alias: ""} if troubled else {})


def test_model_that_is_gone_troubles_nobody() -> None:
    """What was wrong with it is not told of the client."""
    gateway = gateway_of(provider("x", models=["m"]))
    fail(gateway, "m", Effect.COOL)
    gateway.adopt(load_config({"openai-compatibility": [provider("x", models=["n"])]}))
    told = answer(gateway, OVERVIEW)
    assert [(one["offered"], one["models"]) for one in told["clients"]] == [("n", {})] * 2


def test_orders_are_obeyed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With who gave them, if that is known; what is no order changes nothing."""
    gateway = gateway_of(provider("x", models=["m"]))
    (label, _) = [one.label for one in gateway.generation.clients]
    with caplog.at_level(logging.WARNING):
        assert "error" not in answer(gateway, Request("disable", label, by="ops"))
        assert "error" not in answer(gateway, Request("enable", label))
    assert [record.getMessage() for record in caplog.records] == [
        f"{label}: disable by hand, by ops",
        f"{label}: enable by hand",
    ]
    assert answer(gateway, Request("reset", "gone"))["error"] == "there is no client 'gone'"
    assert answer(gateway, Request("reload"))["error"] == "not a control request: 'reload'"


@pytest.mark.parametrize("was", [None, False, True])
@pytest.mark.parametrize("becomes", [None, False, True])
def test_page_that_was_off_needs_a_restart(was: bool | None, becomes: bool | None) -> None:
    """As it has no path then. One that was on can be turned off, and on again."""
    config = load_config({"demo": [{}]})
    started = msgspec.structs.replace(config, status_page=was)
    found = in_force(started, msgspec.structs.replace(config, status_page=becomes))
    assert found.status_page is (becomes if was is not False else False)
    said = "status-page False" in " ".join(found.warnings)
    assert said == (was is False and becomes is not False)
