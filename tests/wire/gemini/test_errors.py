"""Gemini's refusals in OpenAI's terms, and what they say about retrying."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.chat import ErrorFacts, error_body
from proxy.wire.gemini.events import read_error, read_status
from tests.support import gemini_upstream as upstream

NOON_UTC_S = 1_790_000_000 // 86_400 * 86_400 + 12 * 3600.0


def read(
    made: upstream.Json, *, headers: dict[str, str] | None = None, now_s: float = NOON_UTC_S
) -> ErrorFacts:
    status = made["error"]["code"]
    return read_error(status, headers or {}, upstream.unary(made), now_s=now_s)


@pytest.mark.parametrize(("delay", "expected"), [("17s", 17.0), ("1.5s", 1.5), ("soon", None)])
def test_retry_delay(delay: str, expected: float | None) -> None:
    """RetryInfo is a protobuf Duration."""
    facts = read(upstream.out_of_quota(delay))
    assert (facts.status, facts.code, facts.retry_after_s) == (429, "rate_limit_exceeded", expected)


def test_daily_quota_lasts_until_midnight_pacific() -> None:
    """The short delay beside it would only lead to the next 429."""
    facts = read(upstream.out_of_quota("17s", upstream.PER_MINUTE, upstream.PER_DAY))
    assert facts.retry_after_s == 19 * 3600.0
    night = read(upstream.out_of_quota("17s", upstream.PER_DAY), now_s=NOON_UTC_S - 4.5 * 3600)
    assert night.retry_after_s == 1800.0


def test_retry_after_header_counts_without_retry_info() -> None:
    """In seconds or as a date."""
    made = upstream.overloaded()
    assert read(made, headers={"retry-after": "3"}).retry_after_s == 3.0
    date = {"retry-after": "Mon, 21 Sep 2026 14:13:30 GMT"}
    assert read(made, headers=date, now_s=1_790_000_000.0).retry_after_s == 10.0
    assert read(made, headers={"retry-after": "later"}).retry_after_s is None
    assert read(made).retry_after_s is None


@pytest.mark.parametrize(
    "made",
    [
        upstream.bad_key(),
        upstream.error(
            403, "PERMISSION_DENIED", "Suspended.", upstream.error_info("CONSUMER_SUSPENDED")
        ),
        upstream.error(403, "PERMISSION_DENIED", "Your API key was reported as leaked."),
    ],
)
def test_bad_key_is_401_whatever_its_status(made: upstream.Json) -> None:
    """Gemini says 400 or 403 of a key that will not work again."""
    facts = read(made)
    assert (facts.status, facts.code) == (401, "invalid_api_key")
    assert facts.refusal().status == 401


@pytest.mark.parametrize("reason", ["API_KEY_INVALID", "API_KEY_EXPIRED", "CONSUMER_SUSPENDED"])
@pytest.mark.parametrize("status", [400, 403])
def test_each_reason_of_a_bad_key(reason: str, status: int) -> None:
    """Wherever it stands among the details."""
    details = [upstream.error_info("OTHER"), upstream.error_info(reason)]
    assert read(upstream.error(status, "X", "m", *details)).status == 401
    assert read(upstream.error(status, "X", "m", details[0])).status == status
    assert read(upstream.error(400, "X", "Your key was reported as leaked.")).status == 400


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", "some_thing"),
        (401, "authentication_error", "invalid_api_key"),
        (403, "permission_error", "some_thing"),
        (404, "invalid_request_error", "model_not_found"),
        (429, "rate_limit_error", "rate_limit_exceeded"),
        (499, "invalid_request_error", "some_thing"),
        (500, "upstream_error", "some_thing"),
        (599, "upstream_error", "some_thing"),
    ],
)
def test_type_and_code_of_each_status(status: int, kind: str, code: str) -> None:
    """In an answer, and of an error in a stream, which has a code only."""
    made = upstream.error(status, "SOME_THING", "m")
    facts = read(made)
    assert (facts.status, facts.type, facts.code) == (status, kind, code)
    in_stream = read_status(made["error"])
    assert (in_stream.status, in_stream.type, in_stream.code) == (status, kind, code)


@pytest.mark.parametrize("code", [399, 600, "429", None, 200])
def test_code_that_is_no_status_of_an_error(code: object) -> None:
    """Then it is the upstream's fault."""
    found = read_status({"code": code})
    assert (found.status, found.code, found.message) == (
        502,
        "upstream_error",
        "Gemini gave no reason",
    )
    assert read_status({"status": "A" * 65}).code == "a" * 64
    assert read_status("boom").message == "boom"


@pytest.mark.parametrize(
    ("hour", "left_s"),
    [(6.99, 36), (7, 0), (7.5, 1800), (8, 0), (8.5, 22.5 * 3600), (0, 7 * 3600)],
)
def test_end_of_the_day_in_los_angeles(hour: float, left_s: float) -> None:
    """Midnight in summer or in winter, whichever comes first."""
    at_s = NOON_UTC_S + (hour - 12) * 3600
    made = upstream.out_of_quota("0s", upstream.PER_DAY)
    assert read(made, now_s=at_s).retry_after_s == pytest.approx(left_s)
    assert read_status(made["error"]).retry_after_s == 0.0


def test_delay_beyond_the_day_counts() -> None:
    """The longer of both."""
    made = upstream.out_of_quota("90000s", upstream.PER_DAY)
    assert read(made).retry_after_s == 90_000


def test_other_refusals_keep_their_status() -> None:
    """A 404 is known as an unknown model, which moves on to the next client."""
    assert read(upstream.no_such_model()).code == "model_not_found"
    facts = read(upstream.overloaded())
    assert (facts.status, facts.code, facts.type) == (503, "unavailable", "upstream_error")
    denied = read(upstream.error(403, "PERMISSION_DENIED", "Not yours."))
    assert (denied.status, denied.type) == (403, "permission_error")


def test_field_at_fault_is_the_param() -> None:
    """BadRequest details name it."""
    violation = {"field": "generation_config.temperature", "description": "too hot"}
    detail = {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [violation],
    }
    facts = read(upstream.error(400, "INVALID_ARGUMENT", "Bad.", detail))
    assert (facts.param, facts.type) == ("generation_config.temperature", "invalid_request_error")
    others: list[object] = [{}, {"field": ""}, 7, {"field": 7}, {"field": "a"}, {"field": "b"}]
    details: list[upstream.Json] = [
        {"fieldViolations": 7},
        {"fieldViolations": others},
        detail,
    ]
    assert read(upstream.error(400, "INVALID_ARGUMENT", "Bad.", *details)).param == "a"


def test_keys_never_reach_the_caller() -> None:
    """Google's message about a suspended key holds the key."""
    key = "AIzaSyA1234567890abcdefghijklmnopqrstuv"
    made = upstream.error(403, "PERMISSION_DENIED", f"Consumer 'api_key:{key}' was suspended.")
    refusal = read(made).refusal()
    assert key.encode() not in error_body(refusal)
    assert "suspended" in refusal.message


def test_error_in_an_array_and_none_at_all() -> None:
    """The streaming method's array is opened; a page of HTML is the message, bounded."""
    body = b"[" + upstream.unary(upstream.out_of_quota()) + b"]"
    assert read_error(429, {}, body, now_s=0.0).retry_after_s == 17.0
    page = read_error(502, {}, b"<html>" + b"x" * 5000, now_s=0.0)
    assert (page.status, len(page.message)) == (502, 2000)
    assert read_error(500, {}, b"", now_s=0.0).message == "Gemini gave no reason"
    assert read_error(500, {}, b"[]", now_s=0.0).message == "[]"
    assert read_error(500, {}, b'{"error":" boom "}', now_s=0.0).message == "boom"


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "code", "details", "violations", "fieldViolations", "message"]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(
    st.integers(300, 599),
    st.binary(max_size=30) | st.builds(lambda error: upstream.unary({"error": error}), _json),
    st.text(max_size=12),
)
def test_any_body_can_be_read(status: int, body: bytes, retry_after: str) -> None:
    """An error page never makes another error."""
    facts = read_error(status, {"retry-after": retry_after}, body, now_s=0.0)
    assert error_body(facts.refusal())


def test_half_a_character_does_not_hide_what_is_said() -> None:
    """In the list of one in which the streaming method sends errors, too."""
    body = rb'{"error":{"code":404,"message":"No \ud83d.","status":"NOT_FOUND"}}'
    for sent in (body, b" [" + body + b"]"):
        facts = read_error(404, {}, sent, now_s=NOON_UTC_S)
        assert (facts.message, facts.code) == ("No \ufffd.", "model_not_found")
