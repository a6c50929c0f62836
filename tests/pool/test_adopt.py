"""A new configuration's clients take the place of another's: who stays, comes, and goes."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

import pytest

from proxy.clients.registry import Entry, Route
from proxy.config import load_config
from proxy.errors import ModelNotFound, NoClientFree
from proxy.pool import Effect, Ticket
from tests.support.pool import Desk, make_client

BOTH = (("m", "m"), ("n", "n"))


def test_a_client_that_stays_keeps_its_permits_in_use() -> None:
    """A mutex stays one, though the client is another object."""
    desk = Desk(make_client("a"))
    held = desk.take()
    desk.adopt(make_client("a"))
    waiting = desk.ticket()
    assert desk.ask(waiting) is None
    held.release()
    lease = desk.take(ticket=waiting)
    assert lease.client is desk.clients["a"], "the lease is of the new object"
    lease.release()
    desk.assert_idle()


def test_a_client_that_stays_keeps_health_counters_and_orders() -> None:
    """Cooldown, failures, what was counted, and that it was disabled by hand."""
    desk = Desk(make_client("a", models=BOTH), make_client("b", models=BOTH))
    desk.fail("a", Effect.COOL, asked_s=100)
    desk.pool.set_disabled("b", True)
    before = desk.pool.snapshot()
    desk.adopt(make_client("a", models=BOTH), make_client("b", models=BOTH))
    assert desk.pool.snapshot() == before
    assert desk.pool.cooled_in("m", desk.routes["m"]) == 100


def test_a_client_is_the_same_under_another_label() -> None:
    """Identity decides: a provider may be renamed."""
    desk = Desk(make_client("a", identity="1"))
    held = desk.take()
    desk.adopt(make_client("renamed", identity="1"))
    assert desk.facts("renamed")["in_flight"] == 1
    held.release()
    desk.assert_idle()


def test_another_client_under_the_same_label_is_not_the_same() -> None:
    """A key was exchanged for another: what the old one did is not the new one's fault."""
    desk = Desk(make_client("a", identity="1"))
    desk.fail("a", Effect.OUT)
    desk.adopt(make_client("a", identity="2"))
    desk.take().release()
    assert desk.facts("a")["failed"] == 0


def test_how_long_requests_take_stays_known() -> None:
    """A hint under the new configuration is by leases of before."""
    desk = Desk(make_client("a"), queue_timeout_s=30)
    for _ in range(60):
        lease = desk.take()
        desk.clock.now += 8
        lease.release()
    held = desk.take()
    desk.adopt(make_client("a"))
    with pytest.raises(NoClientFree) as caught:
        desk.wait(desk.ticket())
    assert caught.value.hint is not None
    assert caught.value.hint.after_s == pytest.approx(8, rel=0.05)
    held.release()


def test_waiters_keep_their_order() -> None:
    """Also before those who come afterwards."""
    desk = Desk(make_client("a"))
    held, first, second = desk.take(), desk.ticket(), desk.ticket()
    desk.queue(first, second)
    desk.adopt(make_client("a"))
    third = desk.ticket()
    desk.queue(third, second, first)
    held.release()
    for ticket in (first, second, third):
        lease = desk.take(ticket=ticket)
        assert all(other.granted is None for other in (first, second, third))
        lease.release()
    desk.assert_idle()


def test_waiters_get_a_client_that_came() -> None:
    """At once: no newcomer has to come by."""
    desk = Desk(make_client("a"))
    held, waiting = desk.take(), desk.ticket()
    new = make_client("b")
    desk.clock.after(1, lambda: desk.adopt(make_client("a"), new))
    began = desk.clock.now
    lease = desk.wait(waiting)
    assert lease is not None
    assert (lease.client, desk.clock.now) == (new, began + 1)
    lease.release()
    held.release()
    desk.assert_idle()


def test_a_client_that_is_gone_is_lent_to_nobody_and_drains() -> None:
    """Its leases end as they would have; whoever waits gets another."""
    desk = Desk(make_client("a"), make_client("b"))
    held = desk.lease_of("a"), desk.lease_of("b")
    waiting = desk.ticket()
    desk.queue(waiting)
    desk.adopt(make_client("b"))
    held[0].release()
    held[0].report(Effect.COOL)  # it is no more: nothing happens
    assert desk.ask(waiting) is None
    held[1].release()
    lease = desk.take(ticket=waiting)
    assert lease.client.label == "b"
    lease.release()
    desk.assert_idle()
    assert not desk.pool._leaving


def test_a_client_that_comes_back_while_it_drains_has_its_permits_in_use() -> None:
    """A key that was taken out and put back within one stream is not lent twice."""
    desk = Desk(make_client("a"), make_client("b"))
    held = desk.lease_of("a")
    desk.adopt(make_client("b"))
    desk.adopt(make_client("b"), make_client("a"))
    desk.take().release()
    other = desk.take()
    waiting = desk.ticket()
    assert other.client.label == "b"
    assert desk.ask(waiting) is None
    held.release()
    lease = desk.take(ticket=waiting)
    assert lease.client.label == "a"
    for each in (lease, other):
        each.release()
    desk.assert_idle()


def test_who_waits_for_a_model_that_is_gone_is_told_at_once() -> None:
    """As whoever asks for it anew is told: 404."""
    for left in ([], [make_client("a", models=(("n", "n"),))]):
        desk = Desk(make_client("a", models=BOTH))
        routes = desk.routes["m"]
        held, waiting = desk.take("m"), desk.ticket("m")
        began = desk.clock.now
        desk.clock.after(1, partial(desk.adopt, *left))
        with pytest.raises(ModelNotFound):
            desk.pool.acquire(waiting, routes, math.inf)
        assert desk.clock.now == began + 1
        held.release()
        desk.assert_idle()


def test_a_retry_is_not_given_a_client_that_is_gone() -> None:
    """A request that began before has its own routes; the pool knows better."""
    desk = Desk(make_client("a"), make_client("b"))
    ticket, routes = desk.ticket(), desk.routes["m"]
    first = desk.pool.acquire(ticket, routes, 0.0)
    assert first is not None
    desk.adopt(make_client("b" if first.client.label == "a" else "a"))
    first.release()
    second = desk.pool.acquire(ticket, routes, 0.0)
    assert second is not None
    assert second.client is next(iter(desk.clients.values()))
    second.release()
    desk.assert_idle()


@pytest.mark.parametrize("is_known", [True, False])
def test_routes_of_before_do_not_replace_newer_ones(is_known: bool) -> None:
    """A request that found its model just before asks just after; `is_known`: others have asked."""
    desk = Desk(make_client("a"), make_client("b"))
    outdated = desk.routes["m"]
    if is_known:
        desk.take().release()
    desk.adopt(make_client("b"), make_client("c"))
    lease = desk.pool.acquire(desk.ticket(), outdated, 0.0)
    assert lease is not None
    assert lease.client in desk.clients.values()
    lease.release()
    labels = set()
    for _ in range(4):
        with desk.take() as lease:
            labels.add(lease.client.label)
    assert labels == {"b", "c"}


def test_fewer_permits_come_into_force_as_leases_end() -> None:
    """Nothing is cut off, and nothing lent until enough has ended."""
    desk = Desk(make_client("a", permits=3))
    held = [desk.take() for _ in range(3)]
    desk.adopt(make_client("a", permits=1))
    waiting = desk.ticket()
    for lease in held:
        assert desk.ask(waiting) is None
        lease.release()
    desk.take(ticket=waiting).release()
    desk.assert_idle()


@pytest.mark.parametrize("permits", [3, 0])
def test_more_permits_go_to_those_who_wait(permits: int) -> None:
    """At once, in their order."""
    desk = Desk(make_client("a"))
    held, tickets = desk.take(), [desk.ticket() for _ in range(3)]
    desk.queue(*tickets)
    desk.adopt(make_client("a", permits=permits))
    granted = [ticket.granted is not None for ticket in tickets]
    assert granted == [True, True, permits == 0]
    for ticket in tickets:
        desk.pool.withdraw(ticket)
    held.release()
    desk.assert_idle()


def test_weights_change() -> None:
    """From the next round on."""
    desk = Desk(make_client("a", permits=0), make_client("b", permits=0, weight=5))
    for _ in range(30):
        desk.take().release()
    desk.adopt(make_client("a", permits=0, weight=5), make_client("b", permits=0))
    labels = Counter[str]()
    for _ in range(60):
        with desk.take() as lease:
            labels[lease.client.label] += 1
    assert labels == pytest.approx({"a": 50, "b": 10}, abs=2)


def test_a_trial_goes_on() -> None:
    """One at a time, also where the configuration changes meanwhile."""
    desk = Desk(make_client("a", permits=5))
    desk.fail("a", Effect.COOL, asked_s=1)
    desk.clock.now += 1
    trial, waiting = desk.take(), desk.ticket()
    desk.adopt(make_client("a", permits=5))
    assert desk.ask(waiting) is None
    trial.report(Effect.GOOD)
    desk.take(ticket=waiting).release()
    trial.release()
    desk.assert_idle()


def test_models_of_an_upstreams_own_list_stay_while_it_is_fetched_anew() -> None:
    """The new configuration knows no list yet; nobody is refused for that."""
    old, new = make_client("a", models=None), make_client("a", models=None)
    desk = Desk(old)
    desk.routes["m"] = (Route(old, "m"),)
    held, waiting = desk.take(), desk.ticket()
    desk.queue(waiting)
    desk.pool.adopt([new], {})
    held.release()
    lease = desk.take(ticket=waiting)
    assert lease.client is new
    lease.release()
    desk.pool.adopt([new], {"m": Entry("m", "p", (Route(new, "upstreams-m"),))})
    with desk.take() as lease:
        assert lease.model == "upstreams-m"


def test_a_request_keeps_the_settings_under_which_it_began() -> None:
    """`queue-timeout` of before for those of before, the new one for newcomers."""
    desk = Desk(make_client("a"), queue_timeout_s=30)
    held, early = desk.take(), desk.ticket()
    began = desk.clock.now
    desk.queue(early)
    late = Ticket("m", early.caller, load_config({"queue-timeout": 5}))
    desk.queue(late)
    for ticket, waited_s in ((late, 5), (early, 30)):
        with pytest.raises(NoClientFree, match=f"{waited_s} s"):
            desk.wait(ticket)
        assert desk.clock.now == began + waited_s
    held.release()
    desk.assert_idle()


def test_the_books_do_not_grow_with_configurations() -> None:
    """Nothing is kept of a client that is gone and idle."""
    desk = Desk(make_client("a"))
    for number in range(100):
        held = desk.take()
        desk.adopt(make_client(f"{number}"))
        held.release()
    assert [len(desk.pool._lines), len(desk.pool._leaving), len(desk.pool._queues)] == [1, 0, 1]
    desk.assert_idle()


def test_a_model_that_is_gone_leaves_no_queue() -> None:
    """Unless somebody waits in it, who has yet to be told."""
    desk = Desk(make_client("a", models=BOTH))
    held, waiting = desk.take(), desk.ticket("n")
    routes = desk.routes["n"]
    desk.queue(waiting)
    desk.adopt(make_client("a", models=(("o", "o"),)))
    assert desk.pool.queue_facts().keys() == {"n"}
    with pytest.raises(ModelNotFound):
        desk.pool.acquire(waiting, routes, -math.inf)
    desk.adopt(make_client("a", models=(("o", "o"),)))
    assert not desk.pool.queue_facts()
    held.release()
    desk.assert_idle()


def test_a_client_that_drains_is_told_of() -> None:
    """After those that are configured, until its last lease ends."""
    desk = Desk(make_client("a"))
    held = desk.take()
    assert desk.pool.adopt([make_client("b")], {}) == 1
    facts = [(one["client"], one["leaving"], one["in_flight"]) for one in desk.pool.snapshot()]
    assert facts == [("b", False, 0), ("a", True, 1)]
    held.release()
    assert [one["client"] for one in desk.pool.snapshot()] == ["b"]
