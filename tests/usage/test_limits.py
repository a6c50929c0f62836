"""Limits of callers on a virtual clock: held against a model, and what they remember."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import Caller, Usage
from proxy.calls import PythonCall, to_json
from proxy.config import load_config
from proxy.config.config import LIMITS
from proxy.dialects.chat import CHAT
from proxy.errors import CallerLimitReached, ModelNotFound
from proxy.gateway import Gateway
from proxy.record.record import Attempt, Record
from proxy.usage.limits import Cell, Limits, SharedLimits
from tests.support.clock import VirtualClock
from tests.support.state import ModelPool, State, StateServer

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
    st.tuples(st.just("ask"), st.integers(1, 8)),
    st.tuples(st.just("charge"), st.integers(0, 2_000)),
)


@settings(deadline=None)
@given(most=st.integers(1, 500), steps=st.lists(STEPS, max_size=25))
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


@settings(deadline=None)
@given(most=st.integers(1, 10**6), spent=st.integers(0, 10**7), start=st.floats(0, 10**7))
def test_hint_is_true(most: int, spent: int, start: float) -> None:
    """Who does as it says is let in; a millisecond before it is still refused."""
    cell = Cell()
    cell.charge(most + spent, most, start)
    wait_s = cell.level(most, start).wait_s
    assert wait_s > 0
    assert cell.level(most, start + wait_s).left > 0
    assert cell.level(most, start + wait_s - 0.001).wait_s > 0


@settings(deadline=None)
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
        self.limits = Limits(self.clock, lambda: None)

    def enter(self, caller: Caller) -> float:
        """0 if it was let in, else the hint."""
        try:
            self.limits.enter(caller, Record("r", endpoint="", arrived=0.0), ExitStack())
        except CallerLimitReached as error:
            return (error.hint and error.hint.after_s) or -1.0
        return 0.0

    def headers(self, caller: Caller) -> dict[str, str]:
        """What an answer to another request of it would say."""
        return self.limits.headers(caller, Record("r", endpoint="", arrived=0.0))

    def charge(self, caller: Caller, prompt: int | None, completion: int | None = None) -> None:
        self.limits.charge(caller, record_of(Usage(prompt, completion)))

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds


_numbers = itertools.count(1)


class SharedDesk(Desk):
    """Limits in the books of a pool that processes share."""

    def __init__(self, books: State | None = None) -> None:
        self.clock = VirtualClock() if books is None else books.clock
        self.books = books or State(self.clock)
        server = StateServer(self.books, f"place-{next(_numbers)}-1-1")
        self.pool = ModelPool([], server, clock=self.clock)
        self.pool.beat()
        self.limits = SharedLimits(self.clock, lambda: None, self.pool)

    def enter(self, caller: Caller) -> float:
        self.record = Record("r", endpoint="", arrived=0.0)
        try:
            with ExitStack() as held:
                self.limits.enter(caller, self.record, held)
        except CallerLimitReached as error:
            return (error.hint and error.hint.after_s) or -1.0
        return 0.0

    def headers(self, caller: Caller) -> dict[str, str]:
        """What the answer to the last one says."""
        return self.limits.headers(caller, self.record)

    def wait(self, seconds: float) -> None:
        """The process lives on meanwhile."""
        while seconds > 0:
            self.clock.now += min(seconds, 4.0)
            seconds -= 4.0
            self.pool.beat()


both = pytest.mark.parametrize("make", [Desk, SharedDesk])


@both
def test_refused_requests_are_not_charged(make: type[Desk]) -> None:
    """However often it asks; nor by one limit when another refuses."""
    desk, ann = make(), Caller("ann", rpm=2, tpm=100)
    assert [desk.enter(ann) for _ in range(9)] == [0, 0, *[30.0] * 7]
    desk.wait(30)
    assert [desk.enter(ann) for _ in range(2)] == [0, 30.0]
    desk.wait(60)
    desk.charge(ann, 150)
    assert [desk.enter(ann) for _ in range(3)] == [pytest.approx(30.6)] * 3
    assert desk.headers(ann)["x-ratelimit-remaining-requests"] == "2"


@both
def test_the_longest_wait_is_the_hint(make: type[Desk]) -> None:
    """And its limit is the one that is named: after it nothing else refuses."""
    desk, ann = make(), Caller("ann", rpm=1, tpm=60)
    assert desk.enter(ann) == 0
    desk.charge(ann, 60, 20)
    with pytest.raises(CallerLimitReached, match=r"has used up its rpm of 1$") as first:
        desk.limits.enter(ann, Record("r", endpoint="", arrived=0.0), ExitStack())
    assert (first.value.hint, first.value.limit) == ((60.0,), "rpm")
    desk.charge(ann, 60)
    with pytest.raises(CallerLimitReached, match=r"has used up its tpm of 60$") as second:
        desk.limits.enter(ann, Record("r", endpoint="", arrived=0.0), ExitStack())
    assert [*(second.value.hint or ())] == pytest.approx([81.0])
    desk.wait(81.0)
    assert desk.enter(ann) == 0


@both
def test_tokens_let_in_while_any_is_left(make: type[Desk]) -> None:
    """What is used is known at the end: the last one may go over, and is paid for by waiting."""
    desk, ann = make(), Caller("ann", tpm=60)
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
        assert desk.headers(ann)["x-ratelimit-remaining-tokens"] == str(left)


def test_headers_tell_how_limits_stand() -> None:
    """Those that it has. Times are rounded up to seconds, in which no more is left than is said."""
    desk = Desk()
    ann, ben = Caller("ann", rpm=2), Caller("ben", tpm=1000)
    desk.enter(ann)
    desk.clock.now += 0.5
    assert desk.headers(ann) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
    }
    desk.charge(ben, 1500)
    assert desk.headers(ben) == {
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
        assert len(desk.limits._cells) <= 1024
    assert desk.enter(spender) > 9_000 * 60
    desk.clock.now += 2


def test_threads_take_no_more_than_there_is() -> None:
    """At the same moment, of one limit."""
    desk, ann = Desk(), Caller("ann", rpm=100)
    barrier, taken = threading.Barrier(8), list[bool]()

    def take() -> None:
        barrier.wait()
        for _ in range(50):
            taken.append(desk.enter(ann) == 0)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), sum(taken)) == (400, 100)


@settings(max_examples=15, deadline=None)
@given(
    key=st.sampled_from(["rpm", "tpm"]),
    most=st.integers(1, 500),
    steps=st.lists(STEPS, max_size=15),
)
def test_books_know_the_algorithm(key: str, most: int, steps: list[tuple[str, int]]) -> None:
    """By the same formulas as a cell, in another language: held against the same model."""
    desk, model = SharedDesk(), Model(most)
    ann = Caller("ann", rpm=most) if key == "rpm" else Caller("ann", tpm=most)
    ms = 0
    for step, number in steps:
        if step == "pass":
            ms += number
            desk.wait(number / 1000)
        now = ms * MS
        if step == "charge" and key == "tpm":
            desk.charge(ann, number)
            model.charge(number, now)
        for _ in range(number if step == "ask" else 0):
            wait_s = model.wait_s(now)
            assert desk.enter(ann) == pytest.approx(float(wait_s), abs=1e-4)
            if key == "rpm" and not wait_s:
                model.charge(1, now)
            left = max(0, int((60 - max(Fraction(0), model.arrival - now)) / model.unit_s))
            what = {"rpm": "requests", "tpm": "tokens"}[key]
            assert desk.headers(ann)[f"x-ratelimit-remaining-{what}"] == str(left)


def test_processes_share_what_is_spent_and_places() -> None:
    """Whichever of them a request comes to; a place is left at the end."""
    one = SharedDesk()
    two = SharedDesk(one.books)
    ann = Caller("ann", rpm=3, max_concurrency=1)
    record = Record("r", endpoint="", arrived=0.0)
    with ExitStack() as held:
        one.limits.enter(ann, record, held)
        with pytest.raises(CallerLimitReached, match="max-concurrency") as refused:
            two.limits.enter(ann, record, ExitStack())
        assert refused.value.limit == "max-concurrency"
    assert [desk.enter(ann) for desk in (two, one)] == [0, 0]
    assert two.enter(ann) == 20.0


def test_a_day_of_all_processes() -> None:
    """It ends at midnight, and a request that came to no client is not its."""
    desk, ann = SharedDesk(), Caller("ann", requests_per_day=2, tokens_per_day=50)
    assert desk.enter(ann) == 0
    desk.limits.charge(ann, desk.record)  # nobody served it
    assert [desk.enter(ann) for _ in range(3)] == [0, 0, DAY_S - desk.clock.wall() % DAY_S]
    assert desk.headers(ann)["x-ratelimit-remaining-requests-day"] == "0"
    desk.clock.now += DAY_S
    desk.pool.beat()
    assert desk.enter(ann) == 0
    desk.charge(ann, 49)
    assert desk.enter(ann) == 0
    desk.charge(ann, 2)
    assert desk.enter(ann) > 0
    assert desk.headers(ann)["x-ratelimit-remaining-tokens-day"] == "0"


def test_a_day_outlives_books_that_are_lost() -> None:
    """What this instance's ledger knows counts at least; a minute begins anew."""
    desk, ann = SharedDesk(), Caller("ann", requests_per_day=5, rpm=1)
    desk.limits._ledger = lambda: SpentLedger((4, 100))  # type: ignore[assignment,return-value]
    assert desk.enter(ann) == 0
    desk.books.start()
    assert desk.enter(ann) == 0
    desk.books.start()
    desk.limits._ledger = lambda: SpentLedger((5, 100))  # type: ignore[assignment,return-value]
    assert desk.enter(ann) > 60


def test_callers_come_in_while_the_books_are_away() -> None:
    """They are lent nothing then; and nothing is said of what is left."""
    desk, ann = SharedDesk(), Caller("ann", rpm=1, max_concurrency=1)
    desk.pool._away = "gone"
    assert [desk.enter(ann) for _ in range(3)] == [0, 0, 0]
    assert desk.headers(ann) == {}


class SpentLedger:
    """One that knows what was spent."""

    def __init__(self, spent: tuple[int, int]) -> None:
        self.spent_today = lambda _: spent


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_that_makes_no_sense_is_no_callers(name: str) -> None:
    """An application hears of it where it makes the caller."""
    make: Callable[..., Caller] = Caller
    with pytest.raises(ValueError, match="limits are 0"):
        make("ann", **{name: -1})
    with pytest.raises(TypeError):
        make("ann", **{name: "60"})


# Days

DAY_S = 86_400


class Day:
    """A gateway on a virtual clock, with a ledger in a folder, and one caller with limits."""

    def __init__(self, folder: Path, limits: Mapping[str, int]) -> None:
        self.clock = VirtualClock()
        ci = {"name": "ci", "key": "caller-key-0123456789", **limits}
        tree = {"api-keys": [ci], "demo": [{"delay-ms": 0}], "state-dir": str(folder)}
        self.gateway = Gateway(load_config(tree, environ={}), clock=self.clock)
        [self.ci] = self.gateway.config.callers

    @property
    def rest_s(self) -> float:
        """Until midnight."""
        return DAY_S - self.clock.wall() % DAY_S

    def ask(self, model: str = "demo") -> int:
        """The tokens that it took."""
        body = to_json({"model": model, "messages": [{"role": "user", "content": "a b c"}]})
        answer = PythonCall(self.gateway, None, "test", body, "ci", None).whole(CHAT.read)
        return int(answer["usage"]["total_tokens"])

    def refused(self) -> CallerLimitReached:
        with pytest.raises(CallerLimitReached) as refused:
            self.ask()
        return refused.value

    def told(self, what: str) -> list[str]:
        headers = self.gateway.limits.headers(self.ci, Record("r", endpoint="", arrived=0.0))
        return [headers[f"x-ratelimit-{kind}-{what}"] for kind in ("limit", "remaining", "reset")]


Make: TypeAlias = Callable[[Mapping[str, int]], Day]


@pytest.fixture
def make_day(tmp_path: Path) -> Iterator[Make]:
    """Each in the same folder, one after the other, as if the first had been restarted."""
    days = list[Day]()

    def make(limits: Mapping[str, int]) -> Day:
        for day in days:
            day.gateway.close()
        days.append(Day(tmp_path, limits))
        return days[-1]

    yield make
    for day in days:
        day.gateway.close()


@pytest.mark.parametrize("key", ["requests-per-day", "tokens-per-day"])
def test_a_day_ends_at_midnight(make_day: Make, key: str) -> None:
    """UTC: until then it is refused, and not a millisecond longer. The hint says so."""
    day = make_day({key: 2})
    for _ in range(2 if key == "requests-per-day" else 1):
        day.ask()
    for _ in range(2):
        refused = day.refused()
        assert refused.message == f"this caller has used up its {key} of 2"
        assert refused.limit == key
        assert refused.hint is not None
        assert refused.hint.after_s == day.rest_s
        assert refused.hint.headers()["x-should-retry"] == "false"
    what = key.replace("-per", "")
    assert day.told(what) == ["2", "0", f"{math.ceil(day.rest_s)}s"]
    day.clock.now += day.rest_s - 0.001
    assert [*(day.refused().hint or ())] == pytest.approx([0.001], abs=1e-6)
    assert day.told(what) == ["2", "0", "1s"]
    day.clock.now += day.rest_s
    assert day.told(what) == ["2", "2", "86400s"]
    day.ask()
    day.clock.now += DAY_S
    day.ask()


def test_tokens_of_a_day_may_be_gone_over_by_the_last(make_day: Make) -> None:
    """Who has one left is let in."""
    day = make_day({"tokens-per-day": 1000})
    taken = day.ask()
    assert day.told("tokens-day")[1] == str(1000 - taken)
    limited = make_day({"tokens-per-day": 2 * taken + 1})
    assert limited.told("tokens-day")[1] == str(taken + 1)
    limited.ask()
    assert limited.told("tokens-day")[1] == "1"
    limited.ask()
    assert limited.told("tokens-day")[1] == "0"
    limited.refused()


def test_a_day_goes_on_after_a_restart(make_day: Make) -> None:
    """And when limits change: the ledger remembers."""
    make_day({"requests-per-day": 3}).ask()
    day = make_day({"requests-per-day": 2})
    day.ask()
    day.refused()
    last = make_day({"requests-per-day": 5, "tokens-per-day": 10**6})
    assert last.told("requests-day")[1] == "3"


def test_what_came_to_no_account_is_not_a_days(make_day: Make) -> None:
    """Refused by a limit, or for its model. Nor is a minute charged for what a day refuses."""
    day = make_day({"requests-per-day": 1, "rpm": 2})
    with pytest.raises(ModelNotFound):
        day.ask("none")
    day.ask()
    day.clock.now += 60
    day.refused()
    assert day.told("requests") == ["2", "2", "0s"]
    minute = make_day({"requests-per-day": 9, "rpm": 1})
    minute.ask()
    assert "rpm" in minute.refused().message
    assert minute.told("requests-day")[1] == "7"


def test_the_longer_wait_is_the_hint_across_midnight(make_day: Make) -> None:
    """A minute may be longer than what is left of the day."""
    day = make_day({"requests-per-day": 1, "rpm": 1})
    day.clock.now += day.rest_s - 10
    day.ask()
    refused = day.refused()
    assert "rpm" in refused.message
    assert refused.hint == (60.0,)
    day.clock.now += 60
    day.ask()


def test_an_answer_counts_in_its_own_headers(make_day: Make) -> None:
    """Though the ledger has it later, when it is over; and not twice then."""
    day = make_day({"requests-per-day": 9, "tokens-per-day": 1000})
    record = Record("r", endpoint="", arrived=0.0)
    day.gateway.limits.enter(day.ci, record, ExitStack())
    told = day.gateway.limits.headers(day.ci, record)
    assert told["x-ratelimit-remaining-requests-day"] == "8"
    assert told["x-ratelimit-remaining-tokens-day"] == "1000"
    record.attempts = record_of(Usage(40, 2)).attempts
    day.gateway.limits.charge(day.ci, record)
    told = day.gateway.limits.headers(day.ci, record)
    assert told["x-ratelimit-remaining-requests-day"] == "8"
    assert told["x-ratelimit-remaining-tokens-day"] == "958"
    record.close(day.clock.now)
    day.ask()
    told = day.gateway.limits.headers(day.ci, record)
    assert told["x-ratelimit-remaining-requests-day"] == "8"


def test_a_limit_per_day_without_a_ledger_is_not_ignored() -> None:
    """An application hears of it at the first request, which is not served."""
    desk = Desk()
    ann = Caller("ann", requests_per_day=5)
    with pytest.raises(RuntimeError, match="set `state-dir`"):
        desk.enter(ann)
    assert desk.headers(ann) == {}
