"""The upstream of a soak: accounts of all kinds that answer with a request's own words, or fail.

It is a witness too: it counts what is in flight for each key, and which keys a request came with.
"""

from __future__ import annotations

import os
import random
import select
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.soak.words import NONCE, answer_to
from tests.support.dialects import BY_KIND, Dialect, Said
from tests.support.server import Connection
from tests.support.upstream import (
    CUT,
    HANG,
    RESET,
    Hold,
    Pause,
    Received,
    Reply,
    Upstream,
    _read_request,
    garbage,
    raw,
)

# How long a configuration takes to reach all workers of a machine with other things to do.
GRACE_S = 6.0

# A peer's end, whatever it sent before; Linux only.
_LEFT = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR

# Of 1,000 requests.
FAULTS = {
    "429": 20,
    "500": 15,
    "503": 15,
    "401": 1,
    "400": 10,
    "reset": 15,
    "garbage": 5,
    "cut": 30,
    "error event": 10,
    "late": 15,
    "hang": 3,
    "dribble": 15,
}
_NAMES = [*FAULTS, ""]
_WEIGHTS = [*FAULTS.values(), 1000 - sum(FAULTS.values())]


class Rule(NamedTuple):
    """How many requests a worker may have in flight with a key, from a moment on."""

    since: float
    permits: Mapping[str, int]


class Accounts(Upstream):
    """Answers as the API of the path that was asked; `refused` has the nonces that got a 400."""

    def __init__(self, seed: int) -> None:
        self.complaints: list[str] = []
        self.faults: Counter[str] = Counter()
        # Requests by nonce, but for those that may be sent again, as a connection that idled broke.
        self.seen: defaultdict[str, int] = defaultdict(int)
        self.refused: set[str] = set()
        self.calm = threading.Event()  # set: no more faults
        self._chance = random.Random(seed)
        self.workers: Callable[[], Collection[int]] = tuple  # the processes that may ask
        self._worker_of: dict[int, int] = {}  # by the number of the connection
        self._rules: list[Rule] = []
        self._in_flight: defaultdict[str, dict[int, Connection]] = defaultdict(dict)
        super().__init__()
        self.default = self._say

    def permit(self, permits: Mapping[str, int]) -> None:
        """From now on a worker may begin requests while less than so many of a key are in flight.

        What was permitted before stays so for a while, as workers learn of it a little later.
        """
        now = time.monotonic()
        with self._changed:
            recent = [rule for rule in self._rules[1:] if rule.since > now - GRACE_S]
            self._rules = [*self._rules[-1 - len(recent) :], Rule(now, dict(permits))]

    def serve(self, connection: Connection) -> None:
        while True:
            received = _read_request(connection)
            with self._witnessed(connection, received):
                self._answer(connection, received)
            with self._changed:
                del self.history[:-100]
                if len(self._threads) > 1000:
                    self._threads[:] = [one for one in self._threads if one.is_alive()]

    @contextmanager
    def _witnessed(self, connection: Connection, received: Received) -> Iterator[None]:
        with self._changed:
            there = self._in_flight[received.key or ""]
            living = [one for one in there.values() if not _has_left(one)]
            most = self._most(received.key or "")
            # Each worker counts its own, and while one has some left of a higher number, others
            # take what is theirs.
            if len(living) >= most and (worker := self._worker_at(connection)):
                count = sum(self._worker_at(one) == worker for one in living)
                # Its peer may have left before we came to read what it had sent.
                if count >= most and not _has_left(connection):
                    self.complaints.append(
                        f"{received.path}: {received.key} has {count} in flight in worker {worker}"
                        f" and may have {most}"
                    )
            there[connection.number] = connection
        try:
            yield
        finally:
            self._note_end(received)

    def _note_end(self, received: Received) -> None:
        with self._changed:
            self._in_flight[received.key or ""].pop(received.connection, None)

    def _most(self, key: str) -> int:
        """The most that any rule of now, or of just before, permits a worker."""
        now = time.monotonic()
        rules = [self._rules[-1]]
        for rule, after in zip(self._rules, self._rules[1:], strict=False):
            if after.since > now - GRACE_S:
                rules.append(rule)
        return max(rule.permits.get(key, 0) for rule in rules)

    def _worker_at(self, connection: Connection) -> int:
        """The process at the other end, by Linux's /proc; 0: it has closed."""
        if connection.number not in self._worker_of:
            self._worker_of[connection.number] = _owner(connection, self.workers())
        return self._worker_of[connection.number]

    def _say(self, received: Received) -> Reply:
        dialect = _dialect_of(received.path)
        found = NONCE.search(received.body)
        if found is None:
            return dialect.refused(400, "there is no nonce in this request")
        nonce = found[0].decode()
        with self._changed:
            (fault,) = self._chance.choices(_NAMES, _WEIGHTS)
            chance = random.Random(self._chance.getrandbits(32))
            if self.calm.is_set():
                fault = ""
            self.seen[nonce] += fault not in ("reset", "cut")
            self.faults[fault or "none"] += 1
            if fault == "400":
                self.refused.add(nonce)
        said = Said(text=answer_to(nonce))
        is_stream = dialect.is_stream(received)
        reply = dialect.streamed(said) if is_stream else dialect.whole(said)
        *steps, last = _spoilt(reply, fault, dialect, chance, is_stream=is_stream).wire()
        # Whoever has the last bytes may begin another request, before we are told that they went.
        return raw(*steps, Hold(_Now(lambda: self._note_end(received))), last)


class _Now(threading.Event):
    """For a `Hold` that holds nothing: something is to be done at this step."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self._act = act

    def is_set(self) -> bool:
        self._act()
        return True


def _dialect_of(path: str) -> Dialect:
    if path == "/v1/messages":
        return BY_KIND["claude"]
    return BY_KIND["gemini" if path.startswith("/v1beta/") else "openai"]


def _owner(connection: Connection, pids: Collection[int]) -> int:
    """Which of these processes has the other end; 0: none."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as ours:
        ends = [f":{address[1]:04X}" for address in (ours.getpeername(), ours.getsockname())]
        for row in Path("/proc/net/tcp").read_text().splitlines():
            local, remote, *_, inode = row.split()[1:10]
            if [local[-5:], remote[-5:]] == ends:
                for pid in pids:
                    if f"socket:[{inode}]" in links(pid):
                        return pid
    return 0


def links(pid: int) -> Iterator[str]:
    """What the descriptors of a process are."""
    with suppress(FileNotFoundError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                yield os.readlink(f"/proc/{pid}/fd/{name}")


def _has_left(connection: Connection) -> bool:
    poller = select.poll()
    try:
        poller.register(connection, _LEFT)
    except ValueError:  # closed here
        return True
    return bool(poller.poll(0))


def _spoilt(
    reply: Reply, fault: str, dialect: Dialect, chance: random.Random, *, is_stream: bool
) -> Reply:
    """The reply with pauses in it, and with this fault."""
    steps = [step for step in reply.body if isinstance(step, bytes)]
    if fault.isdigit():
        more = {"Retry-After": "1"} if fault == "429" else {}
        return dialect.refused(int(fault), f"the account says {fault}", **more)
    if fault == "reset":
        return raw(RESET)
    if fault == "garbage":
        return garbage()
    if fault == "cut":
        return reply.cut_at(chance.randrange(len(reply.wire_bytes())), chance.choice([CUT, RESET]))
    if fault == "hang":
        return Reply([*steps[: chance.randrange(len(steps))], HANG], headers=reply.headers)
    if fault == "error event" and is_stream:
        at = chance.randrange(1, len(steps)) if len(steps) > 1 else 0
        told = dialect.refused(500, "the account breaks down").content()
        name = b"event: error\n" if dialect.kind == "claude" else b""
        event = name + b"data: " + told + b"\n\n"
        return Reply([*steps[:at], event], headers=reply.headers, framing="chunked")
    if fault == "late":
        return reply.after(Pause(chance.uniform(0.2, 2.5)))
    if fault == "dribble":
        return reply.in_pieces(chance.randrange(1, 40), 0.002)
    if is_stream:
        return Reply(_with_pauses(steps, chance), headers=reply.headers, framing=reply.framing)
    return reply.after(Pause(chance.uniform(0, 0.1)))


def _with_pauses(steps: Sequence[bytes], chance: random.Random) -> list[bytes | Pause]:
    paused: list[bytes | Pause] = []
    for step in steps:
        paused += [step, Pause(chance.uniform(0, 0.03))]
    return paused[:-1]
