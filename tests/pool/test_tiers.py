"""Tiers: of the clients that may serve, those of the highest priority do."""

from __future__ import annotations

from collections import Counter

import pytest

from proxy.pool import Effect
from tests.support.pool import Desk, make_client


def free_and_paid(*, permits: int = 1) -> Desk:
    """Two free accounts, then two paid ones, then one more."""
    priorities = {"free1": 5, "free2": 5, "paid1": 0, "paid2": 0, "last": -1}
    return Desk(
        *[
            make_client(label, permits=permits, priority=priority)
            for label, priority in reversed(priorities.items())
        ]
    )


def order(desk: Desk, count: int) -> Counter[str]:
    found = Counter[str]()
    for _ in range(count):
        with desk.take() as lease:
            found[lease.client.label] += 1
    return found


def test_the_highest_tier_serves_in_the_pools_order() -> None:
    """Round robin within it, and nothing for the others, whatever the configuration's order."""
    assert order(free_and_paid(), 10) == {"free1": 5, "free2": 5}


def test_a_tier_that_is_busy_lets_the_next_one_serve() -> None:
    """One tier after the other; as soon as a higher one has a free client it serves again."""
    desk = free_and_paid()
    leases = [desk.take() for _ in range(5)]
    labels = [lease.client.label for lease in leases]
    assert [set(labels[:2]), set(labels[2:4])] == [{"free1", "free2"}, {"paid1", "paid2"}]
    assert labels[4] == "last"
    leases[0].release()
    leases[3].release()
    assert order(desk, 4) == {labels[0]: 4}
    for lease in leases:
        lease.release()
    desk.assert_idle()


@pytest.mark.parametrize("effect", [Effect.COOL, Effect.REST, Effect.OUT, Effect.OUT_OF_MODEL])
def test_a_client_that_is_not_well_does_not_keep_its_tier(effect: Effect) -> None:
    """Cooling, resting, out of service: a healthy client of a lower tier goes before it."""
    desk = free_and_paid()
    desk.fail("free1", effect)
    desk.fail("free2", effect)
    assert order(desk, 4) == {"paid1": 2, "paid2": 2}
    desk.clock.now += 60
    with desk.take() as lease:
        assert lease.client.label in ("free1", "free2")


def test_a_disabled_client_does_not_keep_its_tier() -> None:
    """Nor does one that was taken out of service by hand."""
    desk = free_and_paid()
    for label in ("free1", "free2"):
        desk.pool.set_disabled(label, True)
    assert order(desk, 4) == {"paid1": 2, "paid2": 2}
    desk.pool.set_disabled("free2", False)
    assert order(desk, 4) == {"free2": 4}


def test_what_rests_is_taken_by_tiers_too() -> None:
    """Where no client is healthy, and among those of a tier by the end of the rest."""
    desk = Desk(*[make_client(label, priority=n) for label, n in (("a", 0), ("b", 1), ("c", 1))])
    for label in "acb":
        desk.fail(label, Effect.REST)
        desk.clock.now += 0.1
    leases = [desk.take() for _ in range(3)]
    assert [lease.client.label for lease in leases] == ["c", "b", "a"]
    for lease in leases:
        lease.release()


def test_a_client_of_a_lower_tier_goes_before_one_that_was_tried() -> None:
    """A request that failed moves on; when all were tried it begins with the highest again."""
    desk = Desk(make_client("a", priority=1), make_client("b"))
    ticket = desk.ticket()
    found = []
    for _ in range(3):
        with desk.take(ticket=ticket) as lease:
            found.append(lease.client.label)
    assert found == ["a", "b", "a"]


def test_who_finds_every_tier_busy_gets_what_is_freed_first() -> None:
    """In the order of arrival, of whatever tier it is."""
    desk = free_and_paid()
    leases = {lease.client.label: lease for lease in [desk.take() for _ in range(5)]}
    early, late = desk.ticket(), desk.ticket()
    desk.queue(early, late)
    for label, ticket in (("last", early), ("free1", late)):
        leases[label].release()
        assert ticket.granted is not None
        assert ticket.granted.client.label == label
    for ticket in (early, late):
        desk.take(ticket=ticket).release()
    for lease in leases.values():
        lease.release()
    desk.assert_idle()


def test_a_tier_that_stood_by_begins_where_it_was() -> None:
    """Its turns are its own: neither does it catch up, nor has one of its clients all to do."""
    desk = Desk(
        *[make_client(label, priority=1) for label in "ab"],
        *[make_client(label) for label in "cd"],
    )
    order(desk, 1000)
    held = [desk.take(), desk.take()]
    desk.fail("c", Effect.COOL, asked_s=1)
    order(desk, 9)
    desk.clock.now += 1
    for count in (2, 4, 6):
        assert order(desk, count) == {"c": count // 2, "d": count // 2}
    for lease in held:
        lease.release()


def test_a_priority_changes_with_the_configuration() -> None:
    """Who waits, and what is in use, stays; the next request goes by the new tiers."""
    desk = Desk(make_client("a", priority=1), make_client("b"))
    assert order(desk, 100) == {"a": 100}
    desk.adopt(make_client("a"), make_client("b", priority=1))
    assert order(desk, 100) == {"b": 100}
    desk.adopt(make_client("a"), make_client("b"))
    found = order(desk, 100)
    assert abs(found["a"] - found["b"]) <= 2
