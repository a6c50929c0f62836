"""What callers may ask for in a minute or a day: who is let in, what is left, when there is more.

A limit lets a request in while one of its units is left. A request is charged as it comes in. Its
tokens are charged at its end, as many as it took, so that the last one may go over. A request that
is refused is not charged.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from .config import Caller, Secret
from .errors import CallerLimitReached, RetryHint
from .net.watch import Clock
from .record.record import Record

if TYPE_CHECKING:
    from .ledger import Ledger
    from .pool.shared.books import SharedPool

# What floats may lose of a moment: a caller who comes when it was told to is not too early.
_TOLERANCE_S = 1e-6

# When there are so many cells, or twice as many as were kept the last time, empty ones are dropped.
_MANY_CELLS = 1024


class Level(NamedTuple):
    """How a limit stands: so much is `left`; one unit will be in `wait_s`, all in `reset_s`."""

    most: int
    left: int
    wait_s: float  # 0: one is left now
    reset_s: float


def _level(most: int, spent: float) -> Level:
    """How a limit per minute stands of which so much is spent."""
    unit_s = 60 / most
    left = int(max(0.0, most - spent + _TOLERANCE_S / unit_s))
    return Level(most, left, 0.0 if left else (spent + 1 - most) * unit_s, spent * unit_s)


class Cell:
    """A limit per minute by the generic cell rate algorithm: one unit each 60/n s, n at once.

    Pure: moments are given, in monotonic seconds. It is a leaky bucket (ITU-T I.371, annex A, the
    algorithm's second form): what is spent drains, n in a minute. `most`, the n, may change.
    """

    __slots__ = ("_at", "_spent", "empty_at")

    def __init__(self) -> None:
        self._spent = self._at = self.empty_at = 0.0

    def level(self, most: int, now: float) -> Level:
        """How it stands."""
        return _level(most, self._spent_at(now, most))

    def charge(self, units: int, most: int, now: float) -> None:
        """Spend so many units, more than are left if need be."""
        self._spent, self._at = self._spent_at(now, most) + units, now
        self.empty_at = now + self._spent * 60 / most

    def _spent_at(self, now: float, most: int) -> float:
        return max(0.0, self._spent - (now - self._at) * most / 60)


class Limits:
    """The limits of a gateway's callers, for those who have any. Shared by all threads.

    Minutes are counted here, and days by the ledger. A caller is known by its name, so that what it
    has spent outlives a change of its key, and of the configuration.
    """

    def __init__(self, clock: Clock, ledger: Callable[[], Ledger | None]) -> None:
        self._clock = clock
        self._ledger = ledger
        self._lock = threading.Lock()  # guards _cells, _many
        self._cells: dict[tuple[str | Secret, str], Cell] = {}
        self._many = _MANY_CELLS

    def enter(self, caller: Caller, record: Record, held: ExitStack) -> None:
        """Let a request in; raises CallerLimitReached with the moment at which another may.

        A process's first one with a limit per day reads the ledger; without one: RuntimeError.
        """
        levels = self._let_in(caller, record, held)
        key = max(levels, key=lambda key: levels[key].wait_s, default="")
        if key and (wait_s := levels[key].wait_s):
            raise refusal(caller, record, key, wait_s)
        record.charged = 0

    def _let_in(self, caller: Caller, record: Record, held: ExitStack) -> dict[str, Level]:
        """How its limits stand. If all have some left it is charged as a request."""
        levels = self._days(caller)
        if caller.has_day_limit and not levels:
            raise RuntimeError("a limit per day needs a ledger of usage: set `state-dir`")
        return levels | self._minutes(caller, enters=all(one.left for one in levels.values()))

    def charge(self, caller: Caller, record: Record) -> None:
        """Charge the tokens of a request, as far as they are known, and were not charged before."""
        if (usage := record.usage) is not None:
            before = record.charged or 0
            record.charged = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
            if record.charged != before:
                self._spend(caller, record.charged - before)

    def _spend(self, caller: Caller, tokens: int) -> None:
        with self._lock:
            if caller.tpm:
                self._charge_locked(caller, "tpm", tokens)

    def headers(self, caller: Caller, record: Record) -> dict[str, str]:
        """How they stand, this request included, in the words of OpenAI's answers.

        platform.openai.com/docs/guides/rate-limits, "Rate limits in headers", read 2026-11.
        """
        found = {}
        for key, level in self._levels(caller, record).items():
            what = {"rpm": "requests", "tpm": "tokens"}.get(key) or key.replace("-per", "")
            found[f"x-ratelimit-limit-{what}"] = str(level.most)
            found[f"x-ratelimit-remaining-{what}"] = str(level.left)
            found[f"x-ratelimit-reset-{what}"] = f"{math.ceil(level.reset_s)}s"
        return found

    def _levels(self, caller: Caller, record: Record) -> dict[str, Level]:
        is_in = record.charged is not None and record.ended is None  # and not yet in the ledger
        levels = self._days(caller, int(is_in), (is_in and record.charged) or 0)
        return self._minutes(caller) | levels

    def _minutes(self, caller: Caller, *, enters: bool = False) -> dict[str, Level]:
        """How its limits per minute stand. Who `enters` is charged if all have some left."""
        now, found = self._clock.monotonic(), dict[str, Level]()
        with self._lock:
            for key, most in (("rpm", caller.rpm), ("tpm", caller.tpm)):
                if most:
                    cell = self._cells.get((caller.identity, key)) or Cell()
                    found[key] = cell.level(most, now)
            if enters and caller.rpm and all(level.left for level in found.values()):
                self._charge_locked(caller, "rpm", 1)
        return found

    def _charge_locked(self, caller: Caller, key: str, units: int) -> None:
        now = self._clock.monotonic()
        if len(self._cells) >= self._many:
            self._cells = {of: cell for of, cell in self._cells.items() if cell.empty_at > now}
            self._many = max(_MANY_CELLS, 2 * len(self._cells))
        cell = self._cells.setdefault((caller.identity, key), Cell())
        cell.charge(units, getattr(caller, key), now)

    def _days(self, caller: Caller, requests: int = 0, tokens: int = 0) -> dict[str, Level]:
        """How its limits per day (UTC) stand, by the ledger and these; none without a ledger."""
        found = dict[str, Level]()
        if caller.has_day_limit and (ledger := self._ledger()) is not None:
            rest_s = 86_400 - self._clock.wall() % 86_400  # first: it may end now
            spent = ledger.spent_today(caller)
            found = _of_day(caller, rest_s, spent[0] + requests, spent[1] + tokens)
        return found


class SharedLimits(Limits):
    """The limits of all processes that share a pool, counted in its books.

    Of a day at least what the ledger of this instance knows: the books may be lost. While they are
    away callers are let in, and lent nothing.
    """

    def __init__(self, clock: Clock, ledger: Callable[[], Ledger | None], pool: SharedPool) -> None:
        super().__init__(clock, ledger)
        self._pool = pool

    def _let_in(self, caller: Caller, record: Record, held: ExitStack) -> dict[str, Level]:
        ledger = self._ledger() if caller.has_day_limit else None
        had = ledger.spent_today(caller) if ledger else (0, 0)
        has_place, record.spent = self._pool.admit(caller, had, held)
        if not has_place:
            raise refusal(caller, record, "max-concurrency")
        return self._levels(caller, record)

    def charge(self, caller: Caller, record: Record) -> None:
        if caller.is_metered:
            super().charge(caller, record)
            if not record.attempts:  # at its end: it came to no client, and is not the day's
                self._pool.spend(caller, requests=-1)

    def _spend(self, caller: Caller, tokens: int) -> None:
        self._pool.spend(caller, tokens=tokens)

    def _levels(self, caller: Caller, record: Record) -> dict[str, Level]:
        spent, rest_s = [*record.spent], 86_400 - self._clock.wall() % 86_400
        if not spent:
            return {}
        if record.charged is not None:
            spent = [had + (record.charged if n % 2 else 1) for n, had in enumerate(spent)]
        minutes = {"rpm": (caller.rpm, spent[0]), "tpm": (caller.tpm, spent[1])}
        levels = {key: _level(most, used) for key, (most, used) in minutes.items() if most}
        return levels | _of_day(caller, rest_s, int(spent[2]), int(spent[3]))


def _of_day(caller: Caller, rest_s: float, requests: int, tokens: int) -> dict[str, Level]:
    """How the limits of a day stand that ends in so many seconds, and of which so much is spent."""
    found = dict[str, Level]()
    for key, most, used in (
        ("requests-per-day", caller.requests_per_day, requests),
        ("tokens-per-day", caller.tokens_per_day, tokens),
    ):
        if most:
            left = max(0, most - used)
            found[key] = Level(most, left, 0.0 if left else rest_s, rest_s)
    return found


def refusal(caller: Caller, record: Record, key: str, wait_s: float = 1.0) -> CallerLimitReached:
    """What a caller is told that has reached a limit.

    Nobody knows when a request in flight will end, and most end soon.
    """
    most = getattr(caller, key.replace("-", "_"))
    text = f"this caller has used up its {key} of {most}"
    if key == "max-concurrency":
        text = f"{most} requests of this caller are in flight already (its {key})"
    error = CallerLimitReached(text, hint=RetryHint(wait_s))
    error.limit = record.limit = key
    return error
