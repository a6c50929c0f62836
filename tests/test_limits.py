"""Limits of callers on a virtual clock: held against a model, and what they remember."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import Caller, Usage
from proxy.errors import CallerLimitReached
from proxy.limits import Cell, Limits, Minutes
from proxy.record.record import Attempt, Record
from tests.support.clock import VirtualClock

MS = Fraction(1, 1000)


class Model:
    """The algorithm's other form, virtual scheduling (ITU-T I.371, annex A), without rounding.

    `arrival` is the theoretical arrival time of the next unit, at which nothing is spent.
    """

    def __init__(self, most: int) -> None:
        self.unit_s = Fraction(60, most)
        self.arrival = Fraction(0)

    def wait_s(self, now: Fraction) -> Fraction:
        """Until a unit conforms: it may come 60 s less its own time before it is expected."""
        return max(Fraction(0), self.arrival - now - (60 - self.unit_s))

    def charge(self, units: int, now: Fraction) -> None:
        self.arrival = max(self.arrival, now) + units * self.unit_s


# What a caller does: lets ms pass, asks for one unit, or is charged for some that it was not asked.
STEPS = st.one_of(
    st.tuples(st.just("pass"), st.integers(0, 90_000)),
    st.tuples(st.just("ask"), st.integers(1, 30)),
    st.tuples(st.just("charge"), st.integers(0, 2_000)),
)


@given(most=st.integers(1, 500), steps=st.lists(STEPS, max_size=60))
def test_cell_is_the_generic_cell_rate_algorithm(most: int, steps: list[tuple[str, int]]) -> None:
    """It lets in what the model lets in, for as long a wait, whatever came before."""
    cell, model, clock = Cell(), Model(most), VirtualClock()
    ms = 0
    began = clock.now
    for step, number in steps:
        if step == "pass":
            ms += number
            clock.now = began + ms / 1000
        now = ms * MS
        if step == "charge":
            cell.charge(number, most, clock.now)
            model.charge(number, now)
        for _ in range(number if step == "ask" else 0):
            level = cell.level(most, clock.now)
            assert level.wait_s == pytest.approx(float(model.wait_s(now)), abs=1e-6)
            assert (level.left > 0) == (model.wait_s(now) == 0) == (level.wait_s == 0)
            if level.left:
                cell.charge(1, most, clock.now)
                model.charge(1, now)
        level = cell.level(most, clock.now)
        spent_s = max(Fraction(0), model.arrival - now)
        assert level.reset_s == pytest.approx(float(spent_s), abs=1e-6)
        assert level.left == max(0, int((60 - spent_s) / model.unit_s))
        assert level.most == most


@given(most=st.integers(1, 10**6), spent=st.integers(0, 10**7), start=st.floats(0, 10**7))
def test_hint_is_true(most: int, spent: int, start: float) -> None:
    """Who does as it says is let in; a millisecond before it is still refused."""
    cell = Cell()
    cell.charge(most + spent, most, start)
    wait_s = cell.level(most, start).wait_s
    assert wait_s > 0
    assert cell.level(most, start + wait_s).left > 0
    assert cell.level(most, start + wait_s - 0.001).wait_s > 0


@given(
    most=st.integers(1, 60),
    gaps_ms=st.lists(st.integers(0, 5_000), min_size=1, max_size=200),
)
def test_no_window_has_more_than_it_may(most: int, gaps_ms: list[int]) -> None:
    """Of whatever length: a burst of n, and n for each minute of it."""
    cell = Cell()
    taken: list[float] = []
    now = 0.0
    for gap in gaps_ms:
        now += gap / 1000
        if cell.level(most, now).left:
            cell.charge(1, most, now)
            taken.append(now)
    for first, began in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= most + (taken[last] - began + 1e-5) * most / 60


def test_a_burst_and_then_one_by_one() -> None:
    """`rpm: 3` is three at once, and one each 20 s; all are back after a minute."""
    cell = Cell()
    for left in (3, 2, 1):
        assert cell.level(3, 100.0).left == left
        cell.charge(1, 3, 100.0)
    assert cell.level(3, 100.0) == (3, 0, 20.0, 60.0)
    assert [*cell.level(3, 119.0)] == pytest.approx([3, 0, 1.0, 41.0])
    assert cell.level(3, 120.0).left == 1
    assert cell.level(3, 1000.0) == (3, 3, 0.0, 0.0)


def test_a_limit_that_changes_keeps_what_was_spent() -> None:
    """In units: a raised one lets in at once, one that is lowered waits for the difference."""
    cell = Cell()
    cell.charge(10, 10, 0.0)
    assert cell.level(10, 0.0).wait_s == pytest.approx(6.0)
    assert cell.level(15, 0.0).left == 5
    assert cell.level(5, 0.0).wait_s == pytest.approx(72.0)


def record_of(usage: Usage) -> Record:
    """A request that took so many tokens."""
    return Record("r", endpoint="", arrived=0.0, attempts=[Attempt("demo", usage=usage)])


class Desk:
    """Limits on a virtual clock, and the requests of callers."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.limits = Limits(self.clock)

    def enter(self, caller: Caller) -> float:
        """0 if it was let in, else the hint."""
        try:
            self.limits.enter(caller)
        except CallerLimitReached as error:
            return (error.hint and error.hint.after_s) or -1.0
        return 0.0

    def charge(self, caller: Caller, prompt: int | None, completion: int | None = None) -> None:
        self.limits.charge(caller, record_of(Usage(prompt, completion)))


def test_refused_requests_are_not_charged() -> None:
    """However often it asks; nor by one limit when another refuses."""
    desk, ann = Desk(), Caller("ann", rpm=2, tpm=100)
    assert [desk.enter(ann) for _ in range(9)] == [0, 0, *[30.0] * 7]
    desk.clock.now += 30
    assert [desk.enter(ann) for _ in range(2)] == [0, 30.0]
    desk.clock.now += 60
    desk.charge(ann, 150)
    assert [desk.enter(ann) for _ in range(3)] == [pytest.approx(30.6)] * 3
    assert desk.limits.headers(ann)["x-ratelimit-remaining-requests"] == "2"


def test_the_longest_wait_is_the_hint() -> None:
    """And its limit is the one that is named: after it nothing else refuses."""
    desk, ann = Desk(), Caller("ann", rpm=1, tpm=60)
    assert desk.enter(ann) == 0
    desk.charge(ann, 60, 20)
    with pytest.raises(
        CallerLimitReached, match=r"caller's 1 request a minute .* \(its rpm\)"
    ) as first:
        desk.limits.enter(ann)
    assert first.value.hint == (60.0,)
    desk.charge(ann, 60)
    with pytest.raises(
        CallerLimitReached, match=r"caller's 60 tokens a minute .* \(its tpm\)"
    ) as second:
        desk.limits.enter(ann)
    assert [*(second.value.hint or ())] == pytest.approx([81.0])
    desk.clock.now += 81.0
    assert desk.enter(ann) == 0


def test_tokens_let_in_while_any_is_left() -> None:
    """What is used is known at the end: the last one may go over, and is paid for by waiting."""
    desk, ann = Desk(), Caller("ann", tpm=60)
    desk.charge(ann, 40, 19)
    assert desk.enter(ann) == 0
    desk.charge(ann, 500, None)
    assert desk.enter(ann) == 500.0
    desk.charge(ann, None)
    assert desk.enter(ann) == 500.0


def test_a_request_is_charged_once() -> None:
    """At its end, or as soon as its answer is known: for what it took since the last time."""
    desk, ann = Desk(), Caller("ann", tpm=60)
    record = Record("r", endpoint="", arrived=0.0)
    desk.limits.charge(ann, record)
    for usage, left in ((Usage(3, 2), 55), (Usage(3, 2), 55), (Usage(10, 5, partial=True), 45)):
        record.attempts = record_of(usage).attempts
        desk.limits.charge(ann, record)
        assert desk.limits.headers(ann)["x-ratelimit-remaining-tokens"] == str(left)


def test_headers_tell_how_limits_stand() -> None:
    """Those that it has. Times are rounded up to seconds, in which no more is left than is said."""
    desk = Desk()
    ann, ben = Caller("ann", rpm=2), Caller("ben", tpm=1000)
    desk.enter(ann)
    desk.clock.now += 0.5
    assert desk.limits.headers(ann) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
    }
    desk.charge(ben, 1500)
    assert desk.limits.headers(ben) == {
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "90s",
    }


def test_callers_who_have_spent_nothing_are_forgotten() -> None:
    """Each user of an application is a caller; nobody who has is, however many come."""
    desk = Desk()
    spender = Caller("spender", rpm=1, tpm=1)
    desk.enter(spender)
    desk.charge(spender, 10_000)
    for number in range(10_000):
        assert desk.enter(Caller(f"user {number}", rpm=60)) == 0
        desk.clock.now += 0.01
        assert len(desk.limits._minutes._cells) <= 1024
    assert desk.enter(spender) > 9_000 * 60
    desk.clock.now += 2


def test_threads_take_no_more_than_there_is() -> None:
    """At the same moment, of one limit."""
    minutes, ann = Minutes(VirtualClock()), Caller("ann", rpm=100)
    barrier, taken = threading.Barrier(8), list[bool]()

    def take() -> None:
        barrier.wait()
        for _ in range(50):
            taken.append(minutes.levels(ann, enters=True)["rpm"].left > 0)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), sum(taken)) == (400, 100)


@pytest.mark.parametrize("name", ["max_concurrency", "rpm", "tpm"])
def test_a_limit_that_makes_no_sense_is_no_callers(name: str) -> None:
    """An application hears of it where it makes the caller."""
    make: Callable[..., Caller] = Caller
    with pytest.raises(ValueError, match="limits are 0"):
        make("ann", **{name: -1})
    with pytest.raises(TypeError):
        make("ann", **{name: "60"})
