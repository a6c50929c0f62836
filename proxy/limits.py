"""What callers may ask for in a minute or a day: who is let in, what is left, when there is more.

A limit lets a request in while one of its units is left. A request is charged as it comes in. Its
tokens are charged at its end, as many as it took, so that the last one may go over. A request that
is refused is not charged.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .config import Caller, Secret
from .errors import CallerLimitReached, RetryHint
from .net.watch import Clock
from .record.record import Record

if TYPE_CHECKING:
    from .ledger import Ledger

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
        spent, unit_s = self._spent_at(now, most), 60 / most
        left = int(max(0.0, most - spent + _TOLERANCE_S / unit_s))
        return Level(most, left, 0.0 if left else (spent + 1 - most) * unit_s, spent * unit_s)

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

    def enter(self, caller: Caller, record: Record) -> None:
        """Let a request in; raises CallerLimitReached with the moment at which another may.

        A process's first one with a limit per day reads the ledger; without one: RuntimeError.
        """
        levels = self._days(caller)
        if caller.has_day_limit and not levels:
            raise RuntimeError("a limit per day needs a ledger of usage: set `state-dir`")
        levels |= self._minutes(caller, enters=all(one.left for one in levels.values()))
        key = max(levels, key=lambda key: levels[key].wait_s)
        if wait_s := levels[key].wait_s:
            text = f"this caller has used up its {key} of {levels[key].most}"
            error = CallerLimitReached(text, hint=RetryHint(wait_s))
            error.limit = record.limit = key
            raise error
        record.charged = 0

    def charge(self, caller: Caller, record: Record) -> None:
        """Charge the tokens of a request, as far as they are known, and were not charged before."""
        if (usage := record.usage) is not None:
            before = record.charged or 0
            record.charged = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
            if caller.tpm and record.charged != before:
                with self._lock:
                    self._charge_locked(caller, "tpm", record.charged - before)

    def headers(self, caller: Caller, record: Record) -> dict[str, str]:
        """How they stand, this request included, in the words of OpenAI's answers.

        platform.openai.com/docs/guides/rate-limits, "Rate limits in headers", read 2026-11.
        """
        is_in = record.charged is not None and record.ended is None  # and not yet in the ledger
        levels = self._days(caller, int(is_in), (is_in and record.charged) or 0)
        found = {}
        for key, level in (self._minutes(caller) | levels).items():
            what = {"rpm": "requests", "tpm": "tokens"}.get(key) or key.replace("-per", "")
            found[f"x-ratelimit-limit-{what}"] = str(level.most)
            found[f"x-ratelimit-remaining-{what}"] = str(level.left)
            found[f"x-ratelimit-reset-{what}"] = f"{math.ceil(level.reset_s)}s"
        return found

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
            for key, most, used in (
                ("requests-per-day", caller.requests_per_day, spent[0] + requests),
                ("tokens-per-day", caller.tokens_per_day, spent[1] + tokens),
            ):
                if most:
                    left = max(0, most - used)
                    found[key] = Level(most, left, 0.0 if left else rest_s, rest_s)
        return found
