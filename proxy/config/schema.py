"""The shape of the file: its keys, types, limits and defaults, once, for the check and the schema.

Key names are CLIProxyAPI's. `None` is "left out": what holds then is decided in `resolve`.
A Struct's `foreign` are the keys to ignore with a warning; where `shorthand` names a field, a bare
string stands for a mapping that holds only that field.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from . import cliproxyapi, formats
from .secret import Secret

_DAY_S = 86_400  # no wait is meant to be longer, and poll(2) counts ms in 32 bits

Seconds = Annotated[float, Meta(gt=0, le=_DAY_S)]
SecondsOrZero = Annotated[float, Meta(ge=0, le=_DAY_S)]
Bytes = Annotated[int, Meta(ge=1)]
Permits = Annotated[int, Meta(ge=0, description="Requests in flight per client; 0: no limit.")]
Weight = Annotated[int, Meta(ge=1, le=1000, description="Share of the requests.")]

Name = Annotated[str, formats.meta("a name of 1 to 64 characters", formats.is_name, minLength=1)]
ModelName = Annotated[str, formats.meta("a model's name", formats.is_model_name, minLength=1)]
Host = Annotated[str, formats.meta("a host name or IP address", formats.is_bind_host)]
BaseUrl = Annotated[str, formats.meta("an http(s) URL", formats.is_base_url, format="uri")]
ProxyUrl = Annotated[
    str,
    formats.meta("an http, https, socks5 or socks5h URL, or direct", formats.is_proxy_url),
    Meta(description="Outbound proxy; the environment's is not used. `direct`: none."),
]
UpstreamKey = Annotated[
    Secret, formats.meta("a key of visible ASCII characters", formats.is_key, private=True)
]
CallersKey = Annotated[
    Secret,
    formats.meta(
        "a key of visible ASCII characters, not empty", formats.is_caller_key, private=True
    ),
]
HeaderName = Annotated[str, formats.meta("a header name", formats.is_header_name)]
HeaderValue = Annotated[str, formats.meta("a header value", formats.is_header_value, private=True)]
Headers = Annotated[
    dict[HeaderName, HeaderValue], Meta(description="Extra headers of requests to the upstream.")
]


def _key(attribute: str) -> str:
    """The key of an attribute, whose name holds the unit too if that is `s` or `bytes`."""
    return attribute.removesuffix("_s").replace("_bytes", "_size").replace("_", "-")


class _Section(Struct, frozen=True, kw_only=True, rename=_key, forbid_unknown_fields=True):
    foreign: ClassVar[frozenset[str]] = frozenset()
    shorthand: ClassVar[str] = ""


class CallerEntry(_Section, frozen=True, kw_only=True):
    """A key that callers may use."""

    shorthand: ClassVar[str] = "key"

    key: CallersKey
    name: Name | None = None
    models: (
        Annotated[
            tuple[ModelName, ...],
            Meta(min_length=1, description="Aliases that it sees and may use. Left out: all."),
        ]
        | None
    ) = None
    max_concurrency: Permits = 0


class ModelEntry(_Section, frozen=True, kw_only=True):
    """A model; `alias` is what callers call it."""

    foreign: ClassVar[frozenset[str]] = cliproxyapi.MODEL
    shorthand: ClassVar[str] = "name"

    name: ModelName
    alias: Annotated[ModelName, Meta(description="Left out: the name.")] | None = None


Models = Annotated[
    tuple[ModelEntry, ...],
    Meta(min_length=1, description="Left out: the upstream's own list, under its own names."),
]


class KeyEntry(_Section, frozen=True, kw_only=True):
    """One key of a provider: one client. What it leaves out is the provider's."""

    shorthand: ClassVar[str] = "api_key"

    api_key: UpstreamKey | None = None
    max_concurrency: Permits | None = None
    weight: Weight | None = None
    proxy_url: ProxyUrl = ""


class _Upstream(_Section, frozen=True, kw_only=True):
    """What every upstream over the network may say."""

    max_concurrency: Permits = 1
    weight: Weight = 1
    proxy_url: ProxyUrl = ""
    ca_bundle: Annotated[
        str, Meta(description="PEM file, or directory, of the authorities to trust.")
    ] = ""
    headers: Headers = {}
    models: Models | None = None


class ProviderEntry(_Upstream, frozen=True, kw_only=True):
    """An upstream that speaks OpenAI's dialect. Without keys: one client that sends none."""

    foreign: ClassVar[frozenset[str]] = cliproxyapi.PROVIDER

    name: Name
    base_url: BaseUrl
    api_keys: tuple[KeyEntry, ...] = ()
    api_key_entries: Annotated[
        tuple[KeyEntry, ...], Meta(description="Another spelling of api-keys.")
    ] = ()
    completions: Annotated[
        Literal["chat", "native"],
        Meta(description="/v1/completions: converted to chat, or the upstream's own."),
    ] = "chat"
    disabled: bool = False


class GeminiEntry(_Upstream, frozen=True, kw_only=True):
    """One key for Google's Gemini API."""

    foreign: ClassVar[frozenset[str]] = cliproxyapi.GEMINI
    shorthand: ClassVar[str] = "api_key"

    api_key: UpstreamKey | None = None
    base_url: BaseUrl = "https://generativelanguage.googleapis.com"


class ClaudeEntry(_Upstream, frozen=True, kw_only=True):
    """One key for Anthropic's Messages API."""

    foreign: ClassVar[frozenset[str]] = cliproxyapi.CLAUDE
    shorthand: ClassVar[str] = "api_key"

    api_key: UpstreamKey | None = None
    base_url: BaseUrl = "https://api.anthropic.com"


class DemoEntry(_Section, frozen=True, kw_only=True):
    """An in-process client that needs neither key nor network."""

    name: Name = "demo"
    max_concurrency: Permits = 0
    weight: Weight = 1
    delay_ms: Annotated[float, Meta(ge=0, le=60_000, description="Between two words.")] = 20
    models: Annotated[tuple[ModelEntry, ...], Meta(min_length=1)] = (ModelEntry(name="demo"),)


class QuotaExceeded(_Section, frozen=True, kw_only=True):
    """What to do when an upstream answers 429."""

    foreign: ClassVar[frozenset[str]] = cliproxyapi.QUOTA_EXCEEDED

    switch_project: Annotated[bool, Meta(description="Go on with another client.")] = True
    switch_preview_model: Annotated[
        bool, Meta(description="Gemini: fall back to the model's preview variant.")
    ] = True


class Streaming(_Section, frozen=True, kw_only=True):
    """What a streaming caller gets while its upstream is silent."""

    foreign: ClassVar[frozenset[str]] = cliproxyapi.STREAMING

    keepalive_seconds: Annotated[
        SecondsOrZero, Meta(description="A comment after so much silence of ours; 0: none.")
    ] = 15
    commit_after_seconds: Annotated[
        SecondsOrZero, Meta(description="Commit to 200 with a comment by then; 0: never.")
    ] = 45


class Settings(_Section, frozen=True, kw_only=True):
    """What the program runs on as it stands in the file."""

    host: Annotated[Host, Meta(description="Empty: all interfaces.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="0: any free one.")] = 8317
    debug: bool = False
    allow_unauthenticated: Annotated[
        bool, Meta(description="Listen beyond loopback though there are no api-keys.")
    ] = False
    request_retry: Annotated[
        int, Meta(ge=0, le=100, description="Retries after the first attempt.")
    ] = 3
    max_retry_interval_s: Annotated[
        SecondsOrZero, Meta(description="s per request; waits for cooldowns to end.")
    ] = 5
    max_cooldown_s: Annotated[
        SecondsOrZero, Meta(description="s; the longest wait an upstream may ask of us.")
    ] = 1800
    request_timeout_s: Annotated[
        Seconds, Meta(description="s to the first event (unary: the answer), over all attempts.")
    ] = 600
    connect_timeout_s: Annotated[Seconds, Meta(description="s.")] = 10
    first_byte_timeout_s: Annotated[
        SecondsOrZero, Meta(description="s to the status line; 0: what is left of the request's.")
    ] = 0
    idle_timeout_s: Annotated[Seconds, Meta(description="s between events.")] = 300
    queue_timeout_s: Annotated[SecondsOrZero, Meta(description="s; wait for a free client.")] = 30
    max_requests_in_flight: Annotated[int, Meta(ge=1, description="Per worker.")] = 1024
    max_body_bytes: Annotated[Bytes, Meta(description="Bytes of a caller's request.")] = 33_554_432
    max_answer_bytes: Annotated[Bytes, Meta(description="Bytes of a unary answer.")] = 268_435_456
    max_event_bytes: Annotated[Bytes, Meta(description="Bytes of one event.")] = 16_777_216
    request_log: Annotated[
        bool, Meta(description="Whole requests and answers to files, keys masked.")
    ] = False
    quota_exceeded: QuotaExceeded = QuotaExceeded()
    streaming: Streaming = Streaming()


class File(Settings, frozen=True, kw_only=True):
    """A configuration file of Poolproxy."""

    foreign: ClassVar[frozenset[str]] = cliproxyapi.TOP

    api_keys: Annotated[tuple[CallerEntry, ...], Meta(description="Callers' keys.")] = ()
    proxy_url: ProxyUrl = ""
    openai_compatibility: tuple[ProviderEntry, ...] = ()
    gemini_api_key: tuple[GeminiEntry, ...] = ()
    generative_language_api_key: Annotated[
        tuple[GeminiEntry, ...], Meta(description="Another spelling of gemini-api-key.")
    ] = ()
    claude_api_key: tuple[ClaudeEntry, ...] = ()
    demo: tuple[DemoEntry, ...] = ()
