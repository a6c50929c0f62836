"""An upstream that sees how many requests of each key are in flight, whoever sends them.

It complains when a request comes that is one too many, and keeps when each began and ended. That is
how tests see permits from outside, over any number of gateways.
"""

from __future__ import annotations

import math
import select
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from tests.support.server import Connection
from tests.support.upstream import Answer, Hold, Received, Reply, Upstream, _read_request, raw

# A peer's end, whatever it sent before; Linux only.
_LEFT = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class Rule(NamedTuple):
    """How many requests a key may have in flight, from a moment on."""

    since: float
    permits: Mapping[str, int]


@dataclass(slots=True, eq=False)
class Flight:
    """A request of a key at the upstream. `began` and `ended` are `time.monotonic()`.

    `name`: its `x-request-id`. `is_excused`: it does not count any more.
    """

    key: str
    name: str
    began: float
    connection: Connection
    ended: float = math.inf
    is_excused: bool = False


class Witness(Upstream):
    """Forgets requests when they are over, but for the last `keep` in `flights`.

    `grace_s`: how long what was permitted before stays so, as gateways learn of it a little later.
    """

    def __init__(self, *, keep: int = 0, grace_s: float = 0.0, host: str = "127.0.0.1") -> None:
        self.complaints: list[str] = []
        self.flights: deque[Flight] = deque(maxlen=keep)
        self._grace_s = grace_s
        self._rules: list[Rule] = []
        self._in_flight: defaultdict[str, dict[int, Flight]] = defaultdict(dict)
        super().__init__(host=host)

    def permit(self, permits: Mapping[str, int]) -> None:
        """From now on requests may begin while less than so many of a key are in flight."""
        now = time.monotonic()
        with self._changed:
            recent = [rule for rule in self._rules[1:] if rule.since > now - self._grace_s]
            self._rules = [*self._rules[-1 - len(recent) :], Rule(now, dict(permits))]

    def in_flight(self, key: str = "") -> list[Flight]:
        """The requests that are under way, of one key or of all."""
        with self._changed:
            keys = [key] if key else list(self._in_flight)
            return [one for each in keys for one in self._living(each)]

    def excuse(self, fits: Callable[[Flight], bool]) -> list[Flight]:
        """Let requests that are under way no longer count; which ones that were."""
        with self._changed:
            excused = [one for one in self.in_flight() if fits(one)]
            for one in excused:
                one.is_excused = True
            return excused

    def begun(self, since: float = -math.inf) -> list[Flight]:
        """What began since a moment, in order, as far as it is kept."""
        with self._changed:
            return [one for one in self.flights if one.began >= since]

    def wait_begun(self, fits: Callable[[Flight], bool], timeout_s: float) -> Flight:
        """Block until such a request has come, or did; raises TimeoutError."""
        found: list[Flight] = []

        def is_there() -> bool:
            found[:] = filter(fits, self.flights)
            return bool(found)

        self._wait(is_there, timeout_s, "a request")
        return found[0]

    def serve(self, connection: Connection) -> None:
        while True:
            received = _read_request(connection)
            with self._witnessed(connection, received):
                self._answer(connection, received)
            with self._changed:
                del self.history[:-100]
                if len(self._threads) > 1000:
                    self._threads[:] = [one for one in self._threads if one.is_alive()]

    @contextmanager
    def _witnessed(self, connection: Connection, received: Received) -> Iterator[None]:
        key = received.key or ""
        name = received.header.get("x-request-id", "")
        with self._changed:
            living = self._living(key)
            most = self._most(key)
            same = [one for one in living if not one.is_excused]
            # Its peer may have left before we came to read what it had sent.
            count, where = self._count(connection, same)
            if count >= most and not _has_left(connection):
                names = ", ".join(one.name for one in living)
                self.complaints.append(
                    f"{received.path} {name}: {key[:10]} may have {most} in flight{where},"
                    f" and has {names}"
                )
            flight = Flight(key, name, time.monotonic(), connection)
            self._in_flight[key][connection.number] = flight
            self.flights.append(flight)
            self._changed.notify_all()
        try:
            yield
        finally:
            self._note_end(received)

    def _count(self, connection: Connection, flights: list[Flight]) -> tuple[int, str]:
        """How many of those under way with a key count for what is permitted to this one, where."""
        return len(flights), ""

    def _living(self, key: str) -> list[Flight]:
        return [one for one in self._in_flight[key].values() if not _has_left(one.connection)]

    def _note_end(self, received: Received) -> None:
        with self._changed:
            flight = self._in_flight[received.key or ""].pop(received.connection, None)
            if flight is not None:
                flight.ended = time.monotonic()

    def _most(self, key: str) -> int:
        """The most that any rule of now, or of just before, permits."""
        now = time.monotonic()
        rules = self._rules[-1:]
        for rule, after in zip(self._rules, self._rules[1:], strict=False):
            if after.since > now - self._grace_s:
                rules.append(rule)
        return max((rule.permits.get(key, 0) for rule in rules), default=0)

    def _choose(self, received: Received) -> Answer:
        """Whoever has the last bytes may begin another request before we are told they went."""
        answer = super()._choose(received)

        def told(received: Received) -> Reply:
            reply = answer if isinstance(answer, Reply) else answer(received)
            *steps, last = reply.wire()
            return raw(*steps, Hold(_Now(lambda: self._note_end(received))), last)

        return told


class _Now(threading.Event):
    """For a `Hold` that holds nothing: something is to be done at this step."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self._act = act

    def is_set(self) -> bool:
        self._act()
        return True


def _has_left(connection: Connection) -> bool:
    poller = select.poll()
    try:
        poller.register(connection, _LEFT)
    except ValueError:  # closed here
        return True
    return bool(poller.poll(0))
