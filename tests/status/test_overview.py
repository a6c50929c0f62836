"""What all workers say, added up; and what of it is wrong, in words."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from proxy.status.overview import ClientSum, overview

LABEL = "alpha/sk-...abcd"
NOW = 1_800_000_000.0
CAUSE = "429 busy: Wait"
WHY = {"since_s": 0.5, "cause": CAUSE}


def clock(in_s: float) -> str:
    """The time of day then."""
    return datetime.fromtimestamp(NOW + in_s).isoformat(" ", "seconds")


@pytest.fixture(autouse=True)
def time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """One moment for all."""
    monkeypatch.setattr("time.time", lambda: NOW)


def facts(*, permits: int = 1, disabled: bool = False, **models: Any) -> dict[str, Any]:
    """What a worker tells of a client; `models`: state and seconds."""
    health = {
        name: {
            "state": state,
            "failures": 1,
            **({"for_s": for_s} if for_s else {}),
            **(WHY if state != "ready" else {}),
        }
        for name, (state, for_s) in models.items()
    }
    return {
        "client": LABEL,
        "kind": "openai",
        "permits": permits,
        "in_flight": 1,
        "waiting": 2,
        "answered": 3,
        "failed": 1,
        "disabled": disabled,
        "leaving": False,
        "models": health,
        "offered": "a, b",
        "leases": [],
    }


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ([facts(), facts()], "in use (max-concurrency)"),
        ([facts(permits=2), facts()], "ready"),
        ([facts(m=("ready", 0)), facts(permits=0)], "ready"),
        ([facts(m=("resting", 1.2)), facts(m=("resting", 3.4))], "resting"),
        ([facts(m=("cooling down", 9)), facts()], "cooling down in 1 of 2 workers"),
        ([facts(m=("cooling down", 9), o=("out of service", 60.5))], "out of service"),
        ([facts(m=("trying", 0)), facts(m=("on trial", 0))], "on trial"),
        ([facts(disabled=True, m=("resting", 9)), facts(disabled=True)], "disabled"),
        ([facts(disabled=True), facts()], "disabled in 1 of 2 workers"),
    ],
)
def test_state_is_the_worst_of_all_workers(workers: list[dict[str, Any]], said: str) -> None:
    """For how long, and in how many of them if not in all."""
    summed = ClientSum(workers)
    assert summed.state == said


def test_sums_as_plain_data() -> None:
    """For scripts: of each model the worst over all workers, and for how long."""
    workers = [facts(m=("resting", 5.5), o=("ready", 0)), facts(m=("cooling down", 1.5))]
    summed = ClientSum([*workers, facts(disabled=True)])
    assert summed.facts() == {
        "client": LABEL,
        "kind": "openai",
        "models": "a, b",
        "state": "disabled in 1 of 3 workers",
        "permits": 3,
        "in_flight": 3,
        "waiting": 6,
        "answered": 9,
        "failed": 3,
        "leaving": False,
        "disabled_in_workers": 1,
        "why": [f"{LABEL} (m): cooling down since {clock(-1)} until {clock(2)}: {CAUSE}"],
        "troubles": {
            "m": {
                "state": "cooling down",
                "cause": CAUSE,
                "since": round(NOW - 1),
                "until": round(NOW + 2),
            }
        },
    }
    assert ClientSum([{**facts(), "offered": ""}, facts()]).facts()["models"] == "a, b"


def test_causes_say_since_when_until_when_and_why() -> None:
    """In the words of the upstream, which cannot steer a terminal; of models alike in one line."""
    one = facts(m=("out of service", 60), o=("on trial", 0), p=("ready", 0), q=("on trial", 0))
    one["models"]["m"] |= {"since_s": 5.0, "cause": "401 invalid_api_key: No\n\x1b[2J"}
    one["models"]["o"] |= {"since_s": 90_000.0, "cause": "402 None: Pay"}
    one["models"]["q"] |= {"since_s": 7.0, "cause": "402 None: Pay"}
    summed = ClientSum([one])
    assert [one.told(whose) for whose, one in summed.causes()] == [
        f"{LABEL} (m): out of service since {clock(-5)} until {clock(60)}: "
        "401 invalid_api_key: No  [2J",
        f"{LABEL} (o, q): on trial since {clock(-90_000)}: 402 None: Pay",
    ]
    one["models"][""] = dict(one["models"]["m"])
    summed = ClientSum([one])
    assert next(summed.causes())[0] == LABEL


def test_counts_are_added_up() -> None:
    """Permits too, because each worker has its own; no limit in one is no limit."""
    summed = ClientSum([facts(permits=2), facts(permits=2)])
    assert summed.permits == 4
    assert summed.counts == {"in_flight": 2, "waiting": 4, "answered": 6, "failed": 2}
    summed = ClientSum([facts(permits=0), facts(permits=0)])
    assert summed.permits is None


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
    tried = facts(m=("on trial", 0))
    tried["models"]["m"]["since_s"] = 9000.0
    assert wrong(answer(facts(m=("resting", 5)), other(m=("cooling down", 28)))) == []
    assert wrong(answer(tried)) == []


def test_what_lasts_is_wrong() -> None:
    """A cooldown of half a minute, one out of service, and who was and has not been tried yet."""
    tried = facts(m=("on trial", 0))
    tried["models"]["m"] |= {"since_s": 90.0, "cause": "401 no: Key"}
    told = wrong(answer(facts(m=("cooling down", 29.6)), {**tried, "client": "beta"}))
    assert told == [
        f"{LABEL} (m): cooling down since {clock(-1)} until {clock(30)}: {CAUSE}",
        f"beta (m): on trial since {clock(-90)}: 401 no: Key",
    ]


def test_clients_that_are_alike_are_one_line() -> None:
    """From when the first of them was so until the last one returns."""
    long, longer = facts(m=("cooling down", 60)), other(m=("cooling down", 90))
    longer["models"]["m"]["since_s"] = 7.0
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

    def recent(error_at: float, *began: float) -> dict[str, Any]:
        return {
            "minutes": [(41, 1, 0, 10), (100, 2, 1, 20), (40, 7, 7, 7), (101, 7, 7, 7)],
            "requests": [{"times": {"arrived": at}} for at in began],
            "clients": {LABEL: [3, 1, 2, 1.0, (error_at, "500 x: No")]},
        }

    told = overview(
        [
            answer(facts(), recent=recent(5.0, *range(40)), read_at=NOW - 9),
            answer(facts(), recent=recent(7.0, *range(30, 70))),
        ]
    )
    assert told["minutes"][0] == [round(NOW - 59 * 60 - 30), 2, 0, 20]
    assert told["minutes"][-1] == [round(NOW - 30), 4, 2, 40]
    assert sum(minute[1] for minute in told["minutes"]) == 6
    assert [one["times"]["arrived"] for one in told["requests"]][:2] == [69, 68]
    assert len(told["requests"]) == 50
    (client,) = told["clients"]
    assert client["hour"] == {
        "good": 6,
        "failed": 2,
        "first_event_s": 0.5,
        "last_error": (7.0, "500 x: No"),
    }
    assert told["configuration"]["read_at"] == round(NOW - 9)
    (client,) = overview([answer(facts())])["clients"]
    assert client["hour"] == {"good": 0, "failed": 0, "first_event_s": None, "last_error": None}


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
