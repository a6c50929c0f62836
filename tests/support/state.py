"""The shared books on a virtual clock: functions as they are, in a fake Redis or in a real one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import fakeredis

from proxy.clients.base import Client
from proxy.clients.registry import Route
from proxy.errors import PoolError
from proxy.pool import Ticket
from proxy.pool.client_lock import ClientLease
from proxy.pool.shared.books import SharedPool
from proxy.pool.shared.connection import LIBRARY, NAME, Away, Server
from tests.support.clock import VirtualClock
from tests.support.pool import Desk, FakeClient

# What the books ask for the time, and what they are told in its place; what they do when they lend,
# and what is to be known of it.
_TIME, _NOW = "redis.call('TIME')", "{0, redis.call('GET', 'now')}"
_INFO, _UP = "call('INFO', 'server')", "call('GET', 'up')"
_LEND = "call('HINCRBY', N, c, '1')"
_NOTE = _LEND + " call('RPUSH', 'order', number .. '@' .. process)"

# The last of what was told so far.
_MARK = b"."


class State:
    """A server that keeps the books. Its time is the clock's, and `step_us`, if it was set."""

    def __init__(self, clock: VirtualClock, backend: Any = None) -> None:
        self.clock = clock
        self.redis = backend or fakeredis.FakeRedis(version=(7,))
        self._runs = itertools.count(1)
        self.step_us = 0
        self.calls = 0  # so far
        self.start()
        self.started -= 1000.0  # it has been up for long

    def start(self) -> None:
        """Begin empty, as a server that has just been started."""
        self.flush()
        self.run = f"run{next(self._runs)}"
        self.started = self.clock.now
        books = LIBRARY
        for what, instead in ((_TIME, _NOW), (_INFO, _UP), (_LEND, _NOTE)):
            assert books.count(what) == 1
            books = books.replace(what, instead)
        self.redis.function_load(books, replace=True)

    def flush(self) -> None:
        """FLUSHALL: the same server, without a memory."""
        self.redis.flushall()
        self._told: dict[str, Any] = {}

    def order_of(self, lease: str) -> int:
        """The place of a lease, by its name in the books, among all that were lent."""
        return self.redis.lrange("order", 0, -1).index(lease.encode())

    def call(self, *words: Any) -> Any:
        """What the functions say, by the time of now."""
        up_s = int(self.clock.now - self.started)
        now_us = round(self.clock.wall() * 1e6) + self.step_us
        times: dict[str, Any] = {"now": now_us, "up": f"uptime_in_seconds:{up_s}"}
        if times != self._told:
            self._told = times
            self.redis.mset(times)
        self.calls += 1
        return self.redis.fcall(NAME, 1, *words)


class StateServer(Server):
    """One process's way to a `State`: by calls, without connections."""

    def __init__(self, state: State, process: str = "place-1-1-1") -> None:
        self.state = state
        self.process = process
        self.fault = ""  # of the next call: its answer is `lost`, or it comes `twice`
        self.prefix = "{pp:test}:"

    def forget(self) -> None:
        """Nothing is open."""

    def close(self) -> None:
        """Nothing is open."""

    def call(self, what: str, process: str, known: str, *words: object) -> Any:
        state = self.state
        given: list[Any] = [self.prefix, what, process, f"{state.run} {known}", *words]
        fault, self.fault = self.fault, ""
        if fault == "twice":
            state.call(*given)
        answer = state.call(*given)
        if fault == "lost":
            raise Away("the answer is lost")
        return answer

    def send(self, *call: Any) -> bool:
        with suppress(Away):
            self.call(*call)
        return True


class ModelPool(SharedPool):
    """A process's pool without a thread: `pump` does what its listener would."""

    def __init__(
        self, clients: Iterable[Client], server: StateServer, *, clock: VirtualClock
    ) -> None:
        self.state = server.state
        self.routes: dict[Ticket, tuple[Route, ...]] = {}  # of all who asked
        self._heard = 0  # calls before which nothing is to be heard any more
        super().__init__(clients, server, clock=clock)
        self._me = server.process
        self.ears = self.state.redis.pubsub()
        self.ears.subscribe(f"{server.prefix}to:{self._me}", f"{server.prefix}all")

    def open(self) -> None:
        """There is no thread."""

    def _ask(self, ticket: Ticket, routes: tuple[Route, ...]) -> ClientLease | None:
        """Successes are told: time stands still, and a failure may be as old as any lease."""
        if (lease := ticket.granted) is not None:  # the thread that was rung asked at once
            ticket.granted = ticket.bell = None
            return lease
        self.routes[ticket] = routes
        lease = super()._ask(ticket, routes)
        if lease is not None and lease.watched == "-":
            lease.watched = "w"
        return lease

    def withdraw(self, ticket: Ticket) -> None:
        lease, ticket.granted = ticket.granted, None
        if lease is not None:
            lease.release()
        super().withdraw(ticket)

    def messages(self) -> list[bytes]:
        """What the process was told and has not heard yet."""
        if self._heard == self.state.calls:
            return []
        self._heard = self.state.calls
        self.state.redis.publish(f"{self._server.prefix}to:{self._me}", _MARK)
        found: list[bytes] = []
        for message in self.ears.listen():
            if message["data"] == _MARK:
                break
            if message["type"] == "message":
                found.append(message["data"])
        return found

    def pump(self) -> None:
        """Hear all that was told; who was served asks at once."""
        while messages := self.messages():
            for message in messages:
                self.hear([message])
                if message.isdigit() and (ticket := self._waiting.get(int(message))):
                    bell = ticket.bell
                    with suppress(PoolError):  # its time may be over: it is told as it looks again
                        ticket.granted = self._ask(ticket, self.routes[ticket])
                    ticket.bell = bell

    def order_of(self, number: int) -> int:
        return self.state.order_of(f"{number}@{self._me}")

    def close(self) -> None:
        self.ears.close()


def shared_desk(*clients: FakeClient, backend: Any = None, **settings: float) -> Desk:
    """A desk whose books are in a state of its own."""
    clock = VirtualClock()
    server = StateServer(State(clock, backend))
    kind: Any = partial(ModelPool, server=server)
    desk = Desk(*clients, clock=clock, kind=kind, **settings)
    desk.clock = clock
    return desk
