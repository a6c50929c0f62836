"""What a process remembers of its requests: the sums of each minute of an hour, and the last 50."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec

from ..net.watch import Clock
from .record import MAX_MODEL_CHARS, Call, Record

MINUTES = 60
MOST_REQUESTS = 50

# They say nothing of a client: the caller left, or we could not go on.
_NO_FAULTS = ("caller_gone", "server_shutting_down", "server_out_of_resources")
# Nor does any other 4xx: the caller asked wrongly.
_CLIENTS_OWN = (401, 402, 403, 408, 429)

# By client, what came of its attempts, `first_s` the seconds to streams' first events in all; by ""
# what came of requests.
Sums: TypeAlias = dict[str, Counter[str]]
NOTHING = dict.fromkeys(("good", "failed", "first_events", "first_s"), 0)


class Recent:
    """Is told of each call that is over."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards _minutes
        # Each by a clock that processes have in common.
        self._minutes: deque[tuple[int, Sums]] = deque(maxlen=MINUTES)
        self._last: deque[Callable[[], Call] | Call] = deque(maxlen=MOST_REQUESTS)

    def add(self, record: Record) -> None:
        """Remember a call."""
        # Put into words only when somebody looks, unless a body or the like would be kept.
        is_small = record.transcript is None and len(record.model) <= MAX_MODEL_CHARS
        self._last.append(record.call if is_small else record.call())
        at, usage = int((record.ended or 0.0) // 60), record.usage
        tokens = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0) if usage else 0
        with self._lock:
            if not self._minutes or self._minutes[-1][0] < at:
                self._minutes.append((at, defaultdict(Counter)))
            sums = self._minutes[-1][1]
            failed = int(record.end not in ("ok", "caller_gone"))
            sums[""].update(requests=1, failed=failed, tokens=tokens)
            for one in record.attempts:
                is_good, first_s = int(one.reason == "ok"), one.first_event_s
                is_its_fault = one.status in _CLIENTS_OWN or not 400 <= one.status < 500
                if is_good or (is_its_fault and one.reason not in _NO_FAULTS):
                    firsts = {"first_events": int(first_s is not None), "first_s": first_s or 0}
                    sums[one.client].update(firsts, good=is_good, failed=1 - is_good)

    def facts(self) -> dict[str, Any]:
        """As plain data; `minutes` are minutes of the monotonic clock, and their counts."""
        since = int(self._clock.monotonic() // 60) - MINUTES
        with self._lock:
            told = [minute for minute in self._minutes if minute[0] > since]
            minutes = [(at, *sums[""].values()) for at, sums in told]
            clients = summed(sums for _, sums in told)
        calls = [each if isinstance(each, Call) else each() for each in [*self._last]]
        return {"minutes": minutes, "clients": clients, "requests": msgspec.to_builtins(calls)}


def summed(parts: Iterable[Sums]) -> Sums:
    """All of them added up."""
    sums: Sums = defaultdict(Counter)
    for key, counts in (item for part in parts for item in part.items()):
        sums[key].update(counts)
    return sums
