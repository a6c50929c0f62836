"""A replica takes the primary's place, by Sentinel: to the pool it is a restart."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from tests.state.cluster import Cluster, loaded
from tests.state.hosts import Host
from tests.support.commandline import wait_for
from tests.support.redis import PROGRAM, RedisServer, require_redis
from tests.support.server import free_port

require_redis()

pytestmark = [pytest.mark.slow, pytest.mark.further, pytest.mark.timeout(240)]

WATCHED = """
port {port}
sentinel monitor ours 127.0.0.1 {primary} 1
sentinel down-after-milliseconds ours 1500
sentinel failover-timeout ours 5000
"""


@contextmanager
def sentinel(primary: RedisServer, folder: Path) -> Iterator[int]:
    """The port of one that knows the primary, and a replica of it."""
    port = free_port()
    file = folder / "sentinel.conf"
    file.write_text(WATCHED.format(port=port, primary=primary.port))
    assert PROGRAM is not None
    with (folder / "log").open("w") as log:
        command = [PROGRAM, str(file), "--sentinel"]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)

    def knows_replica() -> bool:
        with redis.Redis(port=port, decode_responses=True) as asked:
            try:
                found = asked.execute_command("SENTINEL", "REPLICAS", "ours")
            except redis.ConnectionError:
                return False
            return bool(found)

    try:
        wait_for(knows_replica, (folder / "log").read_text)
        yield port
    finally:
        process.kill()
        process.wait()


def test_failover_is_a_restart(tmp_path: Path) -> None:
    """Nobody is overtaken, nothing lent twice, whatever the replica had not been told yet."""
    with ExitStack() as stack:
        primary = stack.enter_context(RedisServer())
        stack.enter_context(RedisServer("--replicaof", "127.0.0.1", str(primary.port)))
        port = stack.enter_context(sentinel(primary, tmp_path))
        state = f"redis+sentinel://127.0.0.1:{port}/ours/0"
        cluster = stack.enter_context(Cluster([Host("here")], state))
        with loaded(cluster) as load:
            began = time.monotonic()
            primary.stop()
            load.crowd.wait_for(80)
            assert max(load.longest_silence(began).values()) < 15
