"""Two processes' pools on one real Redis, over sockets and with their listeners."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from proxy.clients.registry import Route
from proxy.config import Caller, Secret
from proxy.config.schema import State
from proxy.errors import NoClientFree, NoClientInService, StateUnavailable
from proxy.pool import Effect, Ticket
from proxy.pool.client_lock import ClientLease
from proxy.pool.shared import books
from proxy.pool.shared.books import SharedPool
from proxy.pool.shared.connection import Server
from tests.support.pool import ANYBODY, DEFAULTS, make_client
from tests.support.redis import RedisServer, require_redis
from tests.support.state import ModelPool, shared_desk

require_redis()

_names = iter(range(10**6))


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """One that the tests share, each with a pool of another name."""
    with RedisServer() as running:
        yield running


class Member:
    """A process's pool."""

    def __init__(self, url: str, name: str) -> None:
        clients = [make_client(label) for label in "ab"]
        self.pool = SharedPool(clients, Server(State(url=Secret(url), name=name)))
        self.routes = tuple(Route(client, "m") for client in clients)

    def take(self) -> ClientLease:
        """A lease, waited for."""
        lease = self.pool.acquire(self.ticket(), self.routes, math.inf)
        assert lease is not None
        return lease

    def ticket(self) -> Ticket:
        return Ticket("m", ANYBODY, DEFAULTS)

    def assert_nothing_is_free(self) -> None:
        ticket = self.ticket()
        assert self.pool.acquire(ticket, self.routes, -math.inf) is None
        self.pool.withdraw(ticket)


@pytest.fixture
def members(redis: RedisServer) -> Iterator[tuple[Member, Member]]:
    """One comes by TCP, the other by the Unix socket."""
    name = f"pool{next(_names)}"
    both = Member(redis.url, name), Member(redis.unix_url, name)
    yield both
    for one in both:
        one.pool.close()


def test_permits_are_one_count_and_go_to_who_waits(members: tuple[Member, Member]) -> None:
    """What one process gives back another one's request gets, in the order of arrival."""
    one, two = members
    held = [one.take(), two.take()]
    assert {lease.client.label for lease in held} == {"a", "b"}
    served: list[ClientLease] = []
    waiting = threading.Thread(target=lambda: served.append(two.take()))
    waiting.start()
    while not any(queue["waiting"] for queue in two.pool.queue_facts().values()):
        pass
    one.assert_nothing_is_free()
    held[0].release()
    waiting.join()
    assert served[0].client is not held[0].client
    assert served[0].client.label == held[0].client.label
    one.pool.beat()
    assert [facts["elsewhere"] for facts in one.pool.snapshot()] == [1, 1]


def test_a_cooldown_and_a_disabled_client_hold_everywhere(members: tuple[Member, Member]) -> None:
    """As does their end by hand."""
    one, two = members
    with one.take() as lease:
        lease.report(Effect.OUT, cause="401: no such key")
    other = "b" if lease.client.label == "a" else "a"
    assert two.pool.set_disabled(other, True)
    for member in members:
        with pytest.raises(NoClientInService, match="is disabled by hand"):
            member.take()
    two.pool.beat()
    facts = {facts["client"]: facts for facts in two.pool.snapshot()}
    assert facts[lease.client.label]["models"]["m"]["cause"] == "401: no such key"
    assert one.pool.reset(lease.client.label)
    assert two.take().client.label == lease.client.label
    assert one.pool.set_disabled(other, False)
    assert one.take().client.label == other


def test_a_success_counts_however_often_it_is_told() -> None:
    """As in the local pool: it is the last word, where nothing that began later has failed."""
    desk = shared_desk(make_client("a", permits=2))
    one, other = desk.ask(desk.ticket()), desk.ask(desk.ticket())
    assert one is not None
    assert other is not None
    with one, other:
        one.report(Effect.GOOD)
        other.report(Effect.COOL, asked_s=50.0)
        one.report(Effect.GOOD)
    late = desk.ask(desk.ticket())
    assert late is not None
    late.release()
    desk.pool.close()


def test_a_reset_is_of_all_models_at_once() -> None:
    """Who has waited longest gets the client, whichever model was shut first."""
    client = make_client("a", models=(("m", "m"), ("n", "n")))
    desk = shared_desk(client, max_retry_interval_s=100.0)
    assert isinstance(desk.pool, ModelPool)
    for alias in "mn":
        lease = desk.ask(desk.ticket(alias))
        assert lease is not None
        with lease:
            lease.report(Effect.COOL, asked_s=50.0)
    first, second = desk.ticket("n"), desk.ticket("m")
    desk.queue(first, second)
    assert desk.pool.reset("a")
    desk.pool.pump()
    assert first.granted is not None
    assert second.granted is None
    desk.pool.withdraw(first)
    desk.pool.withdraw(second)
    desk.pool.close()


def test_who_is_refused_waits_no_longer() -> None:
    """Not in the books either: they would hand over what nobody takes up."""
    desk = shared_desk(make_client("a"), queue_timeout_s=1.0)
    assert isinstance(desk.pool, ModelPool)
    held, late = desk.ask(desk.ticket()), desk.ticket()
    assert held is not None
    assert desk.ask(late) is None
    desk.clock.now += 1.0
    with pytest.raises(NoClientFree):
        desk.ask(late)
    redis = desk.pool.state.redis
    assert redis.keys("{pp:test}:w:*") == []
    held.release()
    assert redis.keys("{pp:test}:p:*") == []
    desk.pool.close()


def test_a_roster_is_forgotten_an_hour_after_its_last_use() -> None:
    desk = shared_desk(make_client("a", models=(("m", "m"), ("n", "n"))))
    assert isinstance(desk.pool, ModelPool)
    redis = desk.pool.state.redis
    used = []
    for alias in "mn":
        desk.take(alias).release()
        used.append(set(redis.keys("{pp:test}:m:*")))
    for _ in range(60):
        desk.take("n").release()
        for _ in range(16):
            desk.clock.now += 4.0  # its clock goes on by 5 s at most without a beat
            desk.pool.beat()
            known = set(redis.keys("{pp:test}:m:*"))
            assert used[1] - used[0] <= known
    assert known == used[1] - used[0]
    desk.pool.close()


def test_a_callers_limit_holds_everywhere(members: tuple[Member, Member]) -> None:
    """Its place is left when the request is over."""
    one, two = members
    caller = Caller("ann", max_concurrency=1)
    with ExitStack() as held:
        assert one.pool.admit(caller, (0, 0), held) is not None
        with ExitStack() as refused:
            assert two.pool.admit(caller, (0, 0), refused) is None
    one.pool.beat()  # the place is left without waiting, on another connection
    with ExitStack() as held:
        assert two.pool.admit(caller, (0, 0), held) is not None


def test_a_place_is_not_left_before_its_caller_knows_of_it(
    members: tuple[Member, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the answer is on its way the process beats, time and again."""
    one, two = members
    caller, call = Caller("ann", max_concurrency=1), one.pool._server.call

    def slow(what: str, process: str, known: str, *words: object) -> object:
        answer = call(what, process, known, *words)
        for _ in range(3 if what == "spend" else 0):
            one.pool.beat()
        return answer

    monkeypatch.setattr(one.pool._server, "call", slow)
    with ExitStack() as held, ExitStack() as refused:
        assert one.pool.admit(caller, (0, 0), held) is not None
        two.pool.beat()  # what was given back without waiting has arrived
        assert two.pool.admit(caller, (0, 0), refused) is None


@pytest.mark.long
def test_while_the_state_is_away_nobody_is_lent_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refused connections are not waited for one by one; a lease is given back without it."""
    monkeypatch.setattr(books, "PATIENCE_S", 0.2)
    with RedisServer() as redis:
        member = Member(redis.url, "away")
        lease = member.take()
        redis.stop()
        for _ in range(3):
            with pytest.raises(StateUnavailable) as raised:
                member.take()
        assert raised.value.hint is not None
        lease.release()
        monkeypatch.setattr(books, "PATIENCE_S", 30.0)
        redis.start()
        for each in (member.take(), member.take()):
            each.release()
        member.pool.close()


@pytest.mark.long
def test_what_is_held_is_said_again_to_a_server_that_forgot_it() -> None:
    """Restarted empty, or flushed: nobody is lent what is still in use."""
    with RedisServer() as redis:
        one, two = Member(redis.url, "again"), Member(redis.unix_url, "again")
        held = one.take()
        for forget in (redis.restart, redis.flush):
            forget()
            lease = two.take()
            assert lease.client.label != held.client.label
            two.assert_nothing_is_free()
            lease.release()
        held.release()
        one.pool.close()
        two.pool.close()
