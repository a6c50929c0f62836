"""Leases of a shared pool, without HTTP: one process of those that `scale` asks for them.

Arguments: the URL of a Redis, how many threads, how long each keeps a lease (ms), when to begin
(seconds since 1970), and for how long. Prints, as JSON, what each thread waited for a lease and
what giving it back took, in seconds.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable

from proxy.clients import make_clients
from proxy.clients.registry import Route
from proxy.config import load_config
from proxy.net.watch import CallerConnection
from proxy.pool import Ticket
from proxy.pool.shared.books import SharedPool
from proxy.pool.shared.connection import Server

PERMITS = 10


def run(
    url: str, threads: int, hold_s: float, begins_at: float, seconds: float
) -> dict[str, object]:
    """Wait until the time has come, lend, and say what it took."""
    demo = [{"name": f"demo{number}", "max-concurrency": 1} for number in range(PERMITS)]
    config = load_config({"state": url, "demo": demo}, environ={})
    assert config.state is not None
    clients = make_clients(config)
    pool = SharedPool(clients, Server(config.state))
    routes = tuple(Route(client, "demo") for client in clients)
    caller = CallerConnection(None)
    first = pool.acquire(Ticket("demo", caller, config), routes, math.inf)
    assert first is not None
    first.release()
    time.sleep(max(0.0, begins_at - time.time()))
    until = time.monotonic() + seconds
    waits: list[float] = []
    releases: list[float] = []

    def ask() -> None:
        while (began := time.monotonic()) < until:
            lease = pool.acquire(Ticket("demo", caller, config), routes, math.inf)
            assert lease is not None
            waits.append(time.monotonic() - began)
            if hold_s:
                time.sleep(hold_s)
            began = time.monotonic()
            lease.release()
            releases.append(time.monotonic() - began)

    _together([ask] * threads)
    pool.close()
    return {"waits": waits, "releases": releases}


def _together(tasks: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    _, _url, _threads, _hold_ms, _begins_at, _seconds = sys.argv
    print(
        json.dumps(
            run(_url, int(_threads), float(_hold_ms) / 1000, float(_begins_at), float(_seconds))
        )
    )
