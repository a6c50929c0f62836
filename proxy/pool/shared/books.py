"""The pool of many processes, as one of them sees it.

A server keeps the books (`books.lua`), and lends. What they say of clients is kept here as a
picture, in the locks and healths of `ClientPool`: from it follow how long a request waits, its
errors, and what `status` tells. A request holds a permit wherever it runs, so that a lease counts
until it is given back, or its process is dead. Who was handed one is told, and says that it is
taken up before it is used: what waited in a socket through a pause lends nothing.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing, suppress
from hashlib import sha256
from typing import Any

from redis import RedisError

from ...clients.base import Client
from ...clients.registry import Route
from ...config import Caller, digest_of
from ...config.config import LIMITS
from ...errors import NoClientFree, RetryHint, ShuttingDown, StateUnavailable
from ...net.bell import Bell, my_bell
from ...net.watch import CLOCK, Clock
from ..client_lock import ClientLease, Ticket
from ..health import KINDS, SAYS, Effect, Health, State
from ..pool import ClientPool, _bells, _dim, _ring
from ..queue import Line, ModelQueue
from . import is_dead, own_name
from .connection import Away, Link, Server

log = logging.getLogger("proxy.pool")

# A process is given up 12 s after its last beat (TTL in books.lua). One that has stood still asks
# again for what it is lent.
BEAT_S, FRESH_S = 2.0, 9.0

# The pause after a failure to connect.
RETRY_S = 0.5

# Who is handed a permit may use it as long as it cannot have been taken back (ACK in books.lua).
HANDED_S = 0.7

# A message may be lost, so that each who waits looks again after this time.
LOOK_AGAIN_S = 5.0

# The server has been away for so long: nobody waits for it any more, and a hint says for how long.
PATIENCE_S, AGAIN_S = 12.0, 5.0

MOST_PREFERRED = 8
US = 1e6
_STATES = list(State)  # by their numbers in the books


class SharedQueue(ModelQueue):
    """The queue of this process's own requests, and the roster that the books keep for it."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.seen_at = -math.inf  # the moment of the picture by which a request waits
        tiers = {place: number for number, place in enumerate(sorted(self._tiers), 1)}
        words: list[object] = [len(tiers)]
        for offer in self.offers.values():
            words += [offer.lock.client.identity, offer.lock.permits, round(US * offer.step)]
            words += [tiers[offer.tier.place], round(US * offer.turn), offer.name]
        said = "\0".join(map(str, [self.alias, *words])).encode(errors="surrogatepass")
        self.roster = sha256(said).hexdigest()[:20]
        self.upload = [self.roster, *words]

    def words(self, ticket: Ticket, now: float) -> list[object]:
        """What the books are told by who asks."""
        rank = ticket.rank if ticket.rank >= 0 else ""
        back_off_us = round(US * max(0.0, min(ticket.tried_again_at - now, 1e6)))
        tiers = [self._tiers[place] for place in sorted(self._tiers)]
        words = [ticket.number, self.roster, len(tiers), rank, back_off_us]
        words += [
            ",".join(["", *[lock.client.identity for lock in locks if lock in self.offers], ""])
            for locks in (ticket.tried, ticket.excluded)
        ]
        for tier in tiers if ticket.session else ():
            first = itertools.islice(
                self._order(tier, ticket), max(1, MOST_PREFERRED // len(tiers))
            )
            words += [lock.client.identity for lock in first]
        return words

    @property
    def changes_at(self) -> float:
        all_of_it = [offer.health.standing(self.seen_at) for offer in self.offers.values()]
        return min(
            [one.until for one in all_of_it if one.state is not State.RESTING], default=math.inf
        )

    def trials_pass_at(self, ticket: Ticket, now: float) -> list[float]:
        others = [offer for lock, offer in self.offers.items() if lock not in ticket.excluded]
        standings = [offer.health.standing(now) for offer in others]
        return [one.until for one in standings if one.state is State.TRYING]


class SharedPool(ClientPool):
    """The pool of all processes with the same state.

    Starts a thread and opens connections at the first request, or at `open`.
    """

    _serials = itertools.count()
    _new_queue = SharedQueue

    def __init__(self, clients: Iterable[Client], server: Server, *, clock: Clock = CLOCK) -> None:
        super().__init__(clients, clock=clock)
        self._server = server
        server.forget()
        self._ranks = itertools.repeat(-1)  # the books give them
        self._pid = os.getpid()
        self._me = own_name(next(self._serials))
        self._known = ""  # the state that this process has a part in
        self._beat_at, self._beat_us = -math.inf, 0  # the last one, and its lease clock
        self._listener: threading.Thread | None = None
        self._is_over = threading.Event()  # what it runs for
        self._link: Link | None = None  # on which it hears
        self._numbers = itertools.count(1)
        # What this process holds, by number: client, since when, rank, model.
        self._held: dict[int, tuple[str, float, int, str]] = {}
        self._leaked: set[int] = set()  # of which the books knew at the last beat, and we did not
        self._waiting: dict[int, Ticket] = {}  # all who asked and got nothing yet
        self._rank = 0  # the highest that was given here
        self._away, self._away_since = "", 0.0  # why the server cannot be asked
        self._picture: dict[bytes, bytes] = {}

    def open(self) -> None:
        if self._pid != os.getpid():  # a forked child: its parent's leases are its parent's
            clients = [line.lock.client for line in self._lines.values()]
            SharedPool.__init__(self, clients, self._server, clock=self._clock)
        if self._listener is None:
            with self._lock:
                if self._listener is None:
                    self._is_over.clear()
                    self._listener = threading.Thread(
                        target=self._run, name="pool-state", daemon=True
                    )
                    self._listener.start()

    def close(self) -> None:
        if self._pid == os.getpid() and self._listener is not None:
            self._is_over.set()
            if self._link is not None:
                self._link.close()
            self._listener.join()
            self._listener = None
            self._send("bury", self._me)
            self._known = ""
            self._server.close()

    # What the books are told and asked

    def _call(self, what: str, *words: object) -> Any:
        """Ask, as a process that has a part in the state; raises Away."""
        try:
            for _ in range(3):
                answer = self._server.call(what, self._me, self._known, *words)
                if answer != [b"S"]:
                    return answer
                self.beat(says_all=True)
            raise Away("its state is lost time and again")
        except Away as error:
            self.lost(error)
            raise

    def _send(self, what: str, *words: object) -> bool:
        """Tell, and do not wait; whether it is on its way. What is lost is found by `beat`."""
        is_there = bool(self._known and not self._away)
        return is_there and self._server.send(what, self._me, self._known, *words)

    def _run(self) -> None:
        """In the listener: hear what the process is told, and beat."""
        while not self._is_over.is_set():
            try:
                with closing(self._server.subscribe(self._me)) as self._link:
                    # What it was told before is asked for again.
                    is_heard, beats_at = self.beat(says_all=True), time.monotonic() + BEAT_S
                    while is_heard and not self._is_over.is_set():
                        self.hear(self._link.messages(beats_at - time.monotonic()))
                        if time.monotonic() >= beats_at:
                            beats_at = time.monotonic() + BEAT_S
                            is_heard = self.beat()
            except Exception as error:
                if self._is_over.is_set():
                    return
                if isinstance(error, (RedisError, OSError)):
                    self.lost(error)
                else:  # a fault of ours must not end it: others would wait for its leases
                    log.exception("the shared pool's listener failed, and begins anew")
                self._is_over.wait(RETRY_S)

    def beat(self, *, says_all: bool = False) -> bool:
        """Say that the process lives, and what it holds to who may not know; raises Away.

        False: somebody waits of whom the books do not know, as they found that nobody hears.
        """
        with self._lock:
            now, known, before = self._clock.monotonic(), self._known, dict(self._held)
            told = {number for number, one in self._waiting.items() if one.ahead is not None}
            disabled = [key for key, line in self._lines.items() if line.lock.is_disabled]
        words: list[object] = []
        for number, (client, since, *rest) in before.items() if says_all or not known else ():
            words += [number, client, round(US * (now - since)), *rest]
        up_us = round(US * min(now - self._server.started, 1e6))
        state, numbers, others, *picture = self._server.call(
            "beat", self._me, known, self._rank, up_us, ",".join(disabled), *words
        )
        here = set(map(int, numbers))
        with self._lock:
            self._known, self._beat_at, self._beat_us = state.decode(), now, picture[0]
            self._paint_locked(*picture)
            leaked = here - self._held.keys() - self._waiting.keys()
            again, self._leaked = leaked & self._leaked, leaked
            lost = (self._held.keys() & before) - here
            is_heard = told & self._waiting.keys() <= here
            if says_all:  # what was handed over by books that are lost
                for ticket in self._waiting.values():
                    ticket.told = b""
        if (known != self._known or lost) and not says_all:
            return self.beat(says_all=True)
        if again:
            self._send("release", *again)
        for process in filter(is_dead, map(bytes.decode, others)):
            log.warning("the process %s is dead: its permits are given back", process)
            self._server.call("bury", self._me, "", process)
        if self._away:
            away_s = self._clock.monotonic() - self._away_since
            log.warning("the shared state is back after %.1f s", away_s)
        if self._away or says_all:  # asks may be lost
            self._away = ""
            self.ring_all()
        return is_heard or says_all

    def hear(self, messages: Iterable[bytes]) -> None:
        """Ring who was served, and tell what it got; and who hopes for a `-client` that failed."""
        worse: list[Line] = []
        for message in messages:
            word = message.split(b" ", 1)[0]
            if word == b"*":
                self.ring_all()
            elif word.startswith(b"-"):
                worse += [line] if (line := self._lines.get(word[1:].decode())) else []
            elif (ticket := self._waiting.get(int(word))) and (bell := ticket.bell):
                ticket.told = message
                bell.ring()
        if any(offer.queue.waiters for line in worse for offer in line.offers):
            self.beat()
            with self._lock:
                now = self._clock.monotonic()
                rung = [bell for line in worse for bell in _dim(line.offers, now)]
            _ring(rung)

    def ring_all(self) -> None:
        """Have all who wait look again."""
        _ring(_bells(list(self._waiting.values())))

    def lost(self, error: Exception) -> None:
        """The server cannot be asked: those who wait are told of it soon."""
        with self._lock:
            is_news, self._away = not self._away, str(error) or "no answer"
            if is_news:
                self._away_since = self._clock.monotonic()
        if is_news:
            log.error("the shared state is away: %s", self._away)
            self.ring_all()

    # By requests

    def admit(
        self, caller: Caller, had: tuple[int, int], held: ExitStack
    ) -> tuple[bool, list[float]]:
        """Whether a caller's `max-concurrency` has a place, until `held` ends; what it has spent.

        Of requests and tokens a minute, and a day (`had` at least); a request is charged if all
        have some left. While the server is away: a place, and nothing.
        """
        self.open()
        number, about = next(self._numbers), _limits(caller)
        with suppress(Away):
            if not self._away:
                how, *spent = self._call("spend", number, *about, 0, 0, *had, 1, 0, 1, 0)
                if how == 2 and caller.max_concurrency:
                    self._held[number] = (about[0], self._clock.monotonic(), 0, "")
                    held.callback(self._leave, number)
                return how > 0, list(map(float, spent))
        return True, []

    def spend(self, caller: Caller, *units: int) -> None:
        """Charge each of its limits so much more."""
        self._send("spend", "", *_limits(caller), 0, 0, 0, 0, *units)

    def _leave(self, number: int) -> None:
        if self._held.pop(number, None):
            self._send("release", number)

    def _ask(self, ticket: Ticket, routes: tuple[Route, ...]) -> ClientLease | None:
        self.open()
        rung: list[Bell] = []
        try:
            while True:
                if lease := self._handed(ticket):
                    return lease
                ticket.number = ticket.number or next(self._numbers)
                ticket.bell, self._waiting[ticket.number] = my_bell(), ticket
                with self._lock:
                    now = self._clock.monotonic()
                    queue = self._queue_locked(ticket, routes, now, rung)
                    assert isinstance(queue, SharedQueue)
                    if not queue.offers:
                        self._wait_until_locked(queue, ticket, now)  # raises
                    if self._away:
                        self._wait_away_locked(queue, ticket, now)
                        return None
                    words = queue.words(ticket, now)
                try:
                    kind, *rest = self._call("acquire", *words)
                    if kind == b"U":
                        self._call("roster", *queue.upload)
                        continue
                    if self._clock.monotonic() - self._beat_at > FRESH_S:
                        self.beat()
                        continue
                except Away:
                    continue
                with self._lock:
                    if kind == b"W":
                        if self._wait_locked(ticket, *rest):
                            return None
                    elif lease := self._lent_locked(ticket, *rest):
                        return lease
                if kind == b"G":  # a new configuration has left it out meanwhile
                    self.withdraw(ticket)
        except BaseException:
            self.withdraw(ticket)
            raise
        finally:
            _ring(rung)

    def _handed(self, ticket: Ticket) -> ClientLease | None:
        """What it was told that it is lent, if it is sure that nobody has taken it back."""
        number, *grant = ticket.told.split(b" ", 5)
        is_mine = self._server.is_near and grant and int(number) == ticket.number
        if is_mine and self._send("taken", ticket.number):
            with self._lock:
                lent_at = self._beat_at + (int(grant[2]) - self._beat_us) / US
                if 0 <= self._clock.monotonic() - lent_at < HANDED_S:
                    return self._lent_locked(ticket, *grant)
        return None

    def _lent_locked(
        self, ticket: Ticket, rank: Any, client: bytes, us: Any, watched: bytes, name: bytes
    ) -> ClientLease | None:
        line, model = self._lines.get(client.decode()), name.decode()
        lock = line.lock if line else self._leaving.get(client.decode())
        if lock is None:
            return None
        now, number, ticket.rank = self._clock.monotonic(), ticket.number, int(rank)
        if model not in lock.health:
            lock.health[model] = Health(lock.service)
        lease = ClientLease(lock, ticket, model, number, now, self._release, self._report)
        lease.lent_us, lease.watched = int(us), watched.decode()
        lock.leases[number] = lease
        if ticket.session and ticket.is_kept is None:
            ticket.is_kept = lock is ticket.home
        ticket.tried[lock] = None
        self._held[number] = (lock.client.identity, now, ticket.rank, model)
        self._leave_locked(self._queues.get(ticket.alias), ticket, now)
        ticket.number = 0
        return lease

    def _wait_locked(
        self, ticket: Ticket, rank: int, grace_us: int, ahead: int, *picture: Any
    ) -> bool:
        """Wait, by what the books say; raises PoolError. False: its model has just gone."""
        self._paint_locked(*picture)
        now = self._clock.monotonic()
        queue = self._queues.get(ticket.alias)
        if not isinstance(queue, SharedQueue):
            return False
        queue.seen_at = now
        ticket.rank, ticket.ahead, self._rank = rank, ahead, max(self._rank, rank)
        if grace_us:
            wakes_at = self._queue_end(queue, ticket, now, tried_since=-math.inf)
            wakes_at = min(wakes_at, now + grace_us / US)
        else:
            wakes_at = self._wait_until_locked(queue, ticket, now)
        ticket.wakes_at = min(wakes_at, now + LOOK_AGAIN_S)
        queue.join(ticket)
        return True

    def _wait_away_locked(self, queue: ModelQueue, ticket: Ticket, now: float) -> None:
        if self._is_stopping:
            raise ShuttingDown
        until = self._away_since + PATIENCE_S
        with suppress(NoClientFree):
            ticket.wakes_at = min(until, self._queue_end(queue, ticket, now, tried_since=-math.inf))
            if now < ticket.wakes_at:
                return
        raise StateUnavailable(
            "the state that this server shares with others cannot be had now; try again",
            hint=RetryHint(AGAIN_S),
        )

    def _leave_locked(self, queue: ModelQueue | None, ticket: Ticket, now: float) -> None:
        super()._leave_locked(queue, ticket, now)
        self._waiting.pop(ticket.number, None)
        ticket.ahead, ticket.told = None, b""

    def withdraw(self, ticket: Ticket) -> None:
        if number := ticket.number:
            with self._lock:
                queue = self._queues.get(ticket.alias)
                self._leave_locked(queue, ticket, self._clock.monotonic())
                ticket.number = 0
            self._send("release", number)

    def _release(self, lease: ClientLease) -> None:
        held = self._held.get(lease.number)
        if held and held[1] == lease.began:  # else it is a parent's, as it was at the fork
            super()._release(lease)
            self._leave(lease.number)

    def _report(
        self, lease: ClientLease, effect: Effect, asked_s: float | None, cause: str
    ) -> None:
        watched = {Effect.GOOD: "tw", Effect.BEGUN: "t", Effect.NONE: ""}.get(effect)
        if watched is not None and lease.watched not in watched:
            return
        if effect is not Effect.GOOD:
            lease.watched = "w"
        super()._report(lease, effect, asked_s, cause)  # until the next picture
        kinds, state = SAYS[effect]
        words: list[object] = [lease.client.identity, lease.model, lease.lent_us, kinds]
        words.append(-1 if effect is Effect.GOOD else _STATES.index(state))
        if state is not State.READY:
            first_s, most_s = lease.health.all[KINDS.index(kinds)].bounds
            is_cool = effect is Effect.COOL
            limit_s = lease.ticket.config.max_cooldown_s if is_cool else 1e9
            waits = [first_s, most_s, limit_s, asked_s if is_cool else None]
            words += ["" if wait is None else round(US * wait) for wait in waits]
        self._send("report", *words, cause.encode("utf-8", "replace"))

    # What others see of it

    def _paint_locked(self, clock: int, said: list[bytes]) -> None:
        """Make locks and healths look as the books say."""
        now, before = self._clock.monotonic(), self._picture
        self._picture = dict(zip(said[::2], said[1::2], strict=True))
        for identity, line in self._lines.items():
            in_use = int(self._picture.get(identity.encode(), 0))
            line.lock.elsewhere = max(0, in_use - len(line.lock.leases))
        for field in before.keys() | self._picture.keys():
            identity, kind, model = _parts(field)
            value = self._picture.get(field, b"").decode(errors="replace")
            if not kind or (whose := self._lines.get(identity)) is None:
                continue
            if kind == "o":
                whose.lock.is_disabled = bool(value)
            elif kind == "s":
                whose.lock.service.paint(value, clock=clock, now=now)
            elif health := whose.lock.health.get(model):
                health.all[KINDS.index(kind)].paint(value, clock=clock, now=now)

    def dismiss(self) -> None:
        super().dismiss()
        self.ring_all()

    def set_disabled(self, label: str, disabled: bool) -> bool:
        return self._change_everywhere(label, "01"[disabled])

    def reset(self, label: str, alias: str = "") -> bool:
        return self._change_everywhere(label, "", alias)

    def _change_everywhere(self, label: str, disabled: str, alias: str = "") -> bool:
        """As `_change`; "": it is a reset. Raises StateUnavailable."""
        self.open()
        try:
            self.beat()
            with self._lock:
                found = [one.lock.client for one in self._lines.values()]
                fields = [] if disabled else list(map(_parts, self._picture))
            found = [client for client in found if client.label == label]
            for client in found:
                names = {one.name for one in client.config.models or () if one.alias == alias}
                opened: list[str] = []
                for identity, kind, model in fields:
                    is_meant = not alias or model in (names or {alias})
                    if identity == client.identity and kind in tuple(KINDS) and is_meant:
                        opened += [kind, model]
                self._call("change", client.identity, disabled, *opened)
            self.beat()
        except Away as error:
            raise StateUnavailable(f"the shared state is away: {error}") from error
        return bool(found)

    def _serve_locked(self, line: Line, now: float, rung: list[Bell]) -> None:
        """The books do."""


def _limits(caller: Caller) -> list[Any]:
    """What the books know a caller by, and its limits."""
    named = caller.name.encode(errors="surrogatepass") or digest_of(caller.key)
    return [f"caller:{sha256(named).hexdigest()[:24]}", *[getattr(caller, it) for it in LIMITS]]


def _parts(field: bytes) -> tuple[str, str, str]:
    """Of a field of `n`: a client, a kind of what is said of it, or "", and for which model."""
    client, _, about = field.decode(errors="replace").partition(" ")
    return client, about[:1], about[2:]
