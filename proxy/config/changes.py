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

# What the file calls it, where that does not follow from our name.
_WORDS = {
    "provider": "name",
    "label": "name",
    "api_version": "base-url",
    "delay_s": "delay-ms",
}


def changes(old: Config, new: Config, *, draining: int = 0) -> list[str]:
    """Each thing that `new` changes, without any secret; none if nothing would be served otherwise.

    `draining`: how many requests of clients that are gone are still under way.
    """
    before = {client.identity: client for client in old.clients}
    after = {client.identity: client for client in new.clients}
    more, less = len(after.keys() - before.keys()), len(before.keys() - after.keys())
    told = [f"{_count(more, 'client')} more"] if more else []
    if less:
        drains = f" (drains {_count(draining, 'request')})" if draining else ""
        told.append(f"{less if more else _count(less, 'client')} less{drains}")
    told += _altered("client", before, after)
    old_callers = {caller.identity: caller for caller in old.callers}
    new_callers = {caller.identity: caller for caller in new.callers}
    told += _callers("new", new_callers, old_callers)
    told += _callers("gone", old_callers, new_callers)
    told += _altered("caller", old_callers, new_callers)
    told += _settings("", Settings, old, new)
    if old.providers_off != new.providers_off:
        off = [name for name, _ in new.providers_off]
        told.append(f"off: {', '.join(off) or 'no provider'}")
    return told


def _callers(which: str, these: Mapping[Any, Caller], others: Mapping[Any, Caller]) -> list[str]:
    found = [caller for identity, caller in these.items() if identity not in others]
    if len(found) > MAX_NAMES:
        return [f"{len(found)} callers {which}"]
    return [f'caller "{caller.name or caller.key}" {which}' for caller in found]


def _altered(noun: str, old: Mapping[Any, _T], new: Mapping[Any, _T]) -> list[str]:
    """How many are in both, but not as they were, and what of them is not."""
    found = [(old[key], each) for key, each in new.items() if key in old and old[key] != each]
    fields = {
        _WORDS.get(name, name.replace("_", "-")): None
        for before, after in found
        for name in before.__struct_fields__
        if getattr(before, name) != getattr(after, name)
    }
    return [f"{_count(len(found), noun)} changed ({', '.join(fields)})"] if found else []


def _settings(prefix: str, section: Any, old: Any, new: Any) -> Iterator[str]:
    for field in msgspec.structs.fields(section):
        before, after = getattr(old, field.name), getattr(new, field.name)
        name = prefix + field.encode_name
        if before == after:
            continue
        if isinstance(after, msgspec.Struct):
            yield from _settings(f"{name}.", after, before, after)
        elif isinstance(after, (bool, int, float, str)):
            yield f"{name} {_shown(before)} -> {_shown(after)}"
        else:
            yield f"{name} changed"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)


def _count(many: int, noun: str) -> str:
    return f"{many} {noun}" if many == 1 else f"{many} {noun}s"
