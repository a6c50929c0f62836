"""The task that programs are put through: a shell command, its output, a last word."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.support.dialects import BY_KIND, Call, Dialect, Said
from tests.support.responses_upstream import NATIVE
from tests.support.upstream import CUT, RESET, Received, Reply, raw

KEY = "caller-key-0123456789"
RUN_S = 120
MARK = "proof-4711"
COMMAND = f"echo {MARK} > proof.txt && cat proof.txt"
LAST_WORD = "All is proven now."


def scripted(
    dialect: Dialect, call: Call, read: Callable[[Received], Any] | None = None
) -> Callable[[Received], Reply]:
    """A shell command is asked for by `call`, and when its output came back a last word is said.

    A request without the tool (for a title) gets a few words. `read` checks requests instead of
    the dialect.
    """

    def answer(received: Received) -> Reply:
        body = json.dumps((read or dialect.read)(received))
        said = Said("A title")
        if came_back(body):
            said = Said(LAST_WORD)
        elif f'"{call.name}"' in body:
            said = Said("I will look.", "A proof?", (call,), "tool_calls")
        return dialect.streamed(said) if dialect.is_stream(received) else dialect.whole(said)

    return answer


def came_back(body: str) -> bool:
    """Whether the command's output is in a request; the command itself has no line's end there."""
    return f"{MARK}\\n" in body or f"{MARK}\\\\n" in body


# The vendor of each dialect, before which programs recover by themselves.
VENDORS = {"chat": BY_KIND["openai"], "responses": NATIVE, "messages": BY_KIND["claude"]}

# What may go wrong with the first answer of a vendor.
FAULTS = ("cut", "reset", "429", "500")


def reader(spoken: str, dialect: Dialect) -> Callable[[Received], Any]:
    """What reads the gateway's requests: Claude's own caller may have a query and betas."""
    return Received.json if (spoken, dialect.kind) == ("messages", "claude") else dialect.read


class FirstBroken:
    """Answers as `answer`, but the first of the requests that have these words goes wrong."""

    def __init__(
        self, answer: Callable[[Received], Reply], words: str, dialect: Dialect, fault: str
    ) -> None:
        self.has_broken = False
        self._answer = answer
        self._words = words.encode()
        self._broken = broken(dialect, fault)

    def __call__(self, received: Received) -> Reply:
        if self.has_broken or self._words not in received.body:
            return self._answer(received)
        self.has_broken = True
        return self._broken


def broken(dialect: Dialect, fault: str) -> Reply:
    """A streamed answer that goes wrong."""
    if fault == "cut":
        whole = dialect.streamed(Said("I will look."))
        return replace(whole, body=[*whole.body[:3], CUT])
    if fault == "reset":
        return raw(RESET)
    if fault == "429":
        return dialect.refused(429, "Slow down.", **{"Retry-After": "1"})
    return dialect.refused(500, "All is lost.")
