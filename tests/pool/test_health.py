"""What a client's past says about its present: the table's cooldowns, rests and trials."""

from __future__ import annotations

import math

import pytest

from proxy.pool import Effect, doubling
from proxy.pool.health import OUT_S, TRIAL_S, Breaker, Health, Standing, State

MAX_COOLDOWN_S = 1800.0


class Patient:
    """A client's health, and a clock to see it by."""

    def __init__(self) -> None:
        self.service = Breaker(OUT_S)
        self.health = Health(self.service)
        self.now = 0.0

    def tell(
        self, effect: Effect, *, asked_s: float | None = None, began: float | None = None
    ) -> None:
        self.health.apply(
            effect,
            began=self.now if began is None else began,
            now=self.now,
            asked_s=asked_s,
            most_s=MAX_COOLDOWN_S,
        )

    @property
    def standing(self) -> Standing:
        return self.health.standing(self.now)

    def state(self) -> State:
        return self.standing.state

    @property
    def left_s(self) -> float:
        return self.standing.until - self.now

    def times(self, effect: Effect, count: int) -> list[float]:
        """How long it is shut each time that a trial fails."""
        found = []
        for _ in range(count):
            self.tell(effect)
            found.append(self.left_s)
            self.now = self.standing.until
        return found


def test_a_client_is_ready_at_first() -> None:
    """Nothing is known against it."""
    patient = Patient()
    assert patient.standing == (State.READY, math.inf)
    assert patient.health.failures == 0


@pytest.mark.parametrize(
    ("effect", "times"),
    [
        (Effect.COOL, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]),
        (Effect.REST, [1, 2, 4, 8, 16, 32, 60, 60]),
        (Effect.OUT, [60, 120, 240, 480, 960, 1800, 1800]),
        (Effect.OUT_OF_MODEL, [60, 120, 240, 480, 960, 1800, 1800]),
    ],
)
def test_times_double_up_to_a_limit(effect: Effect, times: list[float]) -> None:
    """429: 1 s to 5 min; 5xx: 1 s to 60 s; 401 and 402: 1 min to 30 min; reset by success."""
    patient = Patient()
    assert patient.times(effect, len(times)) == times
    patient.tell(Effect.GOOD)
    assert patient.standing == (State.READY, math.inf)
    assert patient.times(effect, 1) == times[:1]


def test_doubling_never_overflows() -> None:
    """A client that failed a million times."""
    assert doubling((1.0, 60.0), 10**6) == 60.0


def test_what_the_upstream_asks_for_is_honoured_up_to_the_limit() -> None:
    """Never longer than `max-cooldown`: no key is stuck for days."""
    patient = Patient()
    patient.tell(Effect.COOL, asked_s=7)
    assert patient.left_s == 7
    patient.tell(Effect.COOL, asked_s=86400)
    assert patient.left_s == MAX_COOLDOWN_S


def test_a_shorter_cooldown_never_replaces_a_longer_one() -> None:
    """Nor does one without a wish."""
    patient = Patient()
    patient.tell(Effect.COOL, asked_s=100)
    patient.tell(Effect.COOL, asked_s=2)
    patient.tell(Effect.COOL)
    assert patient.left_s == 100


def test_only_429_listens_to_the_upstreams_wish() -> None:
    """A 503 with Retry-After rests as any other: the last client is not benched for hours."""
    patient = Patient()
    patient.tell(Effect.REST, asked_s=3600)
    assert patient.left_s == 1


def test_many_failures_at_once_are_one() -> None:
    """Requests under way when it shut: ten at once don't make ten failures of one."""
    patient = Patient()
    patient.now = 10.0
    for _ in range(10):
        patient.tell(Effect.COOL, began=5.0 if patient.health.failures else None)
    assert patient.left_s == 1
    assert patient.health.failures == 1


def test_a_success_that_began_before_the_failure_opens_nothing() -> None:
    """It is older news than the 429."""
    patient = Patient()
    patient.now = 10.0
    patient.tell(Effect.COOL, asked_s=60)
    patient.tell(Effect.GOOD, began=5.0)
    assert patient.state() is State.COOLING


def test_a_failure_that_began_before_the_success_shuts_nothing() -> None:
    """A trial opened meanwhile; only a wish of the upstream's own still counts."""
    patient = Patient()
    patient.now = 10.0
    patient.tell(Effect.COOL)
    patient.tell(Effect.OUT)
    patient.now = 100.0
    patient.tell(Effect.GOOD)
    patient.tell(Effect.OUT, began=5.0)
    patient.tell(Effect.COOL, began=5.0)
    assert patient.state() is State.READY
    patient.tell(Effect.COOL, began=5.0, asked_s=30)
    assert patient.state() is State.COOLING


@pytest.mark.parametrize("effect", [Effect.COOL, Effect.OUT, Effect.OUT_OF_MODEL])
def test_one_trial_at_a_time(effect: Effect) -> None:
    """Half-open: the second request is none while the first has not decided."""
    patient = Patient()
    patient.tell(effect)
    assert patient.health.begin_trials(1, patient.now) == ()
    patient.now = began = patient.standing.until
    assert patient.state() is State.ON_TRIAL
    [breaker] = patient.health.begin_trials(1, patient.now)
    assert patient.standing == (State.TRYING, began + TRIAL_S)
    patient.now += 1.9
    assert patient.health.begin_trials(2, patient.now) == ()
    breaker.end_trial(2, patient.now)
    assert patient.state() is State.TRYING
    breaker.end_trial(1, patient.now)
    assert patient.state() is State.ON_TRIAL
    assert patient.health.begin_trials(2, patient.now) == (breaker,)


@pytest.mark.parametrize("effect", [Effect.COOL, Effect.OUT, Effect.OUT_OF_MODEL])
@pytest.mark.parametrize("is_over", [False, True])
def test_a_trial_passes_by_time_and_forgets_nothing(effect: Effect, is_over: bool) -> None:
    """Quotas refuse at once: whoever was not refused for 2 s was let in."""
    patient = Patient()
    patient.tell(effect)
    first_s = patient.left_s
    patient.now = began = patient.standing.until
    [breaker] = patient.health.begin_trials(1, began)
    patient.now += TRIAL_S
    assert patient.state() is State.READY
    if is_over:
        patient.now += 5
        breaker.end_trial(1, patient.now)
    assert patient.standing == (State.READY, math.inf)
    assert patient.health.begin_trials(2, patient.now) == ()
    assert patient.health.failures == 1
    patient.tell(effect, began=began)
    assert patient.left_s == 2 * first_s
    patient.now = patient.standing.until
    breaker.end_trial(1, patient.now)
    assert patient.state() is State.ON_TRIAL, "it was refused, however late"


@pytest.mark.parametrize("effect", [Effect.COOL, Effect.OUT, Effect.OUT_OF_MODEL])
def test_a_trial_passes_at_a_good_status_line_and_forgets_nothing(effect: Effect) -> None:
    """The answer may still break, or be an error; a whole one resets."""
    patient = Patient()
    [first_s, second_s] = patient.times(effect, 2)
    patient.health.begin_trials(1, patient.now)
    patient.tell(Effect.BEGUN)
    assert patient.standing == (State.READY, math.inf)
    assert patient.health.failures == 2
    assert patient.times(effect, 1) == [2 * second_s]
    patient.tell(Effect.BEGUN)
    patient.tell(Effect.GOOD)
    assert patient.health.failures == 0
    assert patient.times(effect, 1) == [first_s]


def test_a_trial_that_is_refused_leaves_its_place_at_once() -> None:
    """Though its lease goes on: the next one is tried by another."""
    patient = Patient()
    patient.tell(Effect.COOL)
    patient.now = patient.standing.until
    [breaker] = patient.health.begin_trials(1, patient.now)
    patient.tell(Effect.COOL)
    patient.now = patient.standing.until
    assert patient.state() is State.ON_TRIAL
    assert patient.health.begin_trials(2, patient.now) == (breaker,)
    breaker.end_trial(1, patient.now)
    assert patient.state() is State.TRYING


def test_a_cooldown_is_graver_than_a_trial() -> None:
    """The key is tried with one model, while the quota of another is out."""
    service = Breaker(OUT_S)
    one, other = Health(service), Health(service)
    for health, effect in ((one, Effect.OUT), (other, Effect.COOL)):
        health.apply(effect, began=0.0, now=0.0, asked_s=100.0, most_s=MAX_COOLDOWN_S)
    one.begin_trials(1, 60.0)
    assert one.standing(60.0) == (State.TRYING, 62.0)
    assert other.standing(60.0) == (State.COOLING, 100.0)


def test_a_ready_client_needs_no_trial() -> None:
    """Nor a resting one: a rest only puts behind others."""
    patient = Patient()
    assert patient.health.begin_trials(1, 0.0) == ()
    patient.tell(Effect.REST)
    assert patient.state() is State.RESTING
    assert patient.health.begin_trials(1, 0.0) == ()
    patient.now = 1.0
    assert patient.state() is State.READY


def test_a_client_on_trial_that_rests_is_behind_others() -> None:
    """A trial that ended in 502 leaves the quota undecided, and the client resting."""
    patient = Patient()
    patient.tell(Effect.COOL)
    patient.now = 1.0
    patient.tell(Effect.REST)
    assert patient.standing == (State.RESTING, 2.0)
    assert len(patient.health.begin_trials(1, patient.now)) == 1
    assert patient.state() is State.TRYING


def test_the_gravest_state_wins() -> None:
    """OUT before COOLING before RESTING."""
    patient = Patient()
    patient.tell(Effect.REST)
    assert patient.state() is State.RESTING
    patient.tell(Effect.COOL, asked_s=200)
    assert patient.state() is State.COOLING
    patient.tell(Effect.OUT_OF_MODEL)
    assert patient.standing == (State.OUT, 60.0)
    patient.tell(Effect.OUT)
    patient.now = 60.0
    assert patient.state() is State.COOLING


def test_a_refused_key_is_out_for_all_models_an_unpaid_model_alone() -> None:
    """401 is the client's, 402 the client's for that model."""
    service = Breaker(OUT_S)
    one, other = Health(service), Health(service)

    def tell(health: Health, effect: Effect) -> None:
        health.apply(effect, began=0.0, now=0.0, asked_s=None, most_s=MAX_COOLDOWN_S)

    tell(one, Effect.OUT_OF_MODEL)
    assert one.standing(0.0).state is State.OUT
    assert other.standing(0.0).state is not State.OUT
    tell(one, Effect.OUT)
    assert other.standing(0.0).state is State.OUT


def test_no_effect_changes_nothing() -> None:
    """A 403, a 408 or a 4xx of the caller's making."""
    patient = Patient()
    patient.tell(Effect.NONE)
    assert patient.state() is State.READY
    patient.tell(Effect.COOL)
    patient.tell(Effect.NONE)
    assert patient.state() is State.COOLING
