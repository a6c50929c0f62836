"""What a process remembers of its requests: the sums of each minute of an hour, and the last 50."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from ..net.watch import Clock
from ..record.record import MAX_MODEL_CHARS, Attempt, Call, Record

MINUTES = 60
MOST_REQUESTS = 50

# They say nothing of a client: the caller left, or we could not go on.
_NO_FAULTS = ("caller_gone", "server_shutting_down", "server_out_of_resources")
# Nor does any other 4xx: the caller asked wrongly.
_CLIENTS_OWN = (401, 402, 403, 408, 429)

# Requests, those of them that failed, tokens. And by client: attempts that were good, that failed,
# streams' first events, the seconds to them in all, the last error's time and words.
_Minute: TypeAlias = "tuple[list[int], dict[str, list[Any]]]"


class Recent:
    """Told of requests as `Record.tell` says, and tells `then`."""

    def __init__(self, then: Callable[[str, Record, Attempt | None], None], clock: Clock) -> None:
        self._then = then
        self._clock = clock
        self._lock = threading.Lock()  # guards _minutes
        self._minutes: dict[int, _Minute] = {}  # of a clock that processes have in common
        self._last: deque[Callable[[], Call] | Call] = deque(maxlen=MOST_REQUESTS)

    def tell(self, name: str, record: Record, attempt: Attempt | None) -> None:
        if name == "call_ended":
            # Put into words only when somebody looks, unless a body or the like would be kept.
            is_small = record.transcript is None and len(record.model) <= MAX_MODEL_CHARS
            self._last.append(record.call if is_small else record.call())
            self._count(record)
        self._then(name, record, attempt)

    def _count(self, record: Record) -> None:
        at, usage = int((record.ended or 0.0) // 60), record.usage
        tokens = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0) if usage else 0
        with self._lock:
            if at not in self._minutes:
                self._minutes[at] = [0, 0, 0], {}
                if len(self._minutes) > MINUTES:
                    del self._minutes[next(iter(self._minutes))]
            counts, clients = self._minutes[at]
            counts[0] += 1
            counts[1] += record.end not in ("ok", "caller_gone")
            counts[2] += tokens
            for attempt in record.attempts:
                client = clients.setdefault(attempt.client, [0, 0, 0, 0.0, None])
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
            minutes = [(at, [*one], {**each}) for at, (one, each) in self._minutes.items()]
        clients: dict[str, list[Any]] = {}
        for at, _, counted in minutes:
            for label, one in counted.items() if at > since else ():
                *sums, last = clients.get(label, [0, 0, 0, 0.0, None])
                added = [old + new for old, new in zip(sums, one, strict=False)]
                clients[label] = [*added, one[4] or last]
        calls = [each if isinstance(each, Call) else each() for each in [*self._last]]
        return {
            "minutes": [(at, *counts) for at, counts, _ in minutes if at > since],
            "clients": clients,
            "requests": msgspec.to_builtins(calls),
        }
