"""What one process tells of itself."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from proxy.config import load_config
from proxy.gateway import Gateway
from proxy.net.watch import CallerConnection
from proxy.record.record import Record
from proxy.server.addresses import in_force
from proxy.status.overview import Overview
from proxy.status.worker import Request, answer
from tests.support.upstream import Upstream, json_reply

STATUS = Request("status")


def gateway_of(*providers: dict[str, Any]) -> Gateway:
    return Gateway(load_config({"openai-compatibility": list(providers)}))


def provider(name: str, url: str = "http://a.test/v1", **more: Any) -> dict[str, Any]:
    return {"name": name, "base-url": url, "api-keys": [f"sk-{name}-1", f"sk-{name}-2"], **more}


def test_what_clients_share_is_told_once() -> None:
    """By the upstream's names, the aliases; clients of one provider have the same place."""
    models = [{"name": "up", "alias": "a"}, {"name": "up", "alias": "b"}, {"name": "other"}]
    told = answer(gateway_of(provider("x", models=models), provider("y", models=["z"])), STATUS)
    assert told["offers"] == [{"up": ["a", "b"], "other": ["other"]}, {"z": ["z"]}]
    assert [facts["offered"] for facts in told["clients"]] == [0, 0, 1, 1]
    assert list(Overview([told]).models) == ["a", "b", "other", "z"]


def test_upstreams_own_list_is_told_when_it_is_known() -> None:
    """Until then nobody knows what its clients offer."""
    with Upstream() as upstream:
        listed = {"object": "list", "data": [{"id": "listed", "object": "model"}]}
        upstream.pages["/v1/models"] = json_reply(listed)
        gateway = gateway_of(provider("x", upstream.url))
        told = answer(gateway, STATUS)
        assert (told["offers"], told["clients"][0]["offered"]) == ([], None)
        record = Record("req_1", endpoint="", arrived=gateway.clock.monotonic())
        assert [one.alias for one in gateway.entries(CallerConnection(None), record)] == ["listed"]
        told = answer(gateway, STATUS)
        assert (told["offers"], told["clients"][1]["offered"]) == ([{"listed": ["listed"]}], 0)
        gateway.close()


def test_overview_leaves_out_what_is_well() -> None:
    """Which metrics count, and a page need not say of 100,000 models."""
    gateway = gateway_of(provider("x", models=["m"]))
    record = Record("req_1", endpoint="", arrived=gateway.clock.monotonic())
    routes = gateway.find("m", CallerConnection(None), record).routes
    ticket = gateway.pool.ticket("m", CallerConnection(None), gateway.config)
    lease = gateway.pool.acquire(ticket, routes, record.arrived + 1)
    assert lease is not None
    lease.release()
    told = [answer(gateway, Request(do))["clients"][0] for do in ("status", "overview")]
    assert [one["models"] for one in told] == [{"m": {"state": "ready", "failures": 0}}, {}]


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
