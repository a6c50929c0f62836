"""The gateway: the object that stays while configurations come and go.

Opens no socket and starts no thread: a process may fork after making one.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar, NamedTuple

from .clients.registry import Entry
from .config import Caller, Config, ConfigSource, Secret
from .dialects.base import Ask
from .errors import CallerLimitReached, ModelNotFound, ProxyError, RetryHint, TooManyInFlight
from .generation import Generation
from .net import shortage
from .net.lost import LOST
from .net.watch import CLOCK, CallerConnection, Clock
from .pool import ClientPool, Pool
from .record.record import Attempt, Record
from .record.transcript import Transcript
from .reload import Reloader
from .request.attempts import Attempts, Call
from .request.prompts import Series
from .request.stream import StreamBody
from .request.waits import Waits

# The caller of a gateway without keys.
ANYONE = Caller("")


class Gateway:
    """Serves calls from one pool of clients, in any caller's dialect. Shared by all threads."""

    # Whether this process is to end, so that all of its gateways are not ready for more callers.
    is_stopping: ClassVar[bool] = False

    def __init__(
        self, config: Config | ConfigSource, *, auto_reload: bool = False, clock: Clock = CLOCK
    ) -> None:
        """A `ConfigSource` can be read again: by `reloader`, and by itself if `auto_reload`."""
        source = config if isinstance(config, ConfigSource) else ConfigSource.of(config)
        config = source.config
        self.clock = clock
        self.tell: Callable[[str, Record, Attempt | None], None] = lambda *_: None  # as a record's
        self.reloader = Reloader(source, self.adopt, auto=auto_reload, clock=clock)
        self.generation = Generation.of(config, clock)
        self.pool: Pool = ClientPool(self.generation.clients, clock=clock)
        self._limit = InFlightLimit()
        self._callers = CallersInFlight()
        self._limit.limit = config.max_requests_in_flight
        gateways.add(self)

    @property
    def config(self) -> Config:
        """The present configuration."""
        return self.generation.config

    def arrival(self) -> float:
        """The moment at which a request arrives. It may have a changed configuration read."""
        now = self.clock.monotonic()
        if now >= self.reloader.looks_at:
            self.reloader.look()
        return now

    def adopt(self, config: Config) -> int:
        """Serve requests that come from now on under this configuration.

        Those that have begun end under theirs, with clients that are still configured. Returns how
        many of them have a client that is not. For one thread at a time.
        """
        old = self.generation
        new = Generation.of(config, self.clock, old)
        draining = self.pool.adopt(new.clients, new.registry.table)
        self._limit.limit = config.max_requests_in_flight  # the places that are taken count on
        self.generation = new
        kept = {client.transport for client in new.clients}
        for client in old.clients:
            if client.transport and client.transport not in kept:
                client.transport.leave()
        return draining

    def keep(
        self, record: Record, held: ExitStack, environ: Mapping[str, Any] | None = None
    ) -> Transcript | None:
        """Close the record when `held` ends, with what was raised meanwhile as its end.

        Whoever follows requests is told then and before by it (`tell`). Returns the file that
        `request-log` asks for, which ends behind the record.
        """
        log = self.generation.request_log
        transcript = None if log is None else Transcript(log, record, environ or {})
        if transcript is not None:
            held.callback(transcript.end)
        record.tell = self.tell

        def close(_kind: object, error: BaseException | None, _trace: object) -> None:
            if error is not None:
                known = error if isinstance(error, ProxyError) else shortage.recognised(error)
                if known is not None:
                    record.status = known.status
                    record.end = known.code or str(known.status)
                if record.usage is not None:
                    record.cut_usage()
            record.close(self.clock.monotonic())

        held.push(close)
        return transcript

    def admit(self, caller: Caller, record: Record, held: ExitStack) -> None:
        """Take a place among the requests in flight, and among the caller's if those are limited.

        Until `held` ends. Raises CallerLimitReached, TooManyInFlight at once when none is left.
        Both are counted per worker process. Comes before the request is read: that takes memory.
        """
        record.caller = caller.name
        if LOST.notes:
            LOST.give_back()
        if caller.max_concurrency:
            self._callers.take(caller)
            held.callback(self._callers.give_back, caller)
        held.enter_context(self._limit)

    def find(self, alias: str, connection: CallerConnection, record: Record) -> Entry:
        """The model. May block for a provider's own list, up to `request-timeout`.

        Raises CallerGone, ModelNotFound, ModelsUnknown, UpstreamTimeout.
        """
        waits = Waits(self.config, self.clock, arrived=record.arrived)
        entry = self.generation.registry.find(alias, connection, waits.deadline)
        if entry is None:
            raise waits.out_of_time()
        return entry

    def entries(self, connection: CallerConnection, record: Record) -> list[Entry]:
        """All models that are known; may block for first lists, up to `request-timeout`."""
        until = record.arrived + self.config.request_timeout_s
        return self.generation.registry.entries(connection, until)

    def serve(
        self,
        ask: Ask,
        caller: Caller,
        connection: CallerConnection,
        *,
        record: Record,
        held: ExitStack,
        transcript: Transcript | None = None,
        timeout_s: float | None = None,
    ) -> Served:
        """Answer a request that was admitted; raises ProxyError. What `held` holds ends with it.

        A stream is returned at its first chunks or at the time to commit it, and takes over `held`;
        its attempts go on in its iteration then. Where the dialect has no keep-alive, as nobody is
        in between who might lose patience, that time never comes. `timeout_s`: in place of
        `request-timeout`.
        """
        generation = self.generation  # the request keeps it, whatever is adopted meanwhile
        record.mask = generation.config.secrets.mask
        record.model = ask.model
        record.stream = ask.stream
        if transcript is not None:
            transcript.begin()
        check_model(caller, ask.model)
        record.tell("call_started", record, None)
        writer = ask.writer() if ask.stream else None
        call = Call(ask, writer, connection, record, timeout_s)
        config = generation.config
        attempts = Attempts(call, generation.registry, self.pool, config, self.clock)
        source = Series(attempts, record) if ask.may_have_prompts else attempts
        held.callback(source.close)
        if writer is None:
            body = ask.whole(source.answers())
            record.status = 200
            record.end = "ok"
            record.bytes_out = len(body)
            return Served(body, source.headers)
        has_patience = not writer.keep_alive
        commit_s = math.inf if has_patience else config.streaming.commit_after_seconds or math.inf
        relay = source.advance(record.arrived + commit_s)
        stream = StreamBody(
            source,
            relay,
            writer,
            first=b"" if relay is None else writer.feed(relay.first),
            record=record,
            held=held.pop_all(),
            keepalive_s=0 if has_patience else config.streaming.keepalive_seconds,
            idle_timeout_s=config.idle_timeout_s,
            clock=self.clock,
        )
        record.status = 200
        return Served(stream, source.headers)

    def close(self) -> None:
        """Close idle connections."""
        LOST.give_back()
        for client in self.generation.clients:
            client.close()


# Those of this process, for the server that ends it.
gateways: weakref.WeakSet[Gateway] = weakref.WeakSet()


class Served(NamedTuple):
    """An answer. `headers`: of the upstream's, those that go back; none while nobody answered."""

    body: bytes | StreamBody
    headers: dict[str, str]


def check_model(caller: Caller, alias: str) -> None:
    """Raise ModelNotFound for a model that this caller may not use."""
    if caller.models is not None and not caller.may_use(alias):
        raise ModelNotFound(f"the model {alias!r} does not exist; see /v1/models", param="model")


# The wait to hint at: nobody knows when a request in flight will end, and most end soon.
_SOON = RetryHint(1.0)


class InFlightLimit:
    """A counter with a limit: takes a place, or raises at once. Never waits."""

    def __init__(self) -> None:
        self.limit = 0
        self._lock = threading.Lock()  # guards _taken
        self._taken = 0

    def __enter__(self) -> None:
        with self._lock:
            is_full = self._taken >= self.limit
            if not is_full:
                self._taken += 1
        if is_full:
            raise TooManyInFlight(
                f"{self.limit} requests are in flight already (max-requests-in-flight)", hint=_SOON
            )

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._taken -= 1


class CallersInFlight:
    """How many requests each limited caller has in flight. One that has none is forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _taken
        self._taken = Counter[str | Secret]()  # by the callers' identities

    def take(self, caller: Caller) -> None:
        """Take one of the caller's places; raises CallerLimitReached at once. Never waits."""
        with self._lock:
            is_full = self._taken[caller.identity] >= caller.max_concurrency
            if not is_full:
                self._taken[caller.identity] += 1
        if is_full:
            raise CallerLimitReached(
                f"{caller.max_concurrency} requests of this caller are in flight already "
                "(its max-concurrency)",
                hint=_SOON,
            )

    def give_back(self, caller: Caller) -> None:
        """Give back what `take` took."""
        with self._lock:
            self._taken[caller.identity] -= 1
            if not self._taken[caller.identity]:
                del self._taken[caller.identity]
