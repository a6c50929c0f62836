"""Reading one reply without losing sight of the clock: what dispatch does between send and answer.

Each function is a generator that can pause at any wait: it yields when `Waits.pause_at` has come,
and takes the same wait up again when it is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import TypeVar

from ..clients.base import Collected, Reply
from ..config import Config
from ..errors import UpstreamTimeout, UpstreamTruncated
from ..net.watch import Clock
from .relay import Relay

_T = TypeVar("_T")

# Yields at each pause; returns what was waited for.
Pausing = Generator[None, None, _T]


class OutOfTime(UpstreamTimeout):
    """The request's own time is up, whatever the upstream might still say."""


class Waits:
    """How long a request waits: until `pause_at` at a stretch, until `deadline` in all."""

    def __init__(
        self, config: Config, clock: Clock, *, arrived: float, timeout_s: float | None = None
    ) -> None:
        self.config = config
        self._limit_s = config.request_timeout_s if timeout_s is None else timeout_s
        self.deadline = arrived + self._limit_s
        self.pause_at = math.inf
        self.now = clock.monotonic

    def until(self, due_at: float) -> float:
        """The next moment at which to look at the clock."""
        return min(self.pause_at, self.deadline, due_at)

    def check(self, due_at: float, what: str) -> None:
        """Raise UpstreamTimeout if the upstream's time, or all of the request's, is up."""
        now = self.now()
        if now >= self.deadline:
            raise self.out_of_time()
        if now >= due_at:
            raise UpstreamTimeout(f"the upstream {what}")

    def out_of_time(self) -> OutOfTime:
        return OutOfTime(f"no answer within {self._limit_s:.3g} s (request-timeout)")


def await_head(reply: Reply, waits: Waits) -> Pausing[None]:
    """Wait for the status, `first-byte-timeout` from when there is a connection."""
    while not reply.open(waits.until(math.inf)):
        waits.check(math.inf, "")
        yield
    limit_s = waits.config.first_byte_timeout_s
    due_at = waits.now() + limit_s if limit_s else math.inf
    while not reply.head(waits.until(due_at)):
        waits.check(due_at, f"did not begin to answer for {limit_s:.3g} s (first-byte-timeout)")
        yield


def first_data(reply: Reply, waits: Waits) -> Pausing[bytes]:
    """The beginning of a body, from its first byte that is no white space; b"": there is none.

    Upstreams send blank lines while they think (api-docs.deepseek.com/quick_start/rate_limit, read
    2026-11); raises UpstreamTimeout after `idle-timeout` of nothing else.
    """
    limit_s = waits.config.idle_timeout_s
    due_at = waits.now() + limit_s
    while True:
        data = reply.read(waits.until(due_at))
        if data == b"":
            return b""
        if data and (data := data.lstrip()):
            return data
        waits.check(due_at, f"sent nothing for {limit_s:.3g} s (idle-timeout)")
        if waits.now() >= waits.pause_at:
            yield


def first_chunks(relay: Relay, waits: Waits) -> Pausing[list[bytes]]:
    """A stream's first chunks; raises UpstreamTimeout, UpstreamTruncated when it ends without."""
    while not (chunks := relay.read(waits.until(math.inf))):
        if relay.is_over:
            raise UpstreamTruncated("the upstream's stream ended without any event")
        waits.check(math.inf, "")
        if waits.now() >= waits.pause_at:
            yield
    return chunks


def whole_body(reply: Reply, waits: Waits, *, first: bytes = b"") -> Pausing[bytes]:
    """All of a body, of which `first` was read; raises UpstreamTimeout, UpstreamTooLarge."""
    body = Collected(waits.config.max_answer_bytes, "max-answer-size")
    if first:
        body.add(first)
    limit_s = waits.config.idle_timeout_s
    due_at = waits.now() + limit_s
    while (data := reply.read(waits.until(due_at))) != b"":
        if data is None:
            waits.check(due_at, f"fell silent for {limit_s:.3g} s in mid-answer (idle-timeout)")
            yield
            continue
        body.add(data)
        due_at = waits.now() + limit_s
    return body.whole()
