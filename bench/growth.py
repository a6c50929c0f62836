"""What a request costs as something else grows: clients, models, requests, waiters, body size.

Nothing here should grow by more than a fifth. The variants of one question run side by side in
interleaved rounds, so that what differs is the variant and not the minute.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench import measure, messages
from bench.load import Scenario
from bench.processes import mock_upstream
from bench.report import plain
from bench.rows import cost, stream_at_once
from bench.targets import Pool, Running, alias_of, running

_ALLOWED = 1.2
_CALLERS = 16
_CLIENTS = (1, 10, 100, 1000)
_MODELS = (1, 100, 10_000)
_WAITERS = (10, 100, 500)
_OF_EACH_WAITER = 40
_BODY_KB = (16, 256, 1024, 2048, 4096, 8192)
_BODY_CALLERS = 4
_REQUESTS = (2_000, 10_000, 50_000)
_MILLION = (200_000, 1_000_000)
_AT_A_MARK = 2_000  # requests measured there
_STREAMS = 2_000
_STREAM_RUNS = 3
_STREAM_CHUNKS = 12
_QUICK_FACTOR = 20


@dataclass(frozen=True)
class Variant:
    """One value of what grows, and how to measure it."""

    label: str
    target: Running
    scenario: Scenario


@dataclass(frozen=True)
class Point:
    """What a request costs at one value."""

    label: str
    cpu_us: float
    per_second: float


class Growth:
    """Asks the questions one by one and prints a table for each."""

    def __init__(self, upstream_port: int, *, rounds: int, quick: bool, million: bool) -> None:
        self._upstream_port = upstream_port
        self._rounds = 1 if quick else rounds
        self._seconds = 0.15 if quick else 1.2
        self._scale = _QUICK_FACTOR if quick else 1
        self._marks = _REQUESTS + (_MILLION if million else ())
        self.losses: Counter[str] = Counter()

    def clients(self) -> None:
        """From one client of a provider to a thousand."""
        self._compare(
            "clients in the pool",
            [(f"{n:,}", Pool(clients=n), messages.UNARY) for n in _CLIENTS],
        )

    def models(self) -> None:
        """From one alias to ten thousand; the last one is asked for."""
        self._compare(
            "models",
            [(f"{n:,}", Pool(aliases=n), alias_of(n - 1)) for n in _MODELS],
        )

    def _compare(self, title: str, pools: Sequence[tuple[str, Pool, str]]) -> None:
        with contextlib.ExitStack() as stack:
            variants = [
                Variant(label, target, self._scenario(target, model=model))
                for label, pool, model in pools
                for target in [stack.enter_context(self._running(pool))]
            ]
            _show(title, self._measure(variants))

    def waiting(self) -> None:
        """From ten callers waiting for the one permit that there is to 500."""
        with self._running(Pool(clients=1, permits=1)) as target:
            _show(
                "callers waiting in the queue",
                self._measure(
                    [
                        Variant(f"{n:,}", target, self._each_caller(target, callers=n + 1))
                        for n in _WAITERS
                    ]
                ),
            )

    def bodies(self) -> None:
        """From 16 KB to 8 MB: what one more KB costs should not depend on the size."""
        with self._running(Pool()) as target:
            points = self._measure(
                [
                    Variant(
                        str(kb),
                        target,
                        self._scenario(target, callers=_BODY_CALLERS, body_bytes=kb << 10),
                    )
                    for kb in _BODY_KB
                ]
            )
        lines = [["request body, KB", "CPU us", "requests/s", "us per KB more", "ratio", ""]]
        first_slope = 0.0
        for point, smaller in zip(points, [None, *points], strict=False):
            slope, ratio = "", ""
            if smaller:
                per_kb = (point.cpu_us - smaller.cpu_us) / (int(point.label) - int(smaller.label))
                first_slope = first_slope or per_kb
                slope, ratio = f"{per_kb:.2f}", f"{per_kb / first_slope:.2f}"
            cells = [f"{int(point.label):,}", f"{point.cpu_us:.0f}", f"{point.per_second:,.0f}"]
            lines.append([*cells, slope, ratio, _flag(float(ratio or 1))])
        print(plain(lines), end="\n\n")

    def requests(self) -> None:
        """From the first requests to the last; memory too."""
        lines = [["requests served", "CPU us", "requests/s", "MB", "ratio", ""]]
        first, served = 0.0, 0
        with self._running(Pool()) as target:
            for mark in self._marks:
                behind = mark // self._scale - served - _AT_A_MARK // self._scale
                if behind > 0:
                    self._run(target, self._counted(target, behind))
                point = self._measure_once(
                    f"{mark // self._scale:,}",
                    target,
                    self._counted(target, _AT_A_MARK // self._scale),
                )
                served = mark // self._scale
                first = first or point.cpu_us
                ratio = point.cpu_us / first
                memory = f"{measure.pss_kb(target.pid) / 1024:.1f}"
                cells = [point.label, f"{point.cpu_us:.0f}", f"{point.per_second:,.0f}", memory]
                lines.append([*cells, f"{ratio:.2f}", _flag(ratio)])
        print(plain(lines), end="\n\n")

    def streams(self) -> None:
        """The same many streams again and again: what the first run needed is enough."""
        count = _STREAMS // self._scale
        lines = [["streams, run", "whole", "CPU s", "MB", "threads", "MB ratio", ""]]
        first_kb = 0.0
        with self._running(Pool(in_flight=_STREAMS + _CALLERS)) as target:
            for number in range(1, _STREAM_RUNS + 1):
                run = stream_at_once(target, streams=count, chunks=_STREAM_CHUNKS)
                self.losses.update(run.outcome.losses)
                first_kb = first_kb or run.peak_kb
                ratio = run.peak_kb / first_kb
                cells = [f"{count:,}, {number}", f"{run.outcome.whole:,}", f"{run.cpu_s:.1f}"]
                cells += [f"{run.peak_kb / 1024:.1f}", f"{run.peak_threads:,}", f"{ratio:.2f}"]
                lines.append([*cells, _flag(ratio)])
        print(plain(lines), end="\n\n")

    @contextlib.contextmanager
    def _running(self, pool: Pool) -> Iterator[Running]:
        """A target that is warm: its threads, its connections, its lists of models."""
        with running("poolproxy", self._upstream_port, pool=pool) as target:
            model = alias_of(pool.aliases - 1)
            self._run(target, self._scenario(target, model=model, seconds=self._seconds / 4))
            yield target

    def _scenario(
        self,
        target: Running,
        *,
        model: str = messages.UNARY,
        callers: int = _CALLERS,
        seconds: float | None = None,
        body_bytes: int = 1024,
    ) -> Scenario:
        return Scenario(
            port=target.port,
            model=model,
            callers=callers,
            seconds=self._seconds if seconds is None else seconds,
            body_bytes=body_bytes,
        )

    def _counted(self, target: Running, requests: int, *, callers: int = _CALLERS) -> Scenario:
        return Scenario(
            port=target.port,
            model=messages.UNARY,
            callers=callers,
            requests=requests,
            give_up_s=3600.0,
        )

    def _each_caller(self, target: Running, *, callers: int) -> Scenario:
        """So many requests of each that its connection and its thread are a small part of them."""
        each = max(1, _OF_EACH_WAITER // self._scale)
        return self._counted(target, each * callers, callers=callers)

    def _measure(self, variants: Sequence[Variant]) -> list[Point]:
        """Medians of interleaved rounds."""
        found: dict[str, list[Point]] = {variant.label: [] for variant in variants}
        for _ in range(self._rounds):
            for variant in variants:
                point = self._measure_once(variant.label, variant.target, variant.scenario)
                found[variant.label].append(point)
        return [
            Point(
                label,
                statistics.median(point.cpu_us for point in points),
                statistics.median(point.per_second for point in points),
            )
            for label, points in found.items()
        ]

    def _measure_once(self, label: str, target: Running, scenario: Scenario) -> Point:
        run = cost(target, scenario)
        self.losses.update(run.outcome.losses)
        return Point(label, run.each(1e-6), run.outcome.per_second)

    def _run(self, target: Running, scenario: Scenario) -> None:
        self.losses.update(cost(target, scenario).outcome.losses)


def _show(title: str, points: Sequence[Point]) -> None:
    lines = [[title, "CPU us", "requests/s", "ratio", ""]]
    for point in points:
        ratio = point.cpu_us / points[0].cpu_us
        cells = [point.label, f"{point.cpu_us:.0f}", f"{point.per_second:,.0f}", f"{ratio:.2f}"]
        lines.append([*cells, _flag(ratio)])
    print(plain(lines), end="\n\n")


def _flag(ratio: float) -> str:
    return "grows" if ratio > _ALLOWED else ""


def run(*, rounds: int, quick: bool, million: bool) -> int:
    """Ask all the questions; 1 if any answer was not whole, right and in time."""
    with mock_upstream() as (_, port):
        growth = Growth(port, rounds=rounds, quick=quick, million=million)
        for question in (
            growth.clients,
            growth.models,
            growth.waiting,
            growth.bodies,
            growth.streams,
            growth.requests,
        ):
            question()
            sys.stdout.flush()
    for why, count in growth.losses.most_common():
        print(f"not whole, right and in time: {why}: {count:,}")
    return 1 if growth.losses else 0
