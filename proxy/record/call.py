"""`Call`: the record of a request as plain data, for the application that the gateway is part of.

Receivers of the signals get it. It is immutable and holds no key; of what the caller or a model
said, no more than an upstream's message quotes. `dataclasses.asdict` makes JSON of it. Fields may
be added, and are not taken away.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..wire.chat import Usage


@dataclass(frozen=True)
class Attempt:
    """One try with one client.

    `reason` is `ok`, `open` while it goes on, or the code of the error that ended it.
    """

    client: str  # its label: provider and masked key
    model: str  # the upstream's name for it
    status: int  # the upstream's; 0: it did not come to one
    reason: str
    message: str  # what went wrong, of the upstream's words 500 characters; "": nothing did
    began_s: float  # since the call arrived
    waited_s: float  # before it, for a client or for the end of a pause
    seconds: float | None  # from its beginning to the lease's end; None while it goes on


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
