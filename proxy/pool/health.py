"""What a client's past says about its present: pure, `now` is a monotonic moment passed in.

COOLING and OUT exclude; RESTING only puts behind others. One trial at a time. Quotas refuse at
once, so a trial has passed when the upstream's status line says 2xx, or after `TRIAL_S` without a
refusal: the status line of a unary answer may come late. Failures are forgotten at a whole answer.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import NamedTuple

# 429 without a hint: 1 s doubling to 5 min. Rest after 5xx: 1 s doubling to 60 s. Out of service
# after 401 or 402: 1 min doubling to 30 min.
COOLDOWN_S = (1.0, 300.0)
REST_S = (1.0, 60.0)
OUT_S = (60.0, 1800.0)

# Of a client that is shut out for so long, and of its return, the log tells. Cooldowns of seconds
# come and go with each burst of requests.
LONG_S = 30.0

# A trial that was not refused for so long has passed.
TRIAL_S = 2.0


class State(enum.Enum):
    """What a client is fit for, for one model; the worst comes last."""

    READY = "ready"
    RESTING = "resting"
    ON_TRIAL = "on trial"  # half-open: one request may try
    TRYING = "trying"  # half-open, and that request is under way: at most for TRIAL_S
    COOLING = "cooling down"
    OUT = "out of service"


class Standing(NamedTuple):
    """A state, and the monotonic moment at which it ends by itself."""

    state: State
    until: float = math.inf


READY = Standing(State.READY)


class Effect(enum.Enum):
    """What an attempt's end says about the client."""

    NONE = "none"
    GOOD = "good"
    BEGUN = "begun"  # a 2xx status line: a trial has passed, the answer may still break
    COOL = "cool"  # 429
    REST = "rest"  # 5xx, transport
    OUT_OF_MODEL = "out of model"  # 402
    OUT = "out"  # 401


# The breakers of a health: service, payment, quota, rest. And what each effect makes of which.
KINDS = "spqr"
SAYS = {
    Effect.NONE: ("", State.READY),
    Effect.GOOD: (KINDS, State.READY),
    Effect.BEGUN: ("spq", State.READY),
    Effect.COOL: ("q", State.COOLING),
    Effect.REST: ("r", State.RESTING),
    Effect.OUT: ("s", State.OUT),
    Effect.OUT_OF_MODEL: ("p", State.OUT),
}


def doubling(bounds: tuple[float, float], times: int) -> float:
    """`bounds[0]` doubled `times` times, at most `bounds[1]`."""
    first, most = bounds
    return min(most, first * 2.0 ** min(times, 32))


@dataclass(eq=False, slots=True)
class Breaker:
    """Shuts a client out for a time, then lets one trial at a time through.

    What requests say that were under way when it shut is old news: it neither lengthens the time
    (ten requests at once would make ten failures of one) nor opens again.
    """

    _bounds: tuple[float, float]
    state: State = State.READY
    until: float = -math.inf
    since: float = -math.inf  # when it shut that was open
    cause: str = ""
    failures: int = 0
    _shut_at: float = -math.inf
    _trial: int | None = None  # the number of the lease that tries
    _trial_began: float = -math.inf

    def standing(self, now: float) -> Standing:
        if self.state is State.READY:
            return READY
        if now < self.until:
            return Standing(self.state, self.until)
        if self._trial is None:
            return Standing(State.ON_TRIAL)
        passes_at = self._trial_began + TRIAL_S
        return Standing(State.TRYING, passes_at) if now < passes_at else READY

    @property
    def is_long(self) -> bool:
        """Whether it has shut for a long time, and has not opened since."""
        return self.state is not State.READY and self.until - self._shut_at >= LONG_S

    def begins_trial(self, lease: int, now: float) -> bool:
        """Have the lease of this number decide, if one may try."""
        if self.standing(now).state is not State.ON_TRIAL:
            return False
        self._trial, self._trial_began = lease, now
        return True

    def end_trial(self, lease: int, now: float) -> None:
        """It has passed by time, or its place is the next one's. Nothing, if it was decided."""
        if self._trial == lease:
            if now >= self._trial_began + TRIAL_S:
                self.state = State.READY
            self._trial = None

    def shut(
        self,
        state: State,
        *,
        began: float,
        now: float,
        asked_s: float | None,
        most_s: float,
        cause: str = "",
    ) -> None:
        """Shut for what was asked, else for twice the last time, at most `most_s`.

        A shorter time never replaces a longer one that is running.
        """
        wait_s = asked_s
        if began >= self._shut_at:
            if wait_s is None:
                wait_s = doubling(self._bounds, self.failures)
            self.failures += 1
            self._shut_at = now
        elif wait_s is None:
            return
        if self.state is State.READY:
            self.since = now
        self.state, self.cause = state, cause
        self.until = max(self.until, now + min(wait_s, most_s))
        self._trial = None

    def open(self, *, began: float, forgets: bool = True) -> None:
        """A success; `forgets`: the failures too, so that the next one shuts for no longer."""
        if began >= self._shut_at:
            self.state = State.READY
            self.until = -math.inf
            if forgets:
                self.failures = 0

    def paint(self, said: str, *, clock: int, now: float) -> None:
        """Look as the shared books say, whose `clock` showed so many us at the moment `now`."""
        words = (said or "0 0 0 0 0 - 0 ").split(" ", 7)
        state, until, since, failures, shut_at, trial, trial_began, self.cause = words
        moments = [now + (int(us) - clock) / 1e6 for us in (until, since, shut_at, trial_began)]
        self.state, self.failures = STATES[int(state)], int(failures)
        self.until, self.since, self._shut_at, self._trial_began = moments
        self._trial = None if trial == "-" else 0


class Health:
    """One client's health for one model; `service` is the client's own, shared by its models."""

    __slots__ = ("_breakers", "_rest", "all")

    def __init__(self, service: Breaker) -> None:
        self._breakers = service, Breaker(OUT_S), Breaker(COOLDOWN_S)
        self._rest = Breaker(REST_S)  # never half-open: it only puts behind others
        self.all = (*self._breakers, self._rest)  # in the order of KINDS

    def standing(self, now: float) -> Standing:
        """What the client is fit for now."""
        worst = READY
        for breaker in self._breakers:
            if breaker.state is not State.READY:
                worst = max(worst, breaker.standing(now), key=_gravity)
        if now < self._rest.until and worst.state in (State.READY, State.ON_TRIAL):
            return Standing(State.RESTING, self._rest.until)
        return worst

    def begin_trials(self, lease: int, now: float) -> tuple[Breaker, ...]:
        """A lease of this number begins; the breakers that it is on trial for."""
        shut = [one for one in self._breakers if one.state is not State.READY]
        return tuple([one for one in shut if one.begins_trial(lease, now)]) if shut else ()

    def apply(
        self,
        effect: Effect,
        *,
        began: float,
        now: float,
        asked_s: float | None,
        most_s: float,
        cause: str = "",
    ) -> None:
        """What an attempt that `began` then says, and in which words (`cause`).

        `asked_s`: the upstream's own wish; `most_s`: the longest that it may wish for.
        """
        kinds, state = SAYS[effect]
        if effect is not Effect.COOL:
            asked_s, most_s = None, math.inf
        for breaker in [self.all[KINDS.index(kind)] for kind in kinds]:
            if state is State.READY:
                breaker.open(began=began, forgets=effect is Effect.GOOD)
            else:
                breaker.shut(
                    state, began=began, now=now, asked_s=asked_s, most_s=most_s, cause=cause
                )

    def reset(self) -> None:
        """End what keeps the client from this model alone, and forget it."""
        for breaker in self.all[1:]:
            breaker.open(began=math.inf)

    def shut_by(self, now: float) -> Breaker | None:
        """The breaker that tells why the client stands as it does; None: it is ready."""
        state = self.standing(now).state
        breakers = self.all if state is not State.READY else ()
        return next((one for one in breakers if one.standing(now).state is state), None)

    @property
    def is_out(self) -> bool:
        """Whether the log has told that it is out of service, and not yet that it is back."""
        return any(breaker.is_long for breaker in self._breakers)

    def is_quiet(self, now: float) -> bool:
        """Whether no cooldown, rest, trial or time out of service is under way."""
        return self.standing(now).state in (State.READY, State.ON_TRIAL)

    @property
    def failures(self) -> int:
        """Failures in a row, of whatever kind."""
        return sum([one.failures for one in self.all])


STATES = list(State)  # in the shared books by their numbers


def _gravity(standing: Standing) -> tuple[int, float]:
    return STATES.index(standing.state), standing.until
