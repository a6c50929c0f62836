"""Who is next: shares, smoothness, credit, and that the order's books stay small."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from proxy.clients.registry import Route
from proxy.pool import ClientPool, Effect, Ticket
from proxy.pool.client_lock import ClientLock
from proxy.pool.queue import Line, ModelQueue
from tests.support.pool import ANYBODY, DEFAULTS, Desk, FakeClient, make_client


def desk_of(**weights: int) -> Desk:
    return Desk(
        *[make_client(label, permits=0, weight=weight) for label, weight in weights.items()]
    )


def order(desk: Desk, count: int) -> str:
    """The labels of the clients that so many requests in a row get."""
    labels = []
    for _ in range(count):
        with desk.take() as lease:
            labels.append(lease.client.label)
    return "".join(labels)


def longest_run(labels: str, label: str) -> int:
    return max(
        (len(list(run)) for key, run in itertools.groupby(labels) if key == label), default=0
    )


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 1},
        {"a": 1, "b": 1, "c": 1},
        {"a": 5, "b": 1, "c": 1},
        {"a": 3, "b": 2},
        {"a": 1000, "b": 1},
        {"a": 7, "b": 5, "c": 3, "d": 1},
    ],
)
def test_each_round_has_the_shares_of_the_weights(weights: dict[str, int]) -> None:
    """In any stretch as long as the sum of weights, each client is within one of its weight."""
    desk = desk_of(**weights)
    total = sum(weights.values())
    labels = order(desk, 3 * total)
    for start in range(0, 2 * total, max(1, total // 50)):
        found = Counter(labels[start : start + total])
        for label, weight in weights.items():
            assert abs(found[label] - weight) <= 1, (start, label)
    assert Counter(labels) == pytest.approx({k: 3 * w for k, w in weights.items()}, abs=1)


def test_a_heavy_client_does_not_come_in_bursts() -> None:
    """Smooth: with 5, 1, 1 (nginx's example) the heavy one's turns are spread over the round."""
    labels = order(desk_of(a=5, b=1, c=1), 70)
    assert longest_run(labels, "a") <= 4
    assert longest_run(order(desk_of(a=3, b=2), 50), "a") <= 2


def test_a_skipped_client_keeps_its_turn() -> None:
    """A client that was in use at its turn comes next when it is free, ahead of the others."""
    desk = Desk(*[make_client(label) for label in "abc"])
    held = desk.lease_of("a")
    assert set(order(desk, 4)) == {"b", "c"}
    held.release()
    assert order(desk, 1) == "a"


def test_a_client_that_was_away_long_does_not_catch_up_in_a_burst() -> None:
    """It is owed one turn, not all that it missed: its upstream has just been in trouble."""
    desk = Desk(*[make_client(label) for label in "ab"])
    held = desk.lease_of("a")
    assert order(desk, 50) == "b" * 50
    held.release()
    assert longest_run(order(desk, 20), "a") <= 2


def test_the_order_runs_over_the_full_list_whatever_a_request_has_tried() -> None:
    """A retry takes another client's turn only: the shares of new requests stay even."""
    desk = Desk(*[make_client(label, permits=0) for label in "abc"])
    first = Counter[str]()
    for _ in range(300):
        ticket = desk.ticket()
        for attempt in range(2):
            with desk.take(ticket=ticket) as lease:
                first[lease.client.label] += attempt == 0
    assert max(first.values()) - min(first.values()) <= 30


def test_models_have_an_order_each() -> None:
    """Round robin is per model: requests for one model don't move the other's turns."""
    pairs = (("m", "m"), ("n", "n"))
    desk = Desk(*[make_client(label, permits=0, models=pairs) for label in "ab"])
    labels = []
    for _ in range(10):
        with desk.take("m") as lease:
            labels.append(lease.client.label)
        desk.take("n").release()
    assert Counter(labels) == {"a": 5, "b": 5}


def books_of(desk: Desk) -> int:
    """Entries in all heaps and lists of the pool."""
    pool = desk.pool
    queues = pool._queues.values()
    heaps = [heap for one in queues for heap in (one._ready, one._resting, one._shut)]
    with desk.lock:
        lines = sum(len(line.parked) + len(line._heap) for line in pool._lines.values())
    return sum(map(len, heaps)) + lines


@pytest.mark.parametrize("effect", [Effect.GOOD, Effect.REST, Effect.NONE])
def test_the_books_do_not_grow_with_requests(effect: Effect) -> None:
    """Outdated heap entries are swept: a client that rests for long is lent thousands of times."""
    desk = Desk(make_client("a", permits=0), make_client("b", permits=0))
    sizes = []
    for number in range(2000):
        with desk.take() as lease:
            lease.report(effect)
        if number >= 1000:
            sizes.append(books_of(desk))
    assert max(sizes) <= 50


def test_the_books_do_not_grow_while_all_is_handed_over() -> None:
    """A client that is never free, as each release has a taker: it stays parked, in no heap."""
    desk = Desk(make_client("a"), make_client("b"))
    leases = [desk.take(), desk.take()]
    for _ in range(1000):
        tickets = [desk.ticket(), desk.ticket()]
        assert [desk.ask(ticket) for ticket in tickets] == [None, None]
        for lease in leases:
            lease.release()
        leases = [desk.take(ticket=ticket) for ticket in tickets]
    assert books_of(desk) == 4, "each client is parked, and has one queue in its line"
    for lease in leases:
        lease.release()
    desk.assert_idle()


def test_retries_that_wait_do_not_make_a_line_grow() -> None:
    """A retry that becomes the first in line is listed anew at each client."""
    desk = Desk(make_client("a", permits=0), make_client("b"))
    held = desk.lease_of("b")
    desk.pool.set_disabled("a", True)
    for _ in range(500):
        early, late = desk.ticket(), desk.ticket()
        assert desk.ask(late) is None
        assert desk.ask(early) is None
        desk.pool.withdraw(early)
        desk.pool.withdraw(late)
    assert books_of(desk) <= 60
    held.release()
    desk.assert_idle()


def queue_of(lines: dict[FakeClient, Line], clients: list[FakeClient]) -> ModelQueue:
    routes = tuple(Route(client, "m") for client in clients)
    return ModelQueue("m", routes, [(lines[client], "m") for client in clients])


def test_a_client_that_joins_later_begins_with_the_round() -> None:
    """A discovered model's new client does not get all that it missed since the start."""
    clients = [make_client(label, permits=0) for label in "abc"]
    lines = {client: Line(ClientLock(client)) for client in clients}
    old = queue_of(lines, clients[:2])

    def turns(queue: ModelQueue, count: int) -> str:
        labels = ""
        for rank in range(count):
            ticket = Ticket("m", ANYBODY, DEFAULTS, rank=rank)
            offer = queue.best(ticket, 0.0)
            assert offer is not None
            queue.chosen(offer, ticket)
            labels += offer.lock.client.label
        return labels

    turns(old, 500)
    new = queue_of(lines, clients)
    new.take_over(old, 0.0)
    labels = turns(new, 30)
    assert longest_run(labels, "c") <= 2
    assert Counter(labels) == pytest.approx({"a": 10, "b": 10, "c": 10}, abs=1)


def test_new_routes_keep_waiters_and_give_them_new_clients() -> None:
    """Who waits when the list of clients changes gets a client that came with the change."""
    desk = Desk(make_client("a"), make_client("b"))
    both = desk.routes["m"]
    desk.routes["m"] = both[:1]
    held, first, second = desk.take(), desk.ticket(), desk.ticket()
    assert desk.ask(first) is None
    desk.routes["m"] = both
    assert desk.ask(second) is None, "a newcomer does not overtake on the way"
    lease = desk.take(ticket=first)
    assert lease.client.label == "b"
    lease.release()
    desk.take(ticket=second).release()
    held.release()
    desk.assert_idle()


def test_an_old_request_does_not_bring_back_old_routes() -> None:
    """Routes come with new requests only; one that waits since before uses the newest."""
    desk = Desk(make_client("a"), make_client("b"))
    both, desk.routes["m"] = desk.routes["m"], desk.routes["m"][:1]
    held, waiting = desk.take(), desk.ticket()
    assert desk.ask(waiting) is None
    newcomer = desk.ticket()
    other = desk.pool.acquire(newcomer, both, 0.0)
    assert other is None, "the waiting request got the new client"
    [queue] = desk.pool._queues.values()
    desk.take(ticket=waiting).release()
    assert list(desk.pool._queues.values()) == [queue]
    assert queue.routes is both
    desk.pool.withdraw(newcomer)
    held.release()
    desk.assert_idle()


def test_the_pool_is_told_of_all_clients() -> None:
    """A client without models takes part in the snapshot all the same."""
    pool = ClientPool([make_client("a", models=())])
    assert [facts["client"] for facts in pool.snapshot()] == ["a"]


def test_the_books_do_not_grow_with_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of models change: what was asked for once is forgotten, unless it is in use or shut."""
    monkeypatch.setattr("proxy.pool.pool.MAX_QUEUES", 20)
    pairs = [(f"m{number}", f"m{number}") for number in range(500)]
    desk = Desk(make_client("a", permits=0, models=pairs), make_client("b", models=pairs[:3]))
    held = desk.take("m0")
    with desk.lease_of("a", "m2") as lease:
        lease.report(Effect.COOL, asked_s=1000.0)
    for alias, _ in pairs[3:]:
        with desk.take(alias) as lease:
            lease.report(Effect.COOL, asked_s=0.5)
        desk.clock.now += 1
    assert len(desk.pool._queues) <= 21
    models = desk.facts("a")["models"]
    assert isinstance(models, dict)
    assert len(models) <= 21
    assert models["m2"]["state"] == "cooling down"
    assert "m0" in desk.pool._queues
    held.release()
    desk.assert_idle()
