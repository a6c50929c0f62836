"""Which models there are, and which clients offer each under which name: aliases to routes.

Models are told by the configuration or, where it is silent, by the provider's own list (`listing`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple

from ..config import Secrets
from ..errors import ModelNotFound
from ..net.watch import CLOCK, CallerConnection, Clock
from .base import Client
from .listing import Lists


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
    """Finds models. Its table is replaced whole when a list has changed: readers need no lock."""

    def __init__(
        self,
        clients: Iterable[Client],
        *,
        secrets: Secrets,
        clock: Clock = CLOCK,
        before: Registry | None = None,
    ) -> None:
        """Providers' lists that the registry `before` has fetched are taken over."""
        self.created: int = before.created if before else int(clock.wall())
        self._clients = tuple(clients)
        self._by_identity = {client.identity: client for client in self._clients}
        self._lists: Lists = Lists(
            self._clients,
            self._rebuild,
            secrets=secrets,
            clock=clock,
            before=before._lists if before else None,
        )
        self._has_lists = bool(self._lists.names())
        self._building = threading.Lock()  # one rebuild at a time, so that no older one wins
        self.table: dict[str, Entry] = {}  # by alias
        self.fixed: dict[str, Entry] = {}  # the same, unless providers' lists have a say
        self._rebuild()

    def find(self, alias: str, caller: CallerConnection, until: float) -> Entry | None:
        """The model, or None if `until` came while a list that may have it was on its way.

        Waits for nothing where the model is known. Raises CallerGone, ModelNotFound, ModelsUnknown
        if a list could not be had that may have it.
        """
        while (entry := self.table.get(alias)) is None:
            awaited = self._lists.begin_first()
            fault = self._lists.fault(alias)
            # Looked for after these two: what a list brought meanwhile is in the table.
            if (entry := self.table.get(alias)) is not None:
                break
            if not awaited:
                raise fault or ModelNotFound(
                    f"the model {alias!r} does not exist; see /v1/models", param="model"
                )
            if not self._lists.wait(awaited, caller, until):
                return None
        if self._has_lists:
            self._lists.renew(route.client for route in entry.routes)
        return entry

    def own(self, client: Client) -> Client:
        """This configuration's object for a client; itself, if it has none for it."""
        return self._by_identity.get(client.identity, client)

    def entries(self, caller: CallerConnection, until: float) -> list[Entry]:
        """All models, by the order of the configuration; raises CallerGone.

        Waits for lists that have never been there, up to the moment `until`.
        """
        while (awaited := self._lists.begin_first()) and self._lists.wait(awaited, caller, until):
            pass
        return list(self.table.values())

    def _rebuild(self) -> None:
        with self._building:
            routes: dict[str, dict[Client, Route]] = {}
            names = self._lists.names()
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
            self.fixed = {} if self._has_lists else table
