"""What one process does to the pool holds in all of them, on whichever host they are."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, islice
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.state.cluster import STEADY, Cluster, Placed, Streams, held
from tests.state.crowd import WORDS, Call, ask
from tests.state.hosts import Host
from tests.support.commandline import wait_for
from tests.support.gateway import PATIENCE_S, run_python
from tests.support.redis import RedisServer, require_redis
from tests.support.upstream import Gate, Hold, as_asked, chat, error
from tests.support.witness import Flight

require_redis()

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

LIMITED = "sk-limited-caller-0123456789"
FEW = 2
# Callers by one of their limits: so many requests, or tokens of which each answer takes 12.
METERED = {"rpm": 3, "tpm": 30, "requests-per-day": 5, "tokens-per-day": 30}
TRIAL_S = 2.0

# Each test has accounts of its own, so that none meets another's cooldowns.
LOTS: dict[str, dict[str, Any]] = {
    "round": {"api-keys": [f"sk-round-{number}-0123456789" for number in range(4)]},
    "spare": {"api-keys": ["sk-spare-0123456789"]},
    "cool": {"api-keys": ["sk-cool-0123456789"]},
    "trial": {"api-keys": ["sk-trial-0123456789"], "max-concurrency": 8},
    "tiers": {
        "api-keys": [
            {"api-key": "sk-free-0123456789", "priority": 10},
            {"api-key": "sk-paid-0123456789", "max-concurrency": 8},
        ]
    },
    "sticky": {"api-keys": [f"sk-sticky-{number}-0123456789" for number in range(4)]},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Everywhere]:
    """Two gateways of two workers each."""
    with RedisServer() as redis, Everywhere(redis) as made:
        yield made


class Everywhere(Cluster):
    """With a caller of few requests, and a model for each lot."""

    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis
        super().__init__([Host("here")], redis.unix_url)

    def __enter__(self) -> Everywhere:
        return self

    def leases(self) -> list[int]:
        """When each of those that are held was lent, by the clock of the books; us."""
        with self._redis.client() as client:
            papers = [one for key in client.keys("{pp:default}:p:*") for one in client.hvals(key)]
        return sorted(int(one.split(" ")[1]) for one in papers if not one.startswith("?"))

    def config(self, host: Host) -> dict[str, Any]:
        config = super().config(host)
        url = config["openai-compatibility"][0]["base-url"]
        config["api-keys"].append({"name": "few", "key": LIMITED, "max-concurrency": FEW})
        config["api-keys"] += [
            {"name": limit, "key": key_of(limit), limit: most} for limit, most in METERED.items()
        ]
        config["state-dir"] = self._held.enter_context(TemporaryDirectory(prefix="state-"))
        config["openai-compatibility"] += [
            {"name": name, "base-url": url, "models": [{"name": "up", "alias": name}], **lot}
            for name, lot in LOTS.items()
        ]
        return config


def key_of(limit: str) -> str:
    return f"sk-metered-caller-{limit}"


@pytest.fixture(autouse=True)
def _unlimited(cluster: Everywhere) -> None:
    """The upstream answers at once, and permits what it is asked."""
    entries = [one for lot in LOTS.values() for one in lot["api-keys"]]
    keys = [one if isinstance(one, str) else one["api-key"] for one in entries]
    cluster.witness.permit({**dict.fromkeys(keys, 99), STEADY: 8})
    cluster.witness.default = as_asked(*WORDS)


def everywhere(cluster: Everywhere, model: str, many: int, **options: Any) -> list[Call]:
    """Answers to so many requests, one after the other, by all gateways in turn.

    Each comes when the books know that the one before has ended: its process does not wait for it.
    """
    held, calls = len(cluster.leases()), []
    for number, (name, one) in enumerate(islice(cycle(cluster.gateways.items()), many)):
        known_as = f"{name}.{model}-{number}-{time.monotonic_ns()}"
        calls.append(ask(one, model, known_as, **options))
        wait_for(lambda: len(cluster.leases()) <= held)
    return calls


def commanded(gateway: Placed, *arguments: str) -> str:
    """What a command for one of the gateways prints."""
    return run_python("-m", "proxy", *arguments, "--port", str(gateway.port))


def asked_for(cluster: Everywhere, model: str, many: int, **options: Any) -> list[Flight]:
    """What the upstream saw of `everywhere`, all of which was answered."""
    since = time.monotonic()
    calls = everywhere(cluster, model, many, **options)
    assert {call.end for call in calls} == {"whole"}, calls
    names = {call.name for call in calls}
    return [one for one in cluster.witness.begun(since) if one.name in names]


def begun(cluster: Everywhere, key: str) -> list[Flight]:
    return [one for one in cluster.witness.begun() if one.key == key]


def test_clients_are_used_in_turn(cluster: Everywhere) -> None:
    """One round robin for all processes."""
    everywhere(cluster, "round", 12)
    keys = [one.key for one in cluster.witness.begun() if one.key in LOTS["round"]["api-keys"]]
    assert len(set(keys[:4])) == 4
    assert keys == keys[:4] * 3


def test_caller_has_so_many_requests_in_all_processes(cluster: Everywhere) -> None:
    """Its `max-concurrency` is a count of all of them."""
    first, second = cluster.gateways.values()
    with Streams(cluster) as streams:
        here = streams.begin(first, key=LIMITED)
        there = streams.begin(second, key=LIMITED)
        refused = everywhere(cluster, "spare", 8, key=LIMITED)
        assert {(call.status, call.detail) for call in refused} == {(429, "rate_limit_exceeded")}
        assert {call.end for call in everywhere(cluster, "spare", 4)} == {"whole"}, "of others"
        streams.let_go(here)
        assert here[0].call().end == "whole"
        wait_for(lambda: everywhere(cluster, "spare", 1, key=LIMITED)[0].status == 200)
        streams.let_go(there)


def test_a_caller_of_so_many_requests_a_minute(cluster: Everywhere) -> None:
    """At the same moment, by whatever process: one count of all of them."""
    most, since = METERED["rpm"], time.monotonic()
    with ThreadPoolExecutor(12) as callers:
        asked = [
            callers.submit(ask, gateway, "spare", f"{name}.rpm-{number}", key=key_of("rpm"))
            for number in range(6)
            for name, gateway in cluster.gateways.items()
        ]
        calls = [one.result() for one in asked]
    back = math.floor((time.monotonic() - since) * most / 60)  # one each 20 s
    served = [call for call in calls if call.end == "whole"]
    assert most <= len(served) <= most + back
    assert {call.name for call in served} == seen(cluster, calls)
    assert {call.detail for call in calls if call not in served} == {"rate_limit_exceeded"}


def test_a_caller_of_so_many_tokens_a_minute(cluster: Everywhere) -> None:
    """Charged by the process that served it, and known to the next one."""
    calls = everywhere(cluster, "spare", 4, key=key_of("tpm"))
    assert [call.status for call in calls[:3]] == [200] * 3
    assert calls[3].status == 429


@pytest.mark.parametrize(("limit", "most"), [("requests-per-day", 5), ("tokens-per-day", 3)])
def test_a_caller_of_so_much_a_day(cluster: Everywhere, limit: str, most: int) -> None:
    """Though each instance has a ledger of its own."""
    calls = everywhere(cluster, "spare", most + 3, key=key_of(limit))
    assert [call.status for call in calls] == [200] * most + [429] * 3
    assert len(seen(cluster, calls)) == most


def seen(cluster: Everywhere, calls: list[Call]) -> set[str]:
    """The names of those that came to the upstream."""
    return {call.name for call in calls} & {one.name for one in cluster.witness.begun()}


def test_callers_places_come_back_from_a_dead_process(cluster: Everywhere) -> None:
    """As permits do."""
    dying = cluster.start(cluster.hosts[0])
    with Streams(cluster) as streams:
        streams.begin(dying, FEW, key=LIMITED)
        assert {call.status for call in everywhere(cluster, "spare", 3, key=LIMITED)} == {429}
        cluster.kill(dying)
        wait_for(lambda: everywhere(cluster, "spare", 1, key=LIMITED)[0].status == 200)


def test_client_is_disabled_in_all_processes(cluster: Everywhere) -> None:
    """By an order to any of them, for those that start later too; and enabled again."""
    first, second = cluster.gateways.values()
    assert everywhere(cluster, "spare", 1)[0].end == "whole"
    commanded(first, "disable", "spare")
    late = cluster.start(cluster.hosts[0])
    try:
        found = {(call.status, call.detail) for call in everywhere(cluster, "spare", 12)}
        assert found == {(503, "no_client_in_service")}
        commanded(second, "enable", "spare")
        assert {call.end for call in everywhere(cluster, "spare", 12)} == {"whole"}
    finally:
        cluster.stop(late)


def test_cooldown_holds_in_all_processes_until_it_is_ended_by_hand(cluster: Everywhere) -> None:
    """One 429 is enough for all; `reset` of any of them ends it for all."""
    key = "sk-cool-0123456789"
    _, second = cluster.gateways.values()
    cluster.witness.reply(key, error(429, headers={"Retry-After": "1800"}))
    assert {call.status for call in everywhere(cluster, "cool", 8)} == {429}
    assert len(begun(cluster, key)) == 1
    commanded(second, "reset", "cool")
    assert {call.end for call in everywhere(cluster, "cool", 8)} == {"whole"}


def test_one_request_of_all_processes_tries_a_client_after_its_cooldown(
    cluster: Everywhere,
) -> None:
    """The others follow when it has passed, here by time: its status does not come."""
    key, gate = "sk-trial-0123456789", Gate()
    cluster.witness.reply(key, error(429, headers={"Retry-After": "1"}))
    cluster.witness.always(key, chat("".join(WORDS)).after(Hold(gate)))
    places = list(cluster.gateways.items())
    with ThreadPoolExecutor(8) as callers:

        def asked(number: int) -> Future[Call]:
            name, gateway = places[number % len(places)]
            return callers.submit(ask, gateway, "trial", f"{name}.trial-{number}")

        calls = [asked(0)]
        refused = cluster.witness.wait_begun(lambda one: one.key == key, PATIENCE_S)
        wait_for(lambda: refused.ended < math.inf)
        wait_for(lambda: not cluster.leases())  # by then the books know of the cooldown
        calls += [asked(number) for number in range(1, 8)]
        wait_for(lambda: len(begun(cluster, key)) == 9)
        trial, after, *others = cluster.leases()
        gate.set()
        assert {call.result().end for call in calls} == {"whole"}
    assert len(others) == 6
    assert after - trial >= TRIAL_S * 10**6


def test_account_of_the_next_tier_serves_while_the_first_is_in_use(cluster: Everywhere) -> None:
    """By whichever process."""
    free, paid, gate = "sk-free-0123456789", "sk-paid-0123456789", Gate()
    first, *_ = cluster.gateways.values()
    cluster.witness.permit({free: 1, paid: 8})
    assert {one.key for one in asked_for(cluster, "tiers", 4)} == {free}
    cluster.witness.always(free, held(gate))
    with ThreadPoolExecutor(1) as callers:
        call = callers.submit(ask, first, "tiers", f"{first.name}.held", stream=True)
        cluster.witness.wait_begun(lambda one: one.name == f"{first.name}.held", PATIENCE_S)
        assert {one.key for one in asked_for(cluster, "tiers", 4)} == {paid}
        gate.set()
        assert call.result().end == "whole"
    cluster.witness.always(free, as_asked(*WORDS))
    wait_for(lambda: asked_for(cluster, "tiers", 1)[0].key == free)
    assert {one.key for one in asked_for(cluster, "tiers", 4)} == {free}
    assert cluster.witness.complaints == []


def test_session_has_the_same_account_in_all_processes(cluster: Everywhere) -> None:
    """And other sessions have others."""
    found = [
        {one.key for one in asked_for(cluster, "sticky", 8, session=f"session-{number}")}
        for number in range(8)
    ]
    assert all(len(keys) == 1 for keys in found), found
    assert len(set.union(*found)) > 1


def test_status_shows_all_processes(cluster: Everywhere) -> None:
    """Asked of one gateway, it counts what the others have in flight, and permits once.

    What it tells may be a second old.
    """
    first, second = cluster.gateways.values()
    with Streams(cluster) as streams:
        streams.begin(first, 2)
        streams.begin(second, 1)
        for one in (first, second):
            wait_for(lambda one=one: in_use(one, "steady") == (3, 8))  # type: ignore[misc]
            assert " 3/8 " in commanded(one, "status")


def in_use(gateway: Placed, provider: str) -> tuple[int, int]:
    """What `status` of this gateway tells of the provider's one client: in flight, permits."""
    clients = json.loads(commanded(gateway, "status", "--json"))["clients"]
    (facts,) = [one for one in clients if one["client"].startswith(f"{provider}/")]
    return facts["in_flight"], facts["permits"]
