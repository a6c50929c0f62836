"""What becomes of a call: a whole answer, or a stream's body that goes on by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple, Protocol, cast

from ..clients.registry import Entry
from ..config import Config
from ..errors import ProxyError
from ..net.watch import CallerConnection, Clock
from ..record.record import Record
from ..wire.chat import ChatRequest
from .attempts import Answer, Call
from .stream import Opened, Opening, StreamBody
from .waits import Waits


class Asked(NamedTuple):
    """A request as the endpoints have it. `headers`: the caller's that go on to the upstream."""

    request: ChatRequest
    headers: dict[str, str]
    caller: CallerConnection
    record: Record

    def call(self, entry: Entry) -> Call:
        """The request as dispatch has it, now that its model is found."""
        return Call(self.request, entry, self.headers, self.caller, self.record)


class Source(Protocol):
    """What an answer comes from: `Attempts`, several of them (`series.Series`), or `Sought`."""

    @property
    def headers(self) -> dict[str, str]:
        """Of the upstream's headers those that go back."""

    def advance(self, pause_at: float) -> Answer | Opened | None: ...
    def interrupted(self, error: ProxyError) -> None: ...
    def close(self) -> None: ...


class Sought:
    """A source that waits until its model is found, and is then what `begin` makes of it.

    `find`: the model, or None when the given moment came first; raises ProxyError.
    """

    def __init__(
        self,
        find: Callable[[float], Entry | None],
        begin: Callable[[Entry], Source],
        waits: Waits,
    ) -> None:
        self._find = find
        self._begin = begin
        self._waits = waits
        self._source: Source | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {} if self._source is None else self._source.headers

    def advance(self, pause_at: float) -> Answer | Opened | None:
        if self._source is None:
            entry = self._find(min(pause_at, self._waits.deadline))
            if entry is None:
                if self._waits.now() >= self._waits.deadline:
                    raise self._waits.out_of_time()
                return None
            self._source = self._begin(entry)
        return self._source.advance(pause_at)

    def interrupted(self, error: ProxyError) -> None:
        assert self._source is not None, "only what was opened can break"
        self._source.interrupted(error)

    def close(self) -> None:
        if self._source is not None:
            self._source.close()


def serve(
    source: Source, call: Asked | Call, held: ExitStack, *, config: Config, clock: Clock
) -> Answer | StreamBody:
    """Have `source` answer the call; raises ProxyError. What `held` holds ends with the answer.

    A stream is returned at its first chunks or at the time to commit it, and takes over `held`; its
    attempts go on in its iteration then.
    """
    held.callback(source.close)
    if not call.request.stream:
        answer = source.advance(math.inf)
        assert isinstance(answer, Answer)
        call.record.end = "ok"
        return answer
    commit_s = config.streaming.commit_after_seconds or math.inf
    opened = source.advance(call.record.arrived + commit_s)
    assert not isinstance(opened, Answer)
    return StreamBody(
        cast("Opening", source),  # a stream's never advances to an Answer
        opened,
        record=call.record,
        held=held.pop_all(),
        keepalive_s=config.streaming.keepalive_seconds,
        idle_timeout_s=config.idle_timeout_s,
        clock=clock,
    )
