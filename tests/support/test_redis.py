"""The redis-server of tests does as it says."""

from __future__ import annotations

import pytest
import redis

from tests.support.redis import ONCE, RedisServer, require_redis

require_redis()


def test_it_forgets_at_a_restart_and_when_it_is_flushed() -> None:
    """By TCP and by its socket it is the same server, which stays at its port."""
    with RedisServer() as server:
        url = server.url
        with server.client() as client, redis.Redis.from_url(url) as by_tcp:
            client.set("a", "1")
            assert by_tcp.get("a") == b"1"
            server.flush()
            assert client.get("a") is None
            client.set("a", "2")
            server.restart()
            assert server.url == url
        with redis.Redis.from_url(server.unix_url) as client:
            assert client.get("a") is None


def test_a_stalled_one_goes_on_where_it_was() -> None:
    """Meanwhile a connection is taken and nothing is answered; killed, it refuses."""
    with RedisServer() as server:
        with server.stalled():
            client = redis.Redis.from_url(server.url, socket_timeout=0.05, retry=ONCE)
            with client, pytest.raises(redis.TimeoutError):
                client.ping()
        with server.client() as client:
            assert client.ping()
        server.stop()
        with server.client() as client, pytest.raises(redis.ConnectionError):
            client.ping()
