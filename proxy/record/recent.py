"""What a process remembers of its requests: the sums of each minute of an hour, and the last 50."""

from __future__ import annotations

import threading
from collections import deque
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

# What came of each client's attempts. `first_s`: seconds to streams' first events, in all;
# `last_error`: its moment and words.
_Clients: TypeAlias = dict[str, dict[str, Any]]
NOTHING: dict[str, Any] = {
    "good": 0,
    "failed": 0,
    "first_events": 0,
    "first_s": 0.0,
    "last_error": [],
}


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
                client = clients.setdefault(attempt.client, {**NOTHING})
                if attempt.reason == "ok":
                    client["good"] += 1
                    client["first_events"] += attempt.first_event_s is not None
                    client["first_s"] += attempt.first_event_s or 0.0
                elif attempt.reason not in _NO_FAULTS and (
                    attempt.status in _CLIENTS_OWN or not 400 <= attempt.status < 500
                ):
                    said = f"{attempt.status or ''} {attempt.reason}: {attempt.message}".strip()
                    client["failed"] += 1
                    client["last_error"] = [record.began + attempt.began_s, said]

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
    for label, one in (item for part in parts for item in part.items()):
        old = sums.get(label, NOTHING)
        sums[label] = {name: old[name] + number for name, number in one.items()}
        sums[label]["last_error"] = max(old["last_error"], one["last_error"])
    return sums
