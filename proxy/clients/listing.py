"""Providers' own lists of models, where the configuration tells none.

A list is fetched at first need and kept for a while. A provider's clients share it: a key that may
not use a model of it is passed over when the upstream says `model_not_found`.

Helper threads of the process fetch the lists, side by side. A request waits for one only if no list
at hand has its model and that one has never been there; all others use what is known, while an old
list is renewed behind their backs.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from ..config import Secrets
from ..errors import (
    ModelsUnknown,
    OutOfResources,
    ProxyError,
    RetryHint,
    ShuttingDown,
    UpstreamError,
)
from ..net import shortage
from ..net.helpers import HelperThreads, Task, wait_any
from ..net.watch import CallerConnection, Clock
from .base import Client

# A list is fetched again after 5 min, after a failure not before 10 s; each fetch may take 10 s.
# What our own process lacks may be there again much sooner.
KEPT_S = 300.0
RETRY_S = 10.0
WANT_S = 1.0
FETCH_TIMEOUT_S = 10.0

# A fetch that hangs keeps its thread for 10 s; beyond so many the next list waits for a thread.
MAX_FETCHES = 16

_NOBODY = CallerConnection(None)  # who left does not end a fetch that others wait for
_threads = HelperThreads("poolproxy-models", MAX_FETCHES)

log = logging.getLogger("proxy.registry")


class Fetch(NamedTuple):
    """A fetch that is under way. Who waits for it gives up at the moment `until`."""

    task: Task[None]
    until: float
    pid: int  # a forked child has no thread of its parent's, and must fetch by itself


class _Listing:
    """A provider's own list of models."""

    def __init__(self, clients: list[Client]) -> None:
        self.clients = clients
        self.names: tuple[str, ...] = ()
        self.is_known = False  # whether there ever was one, and it is in the table
        self.due_at = float("-inf")
        self.fetch: Fetch | None = None  # while it is under way
        self.want: OutOfResources | None = None  # why there was no fetch, if it is our own fault

    def is_due(self, now: float) -> bool:
        """Whether it is to be fetched, and nobody does."""
        is_free = self.fetch is None or self.fetch.pid != os.getpid()
        return is_free and now >= self.due_at


class Lists:
    """The lists of those clients whose models the configuration does not tell.

    `changed` is called in a helper thread, when a list has other names than before. What the lists
    of the configuration `before` have fetched counts on.
    """

    def __init__(
        self,
        clients: Iterable[Client],
        changed: Callable[[], None],
        *,
        secrets: Secrets,
        clock: Clock,
        before: Lists | None = None,
    ) -> None:
        self._changed = changed
        self._secrets = secrets
        self._clock = clock
        listings: dict[tuple[str, str], _Listing] = {}
        for client in clients:
            if client.config.models is None:
                config = client.config
                key = (config.provider, config.base_url + config.api_version)
                listings.setdefault(key, _Listing([])).clients.append(client)
        self._by_provider = listings
        self._listings = tuple(listings.values())
        for key, listing in listings.items():
            if before and (known := before._by_provider.get(key)) and known.is_known:
                listing.names, listing.is_known = known.names, True
                listing.due_at = known.due_at
        self._beginning = threading.Lock()  # guards that a listing has one fetch at a time

    def names(self) -> dict[Client, tuple[str, ...]]:
        """The names in each client's list, as far as it has been there."""
        return {client: listing.names for listing in self._listings for client in listing.clients}

    def fault(self, alias: str) -> ProxyError | None:
        """The error for a model that is in no list: why one is missing; None: none is."""
        missing = [listing for listing in self._listings if not listing.is_known]
        for listing in missing:
            if (want := listing.want) is not None:
                return OutOfResources(want.message, hint=want.hint)
        if not missing:
            return None
        return ModelsUnknown(
            f"the model {alias!r} is not configured, and a provider's model list cannot be had",
            hint=RetryHint(RETRY_S),
        )

    def renew(self, clients: Iterable[Client]) -> None:
        """Begin to fetch those due lists that these clients share, not those of others."""
        now = self._clock.monotonic()
        if due := [listing for listing in self._listings if listing.is_due(now)]:
            sharers = set(clients)
            for listing in due:
                if listing.is_known and not sharers.isdisjoint(listing.clients):
                    self._begin_fetch(listing)

    def begin_first(self) -> list[Fetch]:
        """Begin to fetch all due lists; the fetches of those that have never been there."""
        now = self._clock.monotonic()
        for listing in self._listings:
            if listing.is_due(now):
                self._begin_fetch(listing)
        fetches = [listing.fetch for listing in self._listings if not listing.is_known]
        return [fetch for fetch in fetches if fetch is not None and now < fetch.until]

    def wait(self, fetches: list[Fetch], caller: CallerConnection, until: float) -> bool:
        """Wait until a fetch has ended, or has had its time; False if `until` came first."""
        give_up_at = min(fetch.until for fetch in fetches)
        tasks = [fetch.task for fetch in fetches]
        if wait_any(tasks, min(until, give_up_at), caller, self._clock):
            return True
        return self._clock.monotonic() < until

    def _begin_fetch(self, listing: _Listing) -> None:
        """Have a thread fetch the list, unless another request was quicker."""
        now = self._clock.monotonic()
        until = now + FETCH_TIMEOUT_S
        task = Task(partial(self._fetch, listing, until))
        # Critical section: one request begins the fetch.
        with self._beginning:
            if not listing.is_due(now):
                return
            listing.fetch = Fetch(task, until, os.getpid())
        try:
            _threads.start(task)
        except RuntimeError as error:
            self._end_fetch(listing, want=shortage.recognised(error))

    def _end_fetch(
        self, listing: _Listing, *, kept_s: float = RETRY_S, want: OutOfResources | None = None
    ) -> None:
        listing.want = want
        # In this order, so that `is_due` holds at no moment between.
        listing.due_at = self._clock.monotonic() + (WANT_S if want else kept_s)
        listing.fetch = None

    def _fetch(self, listing: _Listing, until: float) -> None:
        """In a helper thread: get the list, by the first key that can."""
        for client in listing.clients:
            try:
                names = client.list_models(caller=_NOBODY, deadline=until)
            except (UpstreamError, ShuttingDown) as error:
                error.hide(self._secrets)
                log.warning("%s: no model list: %s", client.label, error)
            except Exception as error:  # the thread's last frame of ours: nobody else would tell
                want = error if isinstance(error, OutOfResources) else shortage.recognised(error)
                if want is not None:  # another key would not help
                    self._end_fetch(listing, want=want)
                    return
                log.exception("%s: no model list", client.label)
            else:
                self._take(listing, tuple(names))
                self._end_fetch(listing, kept_s=KEPT_S)
                return
            if self._clock.monotonic() >= until:
                break
        self._end_fetch(listing)

    def _take(self, listing: _Listing, names: tuple[str, ...]) -> None:
        if listing.names != names:
            listing.names = names
            self._changed()
        # In this order, so that no request believes in a list that it cannot see yet.
        listing.is_known = True
