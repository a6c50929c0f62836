"""One configured gateway: its clients, pool and models, and how many requests it takes at once.

Opens no socket and starts no thread: a process may fork after making one.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from .clients import make_clients
from .clients.registry import Entry, Registry
from .config import Caller, Config
from .errors import CallerLimitReached, PoolError, RetryHint, TooManyInFlight
from .net.lost import LOST
from .net.watch import CLOCK, CallerConnection, Clock
from .pool import ClientPool, Pool
from .record.record import Record
from .record.transcript import RequestLog
from .request import call
from .request.attempts import Answer, Attempts, Call
from .request.call import Asked, Sought, Source
from .request.prompts import Series
from .request.stream import StreamBody
from .request.waits import Waits
from .wire.completions.answers import TextAnswers
from .wire.completions.request import read_completion

# Nobody knows when a request in flight will end: soon, as a rule.
_SOON = RetryHint(1.0)


class Gateway:
    """What the endpoints stand on. Shared by all threads."""

    def __init__(self, config: Config, *, clock: Clock = CLOCK) -> None:
        self.config = config
        self.clock = clock
        self.request_log = RequestLog(config) if config.request_log else None
        self.clients = make_clients(config, clock)
        self.registry = Registry(self.clients, secrets=config.secrets, clock=clock)
        self.pool: Pool = ClientPool(self.clients, clock=clock)
        self._limit = InFlightLimit(
            TooManyInFlight,
            config.max_requests_in_flight,
            "requests are in flight already (max-requests-in-flight)",
        )
        self._limits = {
            caller.key: InFlightLimit(
                CallerLimitReached,
                caller.max_concurrency,
                "requests with this API key are in flight already (its max-concurrency)",
            )
            for caller in config.callers
            if caller.max_concurrency
        }

    def admit(self, caller: Caller, held: ExitStack) -> None:
        """Take a place among the requests in flight, and among the caller's if those are limited.

        Until `held` ends. Raises CallerLimitReached, TooManyInFlight at once when none is left.
        Both are counted per worker process.
        """
        if LOST.notes:
            LOST.give_back()
        if self._limits and (own := self._limits.get(caller.key)) is not None:
            held.enter_context(own)
        held.enter_context(self._limit)

    def find(self, alias: str, caller: CallerConnection, record: Record) -> Entry:
        """The model. May block for a provider's own list, up to `request-timeout`.

        Raises CallerGone, ModelNotFound, ModelsUnknown, UpstreamTimeout.
        """
        waits = self._waits(record)
        entry = self.registry.find(alias, caller, waits.deadline)
        if entry is None:
            raise waits.out_of_time()
        return entry

    def entries(self, caller: CallerConnection, record: Record) -> list[Entry]:
        """All models that are known; may block for first lists, up to `request-timeout`."""
        return self.registry.entries(caller, self._waits(record).deadline)

    def chat(self, asked: Asked, held: ExitStack) -> tuple[Answer | StreamBody, Source]:
        """Serve a chat request (`answering.serve`), and what its headers are to be taken from."""

        def begin(entry: Entry) -> Source:
            return self._attempts(asked.call(entry))

        return self._serve(begin, asked, held)

    def complete(self, asked: Asked, held: ExitStack) -> tuple[Answer | StreamBody, Source]:
        """The same for a completions request."""

        def begin(entry: Entry) -> Source:
            completion = read_completion(asked.request.body, is_native=entry.is_native)
            call = asked.call(entry)
            calls = [call._replace(request=request) for request in completion.requests]
            return Series(calls, TextAnswers(completion), self._attempts)

        return self._serve(begin, asked, held)

    def _attempts(self, call: Call, rank: int | None = None) -> Attempts:
        return Attempts(call, self.pool, self.config, self.clock, rank=rank)

    def _waits(self, record: Record) -> Waits:
        return Waits(self.config, self.clock, arrived=record.arrived)

    def _serve(
        self, begin: Callable[[Entry], Source], asked: Asked, held: ExitStack
    ) -> tuple[Answer | StreamBody, Source]:
        find = partial(self.registry.find, asked.request.model, asked.caller)
        entry = find(-math.inf)
        if entry is not None:
            source = begin(entry)
        else:
            source = Sought(find, begin, self._waits(asked.record))
        answer = call.serve(source, asked, held, config=self.config, clock=self.clock)
        return answer, source

    def close(self) -> None:
        """Close idle connections."""
        LOST.give_back()
        for client in self.clients:
            client.close()


class InFlightLimit:
    """A counter with a limit: takes a place, or raises at once. Never waits."""

    def __init__(self, refusal: type[PoolError], limit: int, what: str) -> None:
        self._refusal = refusal
        self._message = f"{limit} {what}"
        self._lock = threading.Lock()  # guards _left
        self._left = limit

    def __enter__(self) -> None:
        with self._lock:
            is_full = not self._left
            if not is_full:
                self._left -= 1
        if is_full:
            raise self._refusal(self._message, hint=_SOON)

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._left += 1
