"""What each worker tells, all of it added up, and what of it is wrong, in words."""

from __future__ import annotations

import logging
import math
from datetime import datetime
from typing import Any

import msgspec
import pytest

from proxy.api.status import Request, added_up, overview
from proxy.api.status import answer as answer_of
from proxy.config import load_config
from proxy.gateway import Gateway
from proxy.net.watch import CallerConnection
from proxy.pool import Effect, Ticket
from proxy.server.addresses import in_force
from tests.support.upstream import Upstream, json_reply

LABEL = "alpha/sk-...abcd"
NOW = 1_800_000_000.0
CAUSE = "429 busy: Wait"
TRIED = [
    {"client": label, "first_event_s": s} for label, s in ((LABEL, 0.5), (LABEL, None), ("b", 9))
]
TRIED += [{"client": LABEL, "first_event_s": 1.5}]


def clock(in_s: float) -> str:
    """The time of day then."""
    return datetime.fromtimestamp(NOW + in_s).isoformat(" ", "seconds")


@pytest.fixture(autouse=True)
def time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """One moment for all."""
    monkeypatch.setattr("time.time", lambda: NOW)


def trouble(state: str, until: int, since_s: float = 1, cause: str = CAUSE) -> dict[str, Any]:
    return {"state": state, "until": until, "since": round(NOW - since_s), "cause": cause}


def facts(*, permits: int = 1, disabled: bool = False, **models: Any) -> dict[str, Any]:
    """What a worker tells of a client; `models`: state and seconds."""
    troubles = {
        name: trouble(state, for_s and math.ceil(NOW + for_s))
        for name, (state, for_s) in models.items()
    }
    if disabled:
        troubles[""] = {"state": "disabled by hand", "until": 0, "since": 0, "cause": ""}
    return {
        "client": LABEL,
        "kind": "openai",
        "permits": permits,
        "in_flight": 1,
        "waiting": 2,
        "answered": 3,
        "failed": 1,
        "leaving": False,
        "last_error": None,
        "troubles": troubles,
        "offered": "a, b",
        "leases": [],
    }


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ([facts(), facts()], "in use (max-concurrency)"),
        ([facts(permits=2), facts()], "ready"),
        ([facts(), facts(permits=0)], "ready"),
        ([facts(m=("resting", 1.2)), facts(m=("resting", 3.4))], "resting"),
        ([facts(m=("cooling down", 9)), facts()], "cooling down in 1 of 2 workers"),
        ([facts(m=("cooling down", 9), o=("out of service", 60.5))], "out of service"),
        ([facts(m=("on trial", 0)), facts(m=("on trial", 0))], "on trial"),
        ([facts(disabled=True, m=("resting", 9)), facts(disabled=True)], "disabled by hand"),
        ([facts(disabled=True), facts()], "disabled by hand in 1 of 2 workers"),
    ],
)
def test_state_is_the_worst_of_all_workers(workers: list[dict[str, Any]], said: str) -> None:
    """For how long, and in how many of them if not in all."""
    assert added_up(workers)["state"] == said


def test_sums_as_plain_data() -> None:
    """For scripts: of each model the worst over all workers, and for how long."""
    workers = [facts(m=("resting", 5.5)), facts(m=("cooling down", 1.5))]
    workers[0]["last_error"], workers[1]["last_error"] = (5.0, "500 x: No"), (7.0, CAUSE)
    assert added_up([*workers, facts(disabled=True)]) == {
        "client": LABEL,
        "kind": "openai",
        "models": "a, b",
        "state": "disabled by hand in 1 of 3 workers",
        "rank": -5,
        "permits": 3,
        "in_flight": 3,
        "waiting": 6,
        "answered": 9,
        "failed": 3,
        "leaving": False,
        "why": [
            f"{LABEL} (m): cooling down since {clock(-1)} until {clock(2)}: {CAUSE}",
            f"{LABEL}: disabled by hand",
        ],
        "troubles": {
            "m": trouble("cooling down", round(NOW + 2)),
            "": trouble("disabled by hand", 0, NOW, ""),
        },
        "last_error": (7.0, CAUSE),
    }
    assert added_up([{**facts(), "offered": ""}, facts()])["models"] == "a, b"


def test_causes_say_since_when_until_when_and_why() -> None:
    """In the words of the upstream, which cannot steer a terminal; of models alike in one line."""
    one = facts()
    said = "401 invalid_api_key: No\n\x1b[2J"
    one["troubles"] = {
        "m": trouble("out of service", round(NOW) + 60, 5, said),
        "o": trouble("on trial", 0, 90_000, "402 None: Pay"),
        "q": trouble("on trial", 0, 7, "402 None: Pay"),
    }
    assert added_up([one])["why"] == [
        f"{LABEL} (m): out of service since {clock(-5)} until {clock(60)}: "
        "401 invalid_api_key: No  [2J",
        f"{LABEL} (o, q): on trial since {clock(-90_000)}: 402 None: Pay",
    ]
    one["troubles"][""] = one["troubles"]["m"]
    assert added_up([one])["why"][0].startswith(f"{LABEL}: out of service")


def test_counts_are_added_up() -> None:
    """Permits too, because each worker has its own; no limit in one is no limit."""
    summed = added_up([facts(permits=2), facts(permits=2)])
    assert summed["permits"] == 4
    counts = [summed[name] for name in ("in_flight", "waiting", "answered", "failed")]
    assert counts == [2, 4, 6, 2]
    assert added_up([facts(permits=0), facts(permits=0)])["permits"] is None


def answer(*clients: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A worker's."""
    usual = {"pid": 7, "instance": "1", "version": "1.0", "path": "config.yaml", "read_at": NOW}
    rest: dict[str, Any] = {"queues": {}, "problems": (), "recent": None, "models": {"a": ""}}
    return {**usual, **rest, "clients": list(clients), **more}


def wrong(*answers: dict[str, Any]) -> list[str]:
    found = overview(list(answers))["wrong"]
    assert isinstance(found, list)
    return found


def other(**changes: Any) -> dict[str, Any]:
    return {**facts(**changes), "client": "beta"}


def test_nothing_is_wrong_with_what_passes() -> None:
    """Cooldowns and rests of seconds, and who may serve again after one, however long ago."""
    tried = facts()
    tried["troubles"]["m"] = trouble("on trial", 0, 9000)
    assert wrong(answer(facts(m=("resting", 5)), other(m=("cooling down", 28)))) == []
    assert wrong(answer(tried)) == []


def test_what_lasts_is_wrong() -> None:
    """A cooldown of half a minute, one out of service, and who was and has not been tried yet."""
    tried = facts()
    tried["troubles"]["m"] = trouble("on trial", 0, 90, "401 no: Key")
    told = wrong(answer(facts(m=("cooling down", 29.6)), {**tried, "client": "beta"}))
    assert told == [
        f"{LABEL} (m): cooling down since {clock(-1)} until {clock(30)}: {CAUSE}",
        f"beta (m): on trial since {clock(-90)}: 401 no: Key",
    ]


def test_clients_that_are_alike_are_one_line() -> None:
    """From when the first of them was so until the last one returns."""
    long, longer = facts(m=("cooling down", 60)), other(m=("cooling down", 90))
    longer["troubles"]["m"]["since"] = round(NOW - 7)
    assert wrong(answer(long, longer))[-1] == (
        f"{LABEL} (m), beta (m): cooling down since {clock(-7)} until {clock(90)}: {CAUSE}"
    )


def test_model_is_unserved_when_no_worker_has_a_client_for_it() -> None:
    """Disabling one counts, too. Those of the same clients are one line."""
    down = {"a": "x, y", "b": "", "c": "x, y", "d": "z"}
    well = {"a": "x, y", "b": "x, y", "c": "", "d": "z"}
    told = wrong(answer(models=down), answer(models=well))
    assert told == [
        "not served: a, as x, y cannot be used",
        "not served: d, as z cannot be used",
    ]
    assert wrong(answer(models=down))[0] == "not served: a, c, as x, y cannot be used"
    assert overview([answer(models=down)])["models"] == {
        "a": False,
        "b": True,
        "c": False,
        "d": False,
    }
    assert wrong(answer(other(disabled=True)), answer(other(disabled=True))) == [
        "beta: disabled by hand",
    ]


def test_problems_and_silent_workers_come_first() -> None:
    """Each problem once, whoever tells it."""
    broken = [answer(facts(disabled=True), problems=("config.yaml: no",)) for _ in "ab"]
    silent = {"pid": 8, "error": "no answer from worker 8: timed out"}
    assert wrong(*broken, silent)[:2] == [
        "the configuration stays as it was: config.yaml: no",
        "no answer from worker 8: timed out",
    ]
    assert overview([silent])["workers"] == [silent]


def test_facts_of_the_last_hour_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the minute and by client; of all requests the newest."""
    monkeypatch.setattr("time.monotonic", lambda: 60 * 100 + 30.0)

    def recent(*began: float) -> dict[str, Any]:
        return {
            "minutes": [(41, 1, 0, 10), (100, 2, 1, 20), (40, 7, 7, 7), (101, 7, 7, 7)],
            "requests": [{"times": {"arrived": at}, "attempts": TRIED} for at in began],
        }

    told = overview(
        [
            answer(facts(), recent=recent(*range(40)), read_at=NOW - 9),
            answer(facts(), recent=recent(*range(30, 70))),
        ]
    )
    assert told["minutes"][0] == [round(NOW - 59 * 60 - 30), 2, 0, 20]
    assert told["minutes"][-1] == [round(NOW - 30), 4, 2, 40]
    assert sum(minute[1] for minute in told["minutes"]) == 6
    assert [one["times"]["arrived"] for one in told["requests"]][:2] == [69, 68]
    assert len(told["requests"]) == 50
    assert told["clients"][0]["first_event_s"] == 1.0
    assert told["configuration"]["read_at"] == round(NOW - 9)
    (client,) = overview([answer(facts())])["clients"]
    assert client["first_event_s"] is None


def test_clients_in_trouble_come_first() -> None:
    """What was disabled before what is out, that before what cools."""
    names = ["well", "cools", "out", "disabled", "rests"]
    states: list[dict[str, Any]] = [
        {},
        {"m": ("cooling down", 5)},
        {"m": ("out of service", 5)},
        {"disabled": True},
        {"m": ("resting", 5)},
    ]
    clients = [
        {**facts(**state), "client": name} for name, state in zip(names, states, strict=True)
    ]
    told = overview([answer(*clients)])["clients"]
    assert [one["client"] for one in told] == ["disabled", "out", "cools", "rests", "well"]


# Of one worker

OVERVIEW = Request("overview")


def gateway_of(*providers: dict[str, Any]) -> Gateway:
    return Gateway(load_config({"openai-compatibility": list(providers)}))


def provider(name: str, url: str = "http://a.test/v1", **more: Any) -> dict[str, Any]:
    return {"name": name, "base-url": url, "api-keys": [f"sk-{name}-1", f"sk-{name}-2"], **more}


def test_clients_tell_what_they_offer() -> None:
    """Their models as callers know them; of each of those, who offers it if it is not served."""
    models = [{"name": "up", "alias": "a"}, {"name": "up", "alias": "b"}, {"name": "other"}]
    gateway = gateway_of(provider("x", models=models), provider("y", models=["z"]))
    told = answer_of(gateway, OVERVIEW)
    assert told["models"] == {"a": "", "b": "", "other": "", "z": ""}
    assert [facts["offered"] for facts in told["clients"]] == ["a, b, other"] * 2 + ["z"] * 2
    third, fourth = [client.label for client in gateway.generation.clients[2:]]
    for label, unable in ((third, ""), (fourth, f"{third}, {fourth}")):
        gateway.pool.set_disabled(label, True)
        assert answer_of(gateway, OVERVIEW)["models"]["z"] == unable


def test_upstreams_own_list_is_told_when_it_is_known() -> None:
    """Until then nobody knows what its clients offer."""
    with Upstream() as upstream:
        listed = {"object": "list", "data": [{"id": "listed", "object": "model"}]}
        upstream.pages["/v1/models"] = json_reply(listed)
        gateway = gateway_of(provider("x", upstream.url))
        told = answer_of(gateway, OVERVIEW)
        assert (told["models"], told["clients"][0]["offered"]) == ({}, "")
        entries = gateway.generation.registry.entries(CallerConnection(None), math.inf)
        assert [one.alias for one in entries] == ["listed"]
        told = answer_of(gateway, OVERVIEW)
        assert (told["models"], told["clients"][1]["offered"]) == ({"listed": ""}, "listed")
        gateway.close()


def fail(gateway: Gateway, alias: str, effect: Effect) -> str:
    """Have an attempt at a model end so; returns the client's label."""
    routes = gateway.generation.registry.table[alias].routes
    ticket = Ticket(alias, CallerConnection(None), gateway.config)
    lease = gateway.pool.acquire(ticket, routes, gateway.clock.monotonic() + 1)
    assert lease is not None
    lease.report(effect, cause="429: Wait")
    lease.release()
    return lease.client.label


def test_overview_leaves_out_what_is_well() -> None:
    """Which metrics count, and a page need not say of 100,000 models."""
    gateway = gateway_of(provider("x", models=["m"]))
    fail(gateway, "m", Effect.GOOD)
    told = [answer_of(gateway, Request(do))["clients"][0] for do in ("status", "overview")]
    assert told[0]["models"] == {"m": {"state": "ready", "failures": 0}}
    assert told[1]["troubles"] == {}


def test_overview_of_one_model() -> None:
    """Its clients, and what is wrong with them for it, or as a whole."""
    gateway = gateway_of(provider("x", models=["m", "n"]), provider("y", models=["z"]))
    cold = fail(gateway, "m", Effect.COOL)
    fail(gateway, "n", Effect.REST)
    out = fail(gateway, "z", Effect.OUT)
    for alias, troubled in (("m", {cold: ["m"]}), ("z", {out: [""]}), ("none", {})):
        told = answer_of(gateway, Request("overview", model=alias))
        found = {one["client"]: [*one["troubles"]] for one in told["clients"] if one["troubles"]}
        assert {label: sorted(models)[:1] for label, models in found.items()} == troubled
        assert len(told["clients"]) == (2 if troubled else 0)
        assert told["models"] == ({alias: ""} if troubled else {})


def test_last_error_is_told_when_all_is_well_again() -> None:
    """With its time of day, in the upstream's words; there is none of who has not failed."""
    gateway = gateway_of(provider("x", models=["m"]))
    fail(gateway, "m", Effect.COOL)
    fail(gateway, "m", Effect.GOOD)
    first, second = [one["last_error"] for one in answer_of(gateway, OVERVIEW)["clients"]]
    assert (first[0] > NOW / 2, first[1], second) == (True, "429: Wait", None)


def test_model_that_is_gone_troubles_nobody() -> None:
    """What was wrong with it is not told of the client."""
    gateway = gateway_of(provider("x", models=["m"]))
    fail(gateway, "m", Effect.COOL)
    gateway.adopt(load_config({"openai-compatibility": [provider("x", models=["n"])]}))
    told = answer_of(gateway, OVERVIEW)
    assert [(one["offered"], one["troubles"]) for one in told["clients"]] == [("n", {})] * 2


def test_orders_are_obeyed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With who gave them, if that is known; what is no order changes nothing."""
    gateway = gateway_of(provider("x", models=["m"]))
    (label, _) = [one.label for one in gateway.generation.clients]
    with caplog.at_level(logging.WARNING):
        assert "error" not in answer_of(gateway, Request("disable", label, by="ops"))
        assert "error" not in answer_of(gateway, Request("enable", label))
    assert [record.getMessage() for record in caplog.records] == [
        f"{label}: disable by hand, by ops",
        f"{label}: enable by hand",
    ]
    assert answer_of(gateway, Request("reset", "gone"))["error"] == "there is no client 'gone'"
    assert answer_of(gateway, Request("reload"))["error"] == "not a control request: 'reload'"


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
