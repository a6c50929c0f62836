"""What strings of the file have to be, where a regular expression does not say it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

_MAX_NAME_LENGTH = 64  # characters; names go into every log line and metric

DEFAULT_PORTS = {"http": 80, "https": 443}

ANY_ORIGIN, NO_ORIGIN = "auto", "off"

NO_PROXY = ("direct", "none")  # CLIProxyAPI's words for "not even the one configured above"


def meta(
    expected: str, valid: Callable[[str], object] | str, *, private: bool = False, **schema: Any
) -> msgspec.Meta:
    """Annotate a field: errors say what is `expected`, and never show what is `private`.

    `valid` is a regular expression for the whole string, or a function. A string is not valid if
    the function returns nothing of it, or raises ValueError.
    """
    is_valid = re.compile(valid).fullmatch if isinstance(valid, str) else valid
    return msgspec.Meta(
        extra={"expected": expected, "valid": is_valid, "private": private},
        extra_json_schema=schema or None,
    )


def is_model_name(text: str) -> bool:
    return bool(text) and text.isprintable() and text == text.strip()


def is_name(text: str) -> bool:
    return len(text) <= _MAX_NAME_LENGTH and is_model_name(text)


def is_bind_host(text: str) -> object:
    """A host name, an IPv4 or IPv6 address with or without brackets, or "" (all interfaces)."""
    bare = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    return re.fullmatch(r"[A-Za-z0-9._-]*", text) or ipaddress.IPv6Address(bare)


def is_base_url(text: str) -> bool:
    """No query or fragment: paths are appended. No user: it would end in logs."""
    url = _split(text)
    return url.scheme in DEFAULT_PORTS and "@" not in url.netloc and not set("?#") & set(text)


def is_cors(text: str) -> bool:
    """An origin as browsers send it (RFC 6454 section 6.2), or a word for any or none."""
    if text in (ANY_ORIGIN, NO_ORIGIN):
        return True
    url = _split(text)
    if set("@*") & set(text) or url.port == DEFAULT_PORTS.get(url.scheme, -1):
        return False
    return text == f"{url.scheme}://{url.netloc}".lower()


def is_proxy_url(text: str) -> bool:
    """An address of a proxy, a word for none, or "" (the proxy that is configured above)."""
    is_word = text in ("", *NO_PROXY)
    return is_word or _split(text).scheme in ("http", "https", "socks5", "socks5h")


def _split(text: str) -> SplitResult:
    """The parts of an absolute URL with a host; raises ValueError if it is none."""
    url = urlsplit(text)
    if not (text.isascii() and text.isprintable() and url.hostname) or " " in text or url.port == 0:
        raise ValueError("not an absolute URL")
    return url
