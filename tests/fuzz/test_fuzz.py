"""Whatever bytes come: no exception but ours, time linear in them, memory bounded by them.

The seeds are mutated as fuzzers do it: pieces dropped, doubled, swapped, spliced with other seeds
and with words that matter. Few inputs here, many with `make fuzz`.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import CORPUS, TARGETS, seeds
from tests.support import cases

pytestmark = pytest.mark.slow

WORDS = st.sampled_from([
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8",
    b"data:", b"data: ", b"event: error\n", b"[DONE]", b": c\n", b"id: 1\n", b"0\r\n\r\n",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n",
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"ffffffffffffffff\r\n", b"-1",
    b'{"', b'"}', b"[", b"]", b"null", b"1e999", b"9" * 30, b'"model":', b'"error":{', b"\\ud83d",
    b"\\u0000", b'"choices":[', b'"index":', b'"finish_reason":"stop"', b"NaN", b"-0",
    b"${A}", b"${KEY}", b"${", b"&a ", b"*a", b"<<: ", b"- ", b": ", b"!!python/object", b"\t",
    b"Wed, 21 Oct 2026 07:28:00 GMT", b"99999999999999999999",
])  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, name: str) -> bytes:
    """A seed of this target, changed in a few places."""
    known = list(seeds(name).values())
    data = draw(st.sampled_from(known))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        how = draw(st.sampled_from(["drop", "double", "insert", "replace", "splice", "repeat"]))
        if how == "drop":
            data = data[:start] + data[end:]
        elif how == "double":
            data = data[:end] + data[start:]
        elif how == "repeat":
            data = data[:start] + data[start:end] * draw(st.integers(2, 50)) + data[end:]
        elif how == "splice":
            other = draw(st.sampled_from(known))
            data = data[:start] + other[draw(st.integers(0, len(other))) :]
        else:
            word = draw(WORDS | st.binary(max_size=8))
            data = data[:start] + word + data[end if how == "replace" else start :]
    return data


def test_every_target_has_seeds() -> None:
    """And every seed a target."""
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(seeds(name) for name in TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_their_beginnings_raise_nothing(name: str) -> None:
    """Whole, and cut off in many places."""
    for data in seeds(name).values():
        for end in range(0, len(data), max(1, len(data) // 50)):
            TARGETS[name](data[:end])
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_seeds_raise_nothing(name: str, data: st.DataObject) -> None:
    """Errors of our own are suppressed by the targets; all else is a finding."""
    TARGETS[name](data.draw(mutated(name)))


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(data=st.lists(WORDS | st.binary(max_size=30), max_size=30).map(b"".join))
def test_any_bytes_raise_nothing(name: str, data: bytes) -> None:
    """Nothing of a seed in them."""
    TARGETS[name](data)


def grown(name: str, size: int) -> list[bytes]:
    """Inputs of about this size: each seed again and again, and its middle again and again."""
    made = []
    for data in seeds(name).values():
        third = max(1, len(data) // 3)
        middle = data[third : 2 * third] or b" "
        made.append(data * (size // max(1, len(data)) + 1))
        made.append(data[:third] + middle * (size // len(middle) + 1) + data[2 * third :])
    return made


@pytest.mark.parametrize("name", TARGETS)
def test_time_is_linear(name: str) -> None:
    """Ten times the input takes at most fifteen times the CPU time."""

    def make(size: int) -> Callable[[], object]:
        inputs = grown(name, size)

        def work() -> None:
            for data in inputs:
                TARGETS[name](data)

        return work

    cases.assert_linear(make, 3_000)


@pytest.mark.parametrize("name", TARGETS)
def test_memory_is_bounded(name: str) -> None:
    """No more than some copies of the input, and what one request costs anyway."""
    for data in grown(name, 30_000):
        TARGETS[name](data[:100])
        tracemalloc.start()
        try:
            TARGETS[name](data)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most <= 120 * len(data) + 4_000_000, (len(data), most)
