"""What may fail under a pool that many processes share, and what holds all the same.

Eight processes on two hosts serve a crowd, each request of which waits in line. The upstream is the
witness: never more in flight than permitted, nobody overtaken, permits of the dead back in time, no
stream cut.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from tests.state.cluster import (
    BACK_S,
    CALLERS,
    EXPIRY_S,
    SERVICE_S,
    Cluster,
    Load,
    Streams,
    loaded,
    redis_on,
)
from tests.state.crowd import CALLER, Call, ask, overtaken
from tests.state.hosts import Far, Host, hosts, require_far
from tests.support.commandline import wait_for
from tests.support.redis import RedisServer, require_redis
from tests.support.witness import Flight

LONG_S = float(os.environ.get("STATE_SECONDS", "600"))

require_redis()

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

# What the machine may add to a time: it may be busy.
SLACK_S = 3.0

AS_CALLER = {"Authorization": f"Bearer {CALLER}"}
PAUSE = threading.Event()  # for trouble that lasts; nobody sets it


class Stage(NamedTuple):
    cluster: Cluster
    redis: RedisServer


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Two hosts of two gateways of two workers, whole at the start of each test."""
    with ExitStack() as stack:
        places, far = stack.enter_context(hosts(2))
        redis = stack.enter_context(redis_on(far))
        cluster = stack.enter_context(Cluster(places, redis.url))
        yield Stage(cluster, redis)


@pytest.fixture
def cluster(stage: Stage) -> Cluster:
    stage.cluster.fill(2)
    return stage.cluster


@pytest.fixture
def redis(stage: Stage) -> RedisServer:
    return stage.redis


@pytest.fixture(scope="module")
def crowd(stage: Stage) -> Iterator[Load]:
    """Of all tests that need one: those below `Under load`."""
    stage.cluster.fill(2)
    load = Load(stage.cluster, CALLERS)
    yield load
    load.end()


@pytest.fixture
def load(cluster: Cluster, crowd: Load) -> Iterator[Load]:
    """Nothing goes wrong while the test runs."""
    with crowd.watched():
        yield crowd


def no_longer_than(limit_s: float, silence: dict[str, float]) -> None:
    """Each key was used again in time."""
    late = {key: round(gap_s, 2) for key, gap_s in silence.items() if gap_s > limit_s + SLACK_S}
    assert not late, f"more than {limit_s} s: {late}"


# That a test of these can fail


def flight(name: str, began: float) -> Flight:
    return Flight("key", name, began, None)  # type: ignore[arg-type]


def call(name: str, sent: float) -> Call:
    return Call(name, "g1", sent, sent + 9, "whole")


def test_overtaking_is_seen() -> None:
    """By more than the slack; a request that was tried twice counts by its first time."""
    calls = [call("a", 0.0), call("b", 1.0), call("c", 2.0)]
    in_order = [flight("a", 3.0), flight("b", 3.1), flight("c", 3.2), flight("a", 9.0)]
    assert overtaken(in_order, calls, 0.5) == []
    other = [flight("b", 3.0), flight("c", 3.1), flight("a", 3.2)]
    (found,) = overtaken(other, calls, 1.5)
    assert found == "a was overtaken by c, 2.00 s younger"
    assert overtaken(other, calls, 2.5) == []
    at_once = [flight("c", 3.0), flight("b", 3.01), flight("a", 3.02)]
    assert overtaken(at_once, calls, 0.5) == []


def test_processes_without_state_are_seen_to_lend_twice() -> None:
    """The witness would notice; so would whoever has an account that must not be used twice."""
    with ExitStack() as stack:
        places, _ = stack.enter_context(hosts(1))
        cluster = stack.enter_context(Cluster(places, None))
        with pytest.raises(AssertionError, match="may have 1 in flight, and has"), loaded(cluster):
            pass


# Streams alone, so that it is known who holds what


def test_sleepers_permits_go_on_when_they_expire(cluster: Cluster) -> None:
    """A process that is stopped for longer than that finds others in its place when it wakes.

    What is handed to it meanwhile goes to the next at once, as it is not taken up, and is void.
    Only its requests that are open at the upstream overlap with those of others, and end well.
    """
    _sleep(cluster)


def _sleep(cluster: Cluster) -> None:
    sleeper, *_, other = cluster.gateways.values()
    with Streams(cluster) as streams:
        open_ones = streams.begin(sleeper, 2)
        others = streams.begin(other, 6)
        first = streams.wait_queued(streams.ask(sleeper, 2))
        second = streams.wait_queued(streams.ask(other, 4))
        sleeper.pause()
        try:
            excused = cluster.witness.excuse(lambda one: one.name.startswith(f"{sleeper.name}."))
            assert len(excused) == 2
            streams.let_go(others[:4])
            streams.wait_begun(second, BACK_S + SLACK_S)
            third = streams.ask(other, 2)
            streams.wait_begun(third, EXPIRY_S + SLACK_S)
        finally:
            sleeper.resume()
        assert ask(sleeper, "shared", f"{sleeper.name}.awake").end == "whole"
        assert streams.have_begun(first) == []
        streams.let_go(open_ones)
        assert [each.call().end for each in open_ones] == ["whole"] * 2
        streams.let_go([*others, *second, *third])
        streams.wait_begun(first)
        streams.let_go(first)
        assert {each.call().end for each in (*others, *first, *second, *third)} == {"whole"}
        assert streams.complaints == []


def test_a_unix_socket_is_as_exact() -> None:
    """Whatever becomes of workers and of Redis."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        cluster = stack.enter_context(Cluster([Host("here")], redis.unix_url))
        _sleep(cluster)
        with loaded(cluster) as load:
            began = time.monotonic()
            victim = next(iter(cluster.gateways.values()))
            load.harm(victim)
            victim.kill(min(victim.workers()))
            load.crowd.wait_for(60)
            no_longer_than(BACK_S, load.longest_silence(began))
            with redis.stalled():
                PAUSE.wait(3.0)
            load.crowd.wait_for(60)
            redis.restart()
            load.crowd.wait_for(60)


def test_permits_of_a_lost_host_are_back_when_they_expire() -> None:
    """Nobody is left there who could tell, and Redis hears nothing either."""
    require_far()
    with ExitStack() as stack:
        places, far = stack.enter_context(hosts(2))
        redis = stack.enter_context(redis_on(far))
        cluster = stack.enter_context(Cluster(places, redis.url, each=1, workers=1))
        streams = stack.enter_context(Streams(cluster))
        lost, other = cluster.gateways.values()
        streams.begin(lost, 4)
        streams.begin(other, 4)
        streams.wait_queued(streams.ask(lost, 2))
        waiting = streams.wait_queued(streams.ask(other, 4))
        assert isinstance(lost.site, Far)
        lost.site.cut()
        lost.site.close()
        cluster.kill(lost)
        streams.wait_begun(waiting, EXPIRY_S + SLACK_S)
        streams.let_go(waiting)
        assert {each.call().end for each in waiting} == {"whole"}
        assert streams.complaints == []


def test_redis_may_be_away(cluster: Cluster, redis: RedisServer) -> None:
    """Who has a client goes on; all others get a 503 after `queue-timeout`, all at one time."""
    impatient = cluster.start(cluster.hosts[0], **{"queue-timeout": 3})
    with Streams(cluster) as streams:
        under_way = streams.begin(impatient, 2)
        redis.stop()
        try:
            began = time.monotonic()
            with ThreadPoolExecutor(8) as pool:
                answers = list(
                    pool.map(lambda _: impatient.chat("shared", headers=AS_CALLER), range(8))
                )
            assert time.monotonic() - began < 3 + SLACK_S
            for answer in answers:
                assert (answer.status, answer.error["code"]) == (503, "state_unavailable")
                assert answer.headers["x-should-retry"] == "true"
                assert int(answer.headers["retry-after"]) > 0
        finally:
            redis.start()
        began = time.monotonic()
        while (late := impatient.chat("shared", headers=AS_CALLER)).status != 200:
            assert time.monotonic() - began < BACK_S + SLACK_S, late
        streams.let_go(under_way)
        assert [each.call().end for each in under_way] == ["whole"] * 2
        assert streams.complaints == []
    cluster.stop(impatient)


# Under load


def test_nobody_is_overtaken_and_no_permit_lent_twice(load: Load) -> None:
    """All ten permits are in use all the time."""
    began = time.monotonic()
    load.crowd.wait_for(80)
    no_longer_than(2 * SERVICE_S, load.longest_silence(began))


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.further)])
def test_permits_of_a_killed_worker_are_back_soon(load: Load, cluster: Cluster, kills: int) -> None:
    """The callers of others notice nothing."""
    chance = random.Random(kills)
    for _ in range(kills):
        victim = chance.choice(list(cluster.gateways.values()))
        load.harm(victim)
        began = time.monotonic()
        victim.kill(chance.choice(sorted(victim.workers())))
        load.crowd.wait_for(60)
        no_longer_than(BACK_S, load.longest_silence(began))
        wait_for(lambda one=victim: len(one.workers()) == 2)  # type: ignore[misc]


def test_permits_of_a_killed_instance_are_back_soon(load: Load, cluster: Cluster) -> None:
    """Of its master and its workers at once; others on its host see to them."""
    victim = next(iter(cluster.gateways.values()))
    load.harm(victim)
    began = time.monotonic()
    cluster.kill(victim)
    load.crowd.wait_for(80)
    no_longer_than(BACK_S, load.longest_silence(began))


@pytest.mark.parametrize("restarts", [1, pytest.param(5, marks=pytest.mark.further)])
def test_redis_may_restart_empty(load: Load, redis: RedisServer, restarts: int) -> None:
    """It is told again what is held; who waits keeps their place."""
    for _ in range(restarts):
        began = time.monotonic()
        redis.restart()
        load.crowd.wait_for(60)
        no_longer_than(BACK_S, load.longest_silence(began))


def test_redis_may_lose_everything(load: Load, redis: RedisServer) -> None:
    """FLUSHALL: the same without a connection that breaks."""
    began = time.monotonic()
    redis.flush()
    load.crowd.wait_for(60)
    no_longer_than(BACK_S, load.longest_silence(began))


def test_redis_may_stall(load: Load, redis: RedisServer) -> None:
    """For 3 s, which is shorter than anybody waits for an answer of it."""
    with redis.stalled():
        PAUSE.wait(3.0)
    load.crowd.wait_for(60)


@pytest.mark.parametrize("cut_s", [6.0, pytest.param(25.0, marks=pytest.mark.further)])
def test_host_may_be_cut_off_from_redis(load: Load, cluster: Cluster, cut_s: float) -> None:
    """It gets no new clients, and ends what it has; others go on with what it does not hold.

    Longer than its permits last, its open streams overlap with others' requests.
    """
    require_far()
    lost, other = cluster.hosts
    assert isinstance(lost, Far)
    names = {one.name for one in cluster.on(lost)}
    with load.out_of_reach(cluster.on(lost), for_long=cut_s > EXPIRY_S):
        lost.cut()
        began = time.monotonic()
        try:
            PAUSE.wait(1.0)  # what was lent before may still be used
            if cut_s > EXPIRY_S:
                cluster.witness.excuse(lambda one: one.name.partition(".")[0] in names)
            PAUSE.wait(cut_s - 1.0)
            assert load.longest_silence_of(cluster.on(other), began) < BACK_S + SLACK_S
        finally:
            lost.mend()
        load.crowd.wait_for(30, lambda call: call.gateway in names and call.sent > began)


@pytest.mark.further
@pytest.mark.timeout(LONG_S + 240)
def test_all_of_it_for_ten_minutes(load: Load, cluster: Cluster, redis: RedisServer) -> None:
    """One thing after the other, by chance."""
    chance = random.Random(18)
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        began = time.monotonic()
        load.may_miss += 1
        _happen(chance.choice(KINDS), cluster, redis, load, chance)
        load.crowd.wait_for(60)
        no_longer_than(EXPIRY_S, load.longest_silence(began))
        cluster.fill(2)


KINDS = ("worker", "instance", "restart", "flush", "stall", "cut")


def _happen(
    kind: str, cluster: Cluster, redis: RedisServer, load: Load, chance: random.Random
) -> None:
    victim = chance.choice(list(cluster.gateways.values()))
    if kind in ("worker", "instance"):
        load.harm(victim)
    if kind == "worker" and (workers := victim.workers()):
        victim.kill(chance.choice(sorted(workers)))
    elif kind == "instance":
        cluster.kill(victim)
    elif kind == "restart":
        redis.restart()
    elif kind == "flush":
        redis.flush()
    elif kind == "stall":
        with redis.stalled():
            PAUSE.wait(chance.uniform(0.5, 4.0))
    elif kind == "cut" and isinstance(victim.site, Far):
        with load.out_of_reach(cluster.on(victim.site)):
            victim.site.cut()
            PAUSE.wait(chance.uniform(1.0, 8.0))
            victim.site.mend()
            load.crowd.wait_for(60)
