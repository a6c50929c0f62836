"""The shape of the file: every key is declared here, and nowhere else.

A field has the key's name, type, range, unit, default and help. The check of a file, the JSON
Schema, the tables in docs/configuration.md and the list of `poolproxy check` follow from them. The
help of a number goes on from its unit: "s to wait for a free client".

Key names are CLIProxyAPI's. `None` means "left out"; `resolve` decides what holds then. Where
`shorthand` names a field, a bare string stands for a mapping with only that key.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct, field

from . import formats
from .formats import meta
from .secrets import HASHED, Secret

_DAY_S = 86_400  # no wait is meant to be longer, and poll(2) counts ms in 32 bits


def says(text: str) -> Meta:
    """The help of a key."""
    return Meta(description=text)


def unit(name: str) -> Meta:
    """The unit of a number."""
    return Meta(extra_json_schema={"unit": name})


Seconds = Annotated[float, Meta(gt=0, le=_DAY_S), unit("s")]
SecondsOrZero = Annotated[float, Meta(ge=0, le=_DAY_S), unit("s")]
Bytes = Annotated[int, Meta(ge=1), unit("bytes")]
Limit = Annotated[int, Meta(ge=0)]
Permits = Annotated[Limit, unit("requests"), says("in flight at once; 0: no limit")]
Weight = Annotated[int, Meta(ge=1, le=1000), says("share of the requests")]
Priority = Annotated[int, Meta(ge=-1000, le=1000), says("free clients of the highest serve")]

Name = Annotated[str, meta("a name of 1 to 64 characters", formats.is_name, minLength=1)]
ModelName = Annotated[str, meta("a model's name", formats.is_model_name, minLength=1)]
Host = Annotated[str, meta("a host name or IP address", formats.is_bind_host)]
Network = Annotated[str, meta("an IP address or network", ipaddress.ip_network)]
Directory = Annotated[str, meta("an absolute path", r"(/[^\0]*)?")]  # "": none
BaseUrl = Annotated[
    str,
    meta("an http(s) URL", formats.is_base_url, format="uri"),
    says("where the upstream's API is"),
]
ProxyUrl = Annotated[
    str,
    meta("an http, https, socks5 or socks5h URL, or direct", formats.is_proxy_url),
    says("outbound proxy, the environment's is not used; `direct`: none"),
]
UpstreamKey = Annotated[
    Secret,
    meta("a key of visible ASCII characters", "[!-~]*", private=True),
    says("what the upstream knows the account by; empty: the entry is left out"),
]
_CALLERS_KEY = "a key of visible ASCII characters, not empty, or sha256: and 64 hex digits"
CallersKey = Annotated[
    Secret,
    meta(_CALLERS_KEY, rf"{HASHED.pattern}|(?!sha256:)[!-~]+", private=True),
    says("what the caller sends, or its SHA-256"),
]
# A socket's path, or a host; of Sentinel several, and the name of the service.
_STATE_URL = (
    r"unix://\S*/\S+|rediss?://[^\s/]+(/\S*)?"
    r"|rediss?\+sentinel://(\S*@)?[\w.-]+:\d{1,5}(,[\w.-]+:\d{1,5})*/\S+"
)
StateUrl = Annotated[
    Secret, meta("a redis, rediss, unix or redis+sentinel URL", _STATE_URL, private=True)
]
Origin = Annotated[str, meta("an origin, such as https://app.example", formats.is_cors)]
Aliases = Annotated[
    tuple[ModelName, ...], Meta(min_length=1), says("what it sees and may use; left out: all")
]
# RFC 9110, 5.1 and 5.6.2: a field name is a token; 5.5: a value has no control characters but TAB.
# Some are set by the HTTP library from the body it sends; a second opinion would break the framing.
_FRAMING = r"(?i:connection|content-length|transfer-encoding|upgrade)\Z"
HeaderName = Annotated[str, meta("a header name", rf"(?!{_FRAMING})[!#$%&'*+\-.^_`|~0-9A-Za-z]+")]
HeaderValue = Annotated[str, meta("a header value", r"[\t\x20-\x7e\xa0-\xff]*", private=True)]


def _key(attribute: str) -> str:
    """The key of an attribute, whose name holds the unit too if that is `s` or `bytes`."""
    return attribute.removesuffix("_s").replace("_bytes", "_size").replace("_", "-")


class _Section(Struct, frozen=True, kw_only=True, rename=_key, forbid_unknown_fields=True):
    shorthand: ClassVar[str] = ""


class CallerEntry(_Section, frozen=True, kw_only=True):
    """A key that callers may use."""

    shorthand: ClassVar[str] = "key"

    key: CallersKey
    name: Annotated[Name, says("who calls, for the log")] | None = None
    models: Aliases | None = None
    max_concurrency: Permits = 0
    rpm: Annotated[Limit, unit("requests"), says("a minute; 0: no limit")] = 0
    tpm: Annotated[Limit, unit("tokens"), says("a minute; 0: no limit")] = 0
    requests_per_day: Annotated[Limit, unit("requests"), says("a day (UTC); 0: no limit")] = 0
    tokens_per_day: Annotated[Limit, unit("tokens"), says("a day (UTC); 0: no limit")] = 0
    admin: Annotated[bool, says("an operator's key: it may see what goes on")] = False


class ModelEntry(_Section, frozen=True, kw_only=True):
    """A model; `alias` is what callers call it."""

    shorthand: ClassVar[str] = "name"

    name: Annotated[ModelName, says("what the upstream calls it")]
    alias: Annotated[ModelName, says("what callers call it; left out: the name")] | None = None


Models = Annotated[
    tuple[ModelEntry, ...],
    Meta(min_length=1),
    says("left out: the upstream's own list, under its own names"),
]


class KeyEntry(_Section, frozen=True, kw_only=True):
    """One key of a provider: one client. What it leaves out is the provider's."""

    shorthand: ClassVar[str] = "api-key"

    api_key: UpstreamKey | None = None
    max_concurrency: Permits | None = None
    weight: Weight | None = None
    priority: Priority | None = None
    proxy_url: ProxyUrl = ""


class _Upstream(_Section, frozen=True, kw_only=True):
    """The keys of every upstream over the network."""

    max_concurrency: Permits = 1
    weight: Weight = 1
    priority: Priority = 0
    proxy_url: ProxyUrl = ""
    ca_bundle: Annotated[str, says("PEM file, or directory, of the authorities to trust")] = ""
    headers: Annotated[dict[HeaderName, HeaderValue], says("extra headers of requests to it")] = {}
    models: Models | None = None


class ProviderEntry(_Upstream, frozen=True, kw_only=True):
    """An upstream that speaks OpenAI's dialect. Without keys: one client that sends none."""

    kind: ClassVar[Literal["openai"]] = "openai"

    name: Annotated[Name, says("what its clients are called, in the log and in headers")]
    base_url: BaseUrl
    api_keys: Annotated[tuple[KeyEntry, ...], says("a client each; none: one without a key")] = ()
    api_key_entries: Annotated[tuple[KeyEntry, ...], says("another spelling of `api-keys`")] = ()
    completions: Annotated[
        Literal["chat", "native"], says("`/v1/completions`: made of chat, or the upstream's own")
    ] = "chat"
    responses: Annotated[
        Literal["chat", "native"] | None,
        says("`/v1/responses`: the same; left out: native at api.openai.com, chat elsewhere"),
    ] = None
    ask_usage: Annotated[bool, says("ask for every stream's usage; false: as callers do")] = True
    disabled: Annotated[bool, says("leave it out")] = False


class GeminiEntry(_Upstream, frozen=True, kw_only=True):
    """One key for Google's Gemini API."""

    kind: ClassVar[Literal["gemini"]] = "gemini"
    shorthand: ClassVar[str] = "api-key"

    api_key: UpstreamKey | None = None
    base_url: BaseUrl = "https://generativelanguage.googleapis.com"


class ClaudeEntry(_Upstream, frozen=True, kw_only=True):
    """One key for Anthropic's Messages API."""

    kind: ClassVar[Literal["claude"]] = "claude"
    shorthand: ClassVar[str] = "api-key"

    api_key: UpstreamKey | None = None
    base_url: BaseUrl = "https://api.anthropic.com"


class DemoEntry(_Section, frozen=True, kw_only=True):
    """An in-process client that needs neither key nor network."""

    name: Annotated[Name, says("as a provider's")] = "demo"
    max_concurrency: Permits = 0
    weight: Weight = 1
    priority: Priority = 0
    delay_ms: Annotated[float, Meta(ge=0, le=60_000), unit("ms"), says("between two words")] = 20
    models: Annotated[tuple[ModelEntry, ...], Meta(min_length=1), says("what it offers")] = (
        ModelEntry(name="demo"),
    )


class QuotaExceeded(_Section, frozen=True, kw_only=True):
    """What to do when an upstream answers 429."""

    switch_project: Annotated[bool, says("on 429 go on with another client")] = True
    switch_preview_model: Annotated[bool, says("Gemini: try the model's preview variant")] = True


class Streaming(_Section, frozen=True, kw_only=True):
    """What a streaming caller gets while its upstream is silent."""

    keepalive_seconds: Annotated[SecondsOrZero, says("of silence, then a comment; 0: none")] = 15
    commit_after_seconds: Annotated[
        SecondsOrZero, says("until 200 is committed with a comment if nothing came; 0: never")
    ] = 45


class Metrics(_Section, frozen=True, kw_only=True):
    """Who may ask for `/metrics`."""

    public: Annotated[bool, says("`/metrics` for all, not for operators alone")] = False


class State(_Section, frozen=True, kw_only=True):
    """The Redis or Valkey in which several processes keep one pool."""

    shorthand: ClassVar[str] = "url"

    url: Annotated[StateUrl, says("where it is, with user and password")]
    name: Annotated[Name, says("of the pool, where several share the server")] = "default"


class Settings(_Section, frozen=True, kw_only=True):
    """The keys that the program runs on as they are in the file."""

    host: Annotated[Host, says("where to listen; empty: all interfaces")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535), says("0: any free one")] = 8317
    debug: Annotated[bool, says("say more in the log")] = False
    log_format: Annotated[Literal["text", "json"], says("a log line: words, or JSON")] = "text"
    shutdown_delay_s: Annotated[
        SecondsOrZero,
        says("from SIGTERM, when `/readyz` begins to say 503, until no more callers are taken"),
    ] = 0
    allow_unauthenticated: Annotated[
        bool,
        says(
            "without `api-keys`: listen beyond this machine too, and let pages of the proxy's own "
            "site in, whatever its name"
        ),
    ] = False
    cors: Annotated[
        tuple[Origin, ...],
        Meta(
            extra={"expected": "auto, off, or a list of origins", "is_bare": True},
            extra_json_schema={"type": ["array", "string"]},
        ),
        says(
            "web pages that may read answers; `auto`: any, if there are `api-keys`; origins: these "
            "and no others, of an open proxy too"
        ),
    ] = (formats.ANY_ORIGIN,)
    trusted_proxies: Annotated[
        tuple[Network, ...], says("proxies in front whose `X-Forwarded-For` says who calls")
    ] = ("127.0.0.1", "::1")
    control_dir: Annotated[
        Directory,
        says(
            "where `poolproxy status` finds the workers: a directory of the service's own; its "
            "group may ask too if its mode is 0750; left out: systemd's `$RUNTIME_DIRECTORY`, else "
            "one of the user's"
        ),
    ] = ""
    request_retry: Annotated[
        int, Meta(ge=0, le=100), unit("retries"), says("after the first attempt")
    ] = 3
    max_retry_interval_s: Annotated[
        SecondsOrZero, says("that a request waits, in all, for cooldowns to end")
    ] = 5
    max_cooldown_s: Annotated[
        SecondsOrZero, says("at most that an upstream may ask a client to wait")
    ] = 1800
    request_timeout_s: Annotated[
        Seconds, says("to a stream's first event, or the whole unary answer, over all attempts")
    ] = 600
    connect_timeout_s: Annotated[
        Seconds, says("to a connection: its name, all addresses, proxy and TLS together")
    ] = 10
    first_byte_timeout_s: Annotated[
        SecondsOrZero, says("to the upstream's status line; 0: what is left of `request-timeout`")
    ] = 0
    idle_timeout_s: Annotated[
        Seconds,
        says(
            "between events, or bytes of a unary answer; a caller who takes nothing for so long, "
            "at least 6 s, is cut"
        ),
    ] = 300
    queue_timeout_s: Annotated[SecondsOrZero, says("to wait for a free client")] = 30
    max_requests_in_flight: Annotated[
        int, Meta(ge=1), unit("per worker"), says("at most; the next one gets 503 at once")
    ] = 1024
    max_body_bytes: Annotated[Bytes, says("of a caller's request, unpacked")] = 33_554_432
    max_answer_bytes: Annotated[Bytes, says("of a unary answer")] = 268_435_456
    max_event_bytes: Annotated[Bytes, says("of one event")] = 16_777_216
    request_log: Annotated[
        bool,
        says(
            "each request and its answer, whole, to a file in `request-log-dir`; keys masked; the "
            "oldest files are removed"
        ),
    ] = False
    request_log_dir: Annotated[str, says("left out: `request-logs` beside this file")] = ""
    request_log_max_bytes: Annotated[Bytes, says("of all these files")] = field(
        default=1_073_741_824, name="request-log-max-bytes"
    )
    request_log_days: Annotated[
        float, Meta(gt=0, le=36_500), unit("days"), says("that such a file is kept")
    ] = 7
    usage: Annotated[bool, says("keep tokens by day, caller and so on: `poolproxy usage`")] = False
    usage_days: Annotated[int, Meta(ge=1, le=36_500), unit("days"), says("that are kept")] = 400
    state_dir: Annotated[
        Directory,
        says(
            "where that is kept: a local folder of this instance's own; left out: systemd's "
            "`$STATE_DIRECTORY`, else one of the user's; in an application nowhere"
        ),
    ] = ""
    sticky: Annotated[
        bool, says("a request that names its session prefers the same account each time")
    ] = True
    fallbacks: Annotated[
        dict[ModelName, tuple[ModelName, ...]],
        says("by model, others that are tried in this order when none of its accounts can serve"),
    ] = {}
    status_page: Annotated[
        bool | None, says("operators' `/status`; left out: true, in a Flask application false")
    ] = None
    state: Annotated[
        State | None, says("where all processes keep one pool; left out: each has its own")
    ] = None
    quota_exceeded: QuotaExceeded = QuotaExceeded()
    streaming: Streaming = Streaming()
    metrics: Metrics = Metrics()


class File(Settings, frozen=True, kw_only=True):
    """A configuration file of Poolproxy."""

    api_keys: Annotated[tuple[CallerEntry, ...], says("callers' keys; none: open")] = ()
    proxy_url: ProxyUrl = ""
    openai_compatibility: Annotated[
        tuple[ProviderEntry, ...], says("upstreams that speak OpenAI's dialect")
    ] = ()
    gemini_api_key: Annotated[tuple[GeminiEntry, ...], says("Gemini accounts, a client each")] = ()
    generative_language_api_key: Annotated[
        tuple[GeminiEntry, ...], says("another spelling of `gemini-api-key`")
    ] = ()
    claude_api_key: Annotated[tuple[ClaudeEntry, ...], says("Claude accounts, a client each")] = ()
    demo: Annotated[tuple[DemoEntry, ...], says("clients that answer without an upstream")] = ()


_SECRET = {"type": "string"}  # the only type of our own
_REFERENCE = {"type": "string", "pattern": r"\$\{"}
_FILLED_IN = ("integer", "number", "boolean")  # types whose place a `${NAME}` may take


def json_schema() -> dict[str, Any]:
    """Make the JSON Schema of `config.yaml`, of JSON values only."""
    made = msgspec.json.schema(File, schema_hook=lambda _: _SECRET)
    definitions = made["$defs"]
    for name, definition in definitions.items():
        if globals()[name].shorthand:
            definitions[name] = {"anyOf": [{"type": "string"}, definition]}
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_with_references(made)}
    return dict(msgspec.json.decode(msgspec.json.encode(made)))


def _with_references(node: Any) -> Any:
    """`node` with `${NAME}` allowed wherever a number or a boolean is, and units in their help."""
    if isinstance(node, list):
        return [_with_references(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") not in _FILLED_IN:
        return {key: _with_references(value) for key, value in node.items()}
    bare = dict(node)
    kept = {key: bare.pop(key) for key in ("description", "default") if key in bare}
    if unit := bare.pop("unit", ""):
        kept["description"] = f"{unit} {kept['description']}"
    return {**kept, "anyOf": [bare, _REFERENCE]}
