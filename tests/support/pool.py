"""What the pool's tests share: clients that send nothing, and a pool that they are lent by."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from proxy.clients.base import ChunkTranslator, Client, Reply
from proxy.clients.registry import Entry, Route
from proxy.config import load_config
from proxy.config.config import ClientConfig, Model
from proxy.config.secrets import Secret
from proxy.errors import UpstreamRefusal
from proxy.net.watch import CallerConnection, Clock
from proxy.pool import ClientPool, Effect, Ticket
from proxy.pool.client_lock import ClientLease, ClientLock
from proxy.pool.queue import Line, ModelQueue
from proxy.wire.chat import ChatRequest, Usage
from tests.support.clock import VirtualClock

# A caller that never leaves.
ANYBODY = CallerConnection(None)

DEFAULTS = load_config({})


class FakeClient(Client):
    """A client that is leased but never sends. `listing` is its `list_models`."""

    def __init__(
        self,
        config: ClientConfig,
        listing: Callable[[CallerConnection, float], list[str]] | None = None,
    ) -> None:
        super().__init__(config)
        self._listing = listing

    def send(
        self,
        request: ChatRequest,
        *,
        model: str,
        headers: Mapping[str, str],
        caller: CallerConnection,
        deadline: float,
    ) -> Reply:
        raise AssertionError("a pool lends clients, and asks them nothing")

    def refusal(self, reply: Reply, body: bytes) -> UpstreamRefusal:
        raise AssertionError("a pool lends clients, and asks them nothing")

    def answer(self, request: ChatRequest, body: bytes) -> tuple[bytes, Usage | None]:
        raise AssertionError("a pool lends clients, and asks them nothing")

    def chunks(self, request: ChatRequest) -> ChunkTranslator:
        raise AssertionError("a pool lends clients, and asks them nothing")

    def list_models(self, *, caller: CallerConnection, deadline: float) -> list[str]:
        assert self._listing is not None
        return self._listing(caller, deadline)

    def close(self) -> None:
        """Nothing is open."""


def make_client(
    label: str,
    *,
    permits: int = 1,
    weight: int = 1,
    provider: str = "p",
    models: Sequence[tuple[str, str]] | None = (("m", "m"),),
    listing: Callable[[CallerConnection, float], list[str]] | None = None,
    identity: str = "",
    priority: int = 0,
) -> FakeClient:
    """A client; `models` are pairs of alias and name, None: the upstream's own list.

    Its identity is its label, unless told otherwise.
    """
    config = ClientConfig(
        kind="demo",
        provider=provider,
        label=label,
        identity=identity or label,
        key=Secret(""),
        base_url="",
        max_concurrency=permits,
        weight=weight,
        priority=priority,
        models=None if models is None else tuple(Model(name, alias) for alias, name in models),
    )
    return FakeClient(config, listing)


class OwnedLock:
    """A lock that knows who holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0

    def __enter__(self) -> None:
        assert self._owner != threading.get_ident(), "a thread waits for itself"
        self._lock.acquire()
        self._owner = threading.get_ident()

    def __exit__(self, *raised: object) -> None:
        self._owner = 0
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def check(self) -> None:
        """Raise AssertionError unless the calling thread holds it."""
        assert self._owner == threading.get_ident(), "the lock is not held"


class GuardedClientLock(ClientLock):
    """A lock that may only be looked at, or changed, with the pool's lock held."""

    def __init__(self, client: Client, lock: OwnedLock) -> None:
        object.__setattr__(self, "guard", lock)
        with lock:
            super().__init__(client)

    def __getattribute__(self, name: str) -> Any:
        if name != "guard":
            object.__getattribute__(self, "guard").check()
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        object.__getattribute__(self, "guard").check()
        object.__setattr__(self, name, value)


class GuardedDict(dict[str, ModelQueue]):
    """The pool's queues, as `GuardedClientLock`."""

    def __init__(self, lock: OwnedLock) -> None:
        super().__init__()
        self._lock = lock

    def get(self, alias: str, default: Any = None) -> Any:
        self._lock.check()
        return super().get(alias, default)

    def __getitem__(self, alias: str) -> ModelQueue:
        self._lock.check()
        return super().__getitem__(alias)

    def __setitem__(self, alias: str, queue: ModelQueue) -> None:
        self._lock.check()
        super().__setitem__(alias, queue)

    def items(self) -> Any:
        self._lock.check()
        return super().items()


def guard(pool: ClientPool) -> OwnedLock:
    """Have every use of the pool's state fail that is made without its lock. Before any request."""
    lock = OwnedLock()
    pool._lock = lock  # type: ignore[assignment]
    for identity, line in pool._lines.items():
        pool._lines[identity] = Line(GuardedClientLock(line.lock.client, lock))
    pool._queues = GuardedDict(lock)
    return lock


class Desk:
    """A pool on a virtual clock, asked for one model unless told otherwise.

    `settings` are fields of the configuration under which its requests begin.
    """

    def __init__(
        self,
        *clients: FakeClient,
        clock: Clock | None = None,
        kind: type[ClientPool] = ClientPool,
        **settings: float,
    ) -> None:
        self.clock = VirtualClock()
        self.config = msgspec.structs.replace(DEFAULTS, **settings)
        self._name(clients)
        self.pool = kind(clients, clock=clock or self.clock)
        self.lock = guard(self.pool)

    def _name(self, clients: Iterable[FakeClient]) -> None:
        self.clients = {client.label: client for client in clients}
        self.routes: dict[str, tuple[Route, ...]] = {}
        for client in clients:
            for model in client.config.models or ():
                others = self.routes.get(model.alias, ())
                self.routes[model.alias] = (*others, Route(client, model.name))

    def adopt(self, *clients: FakeClient) -> None:
        """Have these be the clients, as a new configuration would."""
        self._name(clients)
        entries = {alias: Entry(alias, "p", routes) for alias, routes in self.routes.items()}
        self.pool.adopt(clients, entries)

    def ticket(
        self,
        alias: str = "m",
        caller: CallerConnection = ANYBODY,
        session: bytes = b"",
        rank: int = -1,
    ) -> Ticket:
        return Ticket(alias, caller, self.config, session=session, rank=rank)

    def ask(self, ticket: Ticket) -> ClientLease | None:
        """A lease if there is one now; else the request waits."""
        return self.pool.acquire(ticket, self.routes[ticket.alias], -math.inf)

    def queue(self, *tickets: Ticket) -> None:
        """Have these wait, in this order; none may find a client free."""
        for ticket in tickets:
            assert self.ask(ticket) is None

    def wait(self, ticket: Ticket, for_s: float = math.inf) -> ClientLease | None:
        """A lease, waited for up to `for_s`."""
        until = self.pool._clock.monotonic() + for_s
        return self.pool.acquire(ticket, self.routes[ticket.alias], until)

    def take(self, alias: str = "m", ticket: Ticket | None = None) -> ClientLease:
        """A lease that is to be had at once."""
        lease = self.ask(ticket or self.ticket(alias))
        assert lease is not None
        return lease

    def lease_of(self, label: str, alias: str = "m") -> ClientLease:
        """A lease of this client, which must be free."""
        ticket = self.ticket(alias)
        for _ in self.clients:
            lease = self.take(ticket=ticket)
            if lease.client.label == label:
                return lease
            lease.release()
        raise AssertionError(f"{label} is not free")

    def fail(
        self, label: str, effect: Effect, *, asked_s: float | None = None, cause: str = ""
    ) -> None:
        """Have a request with this client end so."""
        with self.lease_of(label) as lease:
            lease.report(effect, asked_s=asked_s, cause=cause)

    def facts(self, label: str) -> dict[str, object]:
        """A client's part of the snapshot."""
        [facts] = [facts for facts in self.pool.snapshot() if facts["client"] == label]
        return facts

    def assert_idle(self) -> None:
        """Nothing in flight, nobody waiting."""
        for facts in self.pool.snapshot():
            assert (facts["in_flight"], facts["waiting"], facts["leases"]) == (0, 0, [])
        assert all(queue["waiting"] == 0 for queue in self.pool.queue_facts().values())
