"""Tunes the server's processes: a core each, few thread switches, large blocks of memory.

Process-wide, so only gunicorn's hooks call it (`serving`), never an import or an embedding
application. The figures behind each setting are in `bench/RESULTS.md` and its commit.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import sys
from collections.abc import Collection, Mapping

PIN_VARIABLE = "PROXY_PIN_WORKERS"  # "0" leaves the workers to the scheduler

# How often all waiting threads together look whether the interpreter is free: each looks once in a
# switch interval. With the default of 5 ms, two thousand threads on one core that had to wait once
# (a stall of the machine, a burst) did nothing else from then on: of 2,000 streams none ended.
# The price is that a thread that computes may keep the others waiting longer. Nearly all threads
# leave the interpreter much sooner, at their next wait.
LOOKS_PER_S = 5_000
MIN_SWITCH_INTERVAL_S = 0.05
MAX_SWITCH_INTERVAL_S = 1.0

# M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX of glibc's malloc.h: bodies and answers come
# from the heap, not from fresh pages each time, and the heap keeps as much; threads share arenas,
# which idle ones would each hold on to.
_MALLOC = {-1: 64 * 1024 * 1024, -3: 32 * 1024 * 1024, -8: 2}

log = logging.getLogger("proxy.tuning")


def free_core(
    taken: Collection[int | None], workers: int, environ: Mapping[str, str] = os.environ
) -> int | None:
    """A core for one more worker, of those that the process may use; None: do not pin it.

    With a core of its own, a worker's interpreter lock does not wander between caches, which halves
    the cost of a request under load. More workers than cores would only wait for each other.
    """
    if environ.get(PIN_VARIABLE, "1") == "0" or not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    if not workers <= len(cores) > 1:
        return None
    return next((core for core in cores if core not in taken), None)


def settle() -> None:
    """Before a fork, exempt what is loaded from collections, which write to shared pages."""
    with contextlib.suppress(OSError, AttributeError):  # another libc, with thresholds of its own
        for name, value in _MALLOC.items():
            ctypes.CDLL(None).mallopt(name, value)
    gc.collect()
    gc.freeze()


def switch_interval_s(threads: int) -> float:
    """How long one thread may keep the interpreter while others wait for it."""
    return min(MAX_SWITCH_INTERVAL_S, max(MIN_SWITCH_INTERVAL_S, threads / LOOKS_PER_S))


def tune(core: int | None, threads: int) -> None:
    """Tune this process, a worker of `threads` threads that has loaded its application."""
    if core is not None:
        try:
            os.sched_setaffinity(0, {core})
        except OSError as error:  # taken from the container since
            log.warning("the worker stays unpinned: %s", error)
    sys.setswitchinterval(switch_interval_s(threads))
    gc.freeze()
