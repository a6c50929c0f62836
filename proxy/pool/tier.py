"""The clients of one priority, and the order in which a session prefers them.

It follows from the clients' identities and weights alone, so that it is the same everywhere, and
few sessions move when one comes or goes. Up to `MOST_SCORED` clients have a score each: weighted
rendezvous hashing (Thaler and Ravishankar, 1998; u ** (1/weight)). More stand on a ring by weight,
and a session looks behind a few points of it (multi-probe consistent hashing, Appleton and
O'Reilly, 2015): that takes no longer for a thousand.
"""

from __future__ import annotations

from array import array
from bisect import bisect
from collections.abc import Iterator
from functools import cached_property
from hashlib import shake_128
from struct import unpack

from .client_lock import ClientLock

MOST_SCORED = 16

# By these the sessions of 1,000 clients are spread as evenly as by scores, but for 6 %.
_POINTS = 16  # for a client of the mean weight
_PROBES = 8

_SPAN = 2**64  # of all that is drawn here


class Tier:
    """Made with a queue. `place`: the lower, the sooner. `turn`: of its round, see `queue`."""

    def __init__(self, alias: str, place: int) -> None:
        self._alias = alias
        self.place = place
        self.turn = 0.0
        self.locks: list[ClientLock] = []

    def order(self, session: bytes) -> Iterator[ClientLock]:
        """The clients as a session of 8 random bytes prefers them: of a ring, the first few."""
        if len(self.locks) > MOST_SCORED:
            yield from self._near(session)
            return
        odds, steps = self._scorers
        drawn = int.from_bytes(session, "big") / _SPAN
        scores = [drawn * odd % 1.0 for odd in odds]
        if steps:
            scores = list(map(pow, scores, steps))
        for _ in scores:  # most need the first one only
            best = scores.index(max(scores))
            yield self.locks[best]
            scores[best] = -1.0

    @cached_property
    def _scorers(self) -> tuple[list[float], list[float]]:
        """An odd number of 30 bits of each client, and 1/weight if that is not the same of all.

        The fraction of its product with the session's is as good as a digest, for a tenth of it.
        """
        odds = [float(self._drawn(lock, 1)[0] >> 34 | 1) for lock in self.locks]
        weights = [lock.client.config.weight for lock in self.locks]
        return odds, [1 / weight for weight in weights] if len({*weights}) > 1 else []

    def _near(self, session: bytes) -> list[ClientLock]:
        points, standing = self._ring
        found = []
        for probe in unpack(f">{_PROBES}Q", shake_128(session).digest(8 * _PROBES)):
            at = bisect(points, probe) % len(points)
            found.append(((points[at] - probe) % _SPAN, at))
        return [standing[at] for _, at in sorted(found)]

    @cached_property
    def _ring(self) -> tuple[array[int], list[ClientLock]]:
        """Its points, and the client at each."""
        weights = [lock.client.config.weight for lock in self.locks]
        each = _POINTS * len(weights) / sum(weights)
        standing = {
            point: lock
            for lock, weight in zip(self.locks, weights, strict=True)
            for point in self._drawn(lock, max(1, round(each * weight)))
        }
        points = array("Q", sorted(standing))
        return points, [standing[point] for point in points]

    def _drawn(self, lock: ClientLock, count: int) -> tuple[int, ...]:
        """Numbers of 8 bytes that are the client's for this alias, wherever it is."""
        named = f"{lock.client.identity}\0{self._alias}".encode(errors="surrogatepass")
        return unpack(f">{count}Q", shake_128(named).digest(8 * count))
