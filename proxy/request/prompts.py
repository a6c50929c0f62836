"""Several prompts of one request, served one after the other as one answer.

Each prompt goes its own way through the pool, with a lease of its own and the rank of its request.
A final failure of one fails the whole.
"""

from __future__ import annotations

from ..dialects.base import Answer
from ..errors import ProxyError
from ..record.record import Record
from ..wire.chat import Usage
from .attempts import LINGER_S, Attempts
from .relayed import Relayed


class Series:
    """The attempts for all prompts, and the chunks of their streams. Owns them until `close()`."""

    def __init__(self, attempts: Attempts, record: Record) -> None:
        self.first: list[bytes] = []
        self.is_over = False
        self.progress = 0  # data events of all prompts, and more
        self._attempts = attempts
        self._record = record
        self._relay: Relayed | None = None  # the present prompt's stream, once it is open
        self._spent: Usage | None = None  # on the prompts before it

    @property
    def headers(self) -> dict[str, str]:
        """Of the upstream's headers those that go back."""
        return self._attempts.headers

    @property
    def usage(self) -> Usage | None:
        """The tokens of all prompts."""
        return _plus(self._spent, None if self._relay is None else self._relay.usage)

    @property
    def is_whole(self) -> bool:
        """Whether the last prompt's upstream has nothing still to come behind its answer."""
        return self._relay is not None and self._relay.is_whole

    def answers(self) -> list[Answer]:
        """As `Attempts.answers`, for all prompts."""
        answers = self._attempts.answers()
        while not self._attempts.is_last:
            self._spent = self._record.usage
            self._attempts.begin_next()
            answers += self._attempts.answers()
            self._record.usage = _plus(self._spent, self._record.usage)
        return answers

    def advance(self, pause_at: float) -> Series | None:
        """As `Attempts.advance`, for the first prompt."""
        relay = self._attempts.advance(pause_at)
        if relay is None:
            return None
        self.first = self._take(relay, relay.first)
        return self

    def read(self, until: float) -> list[bytes] | None:
        """As `Relay.read`; opens the next prompt's stream where one ended."""
        if self._relay is not None and self._relay.is_over:
            self._spent, self._relay = self.usage, None
            # Not before: the last chunks need not wait for the connection's end.
            self._attempts.begin_next()
        if self._relay is None:
            self.progress += 1  # no upstream is idle: until it is open, attempts watch the time
            relay = self._attempts.advance(until)
            return None if relay is None else self._take(relay, relay.first)
        before = self._relay.progress
        chunks = self._relay.read(until)
        self.progress += self._relay.progress - before
        return None if chunks is None else self._take(self._relay, chunks)

    def _take(self, relay: Relayed, chunks: list[bytes]) -> list[bytes]:
        self._relay = relay
        self.is_over = relay.is_over and self._attempts.is_last
        return chunks

    def interrupted(self, error: ProxyError) -> None:
        """The stream broke after it was opened; attempts that failed have told so themselves."""
        if self._relay is not None:
            self._attempts.interrupted(error)

    def close(self, *, linger_s: float = LINGER_S) -> None:
        """Give back what is held. Idempotent."""
        self._attempts.close(linger_s=linger_s)


def _plus(one: Usage | None, other: Usage | None) -> Usage | None:
    return one.plus(other) if one and other else one or other
