"""The gateway: the object that stays while configurations come and go.

Opens no socket and starts no thread: a process may fork after making one.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from .clients import make_clients
from .clients.base import Client
from .clients.registry import Registry
from .config import Caller, Config, ConfigSource, Secret
from .dialects.base import Ask
from .errors import ModelNotFound, ProxyError, RetryHint, TooManyInFlight
from .net import shortage
from .net.lost import LOST
from .net.watch import CLOCK, CallerConnection, Clock
from .pool import ClientPool
from .record.record import Attempt, Record
from .record.transcript import RequestLog, Transcript
from .reload import Reloader
from .request.attempts import Attempts, Call
from .request.stream import StreamBody
from .usage.limits import Limits, SharedLimits, refusal

if TYPE_CHECKING:
    from .usage.ledger import Ledger
    from .usage.metrics import Metrics

ANYONE = Caller("")  # the caller of a gateway without keys


class Generation(NamedTuple):
    """All that one configuration makes: a gateway replaces it whole. Opens nothing.

    A request keeps the one that it began with. What outlives a configuration, the pool and the
    places of requests in flight, is the gateway's.
    """

    config: Config
    clients: tuple[Client, ...]
    registry: Registry
    request_log: RequestLog | None

    @classmethod
    def of(cls, config: Config, clock: Clock, before: Generation | None = None) -> Generation:
        """Takes over idle connections and providers' lists of models of the one `before`."""
        clients = tuple(make_clients(config, clock, before.clients if before else ()))
        old = before and before.registry
        registry = Registry(clients, secrets=config.secrets, clock=clock, before=old)
        return cls(config, clients, registry, RequestLog(config) if config.request_log else None)


class Gateway:
    """Serves calls from one pool of clients, in any caller's dialect. Shared by all threads."""

    # Whether this process is to end, so that all of its gateways are not ready for more callers.
    is_stopping: ClassVar[bool] = False
    # Whether it is part of no other application: so it has paths for operators, and a folder.
    is_standalone = False

    def __init__(
        self, config: Config | ConfigSource, *, auto_reload: bool = False, clock: Clock = CLOCK
    ) -> None:
        """A `ConfigSource` can be read again: by `reloader`, and by itself if `auto_reload`."""
        source = config if isinstance(config, ConfigSource) else ConfigSource.of(config)
        config = source.config
        self.clock = clock
        self.tell: Callable[[str, Record, Attempt | None], None] = lambda *_: None  # as a record's
        self.metrics: Metrics | None = None  # what counts calls, if anything does
        # For the status page: what remembers calls, how to ask it, and all workers.
        self.remember: Callable[[Record], None] | None = None
        self.recent: Callable[[], dict[str, Any]] | None = None
        self.ask_workers: Callable[[dict[str, str]], list[dict[str, Any]]] | None = None
        self.reloader = Reloader(source, self.adopt, auto=auto_reload, clock=clock)
        self.generation = Generation.of(config, clock)
        if config.state is None:
            self.pool = ClientPool(self.generation.clients, clock=clock)
            self.limits = Limits(clock, self.need_ledger)
        else:
            from .pool.shared.books import SharedPool  # redis-py: for nobody else
            from .pool.shared.connection import Server

            pool = SharedPool(self.generation.clients, Server(config.state), clock=clock)
            self.pool, self.limits = pool, SharedLimits(clock, self.need_ledger, pool)
        self._places = Places()  # of each limited caller by its identity, of all by None
        self.ledger: Ledger | None = None
        self._needs_ledger = False
        self._ledger_lock = threading.Lock()  # held to replace it
        self.set_ledger()
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
        """Serve requests that come from now on under this configuration. For one thread at a time.

        Returns how many of those that have begun have a client that is no more configured.
        """
        old = self.generation
        new = Generation.of(config, self.clock, old)
        draining = self.pool.adopt(new.clients, new.registry.table)
        self.generation = new
        kept = {client.transport for client in new.clients}
        for client in old.clients:
            if client.transport and client.transport not in kept:
                client.transport.leave()
        self.set_ledger()
        return draining

    def need_ledger(self) -> Ledger | None:
        """The ledger, for a day limit: kept from now on, whatever `usage` says. None: nowhere."""
        self._needs_ledger = True
        if self.ledger is None:
            self.set_ledger()
        return self.ledger

    def set_ledger(self) -> None:
        """Have a ledger if the configuration asks for one, or a day limit needs it."""
        config, folder = self.config, ""
        if config.usage or self._needs_ledger or any(one.has_day_limit for one in config.callers):
            from .usage.ledger import Ledger, default_dirs  # SQLite: for nobody else

            folder = config.state_dir or (self.is_standalone and default_dirs(config.path)[0]) or ""
        with self._ledger_lock:
            old = self.ledger
            if old is None or (old.folder, old.days) != (folder, config.usage_days):
                self.ledger = Ledger(folder, config.usage_days, self.clock) if folder else None
        if old is not None and old is not self.ledger:
            old.close()

    def keep(
        self, record: Record, held: ExitStack, environ: Mapping[str, Any] | None = None
    ) -> None:
        """Close the record when `held` ends, by what was raised meanwhile; then its transcript."""
        log = self.generation.request_log
        if log is not None:
            record.transcript = Transcript(log, record, environ or {})
            held.callback(record.transcript.end)
        record.tell = self.tell

        def close(_kind: object, error: BaseException | None, _trace: object) -> None:
            if error is not None:
                known = error if isinstance(error, ProxyError) else shortage.recognised(error)
                if known is not None:
                    record.failed(known)
            record.close(self.clock.monotonic())
            self.count(record)
            if self.remember is not None:
                self.remember(record)
            if self.ledger is not None:
                self.ledger.add(record, self.generation.registry.table)

        held.push(close)

    def follow(self, metrics: Metrics) -> None:
        """Have calls, and readings of the configuration, counted from now on."""
        self.metrics, self.reloader.counted = metrics, metrics.reloaded

    def count(self, record: Record) -> None:
        """Count a call that is over, or was refused before it became one."""
        if self.metrics is not None:
            self.metrics.call(record, self.generation.registry.table)

    def facts(self) -> dict[str, Any]:
        """How it stands now, as plain data."""
        facts = {"clients": self.pool.snapshot(), "queues": self.pool.queue_facts()}
        return {**facts, "in_flight": self._places.taken(None)}

    def admit(self, caller: Caller, record: Record, held: ExitStack) -> None:
        """Take a place among the requests in flight, and among the caller's if those are limited.

        Until `held` ends; then the caller's other limits are charged. Raises CallerLimitReached,
        TooManyInFlight at once when none is left. All are counted per worker process.
        Comes before the request is read: that takes memory.
        """
        record.caller, record.who = caller.name, caller
        if LOST.notes:
            LOST.give_back()
        places, most, place = self._places, self.config.max_requests_in_flight, held
        if own := caller.max_concurrency:
            if not places.take(caller.identity, own):
                raise refusal(caller, record, "max-concurrency")
            place = held.enter_context(ExitStack())
            place.callback(places.give_back, caller.identity)
            record.leave = place.close
        if not places.take(None, most):
            text = f"{most} requests are in flight already (max-requests-in-flight)"
            raise TooManyInFlight(text, hint=RetryHint(1.0))
        held.callback(places.give_back, None)
        if caller.is_metered or (own and self.config.state):
            self.limits.enter(caller, record, place)
            held.callback(self.limits.charge, caller, record)

    def serve(
        self,
        ask: Ask,
        caller: Caller,
        connection: CallerConnection,
        *,
        record: Record,
        held: ExitStack,
        timeout_s: float | None = None,
    ) -> tuple[bytes | StreamBody, dict[str, str]]:
        """Answer a request that was admitted; raises ProxyError. What `held` holds ends with it.

        Returns, too, those of the upstream's headers that go back; none while nobody answered.
        A stream is returned at its first chunks or at the time to commit it, and takes over `held`;
        its attempts go on in its iteration then. That time never comes where the dialect has no
        keep-alive: nobody in between might lose patience. `timeout_s` replaces `request-timeout`.
        """
        generation = self.generation  # the request keeps it, whatever is adopted meanwhile
        record.mask = generation.config.secrets.mask
        record.model, record.stream = ask.model, ask.stream
        if record.transcript is not None:
            record.transcript.begin()
        check_model(caller, ask.model)
        record.tell("call_started", record, None)
        writer = ask.writer() if ask.stream else None
        config = generation.config
        session = b""
        if config.sticky and ask.session:  # told from those of others who name theirs alike
            named = f"{caller.name or caller.key.reveal()}\0{ask.session}"
            session = blake2b(named.encode(errors="surrogatepass"), digest_size=8).digest()
        call = Call(ask, writer, connection, record, timeout_s, session)
        if config.fallbacks:
            others = dict.fromkeys(config.fallbacks.get(ask.model, ()))
            others.pop(ask.model, None)
            call = call._replace(fallbacks=tuple(filter(caller.may_use, others)))
        attempts = Attempts(call, generation.registry, self.pool, config, self.clock)
        held.callback(attempts.close)
        if writer is None:
            body = ask.whole(attempts.answers())
            record.status, record.end, record.bytes_out = 200, "ok", len(body)
            if caller.is_metered:  # the answer's headers say what is left
                self.limits.charge(caller, record)
            return body, attempts.headers
        has_patience = not writer.keep_alive
        commit_s = math.inf if has_patience else config.streaming.commit_after_seconds or math.inf
        relay = attempts.advance(record.arrived + commit_s)
        first = b"" if relay is None else writer.feed(relay.first)
        stream = StreamBody(attempts, relay, first, held.pop_all())
        record.status = 200
        return stream, attempts.headers

    def close(self) -> None:
        """Close idle connections, and write what the ledger is to have."""
        LOST.give_back()
        self.pool.close()
        for client in self.generation.clients:
            client.close()
        if self.ledger is not None:
            self.ledger.close()


# Those of this process, for the server that ends it.
gateways: weakref.WeakSet[Gateway] = weakref.WeakSet()


def check_model(caller: Caller, alias: str) -> None:
    """Raise ModelNotFound for a model that this caller may not use."""
    if caller.models is not None and not caller.may_use(alias):
        raise ModelNotFound(f"the model {alias!r} does not exist; see /v1/models", param="model")


class Places:
    """Counts what is in flight, each with a limit of its own: takes a place or not. Never waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _taken
        self._taken: dict[str | Secret | None, int] = {}  # whoever has none is forgotten

    def take(self, whose: str | Secret | None, most: int) -> bool:
        """Take a place, if fewer than `most` are taken."""
        with self._lock:
            taken = self._taken.get(whose, 0)
            if taken < most:
                self._taken[whose] = taken + 1
            return taken < most

    def taken(self, whose: str | Secret | None) -> int:
        """How many are taken."""
        with self._lock:
            return self._taken.get(whose, 0)

    def give_back(self, whose: str | Secret | None) -> None:
        """Give back what `take` took."""
        with self._lock:
            left = self._taken.pop(whose) - 1
            if left:
                self._taken[whose] = left
