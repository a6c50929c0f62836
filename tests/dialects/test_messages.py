"""Anthropic's Messages API as a dialect: errors, streams that fail, what goes on, counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects.base import Answer
from proxy.dialects.messages import COUNT_TOKENS, MESSAGES
from proxy.errors import (
    AllCoolingDown,
    CallerLimitReached,
    InvalidKey,
    InvalidRequest,
    ModelNotFound,
    NoClientFree,
    ProxyError,
    Refused,
    UnsupportedParameter,
    UpstreamRefusal,
    UpstreamTimeout,
    UpstreamTruncated,
)
from proxy.wire.chat import HUB, HUB_COUNT
from proxy.wire.chat.errors import MAX_MESSAGE_CHARS

Json = dict[str, Any]

BODY = b'{ "model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true }'
HEADERS = {"x-request-id": "req_1", "anthropic-version": "2026-10-21", "traceparent": "t"}


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (InvalidRequest("no"), "invalid_request_error", "no"),
        (InvalidKey("no"), "authentication_error", "no"),
        (Refused("no"), "permission_error", "no"),
        (ModelNotFound("no"), "not_found_error", "no"),
        (UpstreamRefusal("no", status=413), "request_too_large", "no"),
        (CallerLimitReached("no"), "rate_limit_error", "no"),
        (AllCoolingDown("no"), "rate_limit_error", "upstream overloaded: no"),
        (NoClientFree("no"), "overloaded_error", "upstream overloaded: no"),
        (UpstreamRefusal("no", status=529), "overloaded_error", "upstream overloaded: no"),
        (UpstreamTimeout("no"), "timeout_error", "upstream timeout: no"),
        (UpstreamTruncated("no"), "api_error", "upstream connection error: no"),
        (UpstreamRefusal("no", status=402), "api_error", "no"),
        (ProxyError("no"), "api_error", "no"),
    ],
)
def test_errors(error: ProxyError, kind: str, words: str) -> None:
    """By status; in mid-stream an event, whose words tell agents of a fault that passes."""
    told = {"type": "error", "error": {"type": kind, "message": "no"}, "request_id": "req_1"}
    assert json.loads(MESSAGES.error(error, "req_1")) == told
    written = MESSAGES.read(BODY, HEADERS).writer().fail(error)
    name, data = written.decode().removesuffix("\n\n").split("\n")
    assert name == "event: error"
    told["error"] = {"type": kind, "message": words}
    assert json.loads(data.removeprefix("data: ")) == told


def test_refusal_by_claude_keeps_its_bytes() -> None:
    """In a body and in an event; of no other upstream, whose envelope is OpenAI's."""
    sent = b'{"type": "error","error":{"type":"x","message":"no"}}'
    error = UpstreamRefusal("no", status=400, body=b'{"error":{}}', as_sent=sent)
    assert MESSAGES.error(error, "req_1") == sent
    written = MESSAGES.read(BODY, HEADERS).writer().fail(error)
    assert written == b"event: error\ndata: %b\n\n" % sent
    error.as_sent = None
    assert json.loads(MESSAGES.error(error, "req_1"))["error"]["message"] == "no"
    long = ModelNotFound("x" * 100_000)
    assert len(MESSAGES.error(long)) < MAX_MESSAGE_CHARS + 200


def test_what_goes_on() -> None:
    """Version, betas and query to those who speak it alone."""
    ask = MESSAGES.read(BODY, HEADERS, "beta=true")
    native = ask.request(0, "claude", natively=True)
    assert (native.body, native.query, native.stream) == (BODY, "beta=true", True)
    assert ask.native_headers == HEADERS
    assert ask.headers == {"x-request-id": "req_1", "traceparent": "t"}
    made = ask.request(0, "openai", natively=False)
    assert (made.speech, made.query, made.is_made) == (HUB, "", True)
    assert ask.request(0, "openai", natively=False) is made
    assert ask.plain_request(0, "claude", natively=True) == native
    assert ask.plain_request(0, "openai", natively=False) == made


def test_native_answer_passes_as_it_came() -> None:
    """The same bytes, not a copy; nothing is read for it."""
    body = b'{ "type":"message" }'
    assert MESSAGES.read(BODY, {}).whole([Answer(body, is_native=True)]) is body
    writer = MESSAGES.read(BODY, {}).writer()
    writer.begin(0, is_native=True)
    assert writer.end() == b""


def test_counts() -> None:
    """A count is never a stream; errors but for the want of an endpoint are told."""
    ask = COUNT_TOKENS.read(BODY, HEADERS)
    assert not ask.stream
    assert ask.request(0, "gemini", natively=False).speech == HUB_COUNT
    for status in (404, 405, 501):
        answer, headers = ask.unserved(UpstreamRefusal("no", status=status))
        assert json.loads(answer.body)["input_tokens"] > 0
        assert headers == {"x-proxy-estimated": "true"}
    assert ask.unserved(UnsupportedParameter("no"))[0].body == answer.body
    for error in (UpstreamRefusal("no", status=400), ModelNotFound("no"), AllCoolingDown("no")):
        with pytest.raises(type(error)):
            ask.unserved(error)
    with pytest.raises(ModelNotFound):
        MESSAGES.read(BODY, HEADERS).unserved(ModelNotFound("no"))


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model":"m"}', b'{"model":"","messages":[1]}'])
def test_what_is_no_request(body: bytes) -> None:
    """Is refused before anything is asked."""
    for dialect in (MESSAGES, COUNT_TOKENS):
        with pytest.raises(InvalidRequest):
            dialect.read(body, {})
