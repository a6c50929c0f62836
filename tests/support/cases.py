"""How decoders are tried: bytes cut every way, and time that must not grow faster than them."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterable, Iterator

from hypothesis import strategies as st


def whole(data: bytes) -> list[bytes]:
    """In one piece."""
    return [data]


def byte_by_byte(data: bytes) -> list[bytes]:
    """A piece for each byte."""
    return [data[at : at + 1] for at in range(len(data))]


def in_two(data: bytes) -> Iterator[list[bytes]]:
    """In two pieces, cut at every place; the first or the last may be empty."""
    for at in range(len(data) + 1):
        yield [data[:at], data[at:]]


def every_way(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and cut in two at every place."""
    yield whole(data)
    yield byte_by_byte(data)
    yield from in_two(data)


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """`data` in any pieces."""
    places = draw(st.lists(st.integers(0, len(data)), max_size=12))
    ends = sorted({0, len(data), *places})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def cpu_s(work: Callable[[], object], times: int = 2) -> float:
    """The least CPU time of this thread that some runs of `work` took.

    Without the collector, whose full runs cost what the test process holds, not what `work` does.
    """
    taken = []
    gc.disable()
    try:
        for _ in range(times):
            began = time.thread_time()
            work()
            taken.append(time.thread_time() - began)
    finally:
        gc.enable()
    return min(taken)


# Below this the clock and what each call costs by itself say more than the input's size.
_LEAST_S = 0.002


def assert_linear(make: Callable[[int], Callable[[], object]], size: int) -> None:
    """Ten times the input takes at most fifteen times the CPU time.

    `make(size)` prepares an input and returns the work on it, which can be done repeatedly.
    """
    small, large = make(size), make(10 * size)
    for attempt in range(3):
        allowed_s = 15 * max(cpu_s(small), _LEAST_S)
        taken_s = cpu_s(large)
        if taken_s <= allowed_s:
            return
        assert attempt < 2, f"{taken_s:.4f} s for ten times the input, {allowed_s:.4f} s allowed"


def in_blocks(data: bytes, size: int) -> Iterable[bytes]:
    """As reads of a socket give them."""
    return [data[at : at + size] for at in range(0, len(data), size)]
