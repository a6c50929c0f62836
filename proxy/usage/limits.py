"""What callers may ask for in a minute or a day: who is let in, what is left, when there is more.

A limit lets a request in while one of its units is left. A request is charged as it comes in. Its
tokens are charged at its end, as many as it took, so that the last one may go over. A request that
is refused is not charged.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from ..config import Caller, Secret
from ..errors import CallerLimitReached, RetryHint
from ..net.watch import Clock
from ..record.record import Record

if TYPE_CHECKING:
    from ..pool.shared.books import SharedPool
    from .ledger import Ledger

_KEYS = ("rpm", "tpm", "requests-per-day", "tokens-per-day")  # days are UTC
_TOLERANCE_S = 1e-6  # that floats may lose: a caller who comes when it was told to is not too early

# When there are so many cells, or twice as many as were kept the last time, empty ones are dropped.
_MANY_CELLS = 1024


class Level(NamedTuple):
    """How a limit stands: so much is `left`; one unit will be in `wait_s`, all in `reset_s`."""

    most: int
    left: int
    wait_s: float  # 0: one is left now
    reset_s: float


class Cell:
    """A limit per minute by the generic cell rate algorithm: one unit each 60/n s, n at once.

    Pure: moments are given, in monotonic seconds. It is a leaky bucket (ITU-T I.371, annex A, the
    algorithm's second form): what is spent drains, n in a minute. `most`, the n, may change.
    """

    __slots__ = ("_at", "_spent", "empty_at")

    def __init__(self, spent: float = 0.0, at: float = 0.0) -> None:
        self._spent, self._at, self.empty_at = spent, at, 0.0

    def level(self, most: int, now: float) -> Level:
        """How it stands."""
        spent, unit_s = self.spent(most, now), 60 / most
        left = int(max(0.0, most - spent + _TOLERANCE_S / unit_s))
        return Level(most, left, 0.0 if left else (spent + 1 - most) * unit_s, spent * unit_s)

    def charge(self, units: int, most: int, now: float) -> None:
        """Spend so many units, more than are left if need be."""
        self._spent, self._at = self.spent(most, now) + units, now
        self.empty_at = now + self._spent * 60 / most

    def spent(self, most: int, now: float) -> float:
        """What has not drained yet."""
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
        levels = self._levels(caller, record)
        if caller.has_day_limit and self._ledger() is None:
            raise RuntimeError("a limit per day needs a ledger of usage: set `state-dir`")
        if caller.rpm and all(one.left for one in levels.values()):
            levels["rpm"] = self._charge(caller, "rpm", 1)
        return levels

    def charge(self, caller: Caller, record: Record) -> None:
        """Charge the tokens of a request, as far as they are known, and were not charged before."""
        if (usage := record.usage) is not None:
            before = record.charged or 0
            record.charged = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
            if record.charged != before:
                self._spend(caller, record.charged - before)

    def headers(self, caller: Caller, record: Record) -> dict[str, str]:
        """How they stand, this request included, in the words of OpenAI's answers."""
        found = {}  # platform.openai.com/docs/guides/rate-limits, read 2026-11
        for key, level in self._levels(caller, record).items():
            what = {"rpm": "requests", "tpm": "tokens"}.get(key) or key.replace("-per", "")
            found[f"x-ratelimit-limit-{what}"] = str(level.most)
            found[f"x-ratelimit-remaining-{what}"] = str(level.left)
            found[f"x-ratelimit-reset-{what}"] = f"{math.ceil(level.reset_s)}s"
        return found

    def _levels(self, caller: Caller, record: Record) -> dict[str, Level]:
        """How those of its limits stand of which it is known what was spent."""
        rest_s = 86_400 - self._clock.wall() % 86_400  # first: the day may end now
        now, found = self._clock.monotonic(), dict[str, Level]()
        for key, spent in zip(_KEYS, self._spent(caller, record, now), strict=False):
            most = getattr(caller, key.replace("-", "_"))
            if most and key.endswith("day"):
                left = max(0, most - int(spent))
                found[key] = Level(most, left, 0.0 if left else rest_s, rest_s)
            elif most:
                found[key] = Cell(spent, now).level(most, now)
        return found

    def _spent(self, caller: Caller, record: Record, now: float) -> Sequence[float]:
        """What is spent of each limit, the record's request included, if it was let in."""
        with self._lock:
            cells = [self._cells.get((caller.identity, key)) or Cell() for key in _KEYS[:2]]
            minute = [cells[0].spent(caller.rpm, now), cells[1].spent(caller.tpm, now)]
        ledger = self._ledger() if caller.has_day_limit else None
        if ledger is None:
            return minute
        is_in = record.charged is not None and record.ended is None  # and not yet in the ledger
        requests, tokens = ledger.spent_today(caller)
        return [*minute, requests + is_in, tokens + ((is_in and record.charged) or 0)]

    def _spend(self, caller: Caller, tokens: int) -> None:
        if caller.tpm:
            self._charge(caller, "tpm", tokens)

    def _charge(self, caller: Caller, key: str, units: int) -> Level:
        """Charge a limit per minute, that of requests if one is left. How it stood."""
        now, most = self._clock.monotonic(), getattr(caller, key)
        with self._lock:
            if len(self._cells) >= self._many:
                self._cells = {of: cell for of, cell in self._cells.items() if cell.empty_at > now}
                self._many = max(_MANY_CELLS, 2 * len(self._cells))
            cell = self._cells.setdefault((caller.identity, key), Cell())
            level = cell.level(most, now)
            if key == "tpm" or level.left:
                cell.charge(units, most, now)
        return level


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
        if (spent := self._pool.admit(caller, had, held)) is None:
            raise refusal(caller, record, "max-concurrency")
        record.spent = spent
        return self._levels(caller, record)

    def charge(self, caller: Caller, record: Record) -> None:
        if caller.is_metered:
            super().charge(caller, record)
            if not record.attempts:  # at its end: it came to no client, and is not the day's
                self._pool.spend(caller, 0, 0, -1, 0)

    def _spent(self, caller: Caller, record: Record, now: float) -> Sequence[float]:
        own = (0, 0) if record.charged is None else (1, record.charged)
        return [had + more for had, more in zip(record.spent, own * 2, strict=False)]

    def _spend(self, caller: Caller, tokens: int) -> None:
        self._pool.spend(caller, 0, tokens, 0, tokens)


def refusal(caller: Caller, record: Record, key: str, wait_s: float = 1.0) -> CallerLimitReached:
    """What a caller is told that has reached a limit; most of what is in flight ends soon."""
    most = getattr(caller, key.replace("-", "_"))
    text = f"this caller has used up its {key} of {most}"
    if key == "max-concurrency":
        text = f"{most} requests of this caller are in flight already (its {key})"
    error = CallerLimitReached(text, hint=RetryHint(wait_s))
    error.limit = record.limit = key
    return error
