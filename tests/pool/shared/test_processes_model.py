"""Processes that die, pause and lose what they are told, and a server that forgets everything.

Whatever happens in whatever order, on a virtual clock: never more is in flight than permitted, but
for what a process still has open that was silent for longer than its leases live; nobody is
overtaken; and in the end all permits are there again.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from proxy.clients.registry import Route
from proxy.errors import PoolError
from proxy.pool import Ticket
from proxy.pool.client_lock import ClientLease as Lease
from proxy.pool.shared.books import RETRY_S
from proxy.pool.shared.connection import Away
from tests.pool.test_pool_model import _SETTINGS, FlagBell
from tests.support.clock import VirtualClock
from tests.support.pool import ANYBODY, DEFAULTS, make_client
from tests.support.redis import IN_CI, PROGRAM, RedisServer
from tests.support.state import ModelPool, State, StateServer

PERMITS = {"a": 1, "b": 2}
TTL_S = 12.0


@dataclass(eq=False)
class Request:
    """One that waits, or holds a lease."""

    ticket: Ticket
    lease: Lease | None = None


@dataclass(eq=False)
class Process:
    """A process, and what its requests hold at the upstreams."""

    pool: ModelPool
    server: StateServer
    routes: tuple[Route, ...]
    requests: list[Request] = field(default_factory=list)
    beats_at: float = 0.0
    is_paused: bool = False
    overlaps: list[Request] = field(default_factory=list)  # open for longer than it was trusted


class FairServer(StateServer):
    """Fails where a request is lent a client at once that waits behind another."""

    def call(self, what: str, process: str, known: str, *words: object) -> Any:
        redis: Any = self.state.redis
        was_lent = False
        if what == "acquire":
            paper = redis.hget(f"{{pp:test}}:p:{process}", words[0])
            was_lent = paper is not None and not paper.startswith(b"?")
        answer = super().call(what, process, known, *words)
        if what == "acquire" and answer[0] == b"G" and not was_lent:
            for key in redis.keys("{pp:test}:w:*"):
                for _, rank in redis.zrange(key, 0, -1, withscores=True):
                    assert rank >= answer[1], "an earlier request was passed over"
        return answer


class ProcessesMachine(RuleBasedStateMachine):
    """Three processes; one that is killed is replaced."""

    backend: Any = None

    @initialize()
    def open(self) -> None:
        self.clock = VirtualClock()
        self.state = State(self.clock, self.backend)
        self.forgot_at = self.stepped_at = 0.0
        self.leaps: list[float] = []  # of the clock, by hours
        self.names = (f"place{n}-1-1-1" for n in itertools.count())
        self.processes = [self.make() for _ in range(3)]

    def make(self) -> Process:
        clients = [make_client(label, permits=count) for label, count in PERMITS.items()]
        server = FairServer(self.state, next(self.names))
        pool = ModelPool(clients, server, clock=self.clock)
        process = Process(pool, server, tuple(Route(client, "m") for client in clients))
        process.beats_at = self.clock.now
        pool.beat()
        return process

    def awake(self) -> list[Process]:
        return [one for one in self.processes if not one.is_paused]

    def ask(self, process: Process, request: Request) -> None:
        try:
            lease = process.pool.acquire(request.ticket, process.routes, -1.0)
        except PoolError:
            process.requests.remove(request)
            return
        if lease is None:
            request.ticket.bell = FlagBell()  # type: ignore[assignment]
        else:
            request.lease = lease

    def look(self) -> None:
        """Have those who wait look again if they were rung, or their time has come."""
        for process in self.awake():
            process.pool.pump()
            for request in process.requests[:]:
                ticket = request.ticket
                if request.lease is None and (
                    ticket.granted or ticket.bell.is_rung or self.clock.now >= ticket.wakes_at  # type: ignore[union-attr]
                ):
                    self.ask(process, request)

    def beat(self, process: Process) -> None:
        process.beats_at = self.clock.now + 2.0
        try:
            process.pool.beat()
        except Away as error:
            process.pool.lost(error)
            process.beats_at = self.clock.now + RETRY_S

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            self.clock.now += 0.5
            for process in self.awake():
                if self.clock.now >= process.beats_at:
                    self.beat(process)
            self.look()
            for process in self.processes:
                # Others may use what it holds from now on, whatever it has still open.
                # Nor does it say what it holds to a server that has forgotten it.
                redis: Any = self.state.redis
                state = redis.hget("{pp:test}:meta", "state") or b""
                is_unsaid = state.split(b" ")[-1] != process.pool._known.encode()
                if process.is_paused and (is_unsaid or self.silence_of(process) > TTL_S - 0.5):
                    process.overlaps = [one for one in process.requests if one.lease]

    def silence_of(self, process: Process) -> float:
        """For how long it has not said that it lives, as the books see it."""
        beat_at = process.pool._beat_at
        return self.clock.now - beat_at + 5.0 * sum(leap >= beat_at for leap in self.leaps)

    numbers = st.integers(0, 2)

    @rule(number=numbers, count=st.integers(1, 3))
    def arrive(self, number: int, count: int) -> None:
        process = self.processes[number]
        for _ in range(0 if process.is_paused else count):
            request = Request(Ticket("m", ANYBODY, DEFAULTS))
            process.requests.append(request)
            self.ask(process, request)

    @rule(number=numbers, data=st.data())
    def finish(self, number: int, data: Any) -> None:
        process = self.processes[number]
        if process.requests and not process.is_paused:
            request = data.draw(st.sampled_from(process.requests))
            self.end(process, request)
            self.look()

    def end(self, process: Process, request: Request) -> None:
        process.requests.remove(request)
        if request.lease:
            request.lease.release()
        else:
            process.pool.withdraw(request.ticket)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.pass_time(seconds)

    @rule(number=numbers)
    def kill(self, number: int) -> None:
        """The kernel closes its connections, to upstreams too."""
        self.processes[number].pool.close()
        self.processes[number] = self.make()

    @rule(number=numbers)
    def pause(self, number: int) -> None:
        self.processes[number].is_paused = True

    @precondition(lambda self: len(self.awake()) < 3)
    @rule(seconds=st.sampled_from([0.0, 3.0, 20.0]))
    def go_on(self, seconds: float) -> None:
        self.pass_time(seconds)
        for process in self.processes:
            process.is_paused = False
        self.look()

    @rule()
    def restart(self) -> None:
        self.forgot_at = self.clock.now
        self.state.start()

    @precondition(lambda self: self.awake())
    @rule()
    def flush(self) -> None:
        """At once by somebody who knew it before: a new process could overshoot until then."""
        self.clock.now += 0.001
        self.forgot_at = self.clock.now
        self.state.flush()
        process = self.awake()[0]
        process.server.fault = ""
        self.beat(process)

    @rule(number=numbers, fault=st.sampled_from(["lost", "twice"]))
    def break_next_call(self, number: int, fault: str) -> None:
        self.processes[number].server.fault = fault

    @rule(number=numbers)
    def lose_messages(self, number: int) -> None:
        self.processes[number].pool.messages()

    # A step counts for 5 s at most, which is more than a grace, and three for more than a lease.
    @precondition(lambda self: self.clock.now > max(self.forgot_at, self.stepped_at) + 4.0)
    @rule(hours=st.sampled_from([-2, 1]))
    def step_the_clock(self, hours: int) -> None:
        self.stepped_at = self.clock.now
        self.state.step_us += hours * 3600 * 10**6
        self.leaps += [self.clock.now] if hours > 0 else []

    @invariant()
    def assert_no_permit_is_lent_twice(self) -> None:
        for label, permits in PERMITS.items():
            held = [
                request
                for process in self.processes
                for request in process.requests
                if request.lease and request.lease.client.label == label
                if request not in process.overlaps
            ]
            assert len(held) <= permits, f"{label} is lent {len(held)} times"

    def teardown(self) -> None:
        """All go on and end what they hold: the books are empty soon, and lend."""
        if not hasattr(self, "processes"):
            return
        for process in self.processes:
            process.is_paused = False
        self.pass_time(20.0)
        for process in self.processes:
            for request in process.requests[:]:
                self.end(process, request)
        self.pass_time(6.0)
        redis = self.state.redis
        assert set(redis.hgetall("{pp:test}:n").values()) <= {b"0"}
        assert redis.keys("{pp:test}:p:*") == []
        assert redis.keys("{pp:test}:w:*") == []
        process = self.processes[0]
        for _ in range(sum(PERMITS.values())):
            assert process.pool.acquire(Ticket("m", ANYBODY, DEFAULTS), process.routes, -1.0)
        for process in self.processes:
            process.pool.close()


@pytest.mark.long
class TestProcessesModel(ProcessesMachine.TestCase):  # type: ignore[misc,valid-type]
    """On books in a fake Redis."""

    settings = settings(_SETTINGS, max_examples=10, stateful_step_count=25)


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None and not IN_CI, reason="redis-server is not installed")
@pytest.mark.timeout(600)
def test_processes_model_at_length() -> None:
    """40,000 steps on a real server."""
    with RedisServer() as server, server.client(decode_responses=False) as client:
        machine = type("Machine", (ProcessesMachine,), {"backend": client})
        run_state_machine_as_test(
            machine,
            settings=settings(
                _SETTINGS,
                max_examples=1000,
                stateful_step_count=40,
                phases=[Phase.generate],  # to find less would take longer than the suite has
            ),
        )
