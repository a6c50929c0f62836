"""Header fields: what passes, what is replaced, and how long an upstream asks us to wait."""

from __future__ import annotations

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.http.headers import (
    FORWARDED,
    caller_address,
    merged,
    passed,
    passed_with_hints,
    read_retry_after,
)

NOW_S = 1_445_412_480.0  # Wed, 21 Oct 2015 07:28:00 GMT


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("3", 3),
        (" 120 ", 120),
        ("1.5", 1.5),
        ("2.", 2),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30),
        ("Wednesday, 21-Oct-15 07:28:30 GMT", 30),
        ("Wed Oct 21 07:28:30 2015", 30),
        ("Wed, 21 Oct 2015 07:28:30", 30),
        ("Wed, 21 Oct 2015 07:28:30 -0000", 30),
        ("Wed, 21 Oct 2015 09:28:30 +0200", 30),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("soon", None),
        ("\u0663", None),
        ("9" * 13, None),
        ("Wed, 99 Oct 2015 07:28:30 GMT", None),
        ("Wed, 21 Oct 2015 07:28:30 GMT" + " " * 60 + "x", None),
        ("Wed, 21 Oct 99999999999999 07:28:30 GMT", None),
        ("Wed, 21 Oct 2015 07:28:30 +999999", None),
    ],
)
def test_retry_after_is_read(text: str, seconds: float | None) -> None:
    """Seconds or any form of an HTTP-date, always in UTC; a past one is now; rubbish is nothing."""
    assert read_retry_after({"retry-after": text}, now_s=NOW_S) == seconds


@pytest.mark.parametrize(
    ("in_ms", "seconds"),
    [("1500", 1.5), ("0", 0), ("0.5", 0.0005), ("x", 9), ("", 9), ("-5", 9)],
)
def test_milliseconds_come_first(in_ms: str, seconds: float) -> None:
    """As in the official SDKs; rubbish leaves it to retry-after."""
    headers = {"retry-after": "9", "retry-after-ms": in_ms}
    assert read_retry_after(headers, now_s=NOW_S) == seconds


def test_no_header_asks_for_nothing() -> None:
    """Then the pool's own cooldown counts."""
    assert read_retry_after({}, now_s=NOW_S) is None


@given(
    st.text(max_size=70)
    | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,2} [A-Z][a-z]{2} [0-9]{1,5} [0-9:]{1,9} .{0,6}")
)
def test_any_text_is_a_wait_or_nothing(text: str) -> None:
    """Never an exception, never a negative or endless wait."""
    found = read_retry_after({"retry-after": text, "retry-after-ms": text}, now_s=NOW_S)
    assert found is None or 0 <= found < 1e13


@given(st.integers(0, 4_000_000_000))
def test_any_date_is_the_time_until_then(moment: int) -> None:
    """Whole seconds survive."""
    text = email.utils.formatdate(moment, usegmt=True)
    assert read_retry_after({"retry-after": text}, now_s=NOW_S) == max(0.0, moment - NOW_S)


RECEIVED = {
    "openai-processing-ms": "12",
    "openai-version": "2020-10-01",
    "content-type": "application/json",
    "set-cookie": "a=b",
    "connection": "close",
    "transfer-encoding": "chunked",
    "x-ratelimit-remaining-requests": "1",
    "x-request-id": "theirs",
    "server": "x",
    "openai-odd": "a\r\nSet-Cookie: b",
    "openai-nul": "\0",
    "openai-wide": "\u2028",
}
HINTS = {"retry-after": "1", "retry-after-ms": "1000", "x-should-retry": "true"}


def test_only_openais_own_headers_come_back() -> None:
    """No cookies, hop-by-hop fields, one key's rate limits, nor what breaks a header line."""
    expected = {"openai-processing-ms": "12", "openai-version": "2020-10-01"}
    assert passed(RECEIVED | HINTS) == expected
    assert passed(RECEIVED | HINTS, with_hints=True) == expected | HINTS


def test_wait_of_the_body_is_a_hint_unless_a_header_is() -> None:
    """An error may ask for a wait in its body only."""
    assert passed_with_hints(RECEIVED, None) == passed(RECEIVED)
    assert passed_with_hints(RECEIVED | HINTS, 9.0) == passed(RECEIVED) | HINTS
    told = passed_with_hints(RECEIVED, 9.0)
    assert told.items() >= passed(RECEIVED).items()
    assert told["retry-after"] == "9"


def test_secrets_of_the_caller_do_not_go_on() -> None:
    """The list of what goes on is short and holds none of them."""
    names = {name.lower() for name in FORWARDED}
    assert names == {
        *("openai-beta", "openai-organization", "openai-project", "idempotency-key"),
        "traceparent",
    }
    assert not names & {"authorization", "cookie", "x-api-key", "x-goog-api-key"}
    assert not any(name.startswith("x-forwarded") for name in names)


def test_given_headers_replace_ours_whatever_their_case() -> None:
    """One line per name goes out."""
    ours = {"User-Agent": "us", "Accept": "a"}
    assert merged(ours, {"user-agent": "them", "X": "y"}) == {
        "Accept": "a", "user-agent": "them", "X": "y",
    }  # fmt: skip
    assert merged(ours, {}) == ours


TRUSTED = ("127.0.0.1", "::1", "10.0.0.0/8", "2001:db8::/32")


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("127.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", "6.6.6.6, 192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", "6.6.6.6, 192.0.2.7,10.1.2.3", "192.0.2.7"),
        ("::ffff:127.0.0.1", "192.0.2.7, 2001:db8::5", "192.0.2.7"),
        ("127.0.0.1", "192.0.2.7:4711", "192.0.2.7"),
        ("::1", "[2001:DB9::7]:4711", "2001:db9::7"),
        ("::1", "2001:db9::7", "2001:db9::7"),
        ("::1", 'fe80::1%eth0" x=1', "fe80::1"),
        ("", "192.0.2.7", "192.0.2.7"),
        ("10.1.2.3", "127.0.0.1, ::1", "127.0.0.1"),
        ("192.0.2.1", "192.0.2.7", "192.0.2.1"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.7, _hidden", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.7, garbage, 10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", ",", "127.0.0.1"),
        ("a-host", "192.0.2.7", "a-host"),
    ],
)
def test_caller_is_whom_trusted_proxies_name(peer: str, forwarded: str, caller: str) -> None:
    """The last address that is no proxy's; nobody else's word, and no word of the caller's."""
    assert caller_address(peer, forwarded, TRUSTED) == caller


@given(st.text(max_size=200))
def test_what_is_forwarded_adds_nothing_but_an_address(forwarded: str) -> None:
    """To the log and to what an application is told."""
    found = caller_address("127.0.0.1", forwarded, TRUSTED)
    assert set(found) <= set("0123456789abcdef.:")
