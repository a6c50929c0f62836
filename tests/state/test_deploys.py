"""Gateways with different configurations that share a state: what they have in common is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.state.cluster import NARROW, PERMITS, WIDE, Cluster, loaded
from tests.state.hosts import Host
from tests.support.commandline import wait_for
from tests.support.redis import RedisServer, require_redis

require_redis()

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

READ = "configuration read again: "

# An account of the second configuration alone; of the first alone is the first narrow one.
ADDED = "sk-state-added-0123456789"
OWN = {NARROW[0], ADDED}

CALLERS = 40


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two gateways of two workers each."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        yield stack.enter_context(Cluster([Host("here")], redis.url))


def changed(cluster: Cluster, *, permits: int = PERMITS[WIDE]) -> dict[str, Any]:
    """Another configuration: names, weights, headers, permits; an account went, another came."""
    config = cluster.config(cluster.hosts[0])
    narrow, wide, steady = config["openai-compatibility"]
    keys = [{"api-key": key, "weight": 1 + at} for at, key in enumerate([*NARROW[1:], ADDED])]
    narrow = {**narrow, "name": "renamed", "api-keys": keys, "headers": {"x-turn": "second"}}
    wide = {**wide, "max-concurrency": permits, "models": [*wide["models"], "also"]}
    return {**config, "openai-compatibility": [wide, narrow, steady]}


def test_permits_are_one_count_while_two_configurations_are_alive(cluster: Cluster) -> None:
    """A rolling change: one gateway after the other reads the new file, under load."""
    cluster.witness.permit({**PERMITS, ADDED: 1})
    first, second = cluster.gateways.values()
    with loaded(cluster, CALLERS) as load:
        load.not_everywhere = OWN
        for one in (first, second):
            one.write(changed(cluster))
            one.hang_up()
            load.crowd.wait_for(CALLERS)
    keys = {one.key for one in cluster.witness.begun()}
    assert keys >= {NARROW[0], ADDED}


@pytest.mark.further
def test_fewer_permits_hold_when_all_have_read_them(cluster: Cluster) -> None:
    """More at once, fewer as requests end."""
    cluster.witness.permit({**PERMITS, ADDED: 1, WIDE: 4})
    with loaded(cluster, CALLERS) as load:
        load.not_everywhere = {*OWN, WIDE}  # as the first who has read it may have more of it
        for permits in (4, 1):
            for one in cluster.gateways.values():
                before = one.count_lines(READ)
                one.write(changed(cluster, permits=permits))
                one.hang_up()
                wait_for(lambda one=one, before=before: one.count_lines(READ) >= before + 2)  # type: ignore[misc]
            load.crowd.wait_for(CALLERS)
        cluster.witness.permit({**PERMITS, ADDED: 1, WIDE: 1})
        load.crowd.wait_for(CALLERS)


def test_rolling_deploy_cuts_nobody_off(cluster: Cluster) -> None:
    """New gateways come with another file, old ones end; a stream holds its permit to its end."""
    cluster.witness.permit({**PERMITS, ADDED: 1})
    (host,) = cluster.hosts
    old = list(cluster.gateways.values())
    with loaded(cluster, CALLERS) as load:
        load.not_everywhere = OWN
        for one in old:
            cluster.start(host, **changed(cluster))
            load.crowd.wait_for(CALLERS // 2)
            del cluster.gateways[one.name]  # nobody comes any more, and all there are served
            load.crowd.wait_for(CALLERS)
            wait_for(lambda one=one: not one.waiting("shared"))  # type: ignore[misc]
            one.terminate()
            load.crowd.wait_for(CALLERS // 2)
    for one in old:
        assert one.wait_ended() == 0
