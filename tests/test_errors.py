"""What errors say to callers: true hints, bounded messages, no key."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy import errors
from proxy.config import Secrets
from proxy.errors import (
    ModelNotFound,
    RetryHint,
    UpstreamRefusal,
    UpstreamReset,
)
from proxy.wire.chat import error_body, read_error
from proxy.wire.chat.errors import MAX_MESSAGE_CHARS

KEY, MASK = "sk-or-v1-0123456789b780", "sk-...b780"


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


KINDS: dict[type[errors.ProxyError], tuple[int, str, str]] = {
    errors.ProxyError: (500, "server_error", "internal_error"),
    errors.CallerError: (400, "invalid_request_error", "internal_error"),
    errors.InvalidRequest: (400, "invalid_request_error", "invalid_request"),
    errors.UnsupportedParameter: (400, "invalid_request_error", "unsupported_parameter"),
    errors.InvalidKey: (401, "invalid_request_error", "invalid_api_key"),
    errors.Refused: (403, "invalid_request_error", "forbidden"),
    errors.ModelNotFound: (404, "invalid_request_error", "model_not_found"),
    errors.PathNotFound: (404, "invalid_request_error", "not_found"),
    errors.BodyTooSlow: (408, "invalid_request_error", "body_too_slow"),
    errors.BodyTooLarge: (413, "invalid_request_error", "body_too_large"),
    errors.UnsupportedCoding: (415, "invalid_request_error", "unsupported_content_encoding"),
    errors.CallerGone: (499, "server_error", "caller_gone"),
    errors.OutOfResources: (503, "server_error", "server_out_of_resources"),
    errors.ShuttingDown: (503, "server_error", "server_shutting_down"),
    errors.PoolError: (503, "server_error", "internal_error"),
    errors.AllCoolingDown: (429, "rate_limit_error", "rate_limit_exceeded"),
    errors.NoClientFree: (503, "server_error", "no_client_free"),
    errors.StateUnavailable: (503, "server_error", "state_unavailable"),
    errors.NoClientInService: (503, "server_error", "no_client_in_service"),
    errors.ModelsUnknown: (503, "server_error", "models_unknown"),
    errors.TooManyInFlight: (503, "server_error", "too_many_requests_in_flight"),
    errors.CallerLimitReached: (429, "rate_limit_error", "rate_limit_exceeded"),
    errors.UpstreamError: (502, "upstream_error", "upstream_error"),
    errors.UpstreamAuthentication: (502, "upstream_error", "upstream_authentication_error"),
    errors.UpstreamUnreachable: (502, "upstream_error", "upstream_unreachable"),
    errors.UpstreamReset: (502, "upstream_error", "upstream_reset"),
    errors.UpstreamInvalid: (502, "upstream_error", "upstream_invalid_response"),
    errors.UpstreamTooLarge: (502, "upstream_error", "upstream_too_large"),
    errors.UpstreamTruncated: (502, "upstream_error", "upstream_truncated"),
    errors.UpstreamTimeout: (504, "upstream_error", "upstream_timeout"),
}
OTHERS = {errors.ConfigError, errors.MethodNotAllowed, UpstreamRefusal}


def test_each_error_has_its_status_type_and_code() -> None:
    """Those of the contract; the table has all errors but three, which are made in another way."""
    for kind, (status, type_, code) in KINDS.items():
        error = kind("m", param="p")
        told = {"message": "m", "type": type_, "param": "p", "code": code}
        assert (error.status, json.loads(error_body(error))) == (status, {"error": told}), kind

    def below(kind: type[errors.ProxyError]) -> set[type[errors.ProxyError]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    assert {each for each in below(errors.ProxyError) if each.__module__ == "proxy.errors"} == (
        KINDS.keys() | OTHERS
    )
    refusal = errors.MethodNotAllowed("m", allowed=["GET", "HEAD"])
    assert (refusal.status, refusal.code) == (405, "method_not_allowed")
    assert refusal.headers() == {"Allow": "GET, HEAD"}
    assert errors.ConfigError(["a", "b"]).code == "config_error"


def test_hint_of_ours_replaces_an_upstreams() -> None:
    """Of several hints none may be left of the other's."""
    passed = {"openai-version": "1", "retry-after": "9", "x-should-retry": "true"}
    error = UpstreamRefusal("m", status=429, passed_headers=passed)
    assert error.headers() == passed
    error.hint = RetryHint(None)
    assert error.headers() == {"openai-version": "1", "x-should-retry": "false"}


def test_unknown_time_is_no_hint() -> None:
    """But a word to SDKs not to try."""
    assert RetryHint(None).headers() == {"x-should-retry": "false"}


def test_message_is_bounded() -> None:
    """Whatever was quoted in it."""
    found = json.loads(error_body(ModelNotFound("x" * 1_000_000)))
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
    assert error_body(found) == body
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
    Secrets(["sk-or-v"]).mask_error(error)  # too short to be more than a dummy
    assert error_body(error) == body
    Secrets([KEY]).mask_error(error)
    assert KEY not in f"{error} {error!r} {error_body(error)!r} {error.headers()} {error.code}"
    assert json.loads(error_body(error))["error"]["message"] == f"no {MASK}"
    assert error.headers() == {"openai-key": "sk-...b780"}
    other = UpstreamReset(f"broke at {KEY}")
    Secrets([KEY]).mask_error(other)
    assert str(other) == other.message == f"broke at {MASK}"


def texts_of_errors() -> Iterator[tuple[str, str]]:
    """Of every error that the program makes: where, and its message; {} for what is filled in."""
    kinds = {kind for kind, one in vars(errors).items() if isinstance(one, type)}
    for path in Path(errors.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else None
            name = node.func.id if isinstance(node.func, ast.Name) else name
            text = node.args[0]
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            if name in kinds:
                yield (
                    f"{path.name}:{node.lineno}",
                    "".join(
                        str(part.value) if isinstance(part, ast.Constant) else "{}"
                        for part in parts
                    ),
                )


def test_errors_speak_in_one_voice() -> None:
    """A message begins like the middle of a sentence, but for names, and has no full stop."""
    names = ("Claude", "Gemini")
    found = list(texts_of_errors())
    assert len(found) > 100
    assert [
        (where, text)
        for where, text in found
        if text.endswith(".") or (text[:1].isupper() and not text.startswith(names))
    ] == []
