"""Several prompts of one completions request, served one after the other as one answer.

Each prompt goes its own way through the pool, with a lease of its own and the rank of its request;
their chat answers become one text completion. A final failure of one fails the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import ProxyError
from ..record.record import Record
from ..wire.chat import Usage
from ..wire.completions.answers import TextAnswers
from .attempts import LINGER_S, Answer, Attempts, Call
from .stream import Finished, Opened, Relayed


class Series:
    """The attempts for all prompts, and the chunks of their streams. Owns them until `close()`.

    Raises InvalidRequest, without waiting for a client, for what none of them could serve.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        answers: TextAnswers,
        attempt: Callable[[Call, int | None], Attempts],
    ) -> None:
        first = calls[0]
        if not any(route.client.is_native(first.request) for route in first.entry.routes):
            first.request.check()
        self.is_over = False
        self.progress = 0  # data events of all prompts, and more
        self._calls = calls
        self._answers = answers
        self._attempt = attempt
        self._record: Record = first.record
        self._at = 0
        self._attempts = attempt(first, None)
        self._relay: Relayed | None = None  # the present prompt's stream, once it is open

    @property
    def headers(self) -> dict[str, str]:
        """Of the upstream's headers those that go back."""
        return self._attempts.headers

    @property
    def usage(self) -> Usage | None:
        """The tokens of all prompts."""
        if self._relay is not None and self._is_passed_on():
            return self._relay.usage
        return self._answers.usage

    @property
    def lingers(self) -> bool:
        """Whether the last prompt's upstream has something still to come behind its answer."""
        return self.is_over and self._relay is not None and self._relay.lingers

    def advance(self, pause_at: float) -> Answer | Opened | None:
        """As `Attempts.advance`, for all prompts of a unary request, for the first of a stream."""
        while True:
            outcome = self._attempts.advance(pause_at)
            if outcome is None:
                return None
            if isinstance(outcome, Opened):
                return Opened(self, self._take(outcome.relay, outcome.chunks))
            if self._is_passed_on():
                return outcome
            self._answers.add(outcome.body, self._at)
            self._record.usage = self.usage
            if self._is_at_last():
                return Answer(self._answers.whole())
            self._begin_next()

    def read(self, until: float) -> list[bytes] | None:
        """As `Relay.read`; opens the next prompt's stream where one ended."""
        if self._relay is not None and self._relay.is_over:
            self._begin_next()  # not before: the last chunks need not wait for the connection's end
        if self._relay is None:
            self.progress += 1  # no upstream is idle: until it is open, attempts watch the time
            opened = self._attempts.advance(until)
            if opened is None:
                return None
            assert isinstance(opened, Opened)
            return self._take(opened.relay, opened.chunks)
        before = self._relay.progress
        chunks = self._relay.read(until)
        self.progress += self._relay.progress - before
        return None if chunks is None else self._take(self._relay, chunks)

    def _take(self, relay: Relayed, chunks: list[bytes]) -> list[bytes]:
        self._relay = relay
        self.is_over = relay.is_over and self._is_at_last()
        if self._is_passed_on():
            return chunks
        chunks = self._answers.chunks(chunks, self._at)
        return chunks + self._answers.last_chunk() if self.is_over else chunks

    def _is_passed_on(self) -> bool:
        """Whether the upstream's own completion goes to the caller as it is."""
        is_made_up = isinstance(self._relay, Finished)  # chunks that a JSON body was cut into
        return len(self._calls) == 1 and self._attempts.is_native and not is_made_up

    def _is_at_last(self) -> bool:
        return self._at + 1 == len(self._calls)

    def _begin_next(self) -> None:
        self._attempts.close()
        self._at += 1
        self._relay = None
        self._attempts = self._attempt(self._calls[self._at], self._attempts.rank)

    def interrupted(self, error: ProxyError) -> None:
        """The stream broke after it was opened; attempts that failed have told so themselves."""
        if self._relay is not None:
            self._attempts.interrupted(error)

    def close(self, *, linger_s: float = LINGER_S) -> None:
        """Give back what is held. Idempotent."""
        self._attempts.close(linger_s=linger_s)
