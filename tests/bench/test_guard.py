"""Speed cannot get lost unnoticed: CPU time against the naive proxy of the same run.

Each figure is the best of several interleaved rounds, so that what else runs there counts little;
more of them are run while the limit is not kept.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from bench import measure, messages
from bench.load import Scenario
from bench.processes import generating, mock_upstream
from bench.rows import cost, stream_at_once
from bench.targets import Pool, Running, running
from proxy.server.settings import SPARE_THREADS
from tests.support.commandline import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROUNDS = 8
MOST_OF_A_REQUEST = 0.4
MOST_OF_A_CHUNK = 0.7
CHUNKS = 400
STREAMS = 2_000


def request_us(target: Running) -> float:
    """CPU time of a unary request of 1 KB, 16 callers."""
    scenario = Scenario(
        port=target.port, model=messages.UNARY, callers=16, seconds=1.0, headers=target.headers
    )
    return cost(target, scenario).each(1e-6)


def chunk_us(target: Running) -> float:
    """CPU time of a chunk in a burst, 32 streams."""
    scenario = Scenario(
        port=target.port,
        model=messages.BURST,
        callers=32,
        seconds=1.0,
        stream=True,
        chunks=CHUNKS,
        headers=target.headers,
    )
    return cost(target, scenario).each(1e-6, CHUNKS)


def test_cost_stays_below_the_naive_proxys() -> None:
    """At most 0.4 of its CPU time for a request, 0.7 for a chunk."""
    requests: dict[str, list[float]] = {"naive": [], "poolproxy": []}
    chunks: dict[str, list[float]] = {"naive": [], "poolproxy": []}
    with (
        mock_upstream() as (_, port),
        running("naive", port) as naive,
        running("poolproxy", port) as ours,
    ):
        for target in (naive, ours):  # threads, connections and lists of models are made
            request_us(target)
        for number in range(ROUNDS):
            for target in (naive, ours):
                requests[target.name].append(request_us(target))
                chunks[target.name].append(chunk_us(target))
            of_request = min(requests["poolproxy"]) / min(requests["naive"])
            of_chunk = min(chunks["poolproxy"]) / min(chunks["naive"])
            if number > 1 and of_request <= MOST_OF_A_REQUEST and of_chunk <= MOST_OF_A_CHUNK:
                break
    print(f"of the naive proxy's: request {of_request:.2f}, chunk {of_chunk:.2f}")
    assert of_request <= MOST_OF_A_REQUEST
    assert of_chunk <= MOST_OF_A_CHUNK


def test_two_thousand_streams_are_whole_and_need_no_more_the_next_time() -> None:
    """One worker serves them all at once; memory and threads do not grow from run to run."""
    with (
        mock_upstream() as (_, port),
        running("poolproxy", port, pool=Pool(permits=0, in_flight=STREAMS)) as target,
    ):
        runs = [stream_at_once(target, streams=STREAMS, chunks=24) for _ in range(3)]
    assert [run.outcome.whole for run in runs] == [STREAMS] * 3
    # The server's own few beside those for requests.
    assert max(run.peak_threads for run in runs) <= STREAMS + SPARE_THREADS + 8
    assert runs[2].peak_kb <= 1.1 * runs[1].peak_kb


def test_streams_catch_up_after_a_stall() -> None:
    """A worker that stood still wakes with 2,000 threads that want the interpreter at once."""
    with (
        mock_upstream() as (_, port),
        running("poolproxy", port, pool=Pool(permits=0, in_flight=STREAMS)) as target,
    ):
        (worker,) = set(measure.tree(target.pid)) - {target.pid}
        scenario = Scenario(
            port=target.port,
            model=messages.PACED_250_MS,
            callers=STREAMS,
            requests=STREAMS,
            stream=True,
            chunks=48,
            headers=target.headers,
        )
        with generating(scenario) as load:
            wait_for(
                lambda: measure.threads(worker) > STREAMS,
                lambda: f"{measure.threads(worker)} threads",
            )
            os.kill(worker, signal.SIGSTOP)
            time.sleep(0.5)  # is the stall
            os.kill(worker, signal.SIGCONT)
            outcome = load.outcome()
    assert (outcome.whole, outcome.losses) == (STREAMS, {})


def test_caller_over_the_limit_is_refused_at_once() -> None:
    """503 with a hint, while all places are taken."""
    with (
        mock_upstream() as (_, port),
        running("poolproxy", port, pool=Pool(permits=0, in_flight=50)) as target,
    ):
        run = stream_at_once(target, streams=200, chunks=8)
    assert run.outcome.whole >= 50
    assert run.outcome.lost
    assert all("503" in why for why in run.outcome.losses)
