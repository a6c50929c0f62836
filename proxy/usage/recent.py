"""What the status page shows of the last hour: each process remembers its own calls."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from operator import add
from typing import Any

import msgspec

from ..net.watch import Clock
from ..record.record import MAX_MODEL_CHARS, Call, Record

MINUTES, MOST_REQUESTS = 60, 50


class Recent:
    """What a process remembers of its calls: sums of each minute of an hour, and the last 50."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards _minutes
        # By a clock that processes have in common: its number, requests, failed ones, tokens.
        self._minutes: deque[list[int]] = deque(maxlen=MINUTES)
        self._last: deque[Callable[[], Call] | Call] = deque(maxlen=MOST_REQUESTS)

    def add(self, record: Record) -> None:
        """Remember a call that is over."""
        # Put into words only when somebody looks, unless a body or the like would be kept.
        is_small = record.transcript is None and len(record.model) <= MAX_MODEL_CHARS
        self._last.append(record.call if is_small else record.call())
        at, usage = int((record.ended or 0.0) // 60), record.usage
        tokens = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0) if usage else 0
        with self._lock:
            if not self._minutes or self._minutes[-1][0] < at:
                self._minutes.append([at, 0, 0, 0])
            minute = self._minutes[-1]
            failed = record.end not in ("ok", "caller_gone")
            minute[1:] = map(add, minute[1:], (1, int(failed), tokens))

    def facts(self) -> dict[str, Any]:
        """As plain data; `minutes` are minutes of the monotonic clock, and their counts."""
        since = int(self._clock.monotonic() // 60) - MINUTES
        with self._lock:
            minutes = [[*minute] for minute in self._minutes if minute[0] > since]
        calls = [each if isinstance(each, Call) else each() for each in [*self._last]]
        return {"minutes": minutes, "requests": msgspec.to_builtins(calls)}
