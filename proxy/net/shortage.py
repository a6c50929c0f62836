"""Recognises errors that mean that this process has run out of descriptors, memory or threads.

Such a shortage is our own, not an upstream's or a caller's fault. Code that catches errors which
may mean it asks `recognised` first. The error that it returns is for the caller: it ends the
request at once, and changes no client's health.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import time

from ..errors import OutOfResources, RetryHint

# The types of errors that a shortage may raise. Most errors of these types mean something else.
SIGNS = (OSError, MemoryError, RuntimeError)

TOLD_S = 10.0  # at least so long between two lines in the log about the same shortage

# It passes when requests that are under way end.
_HINT = RetryHint(1.0)

_BY_ERRNO = {
    errno.EMFILE: "open files (RLIMIT_NOFILE)",
    errno.ENFILE: "open files (the machine's limit)",
    errno.ENOBUFS: "memory for sockets",
    errno.ENOMEM: "memory",
}
_MAX_CAUSES = 8  # chains of causes may be circles

log = logging.getLogger("proxy.shortage")
_told_at: dict[str, float] = {}  # by what is lacking; without a lock: the worst is a second line


def recognised(error: BaseException) -> OutOfResources | None:
    """The caller's error if this one, or what it came from, is for want of our own resources."""
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None:
            break
        if what := lacking(cause):
            _tell(what)
            return OutOfResources(
                f"this server has no more {what} at the moment; try again shortly", hint=_HINT
            )
        cause = cause.__cause__ or cause.__context__
    return None


def lacking(error: BaseException) -> str | None:
    """What the process has no more of, by this error alone."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError):
        # OpenSSL's has no number of the system's.
        return "memory" if "malloc failure" in str(error) else _BY_ERRNO.get(error.errno or 0)
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "threads, or memory for them"
    return None


def _tell(what: str) -> None:
    now = time.monotonic()
    if now - _told_at.get(what, -math.inf) >= TOLD_S:
        _told_at[what] = now
        log.error("requests are refused: process %d has no more %s", os.getpid(), what)
