"""The record of a request, which becomes one line in the log when the request ends.

It never holds a key, nor what the caller or a model said. A `Call` is the same as plain data, for
the application that the gateway is part of: receivers of the signals get it. It is immutable, and
`dataclasses.asdict` makes JSON of it. Fields may be added, and are not taken away.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from typing import TYPE_CHECKING, ClassVar

from ..errors import ProxyError
from ..wire.chat import Usage

if TYPE_CHECKING:
    from ..config import Caller
    from .transcript import Transcript

log = logging.getLogger("proxy.request")

MAX_NAME_CHARS = 80  # in the log, of a name that a caller or an upstream chose
MAX_DROPPED = 12  # so many of what was dropped are named
MAX_MODEL_CHARS = 256  # of a model's name in a `Call`: as long as any that is configured
MAX_MESSAGE_CHARS = 500  # of an upstream's words, kept for the request: no more than people read

# What needs no quotes: the name of most models, callers and clients.
_PLAIN = re.compile(r"[A-Za-z0-9_.:/\-]+")
_UNSHOWN = re.compile("[^!-~]")


@dataclass
class Attempt:
    """One try with one client. Receivers of signals get copies of it.

    `reason` is `ok`, `open` while it goes on, or the code of the error that ended it.
    """

    client: str  # its label: provider and masked key
    model: str = ""  # the upstream's name for it
    status: int = 0  # the upstream's; 0: it did not come to one
    reason: str = "open"
    message: str = ""  # what went wrong, of the upstream's words 500 characters; "": nothing did
    began_s: float = 0.0  # since the call arrived
    waited_s: float = 0.0  # before it, for a client or for the end of a pause
    first_event_s: float | None = None  # from its beginning to its stream's first event
    seconds: float | None = None  # from its beginning to the lease's end; None while it goes on
    usage: Usage | None = None  # the tokens of its answer; None: it has told none

    def __str__(self) -> str:
        # An upstream's word: nothing in it may look like a line's end, or steer a terminal.
        reason = ascii(self.reason[:MAX_NAME_CHARS])[1:-1]
        if self.status:
            reason = f"{self.status} {reason}"
        return f"{self.client} ({reason}, waited {self.waited_s:.3f} s)"

    def failed(self, error: ProxyError) -> None:
        """Note what it ended with, an error that hides its secrets."""
        self.reason = _word(error) or "error"
        self.message = error.message[:MAX_MESSAGE_CHARS]


@dataclass(frozen=True)
class Times:
    """When a call came, and how long it took, in seconds since then."""

    arrived: float  # Unix time
    waited_s: float  # of it, for clients and pauses, in all
    first_event_s: float | None  # to a stream's first event; None: there was none
    total_s: float | None  # to its end; None while it goes on


@dataclass(frozen=True)
class Call:
    """One request, as far as it has come.

    `end` is `ok`, `caller_gone`, or the code of the error that ended it, and empty while it goes
    on. `status` is what the caller was told; 0: nothing yet, or nothing at all.
    """

    id: str  # the answer's `x-request-id`
    endpoint: str  # the path
    model: str  # as the caller named it
    fallback: str  # the model that serves in place of it, by `fallbacks`; "": none has to
    caller: str  # the name of who calls; "" if there is none
    address: str  # the IP address that it calls from; "" if the server does not tell
    stream: bool
    status: int
    end: str
    usage: Usage | None  # the tokens, of all prompts; None: no answer has told any
    attempts: tuple[Attempt, ...]
    times: Times
    bytes_in: int
    bytes_out: int


@dataclass(slots=True, eq=False, repr=False)
class Record:
    """The facts of one request, as a `Call` has them. Moments are monotonic seconds."""

    # Whether lines of the log bring the call: not where nobody would look at it.
    logs_call: ClassVar[bool] = True

    request_id: str
    endpoint: str
    arrived: float
    mask: Callable[[str], str] = str  # hides secrets: callers may choose one as id, model or path
    address: str = ""  # of the caller; "": the server does not tell it
    host: object = None  # the application that it came through, if it was one
    # Sends the signal of this name. Called in the thread that serves the request, without a lock or
    # a lease that has ended. Must not raise.
    tell: Callable[[str, Record, Attempt | None], None] = lambda *_: None
    leave: Callable[[], object] = lambda: None  # gives back its caller's own place; idempotent
    transcript: Transcript | None = None  # by `request-log`
    began: float = field(default_factory=time.time)  # by the wall clock
    caller: str = ""
    who: Caller | None = None  # the same, once it is known
    model: str = ""
    fallback: str = ""  # the model that serves, or is tried, in place of it
    stream: bool = False
    is_kept: bool | None = None  # whether its session's first client is its own; None: it has none
    limit: str = ""  # of its caller's, by which it was refused
    attempts: list[Attempt] = field(default_factory=list)
    waited_s: float = 0.0  # for clients and pauses, also where none came of it
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    first_event: float | None = None
    ended: float | None = None
    end: str = ""
    charged: int | None = None  # tokens of its usage, to the caller's limits, if they let it in
    spent: Sequence[float] = ()  # of those limits before it, where several processes share them
    dropped: Sequence[str] = ()  # of the request, what the client that answered was not told
    is_lost: bool = False  # nobody closed it: whoever came next does, and must not wait

    def failed(self, error: ProxyError) -> None:
        """Note what it ended with, as the caller is told."""
        self.status, self.end = error.status, _word(error) or error.type

    @property
    def usage(self) -> Usage | None:
        """The tokens of all answers; partial if they did not all come whole."""
        told = [attempt.usage for attempt in self.attempts if attempt.usage is not None]
        if not told:
            return None
        found = reduce(Usage.plus, told)
        return found if self.end in ("", "ok") else replace(found, partial=True)

    def close(self, now: float) -> None:
        """Note that the request is over, log its line, and tell of it. Idempotent."""
        if self.ended is None:
            self.ended = now
            self.end = self.end or "error"
            if log.isEnabledFor(logging.INFO):
                log.info(self.line(), extra={"call": self.call()} if self.logs_call else None)
            self.tell("call_ended", self, None)

    def call(self) -> Call:
        """The record as plain data."""
        since = self.since_arrival
        return Call(
            id=self.mask(self.request_id),
            endpoint=self.mask(self.endpoint),
            model=self.mask(self.model)[:MAX_MODEL_CHARS],
            fallback=self.mask(self.fallback),
            caller=self.caller,
            address=self.mask(self.address),
            stream=self.stream,
            status=self.status,
            end=self.end,
            usage=self.usage,
            attempts=tuple(map(replace, self.attempts)),
            times=Times(self.began, self.waited_s, since(self.first_event), since(self.ended)),
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
        )

    def since_arrival(self, moment: float | None) -> float | None:
        """In seconds; None: it has not come."""
        return None if moment is None else moment - self.arrived

    def dropped_text(self) -> str:
        """What was dropped, for a header: short, and in visible ASCII."""
        shown = [_UNSHOWN.sub("?", name)[:MAX_NAME_CHARS] for name in self.dropped[:MAX_DROPPED]]
        more = len(self.dropped) - len(shown)
        return ", ".join([*shown, *([f"and {more} more"] if more else [])])

    def line(self) -> str:
        """The record as one line of `key=value`, values with spaces quoted as in JSON."""
        # All else is ours, but for upstreams' words, in which errors have hidden secrets already.
        line = self.mask(
            f"id={_quoted(self.request_id)} caller={_quoted(self.caller)} "
            f"addr={_quoted(self.address)} endpoint={_quoted(self.endpoint)} "
            f"model={_quoted(self.model[:MAX_NAME_CHARS])}"
        )
        line += (
            f" stream={int(self.stream)} status={self.status} "
            f"end={_quoted(self.end[:MAX_NAME_CHARS])} attempts={len(self.attempts)} "
            f"waited_ms={self.waited_s * 1000:.0f}"
        )
        if self.attempts:
            # Labels are the configuration's: printable ASCII, without a key.
            line += f" clients={json.dumps('; '.join(map(str, self.attempts)))}"
        if self.first_event is not None:
            line += f" first_ms={(self.first_event - self.arrived) * 1000:.0f}"
        if self.ended is not None:
            line += f" ms={(self.ended - self.arrived) * 1000:.0f}"
        if self.fallback:
            line += f" fallback={_quoted(self.mask(self.fallback[:MAX_NAME_CHARS]))}"
        line += f" in={self.bytes_in} out={self.bytes_out}"
        if (usage := self.usage) is not None:
            told = [(one.name, getattr(usage, one.name)) for one in fields(usage)]
            line += "".join([f" {name}={int(count)}" for name, count in told if count])
        if self.dropped:
            line += f" dropped={_quoted(self.mask(self.dropped_text()))}"
        return line


def _word(error: ProxyError) -> str | None:
    """The error's code, unless that is its status once more: some upstreams have no other."""
    return None if error.code == str(error.status) else error.code


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    return json.dumps(text) if text else "-"
