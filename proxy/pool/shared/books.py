"""The pool of many processes, as one of them sees it.

A server keeps the books (`books.lua`), and lends. What they say of clients is kept here as a
picture, in the locks and healths of `ClientPool`: from it follow how long a request waits, its
errors, and what `status` tells. A request holds a permit wherever it runs, so that a lease counts
until it is given back, or its process is dead. Who was handed one is told, and asks before it is
used: what waited in a socket through a pause lends nothing.
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
from ...net.bell import my_bell
from ...net.watch import CLOCK, Clock
from ..client_lock import ClientLease, Ticket
from ..health import KINDS, SAYS, STATES, Effect, State
from ..pool import ClientPool, _bells, _dim
from ..queue import Line, ModelQueue, Offer
from .connection import NAME, Away, Link, Server, is_dead, own_name

log = logging.getLogger("proxy.pool")

BEAT_S = 2.0  # a process is given up 12 s after its last beat (TTL in books.lua)
FRESH_S = 9.0  # after that it has stood still, and asks again for what it is lent
RETRY_S = 0.5  # the pause after a failure to connect
LOOK_AGAIN_S = 5.0  # who waits looks again after this time: a message may be lost
PATIENCE_S = 12.0  # the server has been away for so long: nobody waits for it any more
AGAIN_S = 5.0  # and a hint says for how long
USE_S = 60.0  # the books are told so often that a roster is in use; without it forget it in an hour
MOST_PREFERRED = 8
US = 1e6


class SharedQueue(ModelQueue):
    """The queue of this process's own requests, and the roster that the books keep for it."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        words: list[object] = []
        for offer in self.offers.values():
            words += [offer.lock.client.identity, offer.lock.permits, round(US * offer.step)]
            words += [offer.tier.place, round(US * offer.turn), offer.name]
        said = "\0".join(map(str, [NAME, self.alias, *words])).encode(errors="surrogatepass")
        self.roster = sha256(said).hexdigest()[:20]
        self.upload = [self.roster, *words]
        self.places = ",".join(map(str, sorted(self._tiers)))
        self.told_at = -math.inf  # when the books were told that it is in use

    def words(self, ticket: Ticket, now: float) -> list[object]:
        """What the books are told by who asks."""
        words: list[object] = [ticket.number, self.roster, self.places]
        if ticket.rank < 0 and not (ticket.tried or ticket.excluded or ticket.session):
            return words
        back_off_us = round(US * max(0.0, min(ticket.tried_again_at - now, 1e6)))
        words += [ticket.rank if ticket.rank >= 0 else "", back_off_us]
        words += [
            ",".join(["", *[lock.client.identity for lock in locks if lock in self.offers], ""])
            for locks in (ticket.tried, ticket.excluded)
        ]
        most = max(1, MOST_PREFERRED // len(self._tiers))
        for place in sorted(self._tiers) if ticket.session else ():
            first = itertools.islice(self._order(self._tiers[place], ticket), most)
            words += [lock.client.identity for lock in first]
        return words

    def changes_at(self, now: float) -> float:
        standings = [offer.health.standing(now) for offer in self.offers.values()]
        moments = [one.until for one in standings if one.state is not State.RESTING]
        return min(moments, default=math.inf)

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
        self._beat_at = -math.inf
        self._listener: threading.Thread | None = None
        self._is_over = threading.Event()  # what it runs for
        self._link: Link | None = None  # on which it hears
        self._is_deaf = False  # the books found that it does not
        self._numbers = itertools.count(1)
        # What this process holds, by number: client, since when, rank, model.
        self._held: dict[int, tuple[str, float, int, str]] = {}
        self._leaked: set[int] = set()  # of which the books knew at the last beat, and we did not
        self._asking: set[int] = set()  # of callers' requests
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
                    self._listener = threading.Thread(target=self._run, name="books", daemon=True)
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
        """Ask, as a process that lives, and has a part in the state; raises Away."""
        try:
            for _ in range(3):
                answer = self._server.call(what, self._me, self._known, *words)
                is_fresh = self._clock.monotonic() - self._beat_at < FRESH_S
                if is_fresh and answer != [b"S"]:
                    return answer
                self.beat()
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
                    self._is_deaf, beats_at = False, 0.0
                    self.ring_all()  # what was told before is asked for again
                    while not (self._is_deaf or self._is_over.is_set()):
                        self.hear(self._link.messages(beats_at - time.monotonic()))
                        if time.monotonic() >= beats_at:
                            beats_at = time.monotonic() + BEAT_S
                            self.beat()
            except Exception as error:
                if self._is_over.is_set():
                    return
                if isinstance(error, (RedisError, OSError)):
                    self.lost(error)
                else:  # a fault of ours must not end it: others would wait for its leases
                    log.exception("the shared pool's listener failed, and begins anew")
                self._is_over.wait(RETRY_S)

    def beat(self, *lost: int) -> None:
        """Say that the process lives, and holds what the books have `lost`; raises Away."""
        with self._lock:
            now, known, before = self._clock.monotonic(), self._known, dict(self._held)
            told = {number for number, one in self._waiting.items() if one.ahead is not None}
            disabled = [key for key, line in self._lines.items() if line.lock.is_disabled]
        words: list[object] = []
        for number in before.keys() & lost:
            client, since, *rest = before[number]
            words += [number, client, round(US * (now - since)), *rest]
        state, numbers, others, *picture = self._server.call(
            "beat", self._me, known, self._rank, ",".join(disabled), *words
        )
        here = set(map(int, numbers))
        with self._lock:
            self._known, self._beat_at = state.decode(), now
            self._paint_locked(*picture)
            leaked = here - self._asking - self._held.keys() - self._waiting.keys()
            again, self._leaked = leaked & self._leaked, leaked
            lost = tuple((self._held.keys() & before) - here)
            # Asks end of which the books find that nobody hears; and with the books all of them.
            is_deaf, is_new = bool(told & self._waiting.keys() - here), self._known != known
        if self._away:
            log.warning("the shared state is back after %.1f s", now - self._away_since)
        if self._away or is_deaf or is_new:
            self._away, self._is_deaf = "", is_deaf
            self.ring_all()
        for number in again:
            self._send("release", number, "")
        for process in filter(is_dead, map(bytes.decode, others)):
            log.warning("the process %s is dead: its permits are given back", process)
            self._server.call("bury", self._me, "", process)
        if lost:
            self.beat(*lost)

    def hear(self, messages: Iterable[bytes]) -> None:
        """Ring whose number is told: it was served; and who hopes for a `-client` that failed."""
        worse: list[Offer] = []
        for message in messages:
            if message.startswith(b"-"):
                worse += line.offers if (line := self._lines.get(message[1:].decode())) else []
            elif (ticket := self._waiting.get(int(message))) and (bell := ticket.bell):
                bell.ring()
        if any(offer.queue.waiters for offer in worse):
            self.beat()
            with self._lock:
                self._rung += _dim(worse, self._clock.monotonic())
            self._ring()

    def ring_all(self) -> None:
        """Have all who wait look again."""
        self._rung += _bells(list(self._waiting.values()))
        self._ring()

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

    def admit(self, caller: Caller, had: tuple[int, int], held: ExitStack) -> list[float] | None:
        """What a caller has spent of its limits, at least `had` of the day's; it is charged.

        Unless one leaves nothing. Until `held` ends it has a place of its `max-concurrency`; None:
        there is none. While the server is away nothing is known, and nobody refused.
        """
        self.open()
        number, about = next(self._numbers), _limits(caller)
        self._asking.add(number)
        held.callback(self._asking.discard, number)
        with suppress(Away):
            if not self._away:
                how, *spent = self._call("spend", number, *about, 0, 0, *had, 1, 0, 1, 0)
                if how == 2 and caller.max_concurrency:
                    self._held[number] = (about[0], self._clock.monotonic(), 0, "")
                    held.callback(self._leave, number)
                return list(map(float, spent)) if how else None
        return []

    def spend(self, caller: Caller, *units: int) -> None:
        """Charge each of its limits so much more."""
        self._send("spend", "", *_limits(caller), 0, 0, 0, 0, *units)

    def _leave(self, number: int, watched: str = "-") -> None:
        if held := self._held.pop(number, None):
            self._send("release", number, held[0] if watched == "-" else "")

    def _ask(self, ticket: Ticket, routes: tuple[Route, ...]) -> ClientLease | None:
        self.open()
        try:
            while True:
                ticket.number = ticket.number or next(self._numbers)
                ticket.bell, self._waiting[ticket.number] = my_bell(), ticket
                with self._lock:
                    now = self._clock.monotonic()
                    queue = self._queue_locked(ticket, routes, now)
                    assert isinstance(queue, SharedQueue)
                    if not queue.offers:
                        self._wait_until_locked(queue, ticket, now)  # raises
                    if self._away:
                        self._wait_away_locked(queue, ticket, now)
                        return None
                    words = queue.words(ticket, now)
                if now - queue.told_at > USE_S and self._send("roster", queue.roster):
                    queue.told_at = now
                try:
                    kind, *rest = self._call("acquire", *words)
                    if kind == b"U":
                        self._call("roster", *queue.upload)
                        continue
                except Away:
                    continue
                with self._lock:
                    now = self._clock.monotonic()
                    if kind == b"W":
                        queue = self._queue_locked(ticket, routes, now)
                        self._wait_locked(queue, ticket, now, *rest)
                        return None
                    if lease := self._lent_locked(ticket, *rest):
                        return lease
                self.withdraw(ticket)  # a new configuration has left it out meanwhile
        except BaseException:
            self.withdraw(ticket)
            raise
        finally:
            self._ring()

    def _lent_locked(self, ticket: Ticket, *grant: Any) -> ClientLease | None:
        rank, client, us, watched, name = grant
        line, model = self._lines.get(client.decode()), name.decode()
        lock = line.lock if line else self._leaving.get(client.decode())
        if lock is None:
            return None
        now, number, ticket.rank = self._clock.monotonic(), ticket.number, int(rank)
        lease = ClientLease(lock, ticket, model, number, now, self._release, self._report)
        lease.lent_us, lease.watched = int(us), watched.decode()
        if ticket.session and ticket.is_kept is None:
            ticket.is_kept = lock is ticket.home
        self._held[number] = (lock.client.identity, now, ticket.rank, model)
        self._leave_locked(self._queues.get(ticket.alias), ticket, now)
        ticket.number = 0
        return lease

    def _wait_locked(self, queue: ModelQueue, ticket: Ticket, now: float, *said: Any) -> None:
        """Wait, by what the books say; raises PoolError."""
        rank, grace_us, ahead, *picture = said
        self._paint_locked(*picture)
        ticket.rank, ticket.ahead, self._rank = rank, ahead, max(self._rank, rank)
        wait_until = self._queue_end if grace_us else self._wait_until_locked
        ends_at = wait_until(queue, ticket, now)
        ticket.wakes_at = min(ends_at, now + (grace_us / US or LOOK_AGAIN_S))
        queue.join(ticket)

    def _wait_away_locked(self, queue: ModelQueue, ticket: Ticket, now: float) -> None:
        if self._is_stopping:
            raise ShuttingDown
        until = self._away_since + PATIENCE_S
        with suppress(NoClientFree):
            ticket.wakes_at = min(until, self._queue_end(queue, ticket, now))
            if now < ticket.wakes_at:
                return
        text = "the state that this server shares with others cannot be had now; try again"
        raise StateUnavailable(text, hint=RetryHint(AGAIN_S))

    def _leave_locked(self, queue: ModelQueue | None, ticket: Ticket, now: float) -> None:
        super()._leave_locked(queue, ticket, now)
        self._waiting.pop(ticket.number, None)
        ticket.ahead = None

    def withdraw(self, ticket: Ticket) -> None:
        super().withdraw(ticket)
        if number := ticket.number:
            ticket.number = 0
            self._send("release", number, "")

    def _release(self, lease: ClientLease) -> None:
        held = self._held.get(lease.number)
        if held and held[1] == lease.began:  # else it is a parent's, as it was at the fork
            super()._release(lease)
            self._leave(lease.number, lease.watched)

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
        number = -1 if effect is Effect.GOOD else STATES.index(state)
        about = lease.client.identity, lease.model, lease.lent_us, kinds, number
        waits_s = lease.ticket.config.max_cooldown_s, asked_s
        waits_us = [round(US * wait_s) for wait_s in waits_s if wait_s is not None]
        self._send("report", *about, cause.encode("utf-8", "replace"), *waits_us)

    # What others see of it

    def _paint_locked(self, clock: int, said: list[bytes]) -> None:
        """Make locks and healths look as the books say."""
        now, before = self._clock.monotonic(), self._picture
        self._picture = dict(zip(said[::2], said[1::2], strict=True))
        for identity, line in self._lines.items():
            in_use = int(self._picture.get(identity.encode(), 0))
            line.lock.elsewhere = max(0, in_use - len(line.lock.leases))
        for field in before.keys() | self._picture.keys():
            identity, _, about = field.decode(errors="replace").partition(" ")
            kind, model = about[:1], about[2:]
            value = self._picture.get(field, b"").decode(errors="replace")
            if kind in ("", "!") or (whose := self._lines.get(identity)) is None:
                continue
            if kind == "o":
                whose.lock.is_disabled = bool(value)
            elif kind == "s":
                whose.lock.service.paint(value, clock=clock, now=now)
            elif health := whose.lock.health.get(model):
                health.all[KINDS.index(kind)].paint(value, clock=clock, now=now)

    def _change(self, label: str, disabled: bool | None, alias: str = "") -> bool:
        """In all processes; raises StateUnavailable."""
        self.open()
        with self._lock:
            clients = [line.lock.client for line in self._lines.values()]
        found = [client for client in clients if client.label == label]
        try:
            for client in found:
                names = {one.name for one in client.config.models or () if one.alias == alias}
                models = (names or {alias}) if alias else ()
                is_out = "" if disabled is None else int(disabled)
                self._call("change", client.identity, is_out, *models)
            self.beat()
        except Away as error:
            raise StateUnavailable(f"the shared state is away: {error}") from error
        return bool(found)

    def dismiss(self) -> None:
        super().dismiss()
        self.ring_all()

    def _serve_locked(self, line: Line, now: float) -> None:
        """The books do."""


def _limits(caller: Caller) -> list[Any]:
    """What the books know a caller by, and its limits."""
    named = caller.name.encode(errors="surrogatepass") or digest_of(caller.key)
    return [f"caller:{sha256(named).hexdigest()[:24]}", *[getattr(caller, it) for it in LIMITS]]
