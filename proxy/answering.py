"""What becomes of a call: a whole answer, or a stream's body that goes on by itself."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Protocol, cast

from .config import Config
from .dispatch import Answer, Call
from .errors import ProxyError
from .stream import Opened, Opening, StreamBody
from .watch import Clock


class Source(Protocol):
    """What an answer comes from: `Attempts`, or several of them (`series.Series`)."""

    @property
    def headers(self) -> dict[str, str]:
        """Of the upstream's headers those that go back."""

    def advance(self, pause_at: float) -> Answer | Opened | None: ...
    def interrupted(self, error: ProxyError) -> None: ...
    def close(self) -> None: ...


def serve(
    source: Source, call: Call, held: ExitStack, *, config: Config, clock: Clock
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
    commit_s = config.commit_after_s or math.inf
    opened = source.advance(call.record.arrived + commit_s)
    assert not isinstance(opened, Answer)
    return StreamBody(
        cast("Opening", source),  # a stream's never advances to an Answer
        opened,
        record=call.record,
        held=held.pop_all(),
        keepalive_s=config.keepalive_s,
        idle_timeout_s=config.idle_timeout_s,
        clock=clock,
    )
