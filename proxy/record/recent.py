"""What a process remembers of its requests: the sums of each minute of an hour, and the last 50."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from operator import add
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

# By client: attempts that were good, that failed, streams' first events, the seconds to them in
# all, the last error's time and words.
_Clients: TypeAlias = dict[str, list[Any]]
NOTHING = (0, 0, 0, 0.0, None)


class Recent:
    """Is told of each call that is over."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards _minutes
        # Each by a clock that processes have in common; requests, those that failed, tokens.
        self._minutes: deque[tuple[int, list[int], _Clients]] = deque(maxlen=MINUTES)
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
                self._minutes.append((at, [0, 0, 0], {}))
            _, counts, clients = self._minutes[-1]
            counts[0] += 1
            counts[1] += record.end not in ("ok", "caller_gone")
            counts[2] += tokens
            for attempt in record.attempts:
                client = clients.setdefault(attempt.client, [*NOTHING])
                if attempt.reason == "ok":
                    client[0] += 1
                    if attempt.first_event_s is not None:
                        client[2] += 1
                        client[3] += attempt.first_event_s
                elif attempt.reason not in _NO_FAULTS and (
                    attempt.status in _CLIENTS_OWN or not 400 <= attempt.status < 500
                ):
                    said = f"{attempt.status or ''} {attempt.reason}: {attempt.message}".strip()
                    client[1] += 1
                    client[4] = record.began + attempt.began_s, said

    def facts(self) -> dict[str, Any]:
        """As plain data; `minutes` are minutes of the monotonic clock, and their counts."""
        since = int(self._clock.monotonic() // 60) - MINUTES
        with self._lock:
            told = [minute for minute in self._minutes if minute[0] > since]
            minutes, clients = [(at, *counts) for at, counts, _ in told], summed(m[2] for m in told)
        calls = [each if isinstance(each, Call) else each() for each in [*self._last]]
        return {"minutes": minutes, "clients": clients, "requests": msgspec.to_builtins(calls)}


def summed(parts: Iterable[_Clients]) -> _Clients:
    """The sums of clients' numbers; of their last errors the latest."""
    sums: _Clients = {}
    for label, (*counts, error) in (item for part in parts for item in part.items()):
        *old, last = sums.get(label, NOTHING)
        sums[label] = [*map(add, old, counts), max(filter(None, (last, error)), default=None)]
    return sums
