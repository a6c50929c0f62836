"""Makes a `Config` of the file's values: applies inheritance, makes clients and their labels.

Notes problems that no single value shows: repeated names and keys, files that are missing.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

import msgspec

from .check import Notes
from .config import Caller, ClientConfig, Config, Model
from .formats import DEFAULT_PORTS, NO_PROXY
from .schema import ClaudeEntry, DemoEntry, File, GeminiEntry, ModelEntry, ProviderEntry, Settings
from .secrets import Secret, digest_of, is_placeholder
from .wording import in_ascii, names, shown, shown_key

_Entry = TypeVar("_Entry")
_Places: TypeAlias = Iterable[tuple[str, str]]  # values after their paths
_Upstream: TypeAlias = ProviderEntry | GeminiEntry | ClaudeEntry

_LONG_ENOUGH = 16  # characters of a caller's key

# Versions of the API that a base-url may end with, though its clients know one to put there.
_VERSIONS = {"openai": (), "gemini": ("/v1beta", "/v1", "/v1alpha"), "claude": ("/v1",)}


def resolve(file: File, notes: Notes) -> Config:
    """Make the configuration of `file`."""
    clients = _Clients(file, notes)
    clients.check_fallbacks()
    callers = _callers(file, notes)
    if "auth" in notes.ignored and not callers:
        notes.problem("auth", "callers' keys are read from api-keys: move them there")
    if not clients.found:
        notes.warning("", "no client is configured: no request can be served")
    settings = {name: getattr(file, name) for name in Settings.__struct_fields__}
    settings["host"] = file.host.strip("[]")
    return Config(
        **settings,
        path=notes.path,
        files=notes.files,
        callers=callers,
        clients=_named(clients.found),
        providers_off=tuple(clients.off),
        warnings=tuple(notes.warnings),
    )


class _Clients:
    """Collects one client per key, and the providers that have none left."""

    def __init__(self, file: File, notes: Notes) -> None:
        self.found: list[ClientConfig] = []
        self.off: list[tuple[str, str]] = []
        self._file = file
        self._notes = notes
        self._key_at: dict[tuple[str, Secret], str] = {}
        self._aliases: set[str] | None = set()  # None: an upstream's own list may have any
        providers = _numbered("openai-compatibility", file.openai_compatibility)
        demos = _numbered("demo", file.demo)
        named: list[tuple[str, ProviderEntry | DemoEntry]] = [*providers, *demos]
        _report_repeats([(f"{at}.name", one.name) for at, one in named], notes)
        for at, provider in providers:
            self._add_provider(provider, at)
        gemini = _numbered("gemini-api-key", file.gemini_api_key)
        gemini += _numbered("generative-language-api-key", file.generative_language_api_key)
        claude = _numbered("claude-api-key", file.claude_api_key)
        for kind, entries in (("gemini", gemini), ("claude", claude)):
            clients = [(at, self._of(entry, at, kind, entry.api_key)) for at, entry in entries]
            self._add_keyed(kind, clients)
        for at, demo in demos:
            models, delay_s = self._models(demo.models, at), demo.delay_ms / 1000
            own = {"provider": demo.name, "models": models, "delay_s": delay_s, **_turns(demo)}
            self.found.append(ClientConfig(kind="demo", **own))

    def _add_provider(self, provider: ProviderEntry, at: str) -> None:
        is_openais = urlsplit(provider.base_url).hostname == "api.openai.com"
        common = msgspec.structs.replace(
            self._of(provider, at, provider.name),
            completions=provider.completions,
            responses=provider.responses or ("native" if is_openais else "chat"),
            ask_usage=provider.ask_usage,
        )
        if provider.disabled:
            self.off.append((provider.name, "disabled: true"))
            return
        entries = _numbered(f"{at}.api-keys", provider.api_keys)
        entries += _numbered(f"{at}.api-key-entries", provider.api_key_entries)
        if not entries:
            self._add(common, at)
        clients = []
        for key_at, entry in entries:
            proxy_url = self._proxy(entry.proxy_url, provider.proxy_url)
            own = {"key": entry.api_key or Secret(""), "proxy_url": proxy_url, **_turns(entry)}
            clients.append((key_at, msgspec.structs.replace(common, **own)))
        self._add_keyed(provider.name, clients)

    def _add_keyed(self, provider: str, clients: list[tuple[str, ClientConfig]]) -> None:
        """Add those that have a key. If none of them has, the provider is off."""
        for at, client in clients:
            if client.key:
                self._add(client, at)
        if clients and not any(client.key for _, client in clients):
            variables = self._notes.variables
            places = [place for at, _ in clients for place in (at, f"{at}.api-key")]
            names = dict.fromkeys(name for place in places for name in variables.get(place, ()))
            self.off.append((provider, f"no key in {', '.join(names)}" if names else "no key"))

    def _of(self, entry: _Upstream, at: str, name: str, key: Secret | None = None) -> ClientConfig:
        """A client of this upstream, but for its label and identity."""
        base_url = entry.base_url.rstrip("/")
        path = urlsplit(base_url).path
        version = next((version for version in _VERSIONS[entry.kind] if path.endswith(version)), "")
        return ClientConfig(
            kind=entry.kind,
            provider=name,
            key=key or Secret(""),
            base_url=base_url.removesuffix(version).rstrip("/"),
            api_version=version,
            models=self._models(entry.models, at),
            proxy_url=self._proxy(entry.proxy_url),
            ca_bundle=self._ca_bundle(entry.ca_bundle, f"{at}.ca-bundle"),
            headers=self._headers(entry.headers, f"{at}.headers"),
            **_turns(entry),
        )

    def _add(self, client: ClientConfig, at: str) -> None:
        if is_placeholder(client.key):
            self._notes.warning(at, "a placeholder: the upstream will refuse it")
        if client.key:
            before = self._key_at.setdefault((_place(client.base_url), client.key), at)
            if before != at:
                self._notes.problem(at, f"the same key at the same base-url as in {before}")
        self.found.append(client)

    def _models(self, entries: Sequence[ModelEntry] | None, at: str) -> tuple[Model, ...] | None:
        if entries is None:
            self._aliases = None
            return None
        models = tuple(Model(entry.name, entry.alias or entry.name) for entry in entries)
        aliases = _numbered(f"{at}.models", [model.alias for model in models])
        remedy = ": give it one of its own, which `fallbacks` may name"
        _report_repeats(aliases, self._notes, what="the same alias", remedy=remedy)
        if self._aliases is not None:
            self._aliases.update(alias for _, alias in aliases)
        return models

    def check_fallbacks(self) -> None:
        """A problem for each model that no provider has, those that are off included."""
        for alias, others in self._file.fallbacks.items() if self._aliases is not None else ():
            at = f"fallbacks.{shown_key(alias)}"
            for place, named in [(at, alias), *_numbered(at, others)]:
                if named and named not in (self._aliases or ()):
                    self._notes.problem(place, f"no provider has a model {shown(named)}")

    def _proxy(self, *nearest_first: str) -> str:
        chosen = next(filter(None, [*nearest_first, self._file.proxy_url]), "")
        return "" if chosen in NO_PROXY else chosen

    def _ca_bundle(self, bundle: str, at: str) -> str:
        """The path, seen from the file's directory."""
        if not bundle:
            return ""
        path = self._notes.look_at(bundle)
        if "\0" in path or not os.access(path, os.R_OK):
            self._notes.problem(at, f"no readable file at {shown(path)}")
        return path

    def _headers(self, headers: dict[str, str], at: str) -> dict[str, str]:
        """Without those that CLIProxyAPI would copy from the caller (`$Name`)."""
        copied = [name for name, value in headers.items() if value.startswith("$")]
        for name in copied:
            self._notes.warning(f"{at}.{name}", "copying a caller's header is not supported")
        return {name: value for name, value in headers.items() if name not in copied}


def _callers(file: File, notes: Notes) -> tuple[Caller, ...]:
    numbered = _numbered("api-keys", file.api_keys)
    silent = [one.name for one in file.openai_compatibility if not (one.ask_usage or one.disabled)]
    for at, entry in numbered:
        if silent and (entry.tpm or entry.tokens_per_day):
            text = f"streams of {names(silent)} do not count, as ask-usage is false there"
            notes.warning(at, f"limits of tokens: {text}")
        if not entry.name and (entry.requests_per_day or entry.tokens_per_day):
            notes.problem(at, "limits per day need a name, by which usage is kept")
    digests = [(at, digest_of(entry.key).hex()) for at, entry in numbered if entry.key]
    _report_repeats(digests, notes, what="the same key")
    _report_repeats([(f"{at}.name", entry.name or "") for at, entry in numbered], notes)
    short = []
    for at, entry in numbered:
        if is_placeholder(entry.key):
            notes.warning(at, "a placeholder, which everybody knows: put a key of your own here")
        elif 0 < len(entry.key.reveal()) < _LONG_ENOUGH:
            short.append(at)
    if short:
        notes.warning(", ".join(short), f"fewer than {_LONG_ENOUGH} characters can be guessed")
    entries = (msgspec.structs.asdict(entry) for entry in file.api_keys)
    return tuple(Caller(**{**entry, "name": entry["name"] or ""}) for entry in entries)


def _named(clients: Iterable[ClientConfig]) -> tuple[ClientConfig, ...]:
    """With a label each, of provider and masked key, and an identity: see `ClientConfig`."""
    labels, identities = Counter[str](), Counter[str]()
    named = []
    for client in clients:
        label = in_ascii(f"{client.provider}/{client.key}" if client.key else client.provider)
        place = client.provider if client.kind == "demo" else _place(client.base_url)
        parts = "\0".join([client.kind, place, client.key.reveal()])
        identity = hashlib.sha256(parts.encode()).hexdigest()[:24]
        label, identity = _unique(label, labels), _unique(identity, identities)
        named.append(msgspec.structs.replace(client, label=label, identity=identity))
    return tuple(named)


def _turns(entry: object) -> dict[str, Any]:
    """What an entry says of how much its client serves."""
    told = {name: getattr(entry, name) for name in ("max_concurrency", "weight", "priority")}
    return {name: value for name, value in told.items() if value is not None}


def _unique(base: str, taken: Counter[str]) -> str:
    """The name, or with `#2` and so on where it is taken."""
    name = base
    while name in taken:
        taken[base] += 1
        name = f"{base}#{taken[base]}"
    taken[name] = 1
    return name


def _place(base_url: str) -> str:
    """The URL with the host in lower case and the port spelled out."""
    url = urlsplit(base_url)
    port = url.port or DEFAULT_PORTS.get(url.scheme)
    return url._replace(netloc=f"{url.hostname}:{port}").geturl()


def _report_repeats(
    values: _Places, notes: Notes, *, what: str = "the same", remedy: str = ""
) -> None:
    """A problem for each value that stands at an earlier path too; empty ones don't count."""
    first_at: dict[str, str] = {}
    for at, value in values:
        if value and first_at.setdefault(value, at) != at:
            notes.problem(at, f"{what} as {first_at[value]}{remedy}")


def _numbered(at: str, entries: Sequence[_Entry]) -> list[tuple[str, _Entry]]:
    """Each entry after its path."""
    return [(f"{at}[{index}]", entry) for index, entry in enumerate(entries)]
