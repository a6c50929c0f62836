"""Waiting for a client: in order of arrival, by hand-off, with a true end to every wait."""

from __future__ import annotations

import heapq
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.errors import AllCoolingDown, CallerGone, NoClientFree, ShuttingDown
from proxy.net.watch import CallerConnection
from proxy.pool import Effect, Ticket
from proxy.pool.client_lock import ClientLease as Lease
from proxy.pool.health import TRIAL_S
from tests.support.pool import ANYBODY, Desk, make_client


@pytest.fixture
def connection() -> Iterator[tuple[CallerConnection, socket.socket]]:
    """A caller, and its end of the connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield CallerConnection(ours), theirs


def test_a_freed_client_goes_to_the_first_who_waits() -> None:
    """By direct hand-off, in order of arrival: a newcomer gets nothing in between."""
    desk = Desk(make_client("a"))
    held = desk.take()
    tickets = [desk.ticket() for _ in range(5)]
    desk.queue(*tickets)
    for ticket in tickets:
        held.release()
        newcomer = desk.ticket()
        assert desk.ask(newcomer) is None
        desk.pool.withdraw(newcomer)
        held = desk.take(ticket=ticket)
    held.release()
    desk.assert_idle()


def test_a_freed_client_passes_over_who_cannot_use_it() -> None:
    """Among those who could take it: one who waits for another client, or backs off, is not."""
    desk = Desk(make_client("a"), make_client("b"))
    early, late = desk.ticket(), desk.ticket()
    with desk.lease_of("a"), desk.lease_of("b") as b:
        early.excluded.add(b.lock)
        assert desk.ask(early) is None
        assert desk.ask(late) is None
        b.release()
        desk.take(ticket=late).release()
        assert desk.ask(early) is None
    desk.take(ticket=early).release()
    desk.assert_idle()


def test_a_retry_keeps_its_rank() -> None:
    """It waits before those who arrived after its request, however long they have waited."""
    desk = Desk(make_client("a"))
    retry, late, held = desk.ticket(rank=0), desk.ticket(rank=1), desk.take()
    assert desk.ask(late) is None
    assert desk.ask(retry) is None
    held.release()
    assert desk.ask(late) is None
    desk.take(ticket=retry).release()
    desk.take(ticket=late).release()


def test_nobody_overtakes_at_the_end_of_a_back_off() -> None:
    """A client that came free by time alone belongs to who waits for it, not to a newcomer."""
    desk = Desk(make_client("a"))
    retry = desk.ticket()
    desk.take(ticket=retry).release()
    retry.tried_again_at = desk.clock.now + 1
    assert desk.ask(retry) is None
    desk.clock.now += 1
    newcomer = desk.ticket()
    assert desk.ask(newcomer) is None
    desk.take(ticket=retry).release()
    desk.take(ticket=newcomer).release()
    desk.assert_idle()


def test_a_client_that_was_tried_is_had_at_the_end_of_the_back_off() -> None:
    """Also if it came free before, when the request could not have it yet."""
    desk = Desk(make_client("a"))
    retry, other = desk.ticket(), desk.ticket()
    held = desk.take(ticket=retry)
    desk.queue(other)
    retry.tried_again_at = desk.clock.now + 1
    held.release()
    lease = desk.take(ticket=other)
    began = desk.clock.now
    desk.clock.after(0.5, lease.release)
    found = desk.wait(retry)
    assert found is not None
    assert desk.clock.now == began + 1
    found.release()
    desk.assert_idle()


def test_queue_timeout_counts_from_a_trial_that_takes_the_last_permit() -> None:
    """Of a client of which the request had seen that no permit is left."""
    desk = Desk(make_client("a", permits=2), queue_timeout_s=30)
    first, second = desk.take(), desk.take()
    trial, waiter = desk.ticket(), desk.ticket()
    desk.queue(trial, waiter)
    desk.clock.now += 10
    first.report(Effect.COOL)
    desk.clock.now += 10
    assert desk.ask(waiter) is None
    second.release()
    assert trial.granted is not None
    assert desk.ask(waiter) is None
    desk.clock.now += 29
    assert desk.ask(waiter) is None
    desk.clock.now += 1
    with pytest.raises(NoClientFree):
        desk.ask(waiter)
    desk.take(ticket=trial).release()
    first.release()


def test_nobody_overtakes_at_the_end_of_a_cooldown_by_another_alias() -> None:
    """Two names of one model share its cooldown, and the line for the client."""
    desk = Desk(make_client("a", models=(("m", "x"), ("n", "x"))))
    desk.fail("a", Effect.COOL, asked_s=2)
    early, late = desk.ticket("m"), desk.ticket("n")
    assert desk.ask(early) is None
    desk.clock.now += 2
    assert desk.ask(late) is None
    desk.take(ticket=early).release()
    desk.take(ticket=late).release()


def test_waiters_of_all_models_share_one_line_for_a_client() -> None:
    """Order of arrival counts, not the model."""
    desk = Desk(make_client("a", models=(("m", "m"), ("n", "n"), ("o", "o"))))
    held = desk.take()
    tickets = [desk.ticket(alias) for alias in "nmomnoon"]
    desk.queue(*tickets)
    for ticket in tickets:
        held.release()
        assert [other.granted is not None for other in tickets].count(True) == 1
        held = desk.take(ticket=ticket)
    held.release()
    desk.assert_idle()


def test_a_retry_is_known_to_the_line_that_other_models_wait_in() -> None:
    """Its rank is lower than that by which its model stands in the line."""
    desk = Desk(make_client("a", models=(("m", "m"), ("n", "n"))))
    retry, other, late = [desk.ticket(alias, rank=rank) for rank, alias in enumerate("mnm")]
    held = desk.take("m")
    desk.queue(late, other, retry)
    for alias, ticket in (("m", retry), ("n", other), ("m", late)):
        held.release()
        held = desk.take(alias, ticket=ticket)
    held.release()
    desk.assert_idle()


def test_a_client_out_of_service_is_tried_after_a_minute_also_by_who_waits_already() -> None:
    """A wait ends when a client comes back, though another is what it began to wait for."""
    desk = Desk(make_client("a"), make_client("b"), queue_timeout_s=300)
    desk.fail("a", Effect.OUT)
    held, began = desk.lease_of("b"), desk.clock.now
    lease = desk.wait(desk.ticket())
    assert lease is not None
    assert (lease.client.label, desk.clock.now - began) == ("a", 60.0)
    lease.release()
    held.release()


def test_a_short_cooldown_is_waited_for() -> None:
    """Within `max-retry-interval`: not failing at once though a client is ready in two seconds."""
    desk = Desk(make_client("a"))
    desk.fail("a", Effect.COOL, asked_s=4)
    lease = desk.wait(desk.ticket())
    assert lease is not None
    lease.release()


def test_the_budget_for_cooldowns_is_the_requests_in_all() -> None:
    """Two waits of 3 s are more than the 5 s of `max-retry-interval`. To be served costs none."""
    desk = Desk(make_client("a"))
    ticket = desk.ticket()
    desk.fail("a", Effect.COOL, asked_s=3)
    with desk.wait(ticket) or pytest.fail("no lease") as lease:
        desk.clock.now += 60
        lease.report(Effect.COOL, asked_s=3)
    assert ticket.config.max_retry_interval_s - ticket.cooled_s == pytest.approx(2)
    with pytest.raises(AllCoolingDown) as caught:
        desk.wait(ticket)
    assert caught.value.headers() == {
        "retry-after": "3",
        "retry-after-ms": "3000",
        "x-should-retry": "true",
    }
    assert ticket.config.max_retry_interval_s - ticket.cooled_s == pytest.approx(2)
    desk.assert_idle()


def test_a_cooldown_that_grows_is_waited_for_as_long_as_the_budget_lasts() -> None:
    """What was waited before the news is gone: 2 s of 5, when 4 s more are asked for."""
    desk = Desk(make_client("a", permits=2))
    began = desk.clock.now
    held = desk.take()
    desk.fail("a", Effect.COOL, asked_s=3)
    desk.clock.after(2, lambda: held.report(Effect.COOL, asked_s=4))
    with pytest.raises(AllCoolingDown):
        desk.wait(desk.ticket())
    assert desk.clock.now - began == 2
    held.release()
    desk.assert_idle()


def test_a_long_cooldown_is_told_at_once() -> None:
    """With the soonest client's time, and no retry beyond 60 s."""
    desk = Desk(make_client("a"), make_client("b"))
    desk.fail("a", Effect.COOL, asked_s=500)
    desk.fail("b", Effect.COOL, asked_s=90)
    with pytest.raises(AllCoolingDown) as caught:
        desk.wait(desk.ticket())
    assert caught.value.headers()["retry-after"] == "90"
    assert caught.value.headers()["x-should-retry"] == "false"
    assert desk.clock.waits == 0
    desk.assert_idle()


def test_the_end_of_a_cooldown_counts_as_a_client_freed() -> None:
    """Some busy, some cooling: one wait, whatever ends first, beyond `max-retry-interval`."""
    desk = Desk(make_client("a"), make_client("b"))
    desk.fail("a", Effect.COOL, asked_s=20)
    held = desk.lease_of("b")
    lease = desk.wait(desk.ticket())
    assert lease is not None
    assert lease.client.label == "a"
    lease.release()
    held.release()


def test_who_waits_learns_that_all_cool_down_now() -> None:
    """The last busy client answered 429: no waiting for `queue-timeout` then."""
    desk = Desk(make_client("a"))
    held = desk.take()
    began = desk.clock.now
    desk.clock.after(3, lambda: held.report(Effect.COOL, asked_s=60))
    with pytest.raises(AllCoolingDown):
        desk.wait(desk.ticket())
    assert desk.clock.now == began + 3
    held.release()
    desk.assert_idle()


def test_queue_timeout() -> None:
    """All busy for so long: 503 with an estimate from lease times and the place in the queue."""
    desk = Desk(make_client("a"), queue_timeout_s=30)
    for _ in range(60):
        lease = desk.take()
        desk.clock.now += 8
        lease.release()
    held, first, second = desk.take(), desk.ticket(), desk.ticket()
    assert desk.ask(first) is None
    assert desk.ask(second) is None
    began = desk.clock.now
    with pytest.raises(NoClientFree) as caught:
        desk.wait(second)
    assert desk.clock.now == began + 30
    assert caught.value.hint is not None
    assert caught.value.hint.after_s == pytest.approx(16, rel=0.05)
    desk.pool.withdraw(first)
    held.release()
    desk.assert_idle()


@pytest.mark.parametrize(("lease_s", "told_s"), [(0.001, 1.0), (500.0, 60.0)])
def test_the_estimate_is_from_1_to_60_s(lease_s: float, told_s: float) -> None:
    """Whatever the lease times were."""
    desk = Desk(make_client("a"))
    for _ in range(60):
        lease = desk.take()
        desk.clock.now += lease_s
        lease.release()
    with desk.take(), pytest.raises(NoClientFree) as caught:
        desk.wait(desk.ticket())
    assert caught.value.hint is not None
    assert caught.value.hint.after_s == told_s


def test_those_who_wait_reckon_with_an_enabled_client() -> None:
    """Its trial takes one of them; the others have it when the trial has passed."""
    desk = Desk(make_client("a"), make_client("b", permits=0), queue_timeout_s=30)
    held = desk.lease_of("a")
    with desk.take() as cooled:
        cooled.report(Effect.COOL, asked_s=1)
    trial, waiter = desk.ticket(), desk.ticket()
    desk.pool.set_disabled("b", True)
    with ThreadPoolExecutor(1) as other:  # with a bell of its own
        other.submit(desk.queue, trial).result()
    desk.clock.now += 1
    began = desk.clock.now
    desk.clock.after(0.5, lambda: desk.pool.set_disabled("b", False))
    found = desk.wait(waiter)
    assert trial.granted is not None
    assert found is not None
    assert found.client.label == "b"
    assert desk.clock.now == began + 0.5 + TRIAL_S
    for lease in (held, found):
        lease.release()
    desk.pool.withdraw(trial)
    desk.assert_idle()


def test_those_who_wait_reckon_with_a_client_that_is_new_to_their_model() -> None:
    """A list has changed, as a later request knows: the end of its cooldown is awaited too."""
    desk = Desk(make_client("a"), make_client("b", models=(("n", "m"),)), queue_timeout_s=30)
    held = desk.lease_of("a")
    with desk.take("n") as lease:
        lease.report(Effect.COOL, asked_s=3)
    waiter, newcomer = desk.ticket(), desk.ticket()
    began = desk.clock.now

    def come() -> None:
        desk.routes["m"] += desk.routes["n"]
        with ThreadPoolExecutor(1) as other:  # with a bell of its own
            other.submit(desk.queue, newcomer).result()

    desk.clock.after(0.5, come)
    found = desk.wait(waiter)
    assert found is not None
    assert (found.client.label, desk.clock.now) == ("b", began + 3)
    found.release()
    desk.pool.withdraw(newcomer)
    held.release()
    desk.assert_idle()


def test_an_enabled_client_serves_who_waits() -> None:
    """As many as it has permits."""
    desk = Desk(make_client("a"), make_client("b", permits=2))
    desk.pool.set_disabled("b", True)
    held, tickets = desk.take(), [desk.ticket() for _ in range(3)]
    desk.queue(*tickets)
    assert desk.pool.set_disabled("b", False)
    assert [ticket.granted is not None for ticket in tickets] == [True, True, False]
    leases = [desk.take(ticket=ticket) for ticket in tickets[:2]]
    for lease in (*leases, held):
        lease.release()
    desk.take(ticket=tickets[2]).release()
    desk.assert_idle()


def half_open(*, permits: int = 5, pairs: tuple[tuple[str, str], ...] = (("m", "m"),)) -> Desk:
    """A desk whose one client has just cooled down; the queue's time is shorter than an answer."""
    desk = Desk(make_client("a", permits=permits, models=pairs), queue_timeout_s=3)
    desk.fail("a", Effect.COOL, asked_s=1)
    desk.clock.now += 1
    return desk


def test_nobody_waits_for_a_trial_longer_than_2_s() -> None:
    """It has not been refused by then: the client takes all its permits again. No timer tells."""
    desk = half_open()
    trial, began = desk.take(), desk.clock.now
    early, late = desk.ticket(), desk.ticket()
    desk.queue(early)
    with desk.wait(late) or pytest.fail("no lease") as lease:
        assert desk.clock.now == began + 2
        assert not lease.trials
        assert early.granted is not None, "who came earlier was served with it"
    for lease in (desk.take(ticket=early), trial):
        lease.release()
    desk.assert_idle()


@pytest.mark.parametrize("aliases", ["mm", "mn"])
def test_a_trial_ends_the_wait_for_it_under_every_name(aliases: str) -> None:
    """The moment at which it passes is known to who waits by another name of the model, too."""
    desk = half_open(pairs=(("m", "x"), ("n", "x")))
    for alias in aliases:
        desk.take(alias).release()
    trial, began = desk.take(aliases[0]), desk.clock.now
    lease = desk.wait(desk.ticket(aliases[1]))
    assert lease is not None
    assert desk.clock.now == began + 2
    lease.release()
    trial.release()


def test_a_trial_of_a_resting_client_passes_too() -> None:
    """For who saw it rest, by another name of the model, before it was tried."""
    desk = Desk(
        make_client("a", permits=5, models=(("m", "x"), ("n", "x"))),
        make_client("b", models=(("n", "x"),)),
    )
    desk.fail("a", Effect.COOL, asked_s=1)
    desk.clock.now += 1
    with desk.take("m") as trial:
        for _ in range(3):
            trial.report(Effect.REST)
    held = desk.take("n")
    assert held.client.label == "b"
    trial, began = desk.take("m"), desk.clock.now
    lease = desk.wait(desk.ticket("n"))
    assert lease is not None
    assert desk.clock.now == began + 2
    for each in (lease, trial, held):
        each.release()
    desk.assert_idle()


def test_queue_timeout_counts_from_the_begin_of_a_trial() -> None:
    """Who waited long before has all of the time for it, and for what comes of it."""
    desk = Desk(make_client("a"), queue_timeout_s=3)
    held, retry, waiting, began = desk.take(), desk.ticket(rank=0), desk.ticket(), desk.clock.now
    assert desk.wait(waiting, 2) is None
    held.report(Effect.COOL, asked_s=0.5)
    held.release()
    with desk.wait(retry) or pytest.fail("no lease") as trial:
        assert trial.trials
        assert desk.clock.now == began + 2.5
        with pytest.raises(NoClientFree):
            desk.wait(waiting)
        assert desk.clock.now == began + 2.5 + 3
    desk.assert_idle()


def test_queue_timeout_counts_from_the_begin_of_the_last_trial_waited_for() -> None:
    """Of several that are under way, and with a time-out that is shorter than a trial."""
    desk = Desk(make_client("a"), make_client("b"), queue_timeout_s=1)
    held, trials, began = [desk.take(), desk.take()], [], desk.clock.now
    retries, waiting = [desk.ticket(rank=0), desk.ticket(rank=1)], desk.ticket()
    desk.queue(waiting)
    for lease, cooled_at in zip(held, (2.5, 3.3), strict=True):
        lease.report(Effect.COOL, asked_s=cooled_at)
        lease.release()
    for retry, cooled_at in zip(retries, (2.5, 3.3), strict=True):
        desk.clock.now = began + cooled_at
        trials.append(desk.take(ticket=retry))
    with pytest.raises(NoClientFree):
        desk.wait(waiting)
    assert desk.clock.now == began + 3.3 + 1
    for trial in trials:
        assert trial.trials
        trial.release()
    desk.assert_idle()


def test_queue_timeout_of_who_comes_during_a_trial_counts_from_then() -> None:
    """Nobody is refused sooner for having waited for a trial."""
    desk = half_open(permits=1)
    with desk.take():
        desk.clock.now += 1
        began = desk.clock.now
        with pytest.raises(NoClientFree):
            desk.wait(desk.ticket())
        assert desk.clock.now == began + 3


def test_a_trial_that_ends_undecided_leaves_its_place_to_a_newcomer() -> None:
    """At once, though nobody waited for it; and the 2 s count anew."""
    desk = half_open()
    with desk.take():
        desk.clock.now += 1.5
        gone = desk.ticket()
        desk.queue(gone)
        desk.pool.withdraw(gone)
    with desk.take() as trial:
        assert trial.trials
        began = desk.clock.now
        lease = desk.wait(desk.ticket())
        assert lease is not None
        assert desk.clock.now == began + 2
        lease.release()
    desk.assert_idle()


def test_a_trial_that_passed_by_time_is_over_when_its_caller_leaves() -> None:
    """It is not begun again, and nobody waits for another."""
    desk = half_open()
    trial = desk.take()
    desk.clock.now += 2
    trial.release()
    leases = [desk.take() for _ in range(5)]
    assert not any(lease.trials for lease in leases)
    for lease in leases:
        lease.release()


def test_a_key_on_trial_is_tried_for_all_its_models() -> None:
    """After 401: who waits for another model of the client waits for the same trial."""
    desk = Desk(make_client("a", permits=5, models=(("m", "m"), ("n", "n"))))
    desk.fail("a", Effect.OUT)
    desk.clock.now += 60
    trial, began = desk.take("m"), desk.clock.now
    waiting = desk.ticket("n")
    desk.queue(waiting)
    desk.clock.after(1, lambda: trial.report(Effect.BEGUN))
    lease = desk.wait(waiting)
    assert lease is not None
    assert desk.clock.now == began + 1
    assert desk.facts("a")["models"]["m"] == {"state": "ready", "failures": 1}  # type: ignore[index]
    lease.release()
    trial.release()
    desk.assert_idle()


def test_a_caller_that_leaves_while_queued(
    connection: tuple[CallerConnection, socket.socket],
) -> None:
    """It is noticed, its place is given up, and nothing is held for it."""
    caller, theirs = connection
    desk = Desk(make_client("a"))
    held = desk.take()
    gone, waiting = desk.ticket(caller=caller), desk.ticket()
    desk.clock.after(1, theirs.close)
    assert desk.ask(waiting) is None
    with pytest.raises(CallerGone):
        desk.wait(gone)
    held.release()
    desk.take(ticket=waiting).release()
    desk.assert_idle()


def test_a_caller_that_leaves_as_it_is_handed_a_client(
    connection: tuple[CallerConnection, socket.socket],
) -> None:
    """Both at once: the client goes to the next."""
    caller, theirs = connection
    desk = Desk(make_client("a"))
    held, next_one = desk.take(), desk.ticket()

    def hand_over_and_leave() -> None:
        assert desk.ask(next_one) is None
        theirs.close()
        held.release()

    desk.clock.after(1, hand_over_and_leave)
    with pytest.raises(CallerGone):
        desk.wait(desk.ticket(caller=caller))
    with desk.take(ticket=next_one):
        assert desk.facts("a")["served"] == 1, "what was handed over and not used is no service"
    desk.assert_idle()


def test_who_waits_is_told_that_the_process_ends() -> None:
    """Now or later, with a hint; whoever finds a client free is served on."""
    desk = Desk(make_client("a"))
    held, waiting = desk.take(), desk.ticket()
    desk.clock.after(1, desk.pool.dismiss)
    with pytest.raises(ShuttingDown) as caught:
        desk.wait(waiting)
    assert caught.value.headers()["x-should-retry"] == "true"
    with pytest.raises(ShuttingDown):
        desk.wait(desk.ticket())
    held.release()
    desk.take().release()
    desk.assert_idle()


def test_a_wait_that_is_broken_off_strands_nothing() -> None:
    """A worker's abort (SystemExit from a signal handler) in the queue."""
    desk = Desk(make_client("a"))
    held = desk.take()

    def abort() -> None:
        held.release()
        raise SystemExit(1)

    desk.clock.after(1, abort)
    with pytest.raises(SystemExit):
        desk.wait(desk.ticket())
    desk.assert_idle()


def test_a_paused_wait_keeps_its_place() -> None:
    """None at the given moment; a hand-off meanwhile is found at the next call."""
    desk = Desk(make_client("a"))
    held, paused, late = desk.take(), desk.ticket(), desk.ticket()
    for _ in range(3):
        began = desk.clock.now
        assert desk.wait(paused, 5) is None
        assert desk.clock.now == began + 5
    assert desk.ask(late) is None
    held.release()
    desk.clock.now += 15
    with desk.take(ticket=paused):
        assert desk.ask(late) is None
    desk.take(ticket=late).release()
    desk.assert_idle()


def test_pauses_do_not_lengthen_queue_timeout() -> None:
    """It runs from the first moment in the queue."""
    desk = Desk(make_client("a"), queue_timeout_s=30)
    with desk.take():
        ticket, began = desk.ticket(), desk.clock.now
        for _ in range(4):
            assert desk.wait(ticket, 7) is None
        with pytest.raises(NoClientFree):
            desk.wait(ticket, 7)
    assert desk.clock.now == began + 30


def test_a_withdrawn_request_passes_on_what_it_was_handed() -> None:
    """And withdrawing again does nothing."""
    desk = Desk(make_client("a"))
    held, first, second = desk.take(), desk.ticket(), desk.ticket()
    assert desk.ask(first) is None
    assert desk.ask(second) is None
    held.release()
    handed_over = first.granted
    assert handed_over is not None
    desk.pool.withdraw(first)
    desk.pool.withdraw(first)
    desk.take(ticket=second).release()
    desk.pool.withdraw(desk.ticket("never asked for"))
    desk.assert_idle()


def test_lists_and_single_requests_are_served_in_the_order_of_arrival() -> None:
    """200 callers on 3 mutex clients: a list keeps its rank, and none that has begun is refused.

    Each prompt has a ticket of its own, and all of `queue-timeout`; what was not begun by then is
    refused as ever.
    """
    service_s, queue_timeout_s, callers = 1.0, 60.0, 200
    desk = Desk(*[make_client(label) for label in "abc"], queue_timeout_s=queue_timeout_s)
    began = desk.clock.now
    left = {rank: 8 if rank % 12 == 3 else 1 for rank in range(callers)}  # prompts
    asked: dict[int, Ticket] = {}
    under_way: list[tuple[float, int, Lease]] = []
    refused: set[int] = set()
    begun: set[int] = set()

    def serve(rank: int, lease: Lease) -> None:
        assert rank < min(asked, default=callers), "an earlier request was overtaken"
        begun.add(rank)
        heapq.heappush(under_way, (desk.clock.now + service_s, rank, lease))

    def look(rank: int) -> None:
        ticket = asked.pop(rank)
        try:
            lease = desk.ask(ticket)
        except NoClientFree:
            refused.add(rank)
            return
        if lease is None:
            asked[rank] = ticket
        else:
            serve(rank, lease)

    for rank in range(callers):
        asked[rank] = ticket = desk.ticket()
        look(rank)
        assert ticket.rank == rank
    while under_way:
        desk.clock.now, rank, lease = heapq.heappop(under_way)
        lease.release()
        for each in sorted(asked):
            look(each)
        left[rank] -= 1
        if left[rank]:  # the next prompt is asked for when the one before is done
            asked[rank] = Ticket("m", ANYBODY, desk.config, rank=rank)
            look(rank)
    assert not asked
    assert not refused & begun
    assert refused, "the test is too easy"
    assert all(left[rank] == 0 for rank in begun)
    assert desk.clock.now - began <= queue_timeout_s + 8 * service_s * 2
    desk.assert_idle()
