"""What Redis is told and keeps: no key, nothing outside of the namespace, and no more with time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from tests.state.cluster import Cluster, Placed
from tests.state.crowd import ask
from tests.state.hosts import Host
from tests.support.commandline import wait_for
from tests.support.gateway import run_to_end
from tests.support.leaks import key_in
from tests.support.redis import RedisServer, require_redis
from tests.support.upstream import as_asked, error

require_redis()

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(scope="module")
def cluster(server: RedisServer) -> Iterator[Cluster]:
    with ExitStack() as stack:
        made = stack.enter_context(Cluster([Host("here")], server.url, each=1, workers=2))
        made.witness.default = as_asked("Hello", " there", "!")
        yield made


def plain(server: RedisServer) -> redis.Redis:
    """A client that leaves bytes as they are."""
    return redis.Redis(unix_socket_path=server.socket)


def served(gateway: Placed, many: int) -> None:
    for number in range(many):
        assert ask(gateway, "shared", f"{gateway.name}.stored-{number}").end == "whole"


def test_no_key_is_told_or_stored(cluster: Cluster, server: RedisServer) -> None:
    """Whatever is said to Redis, by whatever happens; and all of it is in the namespace."""
    (gateway,) = cluster.gateways.values()
    with plain(server) as connection, connection.monitor() as monitor:
        refusal = error(401, "Incorrect API key provided: sk-state-narrow-0-0123456789")
        cluster.witness.reply(None, refusal, error(429, headers={"Retry-After": "1"}))
        served(gateway, 20)
        connection.set("end", "")
        told = ""
        while "SET end" not in told:
            told += str(monitor.next_command()["command"]) + "\n"
        connection.delete("end")
        assert "fcall" in told.lower()
        assert key_in(told) is None
        keys = list(connection.scan_iter())
        assert keys
        for key in keys:
            assert key.startswith(b"{pp:default}"), key
            stored = (connection.dump(key) or b"") + key
            assert b"sk-state" not in stored
            assert b"sk-caller" not in stored


def test_nothing_piles_up(cluster: Cluster, server: RedisServer) -> None:
    """As many keys after 200 requests as after 50, when nobody asks."""
    (gateway,) = cluster.gateways.values()
    with server.client() as connection:
        served(gateway, 50)
        before: int = connection.dbsize()
        served(gateway, 200)
        wait_for(lambda: connection.dbsize() <= before)


def test_server_does_not_start_on_a_redis_that_may_forget_permits(tmp_path: Path) -> None:
    """Its policy may evict any key: that is said, and what to set."""
    with RedisServer("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru") as evicting:
        file = tmp_path / "config.yaml"
        file.write_text(json.dumps({"port": 0, "state": evicting.url, "demo": [{}]}))
        done = run_to_end(PROXY_CONFIG=str(file))
    assert done.returncode == 2
    assert "set noeviction" in done.stderr
    assert "Traceback" not in done.stderr
