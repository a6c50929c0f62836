"""Which models there are, and which clients offer each under which name: aliases to routes.

Models are told by the configuration or, where it is silent, by the provider's own list, which its
clients share: a key that may not use a model of it is passed over at `model_not_found`.

Helper threads of the process fetch the lists, side by side. A request waits for one only if no list
at hand has its model and that one has never been there; all others use what is known meanwhile.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from ..config import Secrets
from ..errors import (
    ModelNotFound,
    ModelsUnknown,
    OutOfResources,
    ProxyError,
    RetryHint,
    ShuttingDown,
    UpstreamError,
)
from ..net import shortage
from ..net.helpers import HelperThreads, Task, wait_any
from ..net.watch import CLOCK, CallerConnection, Clock
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


class Fetch(Task[None]):
    """A fetch that is under way. Who waits for it gives up at the moment `until`."""

    def __init__(self, work: Callable[[], None], until: float) -> None:
        super().__init__(work)
        self.until = until
        self.pid = os.getpid()  # a forked child has no thread of its parent's


@dataclass(eq=False)
class _Listing:
    """A provider's own list of models."""

    clients: list[Client] = field(default_factory=list)
    names: tuple[str, ...] = ()
    is_known: bool = False  # whether there ever was one, and it is in the table
    due_at: float = -math.inf
    fetch: Fetch | None = None  # while it is under way
    want: OutOfResources | None = None  # why there was no fetch, if it is our own fault

    def is_due(self, now: float) -> bool:
        """Whether it is to be fetched, and nobody does."""
        is_free = self.fetch is None or self.fetch.pid != os.getpid()
        return is_free and now >= self.due_at


class Route(NamedTuple):
    """A client that offers a model, and the upstream's name for it."""

    client: Client
    name: str


class Entry(NamedTuple):
    """A model as callers see it."""

    alias: str
    owned_by: str
    routes: tuple[Route, ...]


class Registry:
    """Finds models. Its table is replaced whole when a list has changed: readers need no lock.

    Providers' lists that the registry `before` has fetched are taken over.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        *,
        secrets: Secrets,
        clock: Clock = CLOCK,
        before: Registry | None = None,
    ) -> None:
        self.created: int = before.created if before else int(clock.wall())
        self._clients = clients
        self._by_identity = {client.identity: client for client in clients}
        self._secrets = secrets
        self._clock = clock
        self._by_provider: dict[tuple[str, str], _Listing] = {}
        for client in clients:
            config = client.config
            if config.models is None:
                key = (config.provider, config.base_url + config.api_version)
                self._by_provider.setdefault(key, _Listing()).clients.append(client)
        for key, listing in self._by_provider.items():
            if before and (old := before._by_provider.get(key)) and old.is_known:
                listing.names, listing.is_known, listing.due_at = old.names, True, old.due_at
        self._listings = tuple(self._by_provider.values())
        self._lock = threading.Lock()  # guards `fetch` of listings, and that no older table wins
        self.table: dict[str, Entry] = {}  # by alias
        self.fixed: dict[str, Entry] = {}  # the same, unless providers' lists have a say
        self._rebuild()

    def find(self, alias: str, caller: CallerConnection, until: float) -> Entry | None:
        """The model, or None if `until` came while a list that may have it was on its way.

        Waits for nothing where the model is known. Raises CallerGone, ModelNotFound, ModelsUnknown
        if a list could not be had that may have it.
        """
        while (entry := self.table.get(alias)) is None:
            awaited, fault = self._begin_first(), self._fault(alias)
            # Looked for after these two: what a list brought meanwhile is in the table.
            if (entry := self.table.get(alias)) is not None:
                break
            if not awaited:
                raise fault
            if not self._wait(awaited, caller, until):
                return None
        now = self._clock.monotonic() if self._listings else 0.0
        for listing in self._listings:
            is_old = listing.is_known and listing.is_due(now)
            if is_old and not {one.client for one in entry.routes}.isdisjoint(listing.clients):
                self._begin_fetch(listing)
        return entry

    def own(self, client: Client) -> Client:
        """This configuration's object for a client; itself, if it has none for it."""
        return self._by_identity.get(client.identity, client)

    def entries(self, caller: CallerConnection, until: float) -> list[Entry]:
        """All models, in order; waits for first lists until then. Raises CallerGone."""
        while (awaited := self._begin_first()) and self._wait(awaited, caller, until):
            pass
        return list(self.table.values())

    def _fault(self, alias: str) -> ProxyError:
        """The error for a model that is in no list, or in one that is missing."""
        missing = [listing for listing in self._listings if not listing.is_known]
        for want in [listing.want for listing in missing if listing.want]:
            return OutOfResources(want.message, hint=want.hint)
        if missing:
            told = (
                f"the model {alias!r} is not configured, and a provider's model list cannot be had"
            )
            return ModelsUnknown(told, hint=RetryHint(RETRY_S))
        return ModelNotFound(f"the model {alias!r} does not exist; see /v1/models", param="model")

    def _begin_first(self) -> list[Fetch]:
        """Begin to fetch all due lists; the fetches of those that have never been there."""
        now = self._clock.monotonic()
        for listing in self._listings:
            if listing.is_due(now):
                self._begin_fetch(listing)
        fetches = [listing.fetch for listing in self._listings if not listing.is_known]
        return [fetch for fetch in fetches if fetch is not None and now < fetch.until]

    def _wait(self, fetches: list[Fetch], caller: CallerConnection, until: float) -> bool:
        """Wait until a fetch has ended, or has had its time; False if `until` came first."""
        give_up_at = min(until, *(fetch.until for fetch in fetches))
        return wait_any(fetches, give_up_at, caller, self._clock) or self._clock.monotonic() < until

    def _begin_fetch(self, listing: _Listing) -> None:
        """Have a thread fetch the list, unless another request was quicker."""
        now = self._clock.monotonic()
        fetch = Fetch(partial(self._fetch, listing, now + FETCH_TIMEOUT_S), now + FETCH_TIMEOUT_S)
        # Critical section: one request begins the fetch.
        with self._lock:
            if not listing.is_due(now):
                return
            listing.fetch = fetch
        try:
            _threads.start(fetch)
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
                names = tuple(client.list_models(caller=_NOBODY, deadline=until))
            except (UpstreamError, ShuttingDown) as error:
                self._secrets.mask_error(error)
                log.warning("%s: no model list: %s", client.label, error)
            except Exception as error:  # the thread's last frame of ours: nobody else would tell
                want = error if isinstance(error, OutOfResources) else shortage.recognised(error)
                if want is not None:  # another key would not help
                    self._end_fetch(listing, want=want)
                    return
                log.exception("%s: no model list", client.label)
            else:
                if names != listing.names:
                    listing.names = names
                    self._rebuild()
                # In this order, so that no request believes in a list that it cannot see yet.
                listing.is_known = True
                self._end_fetch(listing, kept_s=KEPT_S)
                return
            if self._clock.monotonic() >= until:
                break
        self._end_fetch(listing)

    def _rebuild(self) -> None:
        with self._lock:
            routes: dict[str, dict[Client, Route]] = {}
            names = {client: one.names for one in self._listings for client in one.clients}
            for client in self._clients:
                if client.config.models is None:
                    pairs = [(name, name) for name in names[client]]
                else:
                    pairs = [(model.alias, model.name) for model in client.config.models]
                for alias, name in pairs:
                    routes.setdefault(alias, {}).setdefault(client, Route(client, name))
            table = {}
            for alias, by_client in routes.items():
                owner = next(iter(by_client)).config.provider
                entry = Entry(alias, owner, tuple(by_client.values()))
                # The pool knows a model's routes by identity: keep what did not change.
                old = self.table.get(alias)
                table[alias] = old if old == entry and old is not None else entry
            self.table = table
            self.fixed = {} if self._listings else table
