"""Says in a few words what a new configuration changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from .config import Caller, ClientConfig, Config
from .schema import Settings
from .wording import shown

_T = TypeVar("_T", Caller, ClientConfig)

# Names that are listed; of more only the number is told.
MAX_NAMES = 3


def changes(old: Config, new: Config, *, draining: int = 0) -> list[str]:
    """Each thing that `new` changes, without any secret; none if nothing would be served otherwise.

    `draining`: how many requests of clients that are gone are still under way.
    """
    old_clients = {client.identity: client for client in old.clients}
    new_clients = {client.identity: client for client in new.clients}
    more, less = new_clients.keys() - old_clients.keys(), old_clients.keys() - new_clients.keys()
    told = []
    if more:
        told.append(f"{_count(len(more), 'client')} more")
    if less:
        drains = f" (drains {_count(draining, 'request')})" if draining else ""
        told.append(f"{len(less) if more else _count(len(less), 'client')} less{drains}")
    told += _altered("client", old_clients, new_clients)
    old_callers = {caller.identity: caller for caller in old.callers}
    new_callers = {caller.identity: caller for caller in new.callers}
    told += _come_or_gone("new", new_callers, old_callers)
    told += _come_or_gone("gone", old_callers, new_callers)
    told += _altered("caller", old_callers, new_callers)
    for field in msgspec.structs.fields(Settings):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before != after:
            told += _setting(field.encode_name, before, after)
    if old.providers_off != new.providers_off:
        off = [name for name, _ in new.providers_off]
        told.append(f"off: {', '.join(off) or 'no provider'}")
    return told


def _come_or_gone(
    which: str, these: Mapping[Any, Caller], others: Mapping[Any, Caller]
) -> Iterator[str]:
    found = [caller for identity, caller in these.items() if identity not in others]
    if len(found) > MAX_NAMES:
        yield f"{len(found)} callers {which}"
    else:
        yield from (f'caller "{caller.name or caller.key}" {which}' for caller in found)


def _altered(noun: str, old: Mapping[Any, _T], new: Mapping[Any, _T]) -> Iterator[str]:
    """How many are in both, but not as they were, and what of them is not."""
    found = [(old[key], each) for key, each in new.items() if key in old and old[key] != each]
    if found:
        fields = {
            name.removesuffix("_s").replace("_", "-"): None
            for before, after in found
            for name in before.__struct_fields__
            if getattr(before, name) != getattr(after, name)
        }
        yield f"{_count(len(found), noun)} changed ({', '.join(fields)})"


def _setting(name: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, msgspec.Struct):
        for field in msgspec.structs.fields(before):
            one, other = getattr(before, field.name), getattr(after, field.name)
            if one != other:
                yield from _setting(f"{name}.{field.encode_name}", one, other)
    elif isinstance(after, (bool, int, float, str)):
        yield f"{name} {_shown(before)} -> {_shown(after)}"
    else:
        yield f"{name} changed"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)


def _count(many: int, noun: str) -> str:
    return f"{many} {noun}" if many == 1 else f"{many} {noun}s"
