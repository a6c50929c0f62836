"""What the program runs on: checked and immutable, with defaults and inheritance applied.

`schema` has the shape of the file. `resolve` makes a `Config` of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import msgspec

from .check import unwrap
from .schema import Settings
from .secrets import Secret, Secrets, in_header, in_url, is_placeholder
from .wording import count, names, shown


class Model(msgspec.Struct, frozen=True):
    """A model under the `name` that its upstream knows and the `alias` that callers use."""

    name: str
    alias: str


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream client: one account or API key at one provider."""

    kind: Literal["openai", "gemini", "claude", "demo"]
    provider: str
    label: str = ""  # unique, ASCII, without the key: for logs, headers, metrics
    # Unique, and the same in every configuration that has this client: a digest of its kind, base
    # URL and key (demo: its name), with `#2` and so on for further keyless ones at one URL.
    identity: str = ""
    key: Secret = Secret("")  # empty: the upstream wants none
    base_url: str = ""  # no slash at the end, and no version of the API's; "": in-process
    max_concurrency: int  # requests in flight; 0: no limit
    weight: int
    priority: int = 0
    models: tuple[Model, ...] | None  # None: the upstream's own list
    proxy_url: str = ""
    ca_bundle: str = ""
    headers: dict[str, str] = {}
    completions: Literal["chat", "native"] = "chat"
    responses: Literal["chat", "native"] = "chat"
    ask_usage: bool = True  # streams that were not asked for their usage are, by us
    delay_s: float = 0.0
    api_version: str = ""  # Gemini, Claude: where the file's base-url ends with one, "/v1"

    def __repr__(self) -> str:
        """Without fields: headers and proxy URL may hold credentials."""
        return f"<ClientConfig {self.label}>"


# A caller's, by its attributes.
LIMITS = ("max_concurrency", "rpm", "tpm", "requests_per_day", "tokens_per_day")


class _Named(msgspec.Struct, frozen=True):
    name: str  # in the log; callers are told apart by it; "": one of `api-keys` without a name


class Caller(_Named, frozen=True, kw_only=True):
    """Who calls, and what it may use: from `api-keys`, or from an application's `authenticate`.

    `models`: aliases that it sees and may use, None: all. Limits, 0: none: requests in flight at
    once; requests (`rpm`) and tokens (`tpm`) per minute; those per day, which need a ledger.
    `admin`: it is an operator's. Raises TypeError for a name that is no string, or models that are
    one, ValueError for a limit below 0.
    """

    models: Collection[str] | None = None
    max_concurrency: int = 0
    rpm: int = 0
    tpm: int = 0
    requests_per_day: int = 0
    tokens_per_day: int = 0
    key: Secret = Secret("")  # of those in `api-keys`; or its digest, `sha256:HEX`
    admin: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"a caller's name is a string, and no {type(self.name).__name__}")
        if isinstance(self.models, str):
            raise TypeError("a caller's models are a list of aliases, or None, and no string")
        if any(getattr(self, name) < 0 for name in LIMITS):
            raise ValueError("a caller's limits are 0, which is none, or more")
        if self.models is not None:
            msgspec.structs.force_setattr(self, "models", tuple(self.models))

    @property
    def identity(self) -> str | Secret:
        """What it is known by from one configuration to the next: its name, else its key."""
        return self.name or self.key

    def may_use(self, alias: str) -> bool:
        """Whether it sees this model and may use it."""
        return self.models is None or alias in self.models

    @property
    def is_metered(self) -> bool:
        """Whether it has a limit that is spent by what it asks for."""
        return bool(self.rpm or self.tpm or self.has_day_limit)

    @property
    def has_day_limit(self) -> bool:
        """Whether its usage has to be kept, for a limit per day."""
        return bool(self.requests_per_day or self.tokens_per_day)

    def limits(self, workers: int = 1) -> str:
        """Its limits in words, and what they come to where each of some workers counts them."""
        found = {name.replace("_", "-"): most for name in LIMITS if (most := getattr(self, name))}
        each = "" if workers == 1 else " ({} per worker)"
        return ", ".join(
            f"{key} {n} in all" if key.endswith("day") else f"{key} {n * workers}{each.format(n)}"
            for key, n in found.items()
        )


class Config(Settings, frozen=True, kw_only=True, dict=True):
    """The whole configuration: the settings of the file, and what its other keys make."""

    path: str  # of the file, as it was given; "": made from a mapping
    files: dict[str, Secret]  # by path, what is in those of `${file:...}`
    callers: tuple[Caller, ...]  # none: open
    clients: tuple[ClientConfig, ...]
    providers_off: tuple[tuple[str, str], ...]  # name, reason
    warnings: tuple[str, ...]

    def limits(self) -> Iterator[tuple[str, float, str]]:
        """Key, value and unit of each setting that has one."""
        for field in msgspec.structs.fields(Settings):
            _, rules = unwrap(msgspec.inspect.type_info(field.type))
            if "unit" in rules:
                yield field.encode_name, getattr(self, field.name), rules["unit"]

    @cached_property
    def secrets(self) -> Secrets:
        """Masks every secret of this configuration. Made once."""
        found = {caller.key.reveal() for caller in self.callers}
        found |= {client.key.reveal() for client in self.clients}
        found |= {text.reveal() for text in self.files.values()}
        for name, value in {pair for client in self.clients for pair in client.headers.items()}:
            found.update(in_header(name, value))
        urls = {client.proxy_url for client in self.clients}
        for url in urls | {self.state.url.reveal() if self.state else ""}:
            found.update(in_url(url))
        return Secrets(found)

    def listen_problems(self, *others: str) -> list[str]:
        """Why a server must not listen at `host` or `others`. An application listens by itself."""
        hosts = [host for host in (self.host, *others) if not is_loopback(host)]
        known = [f"api-keys[{i}]" for i, one in enumerate(self.callers) if is_placeholder(one.key)]
        if self.allow_unauthenticated or (self.callers and not known) or not hosts:
            return []
        file, where = self.path or "config", hosts[0] or "all interfaces"
        if known:
            return [
                f"{file}: {', '.join(known)}: everybody knows this placeholder, and whoever "
                f"reaches {where} could spend the quota of your keys: put keys of your own here, "
                "or set host: 127.0.0.1"
            ]
        return [
            f"{file}: host: without api-keys, whoever reaches {where} could spend the quota of "
            "your keys: add api-keys, or set host: 127.0.0.1, or say allow-unauthenticated: true "
            "if that is meant"
        ]


def is_loopback(host: str) -> bool:
    """Whether binding to `host` reaches this machine only. Names other than localhost may not."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


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
    fresh = [f'"{identity}"' for identity in new_callers if identity not in old_callers]
    gone = [f'"{identity}"' for identity in old_callers if identity not in new_callers]
    told += [f"caller {names(fresh)} new"] if fresh else []
    told += [f"caller {names(gone)} gone"] if gone else []
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
