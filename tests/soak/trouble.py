"""What befalls the gateway in a soak: new configurations, bad ones, kills, famine, a full disk."""

from __future__ import annotations

import os
import random
import resource
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.soak.accounts import Accounts
from tests.support.dialects import BY_KIND, configuration
from tests.support.gateway import Gateway
from tests.support.redis import RedisServer

KEYS = {
    kind: tuple(f"sk-soak-{kind}-{number}-0123456789" for number in range(4)) for kind in BY_KIND
}
# Nobody who calls with these is ever refused: others come and go.
STEADY_CALLER = "sk-caller-steady-0123456789"
ROAMING_CALLERS = tuple(f"sk-caller-roaming-{number}-0123456789" for number in range(3))
STEADY_MODEL = "steady"
ROAMING_MODEL = "roaming"

# The odds of what comes next, and every how many seconds something does.
KINDS = {"reload": 60, "bad reload": 12, "kill": 6, "famine": 6, "full disk": 6, "rude": 10}
# With a shared state these too.
REDIS_KINDS = {"restart": 6, "stall": 6, "flush": 4}
EVERY_S = 1.5


class Lasting(NamedTuple):
    """Trouble from one moment to another."""

    kind: str
    began: float
    ended: float


class Trouble:
    """A thread that makes trouble until `stop`; `lasted` tells what and when."""

    def __init__(
        self,
        gateway: Gateway,
        path: Path,
        accounts: Accounts,
        *,
        workers: int,
        seed: int,
        redis: RedisServer | None = None,
    ) -> None:
        self.lasted: list[Lasting] = []
        self.counts: Counter[str] = Counter()
        self.callers = {STEADY_CALLER, *ROAMING_CALLERS}  # as in the file in force
        self.models = {STEADY_MODEL, ROAMING_MODEL}
        self.fault: BaseException | None = None
        self.may_kill = True
        self._gateway = gateway
        self._path = path
        self._accounts = accounts
        self._workers = workers
        self._redis = redis
        self._kinds = KINDS | (REDIS_KINDS if redis else {})
        self._chance = random.Random(seed)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trouble")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End with a good configuration, and all workers there."""
        self._stopped.set()
        self._thread.join()
        if self.fault is not None:
            raise self.fault
        self._reload()

    def pick(self, chance: random.Random) -> tuple[str, str]:
        """A model and a caller's key; nearly always such as are there."""
        models = [STEADY_MODEL, STEADY_MODEL, ROAMING_MODEL]
        callers = [STEADY_CALLER, STEADY_CALLER, *ROAMING_CALLERS]
        return chance.choice(models), chance.choice(callers)

    def happened(self, kinds: set[str], began: float, ended: float) -> bool:
        """Whether there was such trouble between two moments, or shortly before."""
        return any(
            one.kind in kinds and one.began <= ended and one.ended >= began for one in self.lasted
        )

    def _run(self) -> None:
        try:
            while not self._stopped.wait(self._chance.expovariate(1 / EVERY_S)):
                (kind,) = self._chance.choices(list(self._kinds), list(self._kinds.values()))
                began = time.monotonic()
                getattr(self, f"_{kind.replace(' ', '_')}")()
                self.counts[kind] += 1
                self.lasted.append(Lasting(kind, began, time.monotonic() + 3.0))
        except BaseException as fault:
            self.fault = fault

    # Each kind

    def _reload(self) -> None:
        config, permits, callers, models = make_config(
            self._accounts.origin, self._chance, self._redis
        )
        before = self.callers & callers, self.models & models
        self.callers, self.models = before
        self._accounts.permit(permits)
        self._gateway.write(config)
        if self._chance.random() < 0.5:  # else it is seen without a word
            self._gateway.hang_up()
        self.callers, self.models = callers, models

    def _bad_reload(self) -> None:
        good = self._path.read_text()
        self._path.write_text(self._chance.choice(["port: [", '{"port": "x"}', "", '{"foo": 1}']))
        self._gateway.hang_up()
        self._stopped.wait(self._chance.uniform(0.2, 1.5))
        self._path.write_text(good)
        self._gateway.hang_up()

    def _kill(self) -> None:
        workers = self._gateway.workers()
        if self.may_kill and len(workers) == self._workers:
            self._gateway.kill(self._chance.choice(sorted(workers)))
            self._stopped.wait(1.0)

    def _famine(self) -> None:
        """Next to no descriptors for a while."""
        pid = self._a_worker()
        if pid is None:
            return
        with suppress(ProcessLookupError, FileNotFoundError):
            there = max(map(int, os.listdir(f"/proc/{pid}/fd")))
            limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(there, limits[1]), limits[1]))
            self._stopped.wait(self._chance.uniform(0.3, 1.5))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)

    def _full_disk(self) -> None:
        """No file can grow: what a full disk is to a process, by other words (EFBIG)."""
        pid = self._a_worker()
        if pid is None:
            return
        with suppress(ProcessLookupError):
            limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, limits[1]))
            self._stopped.wait(self._chance.uniform(0.5, 2.0))
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)

    def _restart(self) -> None:
        assert self._redis is not None
        self._redis.restart()

    def _stall(self) -> None:
        assert self._redis is not None
        with self._redis.stalled():
            self._stopped.wait(self._chance.uniform(0.3, 3.0))

    def _flush(self) -> None:
        assert self._redis is not None
        self._redis.flush()

    def _rude(self) -> None:
        """Heads in pieces, half a body, silence, and a reset at the end."""
        there = []
        for number in range(40):
            with suppress(OSError):
                sock = socket.create_connection(("127.0.0.1", self._gateway.port), timeout=5)
                there.append(sock)
                head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                sock.sendall(head[: 5 + number] if number % 2 else head + b"Content-Length: 9\r\n")
        self._stopped.wait(self._chance.uniform(0.1, 1.0))
        for sock in there:
            if self._chance.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()

    def _a_worker(self) -> int | None:
        workers = self._gateway.workers()
        return self._chance.choice(sorted(workers)) if workers else None


def make_config(
    origin: str, chance: random.Random, redis: RedisServer | None = None
) -> tuple[dict[str, Any], dict[str, int], set[str], set[str]]:
    """A configuration; what a worker, or all with `redis`, may have in flight by key; its callers'
    keys; its models."""
    clients, permits, models = [], {}, {STEADY_MODEL}
    for kind, keys in KEYS.items():
        dialect = BY_KIND[kind]
        for key in chance.sample(keys, chance.randrange(1, len(keys) + 1)):
            permits[key] = at_once = chance.randrange(1, 5)
            alias = chance.choice([STEADY_MODEL, STEADY_MODEL, ROAMING_MODEL])
            models.add(alias)
            entry = dialect.client(
                origin,
                key,
                alias,
                **{"weight": chance.randrange(1, 5), "max-concurrency": at_once},
            )
            if kind == "openai":
                entry["openai-compatibility"][0]["name"] = f"openai-{keys.index(key)}"
            clients.append(entry)
    # Keyless, so that the steady model is never without a client.
    clients.append(
        {
            "openai-compatibility": [
                {
                    "name": "steady",
                    "base-url": f"{origin}/v1",
                    "max-concurrency": 6,
                    "models": [{"name": "gpt-4.1-mini", "alias": STEADY_MODEL}],
                    "headers": {"X-Turn": str(chance.randrange(100))},
                }
            ]
        }
    )
    permits[""] = 6
    callers = {STEADY_CALLER, *chance.sample(ROAMING_CALLERS, chance.randrange(0, 4))}
    config = configuration(
        *clients,
        **{
            "api-keys": [
                {"name": one[10:20], "key": one, "max-concurrency": chance.choice([0, 30])}
                for one in sorted(callers)
            ],
            "quota-exceeded": {"switch-preview-model": False},  # an attempt is one request
            "request-retry": chance.randrange(2, 6),
            "request-timeout": 12,
            "idle-timeout": 3,
            "connect-timeout": 3,
            "queue-timeout": chance.choice([4, 8]),
            "max-retry-interval": 3,
            "request-log": chance.random() < 0.3,
            "streaming": {"keepalive-seconds": 1, "commit-after-seconds": chance.choice([0.5, 5])},
            **({"state": redis.url} if redis else {}),
        },
    )
    return config, permits, callers, models
