"""The benchmark itself: every row starts and counts, and says what it saw and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import messages, peers, report
from bench.load import Scenario
from bench.processes import generate, mock_upstream, tls_upstream
from bench.rows import HAVE_LOCKS, OURS, TRANSLATE, Effort, Sample, measure_target, rows
from bench.targets import available

LEAST = Effort(
    rounds=1,
    seconds=0.1,
    warm_up_s=0.05,
    burst_chunks=5,
    paced_chunks=3,
    first_events=2,
    streams=8,
    stream_chunks=2,
    mutex_requests=8,
)
# Of a target that has to be told of it, or be asked in another way.
OF_SOME = {
    "claude_us": TRANSLATE,
    "gemini_us": OURS,
    "responses_us": OURS,
    "messages_us": OURS,
    "mutex_busy": HAVE_LOCKS,
    "mutex_longest": HAVE_LOCKS,
    "mutex_ms": HAVE_LOCKS,
}

Upstream = tuple[int, int]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with mock_upstream() as mock:
        yield mock


@pytest.fixture(scope="module")
def tls() -> Iterator[tuple[int, Path]]:
    with tls_upstream() as mock:
        yield mock


def check(name: str, sample: Sample) -> None:
    """Every row that the target has is there and counted something; no answer was amiss."""
    # What a peer sends a key beyond what it may have at once, the mock refuses.
    amiss = {loss for loss in sample.losses if name in OURS or not loss.startswith("mutex")}
    assert amiss == set()
    expected = {row.key for row in rows(LEAST) if name in OF_SOME.get(row.key, (name,))}
    if name == "direct":
        expected = {"p50_ms", "first_ms"}
    values = {key: value for key, value in sample.values.items() if "worker" not in key}
    assert values.keys() == expected
    # Memory of so few streams is less than what comes and goes.
    assert {key: value for key, value in values.items() if value <= 0} in (
        {},
        {"streams_kb": values.get("streams_kb")},
    )
    if name != "direct":
        assert values["streams"] == LEAST.streams
        assert values.get("mutex_busy", 0) <= 100
    page = report.page({name: [sample]}, LEAST, took_s=1.0, load_before=0.0)
    is_well = "none: every answer was whole, right and in time" in page
    assert is_well is not bool(sample.losses)
    assert all(f"\n| {row.title} | " in page for row in rows(LEAST))
    assert (f"{name}, 32 callers: one worker " in page) is (name in OURS)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", available())
def test_every_row_counts(name: str, upstream: Upstream, tls: tuple[int, Path]) -> None:
    """Of what needs no installation."""
    check(name, measure_target(name, upstream, tls, LEAST))


@pytest.mark.slow
@pytest.mark.further
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", peers.NAMES)
def test_every_row_of_a_peer_counts(name: str, upstream: Upstream, tls: tuple[int, Path]) -> None:
    """They are installed first."""
    peers.install(name)
    check(name, measure_target(name, upstream, tls, LEAST))


def test_late_answer_is_said_to_be_late(upstream: Upstream) -> None:
    """Not to be lost: nobody waited for its end."""
    outcome = generate(
        Scenario(
            port=upstream[1],
            model=messages.PACED_250_MS,
            callers=2,
            requests=3,
            due_s=0.1,
            give_up_s=0.2,
            stream=True,
            chunks=8,
        )
    )
    assert (outcome.whole, outcome.peak_streams) == (0, 2)
    assert outcome.losses == {"not finished within 0.2 s of its due time": 2}


def test_second_stream_of_a_key_is_noticed(upstream: Upstream) -> None:
    """A lock that lets two through would show."""
    scenario = Scenario(
        port=upstream[1],
        model=messages.MUTEX_10_MS,
        callers=2,
        requests=3,
        stream=True,
        chunks=20,
    )
    outcome = generate(scenario)
    assert (outcome.whole, outcome.losses) == (1, {"status 429": 2})
