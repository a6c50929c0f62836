"""What errors say to callers: true hints, bounded messages, no key."""

from __future__ import annotations

import json

import pytest

from proxy.config import Secrets
from proxy.errors import (
    MAX_MESSAGE_CHARS,
    ModelNotFound,
    RetryHint,
    UpstreamRefusal,
    UpstreamReset,
)
from proxy.wire.chat import read_error

KEY, MASK = "sk-or-v1-0123456789b780", "sk-…b780"


@pytest.mark.parametrize(
    ("after_s", "seconds", "milliseconds", "retries"),
    [
        (0.0, "0", "0", "true"),
        (-1.0, "0", "0", "true"),
        (0.0001, "1", "1", "true"),
        (1.2, "2", "1200", "true"),
        (60.0, "60", "60000", "true"),
        (60.001, "61", "60001", "false"),
    ],
)
def test_hint_is_rounded_up(after_s: float, seconds: str, milliseconds: str, retries: str) -> None:
    """Who comes back then is not too early; nobody is told to wait in vain."""
    expected = {
        "retry-after": seconds,
        "retry-after-ms": milliseconds,
        "x-should-retry": retries,
    }
    assert RetryHint(after_s).headers() == expected


def test_unknown_time_is_no_hint() -> None:
    """But a word to SDKs not to try."""
    assert RetryHint(None).headers() == {"x-should-retry": "false"}


def test_message_is_bounded() -> None:
    """Whatever was quoted in it."""
    found = json.loads(ModelNotFound("x" * 1_000_000).envelope())
    assert found["error"]["message"] == "x" * MAX_MESSAGE_CHARS + "…"


def test_error_is_its_message() -> None:
    """As logs show it."""
    error = ModelNotFound("no such model", param="model")
    assert (str(error), error.args) == ("no such model", ("no such model",))


def test_what_an_upstream_says_is_bounded() -> None:
    """Its message and its code go into logs; the body is passed on as it came."""
    body = json.dumps({"error": {"message": "m" * 5000, "code": "c" * 200}}).encode()
    found = read_error(400, body)
    assert (found.message, found.code) == ("m" * 2000, "c" * 100)
    assert found.envelope() == body
    assert read_error(400, b"x" * 5000).message == "x" * 2000


def test_hidden_key_is_in_no_part() -> None:
    """Of an upstream's own error; header fields are ASCII. A dummy may be a word of any."""
    body = json.dumps({"error": {"message": f"no {KEY}"}}).encode()
    error = UpstreamRefusal(
        f"no {KEY}",
        status=400,
        body=body,
        upstream_code=KEY,
        passed_headers={"openai-key": KEY},
    )
    error.hide(Secrets(["sk-or-v"]))  # too short to be more than a dummy
    assert error.envelope() == body
    error.hide(Secrets([KEY]))
    assert KEY not in f"{error} {error!r} {error.envelope()!r} {error.headers()} {error.code}"
    assert json.loads(error.envelope())["error"]["message"] == f"no {MASK}"
    assert error.headers() == {"openai-key": "sk-...b780"}
    other = UpstreamReset(f"broke at {KEY}")
    other.hide(Secrets([KEY]))
    assert str(other) == other.message == f"broke at {MASK}"
