"""The clients of one priority, and the order in which a session prefers them.

It follows from the clients' identities and weights alone, so that it is the same everywhere, and
few sessions move when one comes or goes. Up to `MOST_SCORED` clients have a score each: weighted
rendezvous hashing (Thaler and Ravishankar, 1998; -ln(u)/weight). More stand on a ring by weight,
and a session looks behind a few points of it (multi-probe consistent hashing, Appleton and
O'Reilly, 2015): that takes no longer for a thousand.
"""

from __future__ import annotations

from array import array
from bisect import bisect
from hashlib import shake_128
from math import log
from operator import itemgetter
from struct import unpack

from .client_lock import ClientLock

MOST_SCORED = 16

# By these the sessions of 1,000 clients are spread as evenly as by scores, but for 6 %.
_POINTS = 16  # for a client of the mean weight
_PROBES = 8

_SPAN = 2**64  # of all that is drawn here


class Tier:
    """Made with a queue. `place`: the lower, the sooner. `turn`: of its round, see `queue`."""

    __slots__ = ("_alias", "_odd", "_points", "_standing", "locks", "place", "turn")

    def __init__(self, alias: str, place: int) -> None:
        self._alias = alias
        self.place = place
        self.turn = 0.0
        self.locks: list[ClientLock] = []
        self._odd: list[tuple[float, float, ClientLock]] = []  # a number and 1/weight of each
        self._points = array("Q")  # of the ring
        self._standing: list[ClientLock] = []  # at each of them

    def order(self, session: bytes) -> list[ClientLock]:
        """The clients as a session of 8 random bytes prefers them: of a ring, the first few."""
        if len(self.locks) > MOST_SCORED:
            return self._near(session)
        if not self._odd:
            self._odd = [
                (float(self._drawn(lock, 1)[0] >> 34 | 1), 1 / lock.client.config.weight, lock)
                for lock in self.locks
            ]
        # The fraction of its product with an odd number of 30 bits is as good as drawn anew, for a
        # tenth of a digest.
        drawn = int.from_bytes(session, "big") / _SPAN
        scores = [(log(drawn * odd % 1.0 or 1e-9) * step, lock) for odd, step, lock in self._odd]
        scores.sort(key=itemgetter(0), reverse=True)
        return [lock for _, lock in scores]

    def _near(self, session: bytes) -> list[ClientLock]:
        if not self._points:
            weights = [lock.client.config.weight for lock in self.locks]
            each = _POINTS * len(weights) / sum(weights)
            standing = {
                point: lock
                for lock, weight in zip(self.locks, weights, strict=True)
                for point in self._drawn(lock, max(1, round(each * weight)))
            }
            self._points = array("Q", sorted(standing))
            self._standing = [standing[point] for point in self._points]
        points, found = self._points, []
        for probe in unpack(f">{_PROBES}Q", shake_128(session).digest(8 * _PROBES)):
            at = bisect(points, probe) % len(points)
            found.append(((points[at] - probe) % _SPAN, at))
        return [self._standing[at] for _, at in sorted(found)]

    def _drawn(self, lock: ClientLock, count: int) -> tuple[int, ...]:
        """Numbers of 8 bytes that are the client's for this alias, wherever it is."""
        named = f"{lock.client.identity}\0{self._alias}".encode(errors="surrogatepass")
        return unpack(f">{count}Q", shake_128(named).digest(8 * count))
