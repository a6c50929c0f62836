"""Errors and model lists of Claude."""

from __future__ import annotations

import json
from random import Random

import msgspec
import pytest

from proxy.errors import UpstreamInvalid
from proxy.wire.claude.api import headers, read_error, read_page, refusal_of_event
from proxy.wire.claude.families import FAMILIES, STRANGER, family_of
from proxy.wire.claude.thinking import (
    MAX_CARRIED_BYTES,
    ThinkingBlock,
    carry,
    unpack,
)
from tests.support import claude_upstream as claude

_NOW_S = 1_795_348_800.0  # 2026-11-22T12:00:00Z


def body(kind: str, words: str = "Sorry", *, error_code: str | None = None) -> bytes:
    return json.dumps(claude.error(kind, words, error_code=error_code)).encode()


def test_retry_after_decides() -> None:
    """Seconds or a date; the limits' own resets come second."""
    limits = claude.rate_limit_headers(
        bucket="input-tokens", resets_at="2026-11-22T12:00:42Z", retry_after="7"
    )
    facts = read_error(429, limits, body("rate_limit_error"), now_s=_NOW_S)
    assert facts.retry_after_s == 7.0
    assert (facts.type, facts.code) == ("rate_limit_error", "rate_limit_exceeded")
    dated = {"retry-after": "Sun, 22 Nov 2026 12:01:00 GMT"}
    assert read_error(529, dated, b"", now_s=_NOW_S).retry_after_s == 60.0


def test_without_retry_after_a_429_waits_for_the_limit_that_is_at_0() -> None:
    """Of several, for the last; a 529 has nothing to do with limits."""
    limits = claude.rate_limit_headers(
        bucket="tokens", resets_at="2026-11-22T12:00:42Z", retry_after=None
    )
    assert read_error(429, limits, b"", now_s=_NOW_S).retry_after_s == 42.0
    assert read_error(529, limits, b"", now_s=_NOW_S).retry_after_s is None
    limits["anthropic-ratelimit-requests-remaining"] = "0"
    limits["anthropic-ratelimit-requests-reset"] = "2026-11-22T13:00:00+00:00"
    assert read_error(429, limits, b"", now_s=_NOW_S).retry_after_s == 3600.0
    assert read_error(429, limits, b"", now_s=_NOW_S + 9_999).retry_after_s == 0.0
    limits["anthropic-ratelimit-requests-reset"] = "soon"
    assert read_error(429, limits, b"", now_s=_NOW_S).retry_after_s == 42.0


@pytest.mark.parametrize(
    "value", ["", "soon", "-5", "nan", "inf", "1e9", "9" * 400, "١٢", "Sun, 99 Nov 2026"]
)
def test_senseless_retry_after_is_none(value: str) -> None:
    """What can't be read is not there."""
    assert read_error(503, {"retry-after": value}, b"", now_s=_NOW_S).retry_after_s is None


@pytest.mark.parametrize(
    ("status", "sent", "code", "param"),
    [
        (400, body("invalid_request_error", "max_tokens: too large"), None, "max_tokens"),
        (400, body("invalid_request_error", "messages.1.content.0: no"), None, None),
        (
            400,
            body("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
            "context_length_exceeded",
            None,
        ),
        (404, body("not_found_error", "model: claude-x"), "model_not_found", None),
        (413, body("request_too_large"), "request_too_large", None),
        (529, body("overloaded_error"), "overloaded_error", None),
        (502, b"<html>Bad gateway</html>", "api_error", None),
        (418, b"", None, None),
    ],
)
def test_codes_and_params(status: int, sent: bytes, code: str | None, param: str | None) -> None:
    """OpenAI's codes where callers look for them."""
    facts = read_error(status, {}, sent, now_s=_NOW_S)
    assert (facts.status, facts.code, facts.param) == (status, code, param)
    error = json.loads(facts.refusal().body or b"")["error"]
    assert error["message"]
    assert error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("invalid_request_error", 400, None),
        ("authentication_error", 401, "invalid_api_key"),
        ("billing_error", 402, "insufficient_quota"),
        ("permission_error", 403, "permission_error"),
        ("not_found_error", 404, "model_not_found"),
        ("conflict_error", 409, "conflict_error"),
        ("request_too_large", 413, "request_too_large"),
        ("rate_limit_error", 429, "rate_limit_exceeded"),
        ("api_error", 500, "api_error"),
        ("timeout_error", 504, "timeout_error"),
        ("overloaded_error", 529, "overloaded_error"),
    ],
)
def test_each_type_of_error(kind: str, status: int, code: str | None) -> None:
    """It has a status where there is none, in a stream; a status alone has its type."""
    event = refusal_of_event(msgspec.Raw(json.dumps({"type": kind, "message": "m"}).encode()))
    assert (event.status, event.upstream_code, event.message) == (status, code, "m")
    alone = read_error(status, {}, b"", now_s=_NOW_S)
    assert (alone.type, alone.code) == (kind, code)
    assert alone.message == f"the upstream answered with status {status}"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (399, "api_error"),
        (400, "invalid_request_error"),
        (429, "rate_limit_error"),
        (499, "invalid_request_error"),
        (500, "api_error"),
        (504, "timeout_error"),
        (599, "api_error"),
        (600, "api_error"),
        ("429", "api_error"),
    ],
)
def test_code_of_a_look_alike_is_a_status(code: object, kind: str) -> None:
    """If it can be one; a type of Claude's own counts over it."""
    sent = json.dumps({"error": {"code": code, "message": "m"}}).encode()
    assert read_error(404, {}, sent, now_s=_NOW_S).type == (
        "not_found_error" if code in (399, 600, "429") else kind
    )
    assert read_error(503, {}, sent, now_s=_NOW_S).type == kind
    sent = json.dumps({"error": {"code": code, "type": "conflict_error"}}).encode()
    assert read_error(503, {}, sent, now_s=_NOW_S).type == "conflict_error"


@pytest.mark.parametrize("sent", ["{}", '{"error":{"message":"%s"}}'])
def test_endless_words_are_cut(sent: str) -> None:
    """Of an error object, and of any other body: 2000 characters, whatever their bytes."""
    text = "\U0001f30d" * 2001
    body = sent.replace("%s", text) if "%s" in sent else text
    assert read_error(500, {}, body.encode(), now_s=_NOW_S).message == text[:2000]


@pytest.mark.parametrize(
    "sent",
    [
        body("billing_error", error_code="linked_organization_billing_unavailable"),
        body("invalid_request_error", error_code="enforced_spend_limit_reached"),
        body("invalid_request_error", error_code="linked_organization_billing_unavailable"),
        body("invalid_request_error", error_code="linked_organization_spend_limit_reached"),
        body("invalid_request_error", "Your credit balance is too low to access the API."),
        body("invalid_request_error", "You have reached your specified API usage limits."),
        body("invalid_request_error", error_code="contract_spend_limit_reached"),
    ],
)
def test_used_up_account_counts_as_402(sent: bytes) -> None:
    """Claude says 400, as if the request were at fault: another client can serve it."""
    facts = read_error(400, {}, sent, now_s=_NOW_S)
    assert (facts.status, facts.code) == (402, "insufficient_quota")


def test_models_are_listed_without_retired_ones() -> None:
    """Requests for a retired model fail."""
    listed = claude.models("claude-opus-5", "claude-3-opus", retired=["claude-3-opus"])
    assert read_page(json.dumps(listed).encode()) == (["claude-opus-5"], None)
    for bad in (b"", b"\xff", b"[" * 100_000):
        with pytest.raises(UpstreamInvalid):
            read_page(bad)


def test_key_travels_in_a_header() -> None:
    """With the version that the requests are made for; the provider's own headers win or add."""
    made = headers("sk-ant-x", {"Anthropic-Beta": "b-1", "X-Team": "t"})
    assert made["X-Team"] == "t"
    assert made["anthropic-beta"].endswith(",b-1")
    assert "Anthropic-Beta" not in made
    again = headers("sk-ant-x", {"Anthropic-Version": "2026-01-01"})
    assert [value for name, value in again.items() if "version" in name.lower()] == ["2026-01-01"]
    assert made["x-api-key"] == "sk-ant-x"
    assert made["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize("model", FAMILIES)
def test_family_of_a_model_whoever_sells_it(model: str) -> None:
    """The longest start decides; snapshots, resellers' prefixes and dots don't matter."""
    family = FAMILIES[model]
    assert family_of(model) == family
    assert family_of(f"anthropic/{model}") == family
    assert family_of(f"us.anthropic.{model}-20990101-v1:0") == family
    assert family_of("claude-opus-4.6") == FAMILIES["claude-opus-4-6"]
    assert family_of("kimi-k2") == STRANGER


def test_ids_carry_thinking_and_can_be_rid_of_it() -> None:
    """Within the limit, in characters that ids have everywhere; damage loses no id."""
    blocks = [ThinkingBlock(type="thinking", index=0, thinking="ü", signature="s/+=")]
    carried = carry("toolu_01A", blocks)
    assert unpack(carried) == ("toolu_01A", blocks)
    assert carried.replace("_", "").replace("-", "").isalnum()
    assert carry("toolu_01A", []) == "toolu_01A"
    noise = Random(5).randbytes(MAX_CARRIED_BYTES).hex()
    assert carry("toolu_01A", [ThinkingBlock(type="thinking", signature=noise)]) == "toolu_01A"
    bomb = carry("toolu_01A", [ThinkingBlock(type="thinking", signature="A" * 10_000_000)])
    assert len(bomb) < MAX_CARRIED_BYTES
    assert unpack(bomb) == ("toolu_01A", [])
    assert unpack(carried[:-4]) == ("toolu_01A", [])
    assert unpack("toolu_01A__thinking__é") == ("toolu_01A", [])
    assert unpack("__thinking__x") == ("__thinking__x", [])


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("headers", "asked_s"),
    [({}, 27), ({"retry-after": "3"}, 3)],
)
def test_wait_in_the_body_is_heeded(listed: bool, headers: dict[str, str], asked_s: int) -> None:
    """Claude is sold by Google too: its errors may come as a list of one."""
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "27s"}]
    error = {"error": {"code": 429, "message": "Quota exceeded", "details": details}}
    body = json.dumps([error] if listed else error).encode()
    facts = read_error(429, headers, body, now_s=0.0)
    assert (facts.status, facts.message) == (429, "Quota exceeded")
    assert (facts.retry_after_s, facts.code) == (asked_s, "rate_limit_exceeded")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"boom"}', "boom"),
        (b'{"error":{"message":5}}', "the upstream answered with status 500"),
        (b'{"error":{"type":5,"message":"m","details":"x"}}', "m"),
        (b'{"error":{"message":"m","details":{"error_code":7}}}', "m"),
        (b'{"error":{"message":"m","code":500,"type":[]}}', "m"),
        (b'[{"error":{"message":"m"}},{}]', '[{"error":{"message":"m"}},{}]'),
    ],
)
def test_error_of_a_look_alike_keeps_its_words(body: bytes, message: str) -> None:
    """Whatever its fields are."""
    facts = read_error(500, {}, body, now_s=0.0)
    assert (facts.message, facts.type) == (message, "api_error")
