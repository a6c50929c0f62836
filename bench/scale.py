"""What `state` costs: one pool over many processes, through a Redis on the same machine.

The same process with and without it; eight processes that contend for ten permits; a thousand
clients; a thousand models that are awaited. Redis tells what it had to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import measure, messages, report
from bench.load import Outcome, Scenario
from bench.processes import ROOT, BenchError, end, generating, mock_upstream
from bench.rows import cost
from bench.targets import Pool, Running, running

_CALLERS = 16
_PROCESSES = 8
_CONTENDED = Pool(clients=10, permits=1)
_CONTENDERS = 64
# What of the pool alone: processes, threads in each, and ms for which a lease is kept.
_LENDING = (
    ("one caller", 1, 1, 0),
    (f"{_PROCESSES} processes, 10 permits of 10 ms", _PROCESSES, 5, 10),
)
_BEGIN_S = 1.5
_GRACE_S = 4.0  # a server that was just started may have lost what processes hold
_CLIENTS = (10, 1000)
_AWAITED = 1000
_HELD_CHUNKS = 7  # a chunk each 5 s
_START_S = 10.0
_SETTLE_S = 6.0  # until a process that 2,000 requests have reached at once has answered them

_EXPLANATION = """\
Written by `make bench-scale`. Medians of interleaved rounds, everything on loopback; what is in
other sections is without `state`. Redis keeps nothing on disk. A request asks it twice: it awaits a
client, and gives it back without waiting for the answer."""


class Redis:
    """A running one, without any persistence. Its counters are those since the last look."""

    def __init__(self, process: subprocess.Popen[bytes], tcp: str, unix: str) -> None:
        from redis import Redis as Connection

        self.pid = process.pid
        self.tcp = tcp
        self.unix = unix
        self._asked = Connection.from_url(unix)

    def info(self, section: str) -> dict[str, Any]:
        return dict(self._asked.info(section))

    def commands(self) -> dict[str, Any]:
        """What it did since the last time it was asked: calls and us, by command."""
        found = self.info("commandstats")
        self._asked.config_resetstat()
        return found

    def empty(self) -> None:
        self._asked.flushall()


@contextlib.contextmanager
def redis_server() -> Iterator[Redis]:
    """Run one of the benchmark's own; raises BenchError if there is none."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise BenchError("there is no redis-server: install it (Debian: apt install redis-server)")
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        path = Path(place, "redis.sock")
        options = {"--port": str(port), "--unixsocket": str(path), "--save": "", "--dir": place}
        process = subprocess.Popen(
            [program, "--bind", "127.0.0.1", *(word for pair in options.items() for word in pair)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            until = time.monotonic() + _START_S
            while not path.exists():
                if process.poll() is not None or time.monotonic() > until:
                    raise BenchError("redis-server did not start")
                time.sleep(0.01)
            yield Redis(process, f"redis://127.0.0.1:{port}/0", f"unix://{path}")
        finally:
            end(process)


@dataclass(frozen=True)
class Point:
    """What requests cost, in one round."""

    outcome: Outcome
    cpu_us: float  # of the gateway, for a request
    redis_us: float  # CPU time of Redis, for a request
    calls: float  # of scripts, for a request
    script_us: float  # of a call, by Redis's own clock


class Scale:
    """Asks the questions one by one; each returns a table, and prints it."""

    def __init__(self, upstream_port: int, redis: Redis, *, rounds: int, seconds: float) -> None:
        self._upstream_port = upstream_port
        self._redis = redis
        self._rounds = rounds
        self._seconds = seconds
        self.losses: Counter[str] = Counter()

    def lending(self) -> list[list[str]]:
        """The pool alone: leases without requests."""
        lines = [["the pool alone", "leases/s", "wait p50 us", "p99 us"]]
        lines[0] += ["give back p50 us", "CPU us of Redis", "calls"]
        for name, url in (("Unix socket", self._redis.unix), ("TCP", self._redis.tcp)):
            for what, processes, threads, hold_ms in _LENDING:
                rounds = [self._lend(url, processes, threads, hold_ms) for _ in range(self._rounds)]
                cells = [_median(each) for each in zip(*rounds, strict=True)]
                lines.append([f"{what}, {name}", *(f"{cell:,.0f}" for cell in cells[:-1])])
                lines[-1].append(f"{cells[-1]:.2f}")
        return lines

    def _lend(self, url: str, processes: int, threads: int, hold_ms: float) -> tuple[float, ...]:
        """Leases a second, their waits, what giving one back takes, and what Redis does for one."""
        begins_at = time.time() + _BEGIN_S + processes / 4
        words = [url, str(threads), str(hold_ms), str(begins_at), str(self._seconds)]
        asked = [sys.executable, "-m", "bench.lending", *words]
        lenders = [
            subprocess.Popen(asked, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(processes)
        ]
        try:
            time.sleep(max(0.0, begins_at - time.time()))
            self._redis.commands()
            before_s = measure.cpu_s(self._redis.pid)
            found = [json.loads(lender.communicate(timeout=_START_S + 60)[0]) for lender in lenders]
            redis_s = measure.cpu_s(self._redis.pid) - before_s
        finally:
            for lender in lenders:
                end(lender)
        waits = sorted(wait for one in found for wait in one["waits"])
        releases = [took for one in found for took in one["releases"]]
        count = len(waits)
        calls, _ = _scripts(self._redis.commands())
        times = (_median(waits), waits[int(count * 0.99)], _median(releases))
        in_us = [1e6 * took for took in times]
        return count / self._seconds, *in_us, redis_s * 1e6 / count, calls / count

    def one_process(self) -> list[list[str]]:
        """With and without, in turn."""
        states = {"no `state`": "", "Unix socket": self._redis.unix, "TCP": self._redis.tcp}
        found: dict[str, list[tuple[Point, Point]]] = defaultdict(list)
        with contextlib.ExitStack() as stack:
            targets = {
                name: stack.enter_context(self._running(Pool(state=state)))
                for name, state in states.items()
            }
            for _ in range(self._rounds):
                for name, target in targets.items():
                    one = self._point(target, callers=1)
                    found[name].append((one, self._point(target, callers=_CALLERS)))
        without = _median(one.outcome.median_ms for one, _ in found["no `state`"])
        rows: dict[str, list[str]] = defaultdict(list)
        for points in found.values():
            ones, many = zip(*points, strict=True)
            p50 = _median(one.outcome.median_ms for one in ones)
            rows["p50 ms, one caller"].append(f"{p50:.2f}")
            rows["added by `state`, ms"].append(f"{p50 - without:.2f}")
            cpu = _median(one.cpu_us for one in many)
            rows[f"CPU us of the gateway per request, {_CALLERS} callers"].append(f"{cpu:.0f}")
            redis_us = _median(one.redis_us for one in many)
            rows["CPU us of Redis per request"].append(f"{redis_us:.0f}")
            rows["calls of scripts per request"].append(f"{_median(p.calls for p in many):.2f}")
            rows["us per call, by Redis"].append(f"{_median(p.script_us for p in many):.0f}")
            per_second = _median(one.outcome.per_second for one in many)
            rows["requests/s"].append(f"{per_second:,.0f}")
        return [["one process", *found], *([title, *cells] for title, cells in rows.items())]

    def contended(self) -> list[list[str]]:
        """Ten permits, 64 callers; beside it one process that needs no state to be exact."""
        variants = {
            "one process, no `state`": (1, ""),
            f"{_PROCESSES} processes, Unix socket": (_PROCESSES, self._redis.unix),
            f"{_PROCESSES} processes, TCP": (_PROCESSES, self._redis.tcp),
        }
        found: dict[str, list[Point]] = defaultdict(list)
        for _ in range(self._rounds):
            for name, (workers, state) in variants.items():
                with self._running(replace(_CONTENDED, state=state), workers=workers) as target:
                    found[name].append(self._point(target, callers=_CONTENDERS))
        lines = [
            [
                f"{_CONTENDED.clients} permits, {_CONTENDERS} callers",
                *("requests/s", "p50 ms", "p99 ms", "CPU us of Redis", "calls"),
            ]
        ]
        for name, points in found.items():
            cells = [f"{_median(one.outcome.per_second for one in points):,.0f}"]
            cells += [f"{_median(one.outcome.median_ms for one in points):.1f}"]
            cells += [f"{_median(one.outcome.p99_ms for one in points):.1f}"]
            cells += [f"{_median(one.redis_us for one in points):.0f}"]
            lines.append([name, *cells, f"{_median(one.calls for one in points):.2f}"])
        return lines

    def clients(self) -> list[list[str]]:
        """What the first request of a model has to upload, and what one is then worth."""
        lines = [["clients", "first request, ms", "p50 ms", "CPU us of Redis", "KB in Redis"]]
        for count in _CLIENTS:
            firsts, points, sizes = [], [], []
            for _ in range(self._rounds):
                self._redis.empty()
                pool = Pool(clients=count, state=self._redis.unix)
                with running("poolproxy", self._upstream_port, pool=pool) as target:
                    before = self._redis.info("memory")["used_memory_dataset"]
                    first = Scenario(port=target.port, model=messages.UNARY, callers=1, requests=1)
                    firsts.append(cost(target, first).outcome.median_ms)
                    sizes.append(
                        (self._redis.info("memory")["used_memory_dataset"] - before) / 1024
                    )
                    points.append(self._point(target, callers=1))
            cells = [f"{_median(firsts):.1f}"]
            cells += [f"{_median(one.outcome.median_ms for one in points):.2f}"]
            cells += [f"{_median(one.redis_us for one in points):.0f}"]
            lines.append([f"{count:,}", *cells, f"{_median(sizes):.0f}"])
        return lines

    def awaited(self, count: int) -> list[list[str]]:
        """Requests for one model while so many others are awaited, in the same process.

        Its other 2,000 requests look again every 5 s, nearly all at once, so that calls are theirs
        too: the measure takes that in twice.
        """
        lines = [["other models that are awaited", "p50 ms", "p99 ms", "us per call, by Redis"]]
        pool = Pool(slow=count, in_flight=2 * count + 100, state=self._redis.unix)
        held = Scenario(
            port=0,
            model="slow",
            models=count,
            callers=2 * count,
            requests=2 * count,
            stream=True,
            chunks=_HELD_CHUNKS,
        )
        with self._running(pool) as target:
            before = self._point(target, callers=1)
            with generating(replace(held, port=target.port)):
                self._wait_until_awaited(count)
                time.sleep(_SETTLE_S)
                after = self._point(target, callers=1, seconds=5 * self._seconds)
        points = {"0": before, f"{count:,}": after}
        for name, point in points.items():
            cells = [f"{point.outcome.median_ms:.2f}", f"{point.outcome.p99_ms:.2f}"]
            lines.append([name, *cells, f"{point.script_us:.0f}"])
        return lines

    def _wait_until_awaited(self, count: int) -> None:
        """Block until two requests of each model have asked Redis."""
        self._redis.commands()
        until, calls = time.monotonic() + 60, 0
        while calls < 2 * count:
            if time.monotonic() > until:
                raise BenchError(f"of {2 * count} requests {calls} have asked")
            time.sleep(0.1)
            calls = _scripts(self._redis.info("commandstats"))[0]

    @contextlib.contextmanager
    def _running(self, pool: Pool, *, workers: int = 1) -> Iterator[Running]:
        """A target that is warm."""
        with running("poolproxy", self._upstream_port, pool=pool, workers=workers) as target:
            warm = Scenario(
                port=target.port, model=messages.UNARY, callers=_CALLERS, seconds=self._seconds / 4
            )
            self.losses.update(cost(target, warm).outcome.losses)
            yield target

    def _point(self, target: Running, *, callers: int, seconds: float | None = None) -> Point:
        self._redis.commands()
        before_s = measure.cpu_s(self._redis.pid)
        run = cost(
            target,
            Scenario(
                port=target.port,
                model=messages.UNARY,
                callers=callers,
                seconds=seconds or self._seconds,
            ),
        )
        redis_s = measure.cpu_s(self._redis.pid) - before_s
        calls, us = _scripts(self._redis.commands())
        self.losses.update(run.outcome.losses)
        whole = run.outcome.whole or 1
        return Point(
            run.outcome, run.each(1e-6), redis_s * 1e6 / whole, calls / whole, us / max(calls, 1)
        )


def _scripts(commands: dict[str, Any]) -> tuple[int, float]:
    """How many calls of scripts, and us in them."""
    found = [commands[name] for name in ("cmdstat_evalsha", "cmdstat_fcall") if name in commands]
    return sum(one["calls"] for one in found), sum(one["usec"] for one in found)


def _median(values: Any) -> float:
    return float(statistics.median(list(values)))


def run(out: Path, *, rounds: int | None, quick: bool) -> int:
    """Ask all the questions; 1 if any answer was lost. Writes its section, unless quick."""
    start, load_before = time.monotonic(), os.getloadavg()[0]
    rounds = 1 if quick else rounds or 3
    tables: list[Sequence[Sequence[str]]] = []
    with mock_upstream() as (_, port), redis_server() as redis:
        time.sleep(_GRACE_S)
        scale = Scale(port, redis, rounds=rounds, seconds=0.2 if quick else 2.0)
        awaited = 50 if quick else _AWAITED
        for question in (
            scale.lending,
            scale.one_process,
            scale.contended,
            scale.clients,
            lambda: scale.awaited(awaited),
        ):
            tables.append(question())
            print(report.plain(tables[-1]), end="\n\n")
            sys.stdout.flush()
    for why, count in scale.losses.most_common():
        print(f"lost: {why}: {count:,}")
    if not quick:
        took_s = time.monotonic() - start
        facts = report.facts(
            ["poolproxy", "redis"], rounds=rounds, took_s=took_s, load_before=load_before
        )
        parts = [report.SCALE, _EXPLANATION, facts, *map(report.markdown, tables)]
        page = out.read_text() if out.exists() else "# Benchmark results\n"
        out.write_text(report.with_scale(page, "\n\n".join(parts) + "\n"))
    return 1 if scale.losses else 0
