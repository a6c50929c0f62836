"""Header fields: what goes on, who calls, and the waits that an error asks for."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from datetime import timezone
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from ...errors import RETRY_HINTS, RetryHint

# A caller's headers that go on. Authorization, cookies and X-Forwarded-* are for us, and never do.
_OPENAIS = ("OpenAI-Beta", "OpenAI-Organization", "OpenAI-Project")
FORWARDED = (*_OPENAIS, "Idempotency-Key", "traceparent")

# What http.client and gunicorn take: no control characters, above all no line ends.
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{0,9})?")


@lru_cache(maxsize=256)  # many requests are one caller's, and to read addresses takes its time
def caller_address(peer: str, forwarded: str, trusted: tuple[str, ...]) -> str:
    """The address of who calls: the peer's, or that of whom trusted proxies name.

    `trusted`: addresses and networks. `forwarded`: X-Forwarded-For, to which each proxy adds whom
    it was called by. The last address that is not a trusted proxy's is the caller's; whatever
    stands before it is only claimed. A peer without an address (a Unix socket's) is trusted.
    """
    networks = [ip_network(each) for each in trusted]
    address = peer
    for named in reversed(forwarded.split(",")):
        here = _ip(address)
        if address and not (here and any(here in network for network in networks)):
            break
        text = named.strip()
        if text.startswith("["):
            text = text[1:].partition("]")[0]
        elif text.count(":") == 1:  # a port behind IPv4
            text = text.partition(":")[0]
        if (found := _ip(text)) is None:
            break
        address = str(found)
    return address


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text.partition("%")[0])  # without the zone of an IPv6 address
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def merged(ours: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """The headers in `given`, and those of `ours` that it does not replace, in any letter case."""
    names = {name.lower() for name in given}
    kept = {name: value for name, value in ours.items() if name.lower() not in names}
    return {**kept, **given}


def passed(headers: Mapping[str, str], *, with_hints: bool = False) -> dict[str, str]:
    """Of an upstream's headers (by lower-case name) those that the caller gets.

    Never Set-Cookie, hop-by-hop fields or the `x-ratelimit-*` of one key among many.
    """
    return {
        name: value
        for name, value in headers.items()
        if (name.startswith("openai-") or (with_hints and name in RETRY_HINTS))
        and _VALUE.fullmatch(value)
    }


def passed_with_hints(headers: Mapping[str, str], retry_after_s: float | None) -> dict[str, str]:
    """As `passed`, for an error. `retry_after_s`: the wait that its body alone may ask for."""
    found = passed(headers, with_hints=True)
    return found if retry_after_s is None else {**RetryHint(retry_after_s).headers(), **found}


def read_retry_after(headers: Mapping[str, str], *, now_s: float) -> float | None:
    """Seconds that the upstream asks us to wait (RFC 9110 section 10.2.3; `now_s`: Unix time).

    `retry-after-ms` comes first, as in the official SDKs (openai-python _base_client, 2026-11).
    """
    in_ms = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(in_ms):
        return float(in_ms) / 1000
    text = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if not text or len(text) > 64:
        return None
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:  # an HTTP-date is always in UTC, RFC 9110 section 5.6.7
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, moment.timestamp() - now_s)
