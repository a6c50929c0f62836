"""Which models there are, and which clients offer each under which name.

Models are told by the configuration or, where it is silent, by the provider's own list, fetched at
first need and kept for a while. A provider's clients share one list: a key that may not use a model
of it is passed over when the upstream says `model_not_found`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from .clients.base import Client
from .errors import ModelNotFound, ModelsUnknown, RetryHint, UpstreamError
from .slot import Route
from .watch import CLOCK, Caller, Clock

# A list is fetched again after 5 min; after a failure not before 10 s, and given 10 s each time.
KEPT_S = 300.0
RETRY_S = 10.0
FETCH_TIMEOUT_S = 10.0

# How often a request that waits for another's fetch looks whether its caller is still there.
_LOOK_S = 0.25

log = logging.getLogger("proxy.registry")


class Entry(NamedTuple):
    """A model as callers see it."""

    alias: str
    owned_by: str
    routes: tuple[Route, ...]

    @property
    def is_native(self) -> bool:
        """Whether every client has a /completions of its own."""
        return all(route.client.config.completions == "native" for route in self.routes)


class _Listing:
    """A provider's own list of models."""

    def __init__(self, clients: list[Client]) -> None:
        self.clients = clients
        self.names: tuple[str, ...] = ()
        self.is_known = False  # whether there ever was one, and it is in the table
        self.due_at = float("-inf")
        self.lock = threading.Lock()  # held by the one request that fetches


class Registry:
    """Aliases to routes. Tables are replaced whole, so that readers need no lock."""

    def __init__(self, clients: Iterable[Client], *, clock: Clock = CLOCK) -> None:
        self.created = int(clock.wall())
        self._clock = clock
        self._clients = tuple(clients)
        listings: dict[tuple[str, str], _Listing] = {}
        for client in self._clients:
            if client.config.models is None:
                key = (client.config.provider, client.config.base_url)
                listings.setdefault(key, _Listing([])).clients.append(client)
        self._listings = tuple(listings.values())
        self._building = threading.Lock()  # one rebuild at a time, so that no older one wins
        self._table: dict[str, Entry] = {}
        self._rebuild()

    def find(self, alias: str, caller: Caller) -> Entry:
        """The model; raises ModelNotFound, ModelsUnknown while a provider's list is missing.

        Blocks for a first list only when the model is not known without it, and to renew the lists
        that its own clients have it from: one request does, the others use the old ones meanwhile.
        """
        entry = self._table.get(alias)
        if self._listings and (listings := self._due_for(entry)):
            self._refresh(listings, caller)
            entry = self._table.get(alias)
        if entry is not None:
            return entry
        if not all(listing.is_known for listing in self._listings):
            raise ModelsUnknown(
                f"the model {alias!r} is not configured, and a provider's model list cannot be had",
                hint=RetryHint(RETRY_S),
            )
        raise ModelNotFound(f"the model {alias!r} does not exist; see /v1/models", param="model")

    def entries(self, caller: Caller) -> list[Entry]:
        """All models, by the order of the configuration; raises CallerGone."""
        self.refresh(caller)
        return list(self._table.values())

    def _due_for(self, entry: Entry | None) -> list[_Listing]:
        """The lists that a request for this model has to see to; None: any may have it."""
        now = self._clock.monotonic()
        due = [listing for listing in self._listings if now >= listing.due_at]
        if not due or entry is None:
            return due
        clients = {route.client for route in entry.routes}
        return [one for one in due if one.is_known and not clients.isdisjoint(one.clients)]

    def refresh(self, caller: Caller) -> None:
        """Fetch the lists that are due; where another request does, wait only for a first one."""
        self._refresh(self._listings, caller)

    def _refresh(self, listings: Iterable[_Listing], caller: Caller) -> None:
        for listing in listings:
            if self._clock.monotonic() < listing.due_at:
                continue
            while not listing.lock.acquire(blocking=False):
                if listing.is_known:
                    break
                caller.raise_if_gone()
                time.sleep(_LOOK_S)
            else:
                try:
                    self._fetch(listing, caller)
                finally:
                    listing.lock.release()

    def _fetch(self, listing: _Listing, caller: Caller) -> None:
        now = self._clock.monotonic()
        if now < listing.due_at:
            return  # another request was quicker
        for client in listing.clients:
            try:
                names = client.list_models(caller=caller, deadline=now + FETCH_TIMEOUT_S)
            except UpstreamError as error:
                if key := client.config.key:
                    error.hide(key.reveal(), str(key))
                log.warning("%s: no model list: %s", client.label, error)
                continue
            if listing.names != tuple(names):
                listing.names = tuple(names)
                self._rebuild()
            # In this order, so that no request believes in a list that it cannot see yet.
            listing.is_known = True
            listing.due_at = self._clock.monotonic() + KEPT_S
            return
        listing.due_at = self._clock.monotonic() + RETRY_S

    def _rebuild(self) -> None:
        with self._building:
            routes: dict[str, dict[Client, Route]] = {}
            names = {
                client: listing.names for listing in self._listings for client in listing.clients
            }
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
                old = self._table.get(alias)
                table[alias] = old if old == entry and old is not None else entry
            self._table = table
