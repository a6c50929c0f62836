"""What a request's failed attempts add up to: another one, or the error that it ends with."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NoReturn

from ..clients.base import Client, Reply
from ..config import Config
from ..errors import (
    AllCoolingDown,
    CallerError,
    NoClientFree,
    NoClientInService,
    ProxyError,
    RetryHint,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRefusal,
    UpstreamTimeout,
)
from ..pool import Effect, Lease, doubling
from .verdict import judge, shown
from .waits import OutOfTime, Pausing, Waits

# Of an upstream's error no more is read, and its end not awaited longer.
MAX_ERROR_BYTES = 1024 * 1024
ERROR_BODY_S = 10.0

# Why a client is shut out is told in a line.
MAX_CAUSE_CHARS = 300

# Back-off before a client is tried again: full jitter over 0.25 s doubling to 4 s.
BACK_OFF_S = (0.25, 4.0)


class Failures:
    """Those of one prompt. `cooled_in`: when the first of its clients is to be had again, in s."""

    def __init__(
        self, config: Config, cooled_in: Callable[[], float | None], *, is_stream: bool
    ) -> None:
        self._config = config
        self._cooled_in = cooled_in
        self._is_stream = is_stream
        self._last_error: ProxyError | None = None
        self._speaks_for_one = False  # the last error is its client's matter, others may serve
        self._is_elsewhere = False  # nothing is wrong with that client: it has not what was asked
        self._counted = 0  # against `request-retry`
        self._has_timed_out = False
        self._quota_hits = Counter[str]()  # of each client

    def goes_on(self, lease: Lease, error: ProxyError, *, now: float) -> bool:
        """Draw the consequences of a failed attempt; whether there is to be another."""
        verdict = judge(error, switch_project=self._config.quota_exceeded.switch_project)
        # Frames hold all that was read of the answer: it goes now, not with the request's end.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        self._config.secrets.mask_error(error)
        report(lease, verdict.effect, error)
        if self._last_error is None or not isinstance(error, (OutOfTime, CallerError)):
            self._last_error = shown(error, lease.client.label)
            self._speaks_for_one = verdict.excludes
            self._is_elsewhere = verdict.excludes and verdict.effect is Effect.NONE
        self._quota_hits[lease.client.label] += verdict.effect is Effect.COOL
        if verdict.excludes or self._quota_hits[lease.client.label] > 1:
            lease.exclude()
        if not verdict.moves_on or isinstance(error, OutOfTime):
            return False
        if isinstance(error, UpstreamTimeout) and not self._is_stream:
            if self._has_timed_out:
                return False
            self._has_timed_out = True
        if verdict.counts:
            most_s = doubling(BACK_OFF_S, self._counted)
            self._counted += 1
            lease.back_off(now + random.uniform(0, most_s))
        return self._counted <= self._config.request_retry

    def final(self, unserved: ProxyError | None = None) -> ProxyError:
        """The caller's error; a quota's has the pool's hints. `unserved`: why no client is left."""
        error = self._last_error
        # A client that this request could use is merely in use or cooling down.
        hint = unserved.hint if isinstance(unserved, (AllCoolingDown, NoClientFree)) else None
        others_may = self._speaks_for_one and hint is not None and hint.after_s is not None
        others_may |= self._is_elsewhere and isinstance(unserved, NoClientInService)
        if error is None or others_may:
            error = unserved
        assert error is not None
        is_quota = isinstance(error, UpstreamRefusal) and error.status == 429
        if is_quota and self._config.quota_exceeded.switch_project:
            if isinstance(unserved, NoClientFree):
                error.hint = unserved.hint
            else:
                error.hint = RetryHint(self._cooled_in())
        return error


def with_soonest_hint(errors: Sequence[ProxyError]) -> ProxyError:
    """The error of the first model that was tried, with the soonest hint of all."""
    hints = [each.hint.after_s for each in errors if each.hint]
    hints += [each.retry_after_s for each in errors if isinstance(each, UpstreamRefusal)]
    if known := [after_s for after_s in hints if after_s is not None]:
        errors[0].hint = RetryHint(min(known))
    return errors[0]


def report(lease: Lease, effect: Effect, error: ProxyError) -> None:
    """Tell the client's health of an error that hides its secrets, in the upstream's words."""
    said, asked_s = [error.code], None
    if isinstance(error, UpstreamRefusal):
        said, asked_s = [str(error.status), error.code], error.retry_after_s
    cause = f"{' '.join(filter(None, said))}: {error.message}"
    lease.report(effect, asked_s=asked_s, cause=cause[:MAX_CAUSE_CHARS])


def refused(client: Client, reply: Reply, waits: Waits) -> Pausing[NoReturn]:
    """Raise the error that the upstream answered with."""
    if reply.status < 400:
        raise UpstreamInvalid(
            f"{client.label} answered {reply.status}, a redirect, which is not followed: "
            "check its base-url"
        )
    raise client.refusal(reply, (yield from _error_body(reply, waits)))


def _error_body(reply: Reply, waits: Waits) -> Pausing[bytes]:
    """An error's body, as far as it comes: its status is what counts."""
    body = bytearray()
    due_at = min(waits.deadline, waits.now() + ERROR_BODY_S)
    try:
        while len(body) < MAX_ERROR_BYTES:
            data = reply.read(min(waits.pause_at, due_at))
            if data:
                body += data
            elif data == b"" or waits.now() >= due_at:
                break
            else:
                yield
    except UpstreamError:
        pass
    return bytes(body[:MAX_ERROR_BYTES])
