"""Predicates for strings of the file: names, addresses, keys, headers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from .secrets import HASHED

is_absolute = re.compile(r"(?s:/.*)?").fullmatch  # a path from the root on, or "" (none)

is_key = re.compile(r"[!-~]*").fullmatch  # fit for a header; an upstream's may be empty
is_caller_key = re.compile(rf"{HASHED.pattern}|(?!sha256:)[!-~]+").fullmatch

# RFC 9110, 5.1 and 5.6.2: a field name is a token; 5.5: a value has no control characters but TAB.
# Names that the HTTP library sets from the body it sends are ours to refuse: a second opinion would
# break the framing.
is_header_name = re.compile(
    r"(?!(?i:connection|content-length|transfer-encoding|upgrade)\Z)[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
).fullmatch
is_header_value = re.compile(r"[\t\x20-\x7e\xa0-\xff]*").fullmatch

# A socket's path, or a host; of Sentinel several, and the name of the service.
is_state_url = re.compile(
    r"unix://\S*/\S+|rediss?://[^\s/]+(/\S*)?"
    r"|rediss?\+sentinel://(\S*@)?[\w.-]+:\d{1,5}(,[\w.-]+:\d{1,5})*/\S+"
).fullmatch

_HOST_NAME = re.compile(r"[A-Za-z0-9._-]*")
_MAX_NAME_LENGTH = 64  # characters; names go into every log line and metric

DEFAULT_PORTS = {"http": 80, "https": 443}

ANY_ORIGIN, NO_ORIGIN = "auto", "off"

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
NO_PROXY = ("direct", "none")  # CLIProxyAPI's words for "not even the one configured above"


def meta(
    expected: str, valid: Callable[[str], object], *, private: bool = False, **schema: Any
) -> msgspec.Meta:
    """Annotate a field: errors say what is `expected`, and never show what is `private`."""
    return msgspec.Meta(
        extra={"expected": expected, "valid": valid, "private": private},
        extra_json_schema=schema or None,
    )


def is_model_name(text: str) -> bool:
    return bool(text) and text.isprintable() and text == text.strip()


def is_name(text: str) -> bool:
    return len(text) <= _MAX_NAME_LENGTH and is_model_name(text)


def is_bind_host(text: str) -> bool:
    """A host name, an IPv4 or IPv6 address with or without brackets, or "" (all interfaces)."""
    bare = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    return _HOST_NAME.fullmatch(text) is not None or _makes(ipaddress.IPv6Address, bare)


def is_network(text: str) -> bool:
    return _makes(ipaddress.ip_network, text)


def _makes(make: Callable[[str], object], text: str) -> bool:
    try:
        make(text)
    except ValueError:
        return False
    return True


def is_base_url(text: str) -> bool:
    """No query or fragment: paths are appended. No user: it would end in logs."""
    url = _split(text)
    if url is None or "@" in url.netloc or set("?#") & set(text):
        return False
    return url.scheme in DEFAULT_PORTS


def is_cors(text: str) -> bool:
    """An origin as browsers send it (RFC 6454 section 6.2), or a word for any or none."""
    if text in (ANY_ORIGIN, NO_ORIGIN):
        return True
    url = _split(text)
    if url is None or set("@*") & set(text):
        return False
    names_default = url.port is not None and url.port == DEFAULT_PORTS.get(url.scheme)
    return text == f"{url.scheme}://{url.netloc}".lower() and not names_default


def is_proxy_url(text: str) -> bool:
    """An address of a proxy, a word for none, or "" (the proxy that is configured above)."""
    if text in ("", *NO_PROXY):
        return True
    url = _split(text)
    return url is not None and url.scheme in PROXY_SCHEMES


def _split(text: str) -> SplitResult | None:
    """The parts of an absolute URL with a host; None: it is none."""
    if not text.isascii() or not text.isprintable() or " " in text:
        return None
    try:
        url = urlsplit(text)
        if url.port == 0:
            return None
    except ValueError:  # a port that is no number or too large, an unclosed bracket
        return None
    return url if url.hostname else None
