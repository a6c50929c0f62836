"""The record of a request, which becomes one line in the log when the request ends.

It never holds a key, nor what the caller or a model said.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ..wire.chat import Usage

log = logging.getLogger("proxy.request")

# A name that a caller or an upstream chose is cut to this in the log.
MAX_NAME_CHARS = 80


@dataclass(slots=True, eq=False, repr=False)
class AttemptRecord:
    """One try with one client. `reason` says how it ended: `ok`, an error's code, or a status."""

    client: str
    waited_s: float  # in the queue and in back-off, before it was sent
    status: int = 0  # the upstream's, if it came to one
    reason: str = "open"

    def __str__(self) -> str:
        # An upstream's word: nothing in it may look like a line's end, or steer a terminal.
        reason = ascii(self.reason[:MAX_NAME_CHARS])[1:-1]
        if self.status:
            reason = f"{self.status} {reason}"
        return f"{self.client} ({reason}, waited {self.waited_s:.3f} s)"


@dataclass(slots=True, eq=False, repr=False)
class Record:
    """The facts of one request. Moments are monotonic seconds, sizes are bytes.

    `end` is `ok`, `caller_gone`, or the code of the error that ended the request.
    """

    request_id: str
    endpoint: str
    arrived: float
    mask: Callable[[str], str] = str  # hides secrets: callers may choose one as id, model or path
    caller: str = ""
    model: str = ""
    stream: bool = False
    attempts: list[AttemptRecord] = field(default_factory=list)
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    first_event: float | None = None
    ended: float | None = None
    end: str = ""
    usage: Usage | None = None

    def close(self, now: float) -> None:
        """Note that the request is over, and log its line. Idempotent."""
        if self.ended is None:
            self.ended = now
            self.end = self.end or "error"
            if log.isEnabledFor(logging.INFO):
                log.info(self.line())

    def line(self) -> str:
        """The record as one line of `key=value`, values with spaces quoted as in JSON."""
        waited_s = sum([attempt.waited_s for attempt in self.attempts])
        # All else is ours, but for upstreams' words, in which errors have hidden secrets already.
        line = self.mask(
            f"id={_quoted(self.request_id)} caller={_quoted(self.caller)} "
            f"endpoint={_quoted(self.endpoint)} model={_quoted(self.model[:MAX_NAME_CHARS])}"
        )
        line += (
            f" stream={int(self.stream)} status={self.status} "
            f"end={_quoted(self.end[:MAX_NAME_CHARS])} attempts={len(self.attempts)} "
            f"waited_ms={waited_s * 1000:.0f}"
        )
        if self.attempts:
            # Labels are the configuration's: printable ASCII, without a key.
            clients = json.dumps("; ".join(map(str, self.attempts)))
            line += f" clients={clients}"
        if self.first_event is not None:
            line += f" first_ms={(self.first_event - self.arrived) * 1000:.0f}"
        if self.ended is not None:
            line += f" ms={(self.ended - self.arrived) * 1000:.0f}"
        line += f" in={self.bytes_in} out={self.bytes_out}"
        if self.usage is not None:
            line += f" prompt_tokens={self.usage.prompt_tokens}"
            line += f" completion_tokens={self.usage.completion_tokens}"
        return line


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    return json.dumps(text) if text else "-"


# What needs no quotes: the name of most models, callers and clients.
_PLAIN = re.compile(r"[A-Za-z0-9_.:/\-]+")
