"""A soak from its beginning to its verdict."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from proxy.pool.shared.connection import MOST_LINKS
from tests.soak.accounts import Accounts, links
from tests.soak.callers import Callers, Outcome
from tests.soak.trouble import (
    KEYS,
    ROAMING_CALLERS,
    ROAMING_MODEL,
    STEADY_CALLER,
    Trouble,
    make_config,
)
from tests.support.commandline import wait_for
from tests.support.gateway import PATIENCE_S, ROOT, Gateway, environment
from tests.support.redis import RedisServer

SAMPLE_S = 2.0

# From the first to the last third of the time in which no worker is killed, MB of each. An old
# worker needs more than a new one: while they are killed, the sum tells how old they are.
GROWTH_MB = 12.0
# What a thread needs at last: glibc's malloc keeps seven free blocks of each size up to 1 KB for
# it, 240 KB, and it takes thousands of requests until they are there. A worker keeps as many
# threads as it ever had requests at once.
THREAD_MB = 0.25

# Descriptors that a worker may hold beside those of its start and its idle connections.
SPARE_DESCRIPTORS = 12

# An outcome that trouble of these kinds explains.
_BREAKS = {"kill", "famine"}


class Soak:
    """One run. `problems` has a line for each thing that must not be.

    `state`: the workers share one, in a Redis that restarts now and then.
    """

    def __init__(
        self,
        seconds: float,
        seed: int,
        *,
        workers: int = 2,
        callers: int = 40,
        env: Mapping[str, str] | None = None,
        state: bool = False,
    ) -> None:
        self.problems: list[str] = []
        self.figures: dict[str, Any] = {}
        self._seconds = seconds
        self._seed = seed
        self._workers = workers
        self._callers = callers
        self._env = env or {}
        self._state = state

    def run(self) -> None:
        with (
            tempfile.TemporaryDirectory(prefix="soak-") as place,
            Accounts(self._seed) as accounts,
            RedisServer() if self._state else nullcontext() as redis,
        ):
            path = Path(place, "config.yaml")
            config, permits, _, _ = make_config(accounts.origin, random.Random(self._seed), redis)
            path.write_text(json.dumps({"port": 0, **config}))
            accounts.permit(permits)
            keys = [key for keys in KEYS.values() for key in keys]
            gateway = Gateway(
                path,
                env={"XDG_RUNTIME_DIR": place, **self._env},
                workers=self._workers,
                secrets=[*keys, STEADY_CALLER, *ROAMING_CALLERS],
            )
            if not redis:
                accounts.workers = gateway.workers
            try:
                self._run(gateway, path, accounts, place, redis)
            except FileNotFoundError:  # its folder in /proc
                rest = [line for line in gateway.log.splitlines() if " proxy.request " not in line]
                self.problems.append("the server ended:\n" + "\n".join(rest[-40:]))
            finally:
                try:
                    gateway.close()
                except AssertionError as error:
                    self.problems.append(str(error)[:2000])

    def _run(
        self,
        gateway: Gateway,
        path: Path,
        accounts: Accounts,
        place: str,
        redis: RedisServer | None,
    ) -> None:
        descriptors = max(map(_descriptors, gateway.workers()))
        trouble = Trouble(
            gateway, path, accounts, workers=self._workers, seed=self._seed, redis=redis
        )
        callers = Callers(gateway.port, self._seed, trouble.pick, self._callers)
        memory: list[tuple[float, float]] = []  # in all, and of threads
        until = time.monotonic() + self._seconds
        trouble.start()
        try:
            while (left_s := until - time.monotonic()) > 0 and trouble.fault is None:
                time.sleep(min(SAMPLE_S, left_s))
                trouble.may_kill = left_s > self._seconds / 2
                if not trouble.may_kill:
                    pids = gateway.workers()
                    memory.append((_memory_mb(pids), THREAD_MB * sum(map(_threads, pids))))
        finally:
            accounts.calm.set()
            trouble.stop()
            callers.stop()
        self.problems += callers.complaints + accounts.complaints
        self._check_outcomes(callers, trouble, accounts)
        self._check_records(gateway, callers, trouble, accounts)
        self._check_idle(gateway, accounts, descriptors, place)
        self._check_memory(memory)
        self.figures |= {
            "requests": len(callers.outcomes),
            "ends": dict(callers.ends()),
            "faults": dict(accounts.faults),
            "trouble": dict(trouble.counts),
        }

    def _check_outcomes(self, callers: Callers, trouble: Trouble, accounts: Accounts) -> None:
        """Nothing fails but for a reason that is known."""
        for one in callers.outcomes:
            if not self._is_explained(one, trouble, accounts):
                self.problems.append(f"not explained: {one}")

    def _is_explained(self, one: Outcome, trouble: Trouble, accounts: Accounts) -> bool:
        def happened(*kinds: str) -> bool:
            return trouble.happened(set(kinds), one.began - 1.0, one.ended)

        if one.end == "broken":
            return happened("kill", "famine")
        if one.end != "refused":
            return True
        if one.status == 400:
            return one.nonce in accounts.refused
        if one.status == 401:
            return one.caller != STEADY_CALLER
        if one.status == 404:
            return one.model == ROAMING_MODEL
        return True

    def _check_records(
        self, gateway: Gateway, callers: Callers, trouble: Trouble, accounts: Accounts
    ) -> None:
        """The log has one line for each request, and it says what the caller saw."""
        kept = [  # a worker that is killed takes its lines with it: a stream's comes after its end
            one
            for one in callers.outcomes
            if not trouble.happened({"kill"}, one.began - 1.0, one.ended + 1.0)
        ]
        asked = {one.nonce for one in kept if one.end not in ("left", "broken")}
        lines: defaultdict[str, list[dict[str, str]]] = defaultdict(list)

        def are_all_there() -> bool:
            lines.clear()
            for record in gateway.records():
                lines[record["id"]].append(record)
            return asked <= lines.keys()

        with suppress(TimeoutError):
            wait_for(are_all_there)
        for one in kept:
            found = lines[one.nonce]
            if len(found) != 1 and one.nonce in asked:
                self.problems.append(f"{len(found)} lines in the log for {one}")
            for record in found:
                self._compare(one, record, accounts.seen[one.nonce])

    def _compare(self, one: Outcome, record: dict[str, str], seen: int) -> None:
        end = record["end"]
        if one.end == "whole" and end != "ok":
            self.problems.append(f"the log says {record} of {one}")
        if one.end in ("error", "refused") and end in ("ok", "caller_gone"):
            self.problems.append(f"the log says {record} of {one}")
        if one.end == "refused" and record["status"] != str(one.status):
            self.problems.append(f"the log says {record} of {one}")
        if seen > int(record["attempts"]):
            self.problems.append(f"the account got {seen} requests: {record}")

    def _check_idle(
        self, gateway: Gateway, accounts: Accounts, descriptors: int, place: str
    ) -> None:
        """Nothing is held when nobody calls."""
        held: list[str] = []

        def is_idle() -> bool:
            held[:] = self._held(gateway, accounts, descriptors, place)
            return not held

        with suppress(TimeoutError):
            wait_for(is_idle)
        self.problems += held

    def _held(
        self, gateway: Gateway, accounts: Accounts, descriptors: int, place: str
    ) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "proxy", "status", "--json", "--port", str(gateway.port)],
            cwd=ROOT,
            env=environment(XDG_RUNTIME_DIR=place),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if done.returncode:
            return [f"poolproxy status: {done.stderr}"]
        told = json.loads(done.stdout)["workers"]
        held = []
        if len(told) != self._workers:
            held.append(f"{len(told)} workers answer")
        for worker in told:
            held += [
                f"worker {worker['pid']}: {facts['client']} has {facts['in_flight']} in flight"
                for facts in worker["clients"]
                if facts["in_flight"]
            ]
        for pid in gateway.workers():
            # A thread that has ever waited keeps a bell.
            most = descriptors + accounts.connections_open + _threads(pid) + SPARE_DESCRIPTORS
            most += MOST_LINKS if self._state else 0
            if (there := _descriptors(pid)) > most:
                kinds = _kinds(pid)
                held.append(f"{pid} has {there} descriptors, {descriptors} at its start: {kinds}")
        return held

    def _check_memory(self, memory: list[tuple[float, float]]) -> None:
        third = len(memory) // 3
        if third < 10:
            return
        early, middle, late = (
            [statistics.median(values) for values in zip(*part, strict=True)]
            for part in (memory[:third], memory[third : 2 * third], memory[-third:])
        )
        figures = [[round(value) for value in part] for part in (early, middle, late)]
        self.figures["memory by thirds, MB in all and of threads"] = figures
        if late[0] - late[1] > (early[0] - early[1]) * 1.1 + GROWTH_MB * self._workers:
            self.problems.append(f"memory grew (in all, of threads): {figures} MB")


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except FileNotFoundError:
        return 0


def _threads(pid: int) -> int:
    with suppress(FileNotFoundError):
        return len(os.listdir(f"/proc/{pid}/task"))
    return 0


def _kinds(pid: int) -> dict[str, int]:
    """How many descriptors of each kind."""
    return dict(Counter(link.partition("[")[0] for link in links(pid)))


def _memory_mb(pids: Iterable[int]) -> float:
    """The proportional memory of processes."""
    total_kb = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total_kb += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total_kb / 1024
