"""Looks up the addresses of host names without blocking a request's thread.

`getaddrinfo` blocks for as long as the resolver likes, and nothing can end it. So a few helper
threads call it, one at a time for a name, and a request waits for its `Task` as for a socket. All
names are the configuration's: upstreams and outbound proxies.
"""

from __future__ import annotations

import ipaddress
import math
import os
import socket
import threading
import time
from collections import Counter
from typing import Any, NamedTuple

from .helpers import HelperThreads, Task

# The number of names whose resolvers may hang without holding up the names of others.
MAX_THREADS = 8
# A burst of new connections needs one lookup. `getaddrinfo` does not tell how long addresses live;
# load balancers of the large clouds use 60 s.
FRESH_S = 10.0
# A stale answer up to this age is used at once while it is renewed. An older one may be somebody
# else's address by now: a request waits a moment for its renewal first (RFC 8767 section 5).
AT_ONCE_S = 60.0
RENEWAL_S = 1.8
# More names than any configuration has. After many reloads old names make room for new ones.
MAX_NAMES = 1024


class Address(NamedTuple):
    """An address as sockets take it; its port is not set."""

    family: int
    sockaddr: tuple[Any, ...]

    def at(self, port: int) -> tuple[Any, ...]:
        return (self.sockaddr[0], port, *self.sockaddr[2:])


class Lookup(NamedTuple):
    """What is known of a name, to be used from a monotonic moment on, and its lookup, if any."""

    known: list[Address]
    usable_at: float
    task: Task[list[Address]] | None

    def is_over(self, now: float) -> bool:
        """Whether there is a result by now."""
        return now >= self.usable_at or (self.task is not None and self.task.done())

    def result(self) -> list[Address]:
        """The new answer, else the known one; never empty. Raises OSError, UnicodeError."""
        if self.task is not None and self.task.done():
            try:
                return self.task.result()
            except (OSError, UnicodeError):
                if not self.known:
                    raise
        return self.known


class Names:
    """Looks up names, and keeps answers, but no failures: a stale answer is better than none."""

    def __init__(
        self, max_threads: int = MAX_THREADS, fresh_s: float = FRESH_S, at_once_s: float = AT_ONCE_S
    ) -> None:
        self._threads = HelperThreads("poolproxy-names", max_threads)
        self._fresh_s = fresh_s
        self._at_once_s = at_once_s
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked child has to: its parent's lookups never end there."""
        self._lock = threading.Lock()  # guards _answers, _pending
        self._answers: dict[str, tuple[list[Address], float]] = {}  # and when each came
        self._pending: dict[str, tuple[Task[list[Address]], float]] = {}  # and when each began

    def find(self, host: str) -> Lookup:
        """What is known of a name; starts a lookup if that is not fresh.

        Raises RuntimeError if nothing is known and the process can have no thread to look it up.
        """
        now = time.monotonic()
        # Critical section: decides who looks the name up. Handing it to a thread is part of it,
        # because others may wait for the lookup from then on.
        with self._lock:
            answer, answered_at = self._answers.get(host, ([], -math.inf))
            task, began = self._pending.get(host, (None, now))
            if task is None and now >= answered_at + self._fresh_s:
                try:
                    task = self._threads.start(Task(lambda: self._look_up(host)))
                    self._pending[host] = task, began
                except RuntimeError:
                    if not answer:
                        raise
            if task is None or now < answered_at + self._at_once_s:
                return Lookup(answer, now, task)
            return Lookup(answer, began + RENEWAL_S if answer else math.inf, task)

    def _look_up(self, host: str) -> list[Address]:
        """Called by a helper thread."""
        found: list[Address] = []
        try:
            found = resolve(host)
            return found
        finally:
            with self._lock:
                if found:
                    if host not in self._answers and len(self._answers) >= MAX_NAMES:
                        del self._answers[next(iter(self._answers))]
                    self._answers[host] = found, time.monotonic()
                self._pending.pop(host, None)


def resolve(host: str, flags: int = 0) -> list[Address]:
    """The addresses of a name in the order to try them; raises OSError, UnicodeError. Blocks.

    Families take turns (RFC 8305 section 4): one may have no route.
    """
    told = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)
    found = dict.fromkeys(Address(family, sockaddr) for family, _, _, _, sockaddr in told)
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    turns: Counter[int] = Counter()
    ranks = {}
    for address in found:
        turns[address.family] += 1
        ranks[address] = turns[address.family]
    return sorted(found, key=ranks.__getitem__)


def literal(host: str) -> list[Address]:
    """The address that `host` is, or nothing if it is a name. Does not block."""
    try:
        is_ipv4 = ipaddress.ip_address(host).version == 4
    except ValueError:
        return []
    # `getaddrinfo` would take a page of the thread's stack, which is kept as long as the thread.
    return [Address(socket.AF_INET, (host, 0))] if is_ipv4 else resolve(host, socket.AI_NUMERICHOST)


NAMES = Names()

os.register_at_fork(after_in_child=NAMES.forget)
