"""The rows of the table: what each measures, and how a target is put through all of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import measure, messages
from bench.load import Outcome, Scenario
from bench.processes import generate, generating
from bench.targets import Pool, Running, running

_LARGE_BODY = 2 << 20
_SETTLE_S = 0.05  # what a target does after its last answer belongs to the run
_IDLE_S = 0.5  # after the first answer, before memory is read
_STREAMS = 32
_UNARY_CALLERS = 16
_MANY_CALLERS = 32
_LARGE_CALLERS = 4
_PACE_S = 0.25  # of messages.PACED_250_MS
_GIVE_UP_S = Scenario.give_up_s
_MUTEX_CLIENTS = 4
_MUTEX_CALLERS = 32
_MUTEX_CHUNKS = 10
_MUTEX_STREAM_S = (_MUTEX_CHUNKS - 1) * 0.01  # of messages.MUTEX_10_MS; the first comes at once

OURS = ("poolproxy", "unpinned")
# Who makes answers of chat out of a Claude upstream's here, and who can be told that a client takes
# one request at a time.
TRANSLATE = (*OURS, "litellm", "portkey")
HAVE_LOCKS = (*OURS, "litellm")


@dataclass(frozen=True)
class Effort:
    """How much of everything: enough for numbers that repeat, or just enough to run it all.

    A chunk's cost has its share of its request's in it: 400 and 100 chunks are answers of the
    length that people get.
    """

    rounds: int = 3
    seconds: float = 1.2
    warm_up_s: float = 0.3
    burst_chunks: int = 400
    paced_chunks: int = 100
    first_events: int = 40
    streams: int = 1000
    stream_chunks: int = 40
    mutex_requests: int = 128


FULL = Effort()
QUICK = Effort(
    rounds=1,
    seconds=0.2,
    warm_up_s=0.1,
    burst_chunks=50,
    paced_chunks=10,
    first_events=5,
    streams=50,
    stream_chunks=3,
    mutex_requests=16,
)


@dataclass(frozen=True)
class Row:
    """One line of the table. `over_direct`: shown as what is added to the mock's own answer."""

    key: str
    title: str
    digits: int
    over_direct: bool = False
    compared: bool = True  # with the naive proxy


def rows(effort: Effort) -> list[Row]:
    """The lines in their order."""
    many = f"{effort.streams:,} streams at once, a chunk each 250 ms"
    in_time = f"finished within {_GIVE_UP_S:g} s of its due time"
    locks = f"{_MUTEX_CLIENTS} clients of one request each, {_MUTEX_CALLERS} callers"
    return [
        Row("unary_ms", "CPU ms per request, 1 KB, 16 callers", 3),
        Row("p50_ms", "added p50 ms, one caller", 2, over_direct=True),
        Row("large_ms", "CPU ms, 2 MB request body, 4 callers", 1),
        Row("burst_us", "CPU us per chunk, 32 streams, burst", 1),
        Row("paced_us", "the same, a chunk each 10 ms", 1),
        Row("tls_ms", "CPU ms per request, 1 KB, 16 callers, TLS upstream", 3),
        Row("tls_burst_us", "CPU us per chunk, 32 streams, burst, TLS upstream", 1),
        Row("claude_us", "the burst made into chat, from Claude", 1, compared=False),
        Row("gemini_us", "the burst made into chat, from Gemini", 1, compared=False),
        Row("responses_us", "the burst made into Responses, from chat", 1, compared=False),
        Row("messages_us", "the burst made into Messages, from chat", 1, compared=False),
        Row("first_ms", "added time to first token, ms", 2, over_direct=True),
        Row("streams", f"{many}: {in_time}", 0, compared=False),
        Row("streams_cpu_s", f"{many}: CPU s", 1),
        Row("streams_kb", f"{many}: KB per stream", 0),
        Row("mutex_busy", f"{locks}: part of the time at work, %", 0, compared=False),
        Row("mutex_longest", f"{locks}: longest answer / median", 2, compared=False),
        Row("mutex_ms", f"{locks}: CPU ms per request", 2, compared=False),
        Row("boot_s", "boot, s", 2),
        Row("idle_mb", "idle, MB (proportional set size)", 0),
    ]


@dataclass
class Sample:
    """What one target showed in one round."""

    values: dict[str, float] = field(default_factory=dict)
    losses: Counter[str] = field(default_factory=Counter)  # by row and reason


@dataclass(frozen=True)
class Cost:
    """A run and the CPU time that the target's processes used for it."""

    outcome: Outcome
    cpu_s: float

    def each(self, unit: float, parts: int = 1) -> float:
        """CPU time per `parts`th of a request, in `unit` of a second; NaN if nothing came back."""
        whole = self.outcome.whole * parts
        return self.cpu_s / unit / whole if whole else float("nan")


def cost(target: Running, scenario: Scenario) -> Cost:
    """Run a scenario on a target to its end, and count."""
    before = measure.cpu_s(target.pid)
    outcome = generate(scenario)
    time.sleep(_SETTLE_S)
    return Cost(outcome, measure.cpu_s(target.pid) - before)


@dataclass(frozen=True)
class StreamCost(Cost):
    """The same for many streams at once, with what was held while all of them ran."""

    before_kb: float  # proportional set size
    peak_kb: float
    peak_threads: int


def stream_at_once(target: Running, *, streams: int, chunks: int) -> StreamCost:
    """Run so many streams with a chunk each 250 ms; memory is read when all should be running."""
    at_least_s = chunks * _PACE_S
    scenario = Scenario(
        port=target.port,
        model=messages.PACED_250_MS,
        callers=streams,
        requests=streams,
        due_s=at_least_s,
        stream=True,
        chunks=chunks,
        headers=target.headers_for(messages.PACED_250_MS),
    )
    before_kb, before_s = measure.pss_kb(target.pid), measure.cpu_s(target.pid)
    with generating(scenario) as load:
        time.sleep(at_least_s * 0.8)
        peak_kb, peak_threads = measure.pss_kb(target.pid), measure.threads(target.pid)
        outcome = load.outcome()
    time.sleep(_SETTLE_S)
    cpu_s = measure.cpu_s(target.pid) - before_s
    return StreamCost(outcome, cpu_s, before_kb, peak_kb, peak_threads)


class Measurement:
    """Puts one running target through rows, into one sample."""

    def __init__(self, target: Running, effort: Effort, sample: Sample) -> None:
        self._target = target
        self._effort = effort
        self._sample = sample

    def latencies(self) -> None:
        """p50 and time to first token: all that can be said of the mock without a gateway."""
        self._warm_up()
        one = self._cost("p50_ms", callers=1, seconds=self._effort.seconds / 2)
        self._set("p50_ms", one.outcome.median_ms if one.outcome.whole else float("nan"))
        first = self._cost(
            "first_ms",
            model=messages.PACED_10_MS,
            callers=1,
            stream=True,
            chunks=2,
            seconds=0.0,
            due_s=self._effort.first_events * 0.01,
            requests=self._effort.first_events,
        )
        self._set("first_ms", first.outcome.first_event_ms if first.outcome.whole else float("nan"))

    def costs(self) -> None:
        """CPU time of requests and chunks."""
        self._warm_up()
        self._set("unary_ms", self._cost("unary_ms", callers=_UNARY_CALLERS).each(1e-3))
        large = {"callers": _LARGE_CALLERS, "body_bytes": _LARGE_BODY}
        self._cost("large_ms", requests=2 * _LARGE_CALLERS, **large)  # the heap grows to its size
        self._set("large_ms", self._cost("large_ms", **large).each(1e-3))
        self._burst("burst_us")
        if self._target.name in OURS:
            for dialect in (messages.RESPONSES, messages.MESSAGES):
                self._burst(f"{dialect}_us", dialect=dialect)
        chunks = self._effort.paced_chunks
        paced = self._cost(
            "paced_us",
            model=messages.PACED_10_MS,
            callers=_STREAMS,
            requests=_STREAMS,
            seconds=0.0,  # its pace says how long it takes
            due_s=chunks * 0.01,
            stream=True,
            chunks=chunks,
        )
        self._set("paced_us", paced.each(1e-6, parts=chunks))

    def tls(self) -> None:
        """CPU time where the upstream speaks TLS."""
        self._warm_up()
        self._set("tls_ms", self._cost("tls_ms", callers=_UNARY_CALLERS).each(1e-3))
        self._burst("tls_burst_us")

    def translated(self) -> None:
        """CPU time of chunks that other kinds of upstreams sent."""
        self._warm_up()
        self._burst("claude_us", model=messages.CLAUDE)
        if self._target.name in OURS:
            self._burst("gemini_us", model=messages.GEMINI)

    def mutex(self) -> None:
        """How well few clients that take one request at a time are shared by many callers.

        The mock refuses a key's second stream at once: that would be a loss.
        """
        requests = self._effort.mutex_requests
        at_least_s = requests * _MUTEX_STREAM_S / _MUTEX_CLIENTS
        run = self._cost(
            "mutex",
            model=messages.MUTEX_10_MS,
            callers=_MUTEX_CALLERS,
            requests=requests,
            seconds=0.0,
            due_s=at_least_s,
            stream=True,
            chunks=_MUTEX_CHUNKS,
        )
        outcome = run.outcome
        if outcome.whole:
            at_work_s = outcome.whole * _MUTEX_STREAM_S / _MUTEX_CLIENTS
            self._set("mutex_busy", 100 * at_work_s / outcome.elapsed_s)
            self._set("mutex_longest", outcome.longest_ms / outcome.median_ms)
            self._set("mutex_ms", run.each(1e-3))

    def idle(self) -> None:
        """Memory of a target that has only just started."""
        time.sleep(_IDLE_S)
        self._set("boot_s", self._target.boot_s)
        self._set("idle_mb", measure.pss_kb(self._target.pid) / 1024)

    def many_streams(self) -> None:
        """All streams at once: how many came whole, what they cost and what memory they held."""
        self._warm_up()
        streams = self._effort.streams
        run = stream_at_once(self._target, streams=streams, chunks=self._effort.stream_chunks)
        self._lost("streams", run.outcome)
        self._set("streams", run.outcome.whole)
        self._set("streams_cpu_s", run.cpu_s)
        self._set("streams_kb", (run.peak_kb - run.before_kb) / streams)

    def throughput(self, key: str, mock_pid: int) -> None:
        """Requests per second with more callers than any number of workers here could serve.

        And how many there could be at most, if all cores of this machine worked without a pause:
        the mock and the load generator take their part of them.
        """
        self._warm_up()
        before_s = measure.cpu_s(mock_pid)
        run = self._cost(key, callers=_MANY_CALLERS)
        harness_s = measure.cpu_s(mock_pid) - before_s + run.outcome.cpu_s
        self._set(key, run.outcome.per_second)
        cores = len(os.sched_getaffinity(0))
        self._set(f"{key}_most", cores * run.outcome.whole / (run.cpu_s + harness_s))

    def _warm_up(self) -> None:
        self._cost("warm-up", callers=_UNARY_CALLERS, seconds=self._effort.warm_up_s)

    def _burst(self, key: str, **changes: object) -> None:
        chunks = self._effort.burst_chunks
        streams = {"callers": _STREAMS, "stream": True, "chunks": chunks}
        run = self._cost(key, **{"model": messages.BURST, **streams, **changes})
        self._set(key, run.each(1e-6, parts=chunks))

    def _cost(self, key: str, **changes: object) -> Cost:
        run = cost(self._target, self._scenario(**changes))
        self._lost(key, run.outcome)
        return run

    def _scenario(self, **changes: object) -> Scenario:
        settings: dict[str, object] = {
            "port": self._target.port,
            "model": messages.UNARY,
            "seconds": self._effort.seconds,
            "headers": self._target.headers_for(str(changes.get("model"))),
        }
        return Scenario(**(settings | changes))  # type: ignore[arg-type]

    def _set(self, key: str, value: float) -> None:
        self._sample.values[key] = value

    def _lost(self, key: str, outcome: Outcome) -> None:
        self._sample.losses.update({f"{key}: {why}": n for why, n in outcome.losses.items()})


def measure_target(
    name: str, upstream: tuple[int, int], tls: tuple[int, Path], effort: Effort
) -> Sample:
    """One round of one target; the many streams get a fresh process, so that memory is theirs.

    `upstream`: process id and port of the mock. `tls`: port of the one with TLS, and its authority.
    """
    mock_pid, port = upstream
    sample = Sample()

    @contextlib.contextmanager
    def fresh(upstream_port: int = port, **settings: Any) -> Iterator[Measurement]:
        with running(name, upstream_port, **settings) as target:
            yield Measurement(target, effort, sample)

    with fresh() as measurement:
        if name != "direct":
            measurement.idle()
            measurement.costs()
        measurement.latencies()
        if name in OURS:
            measurement.throughput("one_worker", mock_pid)
    if name == "direct":
        return sample
    with fresh() as measurement:
        measurement.many_streams()
    tls_port, authority = tls
    with fresh(tls_port, authority=authority) as measurement:
        measurement.tls()
    if name in TRANSLATE:
        with fresh(pool=Pool(translates=True)) as measurement:
            measurement.translated()
    if name in HAVE_LOCKS:
        with fresh(pool=Pool(clients=_MUTEX_CLIENTS, permits=1)) as measurement:
            measurement.mutex()
    if name in OURS:
        with fresh(workers=2) as measurement:
            measurement.throughput("two_workers", mock_pid)
    return sample
