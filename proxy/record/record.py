"""The record of a request, which becomes one line in the log when the request ends.

It never holds a key, nor what the caller or a model said.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Protocol

from ..errors import ProxyError
from ..wire.chat import Usage
from .call import Attempt, Call, Times

log = logging.getLogger("proxy.request")

# A name that a caller or an upstream chose is cut to this in the log.
MAX_NAME_CHARS = 80
# So many of what was dropped are named.
MAX_DROPPED = 12

# Of the model that a caller asked for a `Call` has this much: as long as any that is configured.
MAX_MODEL_CHARS = 256

# An upstream's words are kept until the request is over: no more of them than people read.
MAX_MESSAGE_CHARS = 500


@dataclass(slots=True, eq=False, repr=False)
class AttemptRecord:
    """One try with one client. `reason` says how it ended: `ok`, an error's code, or a status."""

    client: str
    waited_s: float  # in the queue and in back-off, before it was sent
    model: str = ""  # the upstream's name for it
    began: float = 0.0
    status: int = 0  # the upstream's, if it came to one
    reason: str = "open"
    message: str = ""  # what went wrong, in the upstream's words if it has told; secrets are masked
    ended: float | None = None  # when the lease was back

    def __str__(self) -> str:
        # An upstream's word: nothing in it may look like a line's end, or steer a terminal.
        reason = ascii(self.reason[:MAX_NAME_CHARS])[1:-1]
        if self.status:
            reason = f"{self.status} {reason}"
        return f"{self.client} ({reason}, waited {self.waited_s:.3f} s)"

    def failed(self, error: ProxyError) -> None:
        """Note what it ended with, an error that hides its secrets."""
        self.reason = error.code or "error"
        self.message = error.message[:MAX_MESSAGE_CHARS]


class Recorder(Protocol):
    """Is told of each request as it goes on, in the thread that serves it. Must not raise.

    No lock is held meanwhile, and no lease that has ended; a unary answer waits for it. A stream
    that nobody closed is closed by another request's thread (`Record.is_lost`), which must not wait
    for anything.
    """

    def start(self, record: Record) -> None:
        """It is known who asks for which model; the first attempt comes next."""

    def end_attempt(self, record: Record, attempt: AttemptRecord) -> None:
        """The attempt is over, and its lease is back."""

    def end(self, record: Record) -> None:
        """The request is over, one that was refused before it started too. Comes last of all."""


@dataclass(slots=True, eq=False, repr=False)
class Record:
    """The facts of one request. Moments are monotonic seconds, sizes are bytes.

    `end` is `ok`, `caller_gone`, or the code of the error that ended the request.
    """

    # Whether lines of the log bring the call: not where nobody would look at it.
    logs_call: ClassVar[bool] = True

    request_id: str
    endpoint: str
    arrived: float
    mask: Callable[[str], str] = str  # hides secrets: callers may choose one as id, model or path
    address: str = ""  # of the caller; "": the server does not tell it
    host: object = None  # the application that it came through, if it was one
    recorders: Sequence[Recorder] = ()
    began: float = field(default_factory=time.time)  # by the wall clock
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
    dropped: Sequence[str] = ()  # of the request, what the client that answered was not told
    is_lost: bool = False  # nobody closed it: whoever came next does

    def start(self) -> None:
        """Tell the recorders that the request is about to be served."""
        for recorder in self.recorders:
            recorder.start(self)

    def end_attempt(self, attempt: AttemptRecord, now: float) -> None:
        """Note that an attempt is over, after its lease was given back."""
        attempt.ended = now
        for recorder in self.recorders:
            recorder.end_attempt(self, attempt)

    def cut_usage(self) -> None:
        """Note that the answer broke off: the upstream may count more tokens than it has told."""
        self.usage = replace(self.usage or Usage(), partial=True)

    def close(self, now: float) -> None:
        """Note that the request is over, log its line, and tell the recorders. Idempotent."""
        if self.ended is None:
            self.ended = now
            self.end = self.end or "error"
            if log.isEnabledFor(logging.INFO):
                log.info(self.line(), extra={"call": self.call()} if self.logs_call else None)
            for recorder in self.recorders:
                recorder.end(self)

    def call(self) -> Call:
        """The record as plain data."""
        return Call(
            id=self.mask(self.request_id),
            endpoint=self.mask(self.endpoint),
            model=self.mask(self.model)[:MAX_MODEL_CHARS],
            caller=self.caller,
            address=self.mask(self.address),
            stream=self.stream,
            status=self.status,
            end=self.end,
            usage=self.usage,
            attempts=tuple(map(self.attempt, self.attempts)),
            times=Times(
                arrived=self.began,
                waited_s=sum([attempt.waited_s for attempt in self.attempts]),
                first_event_s=self._since_arrival(self.first_event),
                total_s=self._since_arrival(self.ended),
            ),
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
        )

    def attempt(self, one: AttemptRecord) -> Attempt:
        """One of its attempts as plain data."""
        return Attempt(
            client=one.client,
            model=one.model,
            status=one.status,
            reason=one.reason,
            message=one.message,
            began_s=one.began - self.arrived,
            waited_s=one.waited_s,
            seconds=None if one.ended is None else one.ended - one.began,
        )

    def _since_arrival(self, moment: float | None) -> float | None:
        return None if moment is None else moment - self.arrived

    def dropped_text(self) -> str:
        """What was dropped, for a header: short, and in visible ASCII."""
        shown = [_UNSHOWN.sub("?", name)[:MAX_NAME_CHARS] for name in self.dropped[:MAX_DROPPED]]
        more = len(self.dropped) - len(shown)
        return ", ".join([*shown, *([f"and {more} more"] if more else [])])

    def line(self) -> str:
        """The record as one line of `key=value`, values with spaces quoted as in JSON."""
        waited_s = sum([attempt.waited_s for attempt in self.attempts])
        # All else is ours, but for upstreams' words, in which errors have hidden secrets already.
        line = self.mask(
            f"id={_quoted(self.request_id)} caller={_quoted(self.caller)} "
            f"addr={_quoted(self.address)} endpoint={_quoted(self.endpoint)} "
            f"model={_quoted(self.model[:MAX_NAME_CHARS])}"
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
            told = [(one.name, getattr(self.usage, one.name)) for one in fields(self.usage)]
            line += "".join([f" {name}={int(count)}" for name, count in told if count])
        if self.dropped:
            line += f" dropped={_quoted(self.mask(self.dropped_text()))}"
        return line


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    return json.dumps(text) if text else "-"


# What needs no quotes: the name of most models, callers and clients.
_PLAIN = re.compile(r"[A-Za-z0-9_.:/\-]+")
_UNSHOWN = re.compile("[^!-~]")
