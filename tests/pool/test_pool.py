"""Who may use which client, and who waits for it: the contract's section 3, and of 4 the waits."""

from __future__ import annotations

import math

import pytest

from proxy.errors import (
    AllCoolingDown,
    NoClientFree,
    NoClientInService,
)
from proxy.pool import Effect, Ticket
from tests.support.pool import ANYBODY, Desk, make_client


def test_a_lease_holds_one_permit_until_its_end() -> None:
    """A context manager; releasing twice gives back once."""
    desk = Desk(make_client("a", permits=2))
    with desk.take() as lease:
        assert desk.facts("a")["in_flight"] == 1
        lease.release()
        assert desk.facts("a")["in_flight"] == 0
    desk.assert_idle()


def test_a_lease_that_ends_by_an_exception_is_given_back() -> None:
    """Whatever way out is taken."""
    desk = Desk(make_client("a"))
    with pytest.raises(ValueError, match="broken"), desk.take():
        raise ValueError("broken")
    desk.assert_idle()


@pytest.mark.parametrize(("permits", "at_once"), [(1, 1), (3, 3), (0, 50)])
def test_no_more_requests_than_permits(permits: int, at_once: int) -> None:
    """1 is a mutex, n is n at once, 0 is no limit."""
    desk = Desk(make_client("a", permits=permits))
    leases = [desk.take() for _ in range(at_once)]
    waiting = desk.ticket()
    more = desk.ask(waiting)
    assert (more is None) == (permits > 0)
    desk.pool.withdraw(waiting)
    for lease in [*leases, *filter(None, [more])]:
        lease.release()
    desk.assert_idle()


def test_preference_1_an_untried_healthy_client() -> None:
    """Before one that rests and one that was tried."""
    desk = Desk(*[make_client(label) for label in "abc"])
    desk.fail("a", Effect.REST)
    ticket = desk.ticket()
    with desk.take(ticket=ticket) as first, desk.take(ticket=ticket) as second:
        assert {first.client.label, second.client.label} == {"b", "c"}


def test_preference_2_the_resting_client_whose_rest_ends_soonest() -> None:
    """Untried and resting comes before tried; the soonest rested first."""
    desk = Desk(*[make_client(label) for label in "abc"])
    desk.fail("b", Effect.REST)
    desk.fail("b", Effect.REST)  # 2 s
    desk.fail("a", Effect.REST)  # 1 s
    ticket = desk.ticket()
    labels = []
    for _ in range(3):
        with desk.take(ticket=ticket) as lease:
            labels.append(lease.client.label)
    assert labels == ["c", "a", "b"]


def test_preference_3_a_tried_client_after_the_back_off() -> None:
    """Not before it is over, and then at once."""
    desk = Desk(make_client("a"))
    ticket = desk.ticket()
    desk.take(ticket=ticket).release()
    ticket.tried_again_at = desk.clock.now + 2
    assert desk.wait(ticket, 1.5) is None
    lease = desk.wait(ticket)
    assert lease is not None
    assert desk.clock.now == ticket.tried_again_at
    lease.release()
    desk.assert_idle()


def test_the_last_usable_client_is_never_benched() -> None:
    """A request never waits for the end of a rest."""
    desk = Desk(make_client("a"))
    for _ in range(10):
        desk.fail("a", Effect.REST)
    assert desk.clock.waits == 0


def test_an_excluded_client_is_not_given_again() -> None:
    """After 401, 402 or `model_not_found` the request has no more use for it."""
    desk = Desk(make_client("a"), make_client("b"))
    ticket = desk.ticket()
    with desk.take(ticket=ticket) as lease:
        lease.exclude()
        gone = lease.client.label
    for _ in range(3):
        with desk.take(ticket=ticket) as lease:
            assert lease.client.label != gone


def test_a_cooldown_is_of_one_client_and_model() -> None:
    """One key's failure cools neither the provider nor the key's other models."""
    pairs = (("m", "m"), ("n", "n"))
    desk = Desk(make_client("a", models=pairs), make_client("b", models=pairs))
    desk.fail("a", Effect.COOL, asked_s=100)
    for alias, labels in (("m", {"b"}), ("n", {"a", "b"})):
        found = set()
        for _ in range(4):
            with desk.take(alias) as lease:
                found.add(lease.client.label)
        assert found == labels


def test_a_cooldown_ends_in_one_trial_that_decides() -> None:
    """Half-open: while the trial is under way others wait; its success lets them through."""
    desk = Desk(make_client("a", permits=5))
    desk.fail("a", Effect.COOL, asked_s=2)
    desk.clock.now += 2
    others = [desk.ticket() for _ in range(3)]
    with desk.take() as trial:
        assert trial.trials
        desk.queue(*others)
        trial.report(Effect.GOOD)
        leases = [desk.take(ticket=ticket) for ticket in others]
        assert not any(lease.trials for lease in leases)
    for lease in leases:
        lease.release()
    desk.assert_idle()


def test_a_failed_trial_cools_down_for_longer() -> None:
    """Doubling, and who waited for it goes away with the true time."""
    desk = Desk(make_client("a", permits=5), max_retry_interval_s=1)
    desk.fail("a", Effect.COOL)
    desk.clock.now += 1
    waiting = desk.ticket()
    with desk.take() as trial:
        assert desk.ask(waiting) is None
        trial.report(Effect.COOL)
    with pytest.raises(AllCoolingDown) as caught:
        desk.ask(waiting)
    assert caught.value.hint is not None
    assert caught.value.hint.after_s == 2.0


@pytest.mark.parametrize("effect", [Effect.NONE, Effect.REST, None])
def test_an_undecided_trial_gives_its_place_to_the_next(effect: Effect | None) -> None:
    """A caller that left, or a 4xx of its making, says nothing about the quota."""
    desk = Desk(make_client("a", permits=5))
    desk.fail("a", Effect.COOL, asked_s=2)
    desk.clock.now += 2
    waiting = desk.ticket()
    with desk.take() as trial:
        assert desk.ask(waiting) is None
        if effect is not None:
            trial.report(effect)
    with desk.take(ticket=waiting) as trial:
        assert trial.trials


def test_the_trial_of_one_model_does_not_end_anothers() -> None:
    """A key out of service is tried once, though an older trial of a quota ends meanwhile."""
    desk = Desk(make_client("a", permits=9, models=(("m", "m"), ("n", "n"))))
    old = desk.take("n")
    desk.fail("a", Effect.COOL, asked_s=2)
    desk.clock.now += 2
    quota_trial = desk.take("m")
    old.report(Effect.OUT)
    desk.clock.now += 60
    service_trial = desk.take("n")
    quota_trial.release()
    waiting = desk.ticket("n")
    assert desk.ask(waiting) is None
    service_trial.report(Effect.GOOD)
    for lease in (desk.take(ticket=waiting), service_trial, old):
        lease.release()


def test_a_trial_that_was_handed_to_a_caller_who_left_is_passed_on() -> None:
    """The half-open place is never lost."""
    desk = Desk(make_client("a"))
    desk.fail("a", Effect.COOL, asked_s=2)
    gone, waiting = desk.ticket(), desk.ticket()
    assert desk.ask(gone) is None
    assert desk.ask(waiting) is None
    desk.clock.now += 2
    newcomer = desk.ticket()
    assert desk.ask(newcomer) is None
    assert gone.granted is not None
    desk.pool.withdraw(gone)
    with desk.take(ticket=waiting) as trial:
        assert trial.trials
    desk.take(ticket=newcomer).release()
    desk.assert_idle()


def test_no_client_in_service() -> None:
    """All keys refused: at once, and a retry pays when the first is tried again."""
    desk = Desk(make_client("a"), make_client("b"))
    desk.fail("a", Effect.OUT)
    desk.clock.now += 20
    desk.fail("b", Effect.OUT)
    with pytest.raises(NoClientInService) as caught:
        desk.wait(desk.ticket())
    assert caught.value.headers()["retry-after"] == "40"
    assert not desk.pool.has_service()
    desk.clock.now += 40
    assert desk.pool.has_service()
    with desk.take() as lease:
        assert lease.trials
        lease.report(Effect.GOOD)
    desk.assert_idle()


def test_no_client_in_service_but_excluded_ones() -> None:
    """What a request cannot use is no service to it."""
    desk = Desk(make_client("a"), make_client("b"))
    desk.fail("a", Effect.OUT)
    ticket = desk.ticket()
    with desk.take(ticket=ticket) as lease:
        lease.exclude()
    with pytest.raises(NoClientInService) as caught:
        desk.ask(ticket)
    assert caught.value.headers()["retry-after"] == "60"


def test_a_success_puts_a_client_back_in_service_for_all_its_models() -> None:
    """Though it came at the very moment at which another request said 401."""
    desk = Desk(make_client("a", permits=0, models=(("m", "m"), ("n", "n"))))
    good, bad = desk.take("m"), desk.take("n")
    bad.report(Effect.OUT)
    with pytest.raises(NoClientInService):
        desk.ask(desk.ticket("n"))
    good.report(Effect.GOOD)
    for lease in (desk.take("n"), good, bad):
        lease.release()


def test_out_of_one_model_only() -> None:
    """402: the client's other models go on."""
    desk = Desk(make_client("a", models=(("m", "m"), ("n", "n"))))
    desk.fail("a", Effect.OUT_OF_MODEL)
    with pytest.raises(NoClientInService):
        desk.ask(desk.ticket("m"))
    desk.take("n").release()
    assert desk.pool.has_service()


def test_a_disabled_client_gets_no_more_requests() -> None:
    """By hand: what is under way ends; who waits goes to others, or learns that none is left."""
    desk = Desk(make_client("a"))
    held, waiting = desk.take(), desk.ticket()
    assert desk.ask(waiting) is None
    desk.clock.after(1, lambda: desk.pool.set_disabled("a", True))
    with pytest.raises(NoClientInService) as caught:
        desk.wait(waiting)
    assert caught.value.headers() == {"x-should-retry": "false"}
    held.release()
    with pytest.raises(NoClientInService, match="or they were disabled by hand"):
        desk.ask(desk.ticket())
    assert desk.facts("a")["disabled"] is True
    assert not desk.pool.set_disabled("nobody", True)


def test_why_no_client_serves() -> None:
    """Of each client, and until when; in words that name the setting."""
    desk = Desk(*[make_client(label) for label in "abcd"], queue_timeout_s=0)
    desk.fail("a", Effect.COOL, asked_s=90)
    desk.fail("b", Effect.OUT)
    desk.pool.set_disabled("c", True)
    held = desk.take()
    with pytest.raises(NoClientFree) as caught:
        desk.ask(desk.ticket())
    assert caught.value.message.endswith(
        "(queue-timeout) (a is cooling down for 90 s, b is out of service for 60 s, "
        "c is disabled by hand, d is in use (max-concurrency: 1))"
    )
    held.report(Effect.COOL, asked_s=100)
    held.release()
    with pytest.raises(AllCoolingDown) as cooling:
        desk.ask(desk.ticket())
    assert "max-retry-interval (a is cooling down for 90 s, " in cooling.value.message
    desk.pool.set_disabled("a", True)
    desk.pool.set_disabled("d", True)
    with pytest.raises(NoClientInService, match="d is disabled by hand"):
        desk.ask(desk.ticket())


def test_of_many_clients_a_few_are_told() -> None:
    """An error is read by people."""
    desk = Desk(*[make_client(f"c{at}") for at in range(30)])
    for at in range(30):
        desk.fail(f"c{at}", Effect.COOL, asked_s=90)
    with pytest.raises(AllCoolingDown, match=r"c7 is cooling down for 90 s, and 22 more\)$"):
        desk.ask(desk.ticket())


@pytest.mark.parametrize("alias", ["", "m"])
@pytest.mark.parametrize("effect", [Effect.COOL, Effect.OUT_OF_MODEL, Effect.REST])
def test_reset_ends_a_cooldown_while_callers_wait(effect: Effect, alias: str) -> None:
    """They get the client at once, in the order of arrival, and its failures are forgotten."""
    desk = Desk(make_client("a"), make_client("b"), max_retry_interval_s=1000)
    desk.pool.set_disabled("b", True)
    desk.fail("a", effect, asked_s=90)
    early, late = desk.ticket(), desk.ticket()
    if effect is Effect.COOL:
        desk.queue(early, late)
    assert desk.pool.reset("a", alias)
    if effect is Effect.COOL:
        assert early.granted is not None
        assert late.granted is None
    with desk.take(ticket=early) as lease:
        assert not lease.trials
    assert desk.facts("a")["models"] == {"m": {"state": "ready", "failures": 0}}
    desk.pool.withdraw(late)
    desk.assert_idle()
    assert not desk.pool.reset("nobody")


def test_reset_of_one_model_leaves_the_others() -> None:
    """And what is wrong with the client as a whole, which a reset of the client ends."""
    desk = Desk(make_client("a", permits=0, models=(("m", "m"), ("n", "n"))))
    for alias in "mn":
        with desk.take(alias) as lease:
            lease.report(Effect.COOL, asked_s=90)
    desk.pool.reset("a", "n")
    states = {name: one["state"] for name, one in desk.facts("a")["models"].items()}  # type: ignore[attr-defined]
    assert states == {"m": "cooling down", "n": "ready"}
    with desk.take("n") as lease:
        lease.report(Effect.OUT)
    desk.pool.reset("a", "n")
    with pytest.raises(NoClientInService):
        desk.ask(desk.ticket("n"))
    desk.pool.reset("a")
    for alias in "mn":
        desk.take(alias).release()


def test_the_snapshot() -> None:
    """In flight, waiting, failures, leases with holder and age."""
    desk = Desk(make_client("a"))
    desk.fail("a", Effect.COOL, asked_s=2, cause="429 x: Wait")
    waiting = desk.ticket()
    held = desk.wait(Ticket("m", ANYBODY, desk.config, holder="req-7"))
    assert held is not None
    assert desk.wait(waiting, 1.5) is None
    assert desk.pool.snapshot() == [
        {
            "client": "a",
            "kind": "demo",
            "permits": 1,
            "in_flight": 1,
            "elsewhere": None,
            "disabled": False,
            "leaving": False,
            "served": 1,
            "answered": 0,
            "failed": 1,
            "last_error": {"age_s": 3.5, "cause": "429 x: Wait"},
            "waiting": 1,
            "models": {
                "m": {
                    "state": "trying",
                    "failures": 1,
                    "for_s": 0.5,
                    "since_s": 3.5,
                    "cause": "429 x: Wait",
                }
            },
            "leases": [{"holder": "req-7", "model": "m", "age_s": 1.5}],
        }
    ]
    held.release()
    desk.take(ticket=waiting).release()
    assert desk.pool.queue_facts() == {"m": {"waiting": 0}}
    desk.fail("a", Effect.COOL, asked_s=math.inf)
    assert desk.pool.snapshot()[0]["models"]["m"]["for_s"] == 1800.0


def test_why_a_client_is_shut_out_is_kept() -> None:
    """In the upstream's last words, and since the first failure in a row; success ends it."""
    desk = Desk(make_client("a"))
    desk.fail("a", Effect.OUT, cause="401 x: first")
    desk.clock.sleep(100)
    desk.fail("a", Effect.OUT, cause="401 x: again")
    desk.clock.sleep(5)
    told = desk.facts("a")["models"]["m"]  # type: ignore[index]
    assert (told["since_s"], told["cause"]) == (105.0, "401 x: again")
    desk.clock.sleep(200)
    desk.fail("a", Effect.GOOD)
    assert desk.facts("a")["models"]["m"] == {"state": "ready", "failures": 0}  # type: ignore[index]
    assert (desk.facts("a")["answered"], desk.facts("a")["failed"]) == (1, 2)


def test_the_log_tells_once_that_a_client_goes_and_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Why, and for how long; of a model alone where the others go on; not of short cooldowns."""
    desk = Desk(make_client("a", permits=0))
    late = desk.take()
    desk.fail("a", Effect.COOL, asked_s=5, cause="429 x: short")
    desk.clock.sleep(6)
    desk.fail("a", Effect.GOOD)
    desk.fail("a", Effect.REST, cause="500 x: broken")
    assert not caplog.messages
    desk.clock.sleep(6)
    desk.fail("a", Effect.OUT, cause="401 x: No\n")
    late.report(Effect.OUT, cause="401 x: No")  # as all that were under way
    late.release()
    desk.clock.sleep(61)
    desk.fail("a", Effect.OUT, cause="401 x: No")  # a trial, in vain
    desk.clock.sleep(121)
    desk.fail("a", Effect.GOOD)
    desk.fail("a", Effect.COOL, asked_s=40, cause="429 x: quota")
    desk.clock.sleep(41)
    with desk.take() as trial:
        trial.report(Effect.BEGUN)
    desk.fail("a", Effect.OUT_OF_MODEL, cause="402 x: Pay")
    assert caplog.messages == [
        "a is out of service for 60 s: '401 x: No\\n'",
        "a is back in service after 182 s",
        "a, 'm', is out of service for 40 s: '429 x: quota'",
        "a, 'm', is back in service after 41 s",
        "a, 'm', is out of service for 60 s: '402 x: Pay'",
    ]
    desk.assert_idle()


def test_which_models_are_listed() -> None:
    """Left out: every client out of service, or cooling down for more than 60 s more."""
    pairs = (("m", "m"), ("n", "n"))
    desk = Desk(make_client("a", models=pairs), make_client("b", models=pairs))

    def listed() -> list[str]:
        return [alias for alias, routes in desk.routes.items() if desk.pool.is_listed(routes)]

    assert listed() == ["m", "n"]
    desk.fail("a", Effect.OUT)
    desk.fail("b", Effect.COOL, asked_s=100)
    assert listed() == ["n"]
    assert desk.pool.cooled_in("m", desk.routes["m"]) == 100
    desk.clock.now += 40
    assert listed() == ["m", "n"]
    desk.pool.set_disabled("b", True)
    assert listed() == [], "'n' was never asked for, but its clients are known to be out"
    assert desk.pool.cooled_in("m", desk.routes["m"]) is None
