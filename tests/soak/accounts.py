"""The upstream of a soak: accounts of all kinds that answer with a request's own words, or fail.

It is a witness too: it counts what is in flight for each key, and which keys a request came with.
"""

from __future__ import annotations

import os
import random
import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tests.soak.words import NONCE, answer_to
from tests.support.dialects import BY_KIND, Dialect, Said
from tests.support.server import Connection
from tests.support.upstream import CUT, HANG, RESET, Pause, Received, Reply, garbage, raw
from tests.support.witness import Flight, Witness

# How long a configuration takes to reach all workers of a machine with other things to do.
GRACE_S = 6.0

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


class Accounts(Witness):
    """Answers as the API of the path that was asked; `refused` has the nonces that got a 400."""

    def __init__(self, seed: int) -> None:
        self.faults: Counter[str] = Counter()
        # Requests by nonce, but for those that may be sent again, as a connection that idled broke.
        self.seen: defaultdict[str, int] = defaultdict(int)
        self.refused: set[str] = set()
        self.calm = threading.Event()  # set: no more faults
        self._chance = random.Random(seed)
        # The processes that may ask, if each counts for itself; none: all have one count.
        self.workers: Callable[[], Collection[int]] = tuple
        self._worker_of: dict[int, int] = {}  # by the number of the connection
        super().__init__(grace_s=GRACE_S)
        self.default = self._say

    def _count(self, connection: Connection, flights: list[Flight]) -> tuple[int, str]:
        """While a worker has some left of a higher number, others take what is theirs."""
        if not flights or len(flights) < self._most(flights[0].key) or not self.workers():
            return len(flights), ""
        worker = self._worker_at(connection)
        count = sum(self._worker_at(one.connection) == worker for one in flights) if worker else 0
        return count, f" in worker {worker}"

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
        return _spoilt(reply, fault, dialect, chance, is_stream=is_stream)


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
