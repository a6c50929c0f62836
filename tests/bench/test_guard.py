"""Speed cannot get lost unnoticed: CPU time against the naive proxy of the same run, or chat.

Each figure is the best of several interleaved rounds, so that what else runs there counts little;
more of them are run while the limit is not kept.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bench import measure, messages
from bench.load import Scenario
from bench.processes import generating, mock_upstream
from bench.rows import cost, stream_at_once
from bench.targets import Pool, Running, running
from proxy.clients.base import ChunkTranslator
from proxy.dialects.chat import CHAT
from proxy.dialects.messages import MESSAGES
from proxy.dialects.responses import RESPONSES
from proxy.net.watch import CLOCK
from proxy.request.relay import Relay
from proxy.server.settings import SPARE_THREADS
from proxy.wire.chat import ChunkStream
from proxy.wire.claude import answer as claude
from proxy.wire.claude.native import MessageEvents
from proxy.wire.gemini import answer as gemini
from proxy.wire.responses.native import ResponseEvents
from tests.support.commandline import wait_for
from tests.support.dialects import BY_KIND, Said
from tests.support.pool import DEFAULTS
from tests.support.responses_upstream import NATIVE
from tests.support.translators import Pieces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROUNDS = 8
MOST_OF_A_REQUEST = 0.4
MOST_OF_A_CHUNK = 0.7
CHUNKS = 400
STREAMS = 2_000

# In this process, without any socket.
CHUNKS_IN_PROCESS = 3_000
MOST_OF_A_TRANSLATED_CHUNK_US = 15.0
MOST_OF_CHATS = 1.5


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


def unread_streams(upstream_port: int) -> int:
    """On how many connections to an upstream there is something that nobody has read yet."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        int(peer[-4:], 16) == upstream_port and not queues.endswith(":00000000")
        for _, _, peer, _, queues, *_ in rows
    )


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
            try:
                wait_for(
                    lambda: unread_streams(port) == STREAMS,
                    lambda: f"{unread_streams(port)} streams have something to read",
                )
            finally:
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


CALLERS = {"chat": CHAT, "messages": MESSAGES, "responses": RESPONSES}
TRANSLATORS: dict[str, Callable[[], ChunkTranslator]] = {
    "openai": ChunkStream,
    "claude": lambda: claude.ChatStream(model="m", created=1, include_usage=True),
    "gemini": lambda: gemini.ChatStream(
        request=b"{}", model="m", created=1, include_usage=True, reply_id="chatcmpl-1"
    ),
    "native messages": MessageEvents,
    "native responses": ResponseEvents,
}


def spoken(upstream: str) -> list[bytes]:
    """The events of a long answer."""
    said = Said("token " * CHUNKS_IN_PROCESS)
    speaker = {**BY_KIND, "native messages": BY_KIND["claude"], "native responses": NATIVE}
    return [step for step in speaker[upstream].streamed(said).body if isinstance(step, bytes)]


def in_process_us(upstream: str, caller: str, pieces: Sequence[bytes]) -> float:
    """CPU time of an event from the upstream's bytes to the caller's."""
    body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}],"input":"Hi"}'
    writer = CALLERS[caller].read(body, {}).writer()
    writer.begin(0, is_native=upstream.startswith("native"), kind=upstream)
    relay = Relay(Pieces(pieces), TRANSLATORS[upstream](), DEFAULTS, CLOCK, b"")
    size, begun = 0, time.thread_time()
    while not relay.is_over:
        size += len(writer.feed(relay.read(0.0) or ()))
    took_s = time.thread_time() - begun
    assert size > 50 * CHUNKS_IN_PROCESS
    return took_s / len(pieces) * 1e6


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("upstream", BY_KIND)
def test_translated_chunk_costs_little(upstream: str, caller: str) -> None:
    """At most 15 us of CPU time, from any kind of upstream to callers of any dialect."""
    pieces, cost_us = spoken(upstream), math.inf
    for _ in range(ROUNDS):
        cost_us = min(cost_us, in_process_us(upstream, caller, pieces))
        if cost_us <= MOST_OF_A_TRANSLATED_CHUNK_US:
            break
    print(f"{upstream} to {caller}: {cost_us:.1f} us a chunk")
    assert cost_us <= MOST_OF_A_TRANSLATED_CHUNK_US


@pytest.mark.parametrize("caller", ["messages", "responses"])
def test_native_chunk_costs_as_much_as_one_of_chat(caller: str) -> None:
    """But for its second line, which has the event's name."""
    ways = {"openai": "chat", f"native {caller}": caller}
    pieces = {upstream: spoken(upstream) for upstream in ways}
    costs = dict.fromkeys(ways, math.inf)
    for number in range(ROUNDS):
        for upstream, speaks in ways.items():
            cost_us = in_process_us(upstream, speaks, pieces[upstream])
            costs[upstream] = min(costs[upstream], cost_us)
        chat_us, native_us = costs.values()
        if number > 1 and native_us <= MOST_OF_CHATS * chat_us:
            break
    print(f"native {caller}: {native_us:.2f} us a chunk, chat {chat_us:.2f}")
    assert native_us <= MOST_OF_CHATS * chat_us
