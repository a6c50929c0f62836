"""Says in a few words what a new configuration changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .config import Config
from .schema import Settings
from .wording import count, names, shown


def changes(old: Config, new: Config, *, draining: int = 0) -> list[str]:
    """Each thing that `new` changes, without any secret; none if nothing would be served otherwise.

    `draining`: how many requests of clients that are gone are still under way.
    """
    before = {client.identity: client for client in old.clients}
    after = {client.identity: client for client in new.clients}
    more, less = len(after.keys() - before.keys()), len(before.keys() - after.keys())
    told = [f"{count(more, 'client')} more"] if more else []
    if less:
        drains = f" (drains {count(draining, 'request')})" if draining else ""
        told.append(f"{less if more else count(less, 'client')} less{drains}")
    told += _altered("client", before, after)
    old_callers = {caller.identity: caller for caller in old.callers}
    new_callers = {caller.identity: caller for caller in new.callers}
    for what, these, others in (
        ("new", new_callers, old_callers),
        ("gone", old_callers, new_callers),
    ):
        if found := [f'"{identity}"' for identity in these if identity not in others]:
            told.append(f"caller {names(found)} {what}")
    told += _altered("caller", old_callers, new_callers)
    for field in msgspec.structs.fields(Settings):
        was, becomes = getattr(old, field.name), getattr(new, field.name)
        if was != becomes:
            is_plain = isinstance(becomes, (bool, int, float, str))
            how = f"{shown(was)} -> {shown(becomes)}" if is_plain else "changed"
            told.append(f"{field.encode_name} {how}")
    if old.providers_off != new.providers_off:
        off = names([name for name, _ in new.providers_off])
        told.append(f"off: {off or 'no provider'}")
    return told


def _altered(noun: str, old: Mapping[Any, object], new: Mapping[Any, object]) -> list[str]:
    """How many are in both, but not as they were."""
    number = sum(identity in old and old[identity] != each for identity, each in new.items())
    return [f"{count(number, noun)} changed"] if number else []
