"""The signals of calls, for the application that the gateway is part of."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import Any

from blinker import Signal

from ..net.helpers import HelperThreads, Task
from .record import Attempt, Record

log = logging.getLogger("proxy")

# For streams that nobody closed: one thread, so that a call's signals come in order.
_HELPER = HelperThreads("proxy-signals", 1)


class CallSignals:
    """The signals, which records have sent. No `Call` is made while nobody listens.

    The sender is the application that a call came through, or None, in whose context receivers run.
    """

    def __init__(self) -> None:
        self.call_started = Signal("A call is about to be served. Receivers take `call`.")
        self.attempt_ended = Signal("An attempt is over. Receivers take `call` and `attempt`.")
        self.call_ended = Signal("A call is over, one that was refused too. Receivers take `call`.")

    def tell(self, name: str, record: Record, attempt: Attempt | None) -> None:
        """Send the signal of this name: of a record, or of an attempt in it."""
        signal: Signal = getattr(self, name)
        if not signal.receivers:
            return
        told: dict[str, object] = {"call": record.call()}
        if attempt is not None:
            told["attempt"] = replace(attempt)
        for receiver in signal.receivers_for(record.host):
            tell = partial(_tell, receiver, record.host, told)
            if record.is_lost:
                _HELPER.start(Task(tell))
            else:
                tell()


def _tell(receiver: Callable[..., Any], app: Any, told: dict[str, object]) -> None:
    def call() -> None:
        with nullcontext() if app is None else app.app_context():
            receiver(app, **told)

    try:  # in a context without the request, which is over for whoever listens
        Context().run(call)
    except Exception:  # whatever it is, no caller's answer may depend on it
        log.exception("a receiver of a signal failed")
