"""A state that Sentinel names: the primary of the moment, and the next one after a failover."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest
from redis.sentinel import Sentinel

from tests.pool.shared.test_shared_pool import Member
from tests.support.commandline import wait_for
from tests.support.redis import PROGRAM, RedisServer, require_redis
from tests.support.server import PATIENCE_S, free_port

require_redis()


@pytest.mark.long
def test_the_next_primary_serves_after_a_failover(tmp_path: Path) -> None:
    """What is held is said again to it, so that nobody else gets it."""
    port = free_port()
    conf = tmp_path / "sentinel.conf"
    with RedisServer() as first, RedisServer("--replicaof", first.host, str(first.port)) as second:
        conf.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
            f"sentinel monitor main 127.0.0.1 {first.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        )
        command = [str(PROGRAM), str(conf), "--sentinel", "--logfile", str(tmp_path / "log")]
        sentinel = subprocess.Popen(command)
        member = Member(f"redis+sentinel://127.0.0.1:{port}/main/0", "sentinel")
        knows = Sentinel([("127.0.0.1", port)])  # type: ignore[no-untyped-call]
        try:
            wait_for(partial(_has_replica, knows))
            held = member.take()
            first.stop()
            other = member.take()
            assert other.client is not held.client
            member.assert_nothing_is_free()
            with second.client() as client:
                held_there = client.hvals(f"{{pp:sentinel}}:p:{member.pool._me}")
            assert sum(not paper.startswith("?") for paper in held_there) == 2
        finally:
            for client in knows.sentinels:
                client.close()
            member.pool.close()
            sentinel.terminate()
            sentinel.wait(PATIENCE_S)


def _has_replica(sentinel: Sentinel) -> bool:
    """Whether it has found the primary, and who could follow it."""
    try:
        return bool(sentinel.discover_slaves("main"))  # type: ignore[no-untyped-call]
    except Exception:
        return False
