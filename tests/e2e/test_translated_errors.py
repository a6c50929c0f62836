"""Errors of Claude and Gemini as callers of the OpenAI SDK get them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.dialects import BY_KIND, Dialect, configuration
from tests.support.gateway import Gateway
from tests.support.upstream import Upstream

KINDS = ("claude", "gemini")
# The upstream's status, the caller's, its code where there is one for all kinds.
CASES: dict[int, tuple[int, str | None]] = {
    400: (400, None),
    401: (502, "upstream_authentication_error"),
    404: (404, "model_not_found"),
    429: (429, "rate_limit_exceeded"),
    500: (500, None),
}


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    """A client for each case, since most of them leave it out of service for a while."""
    names = [(kind, f"{kind}-{status}") for kind in KINDS for status in CASES]
    clients = [BY_KIND[kind].client(upstream.origin, f"key-{name}", name) for kind, name in names]
    off = {"switch-preview-model": False}
    secrets = [f"key-{name}" for _, name in names]
    config = configuration(*clients, **{"quota-exceeded": off, "request-retry": 0})
    with Gateway(config, secrets=secrets) as running:
        yield running


@pytest.mark.parametrize("status", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_errors_have_their_own_status_and_openais_shape(
    gateway: Gateway, upstream: Upstream, kind: str, status: int
) -> None:
    """Unary and before a stream; the words are the upstream's, except about our own keys."""
    dialect: Dialect = BY_KIND[kind]
    name = f"{kind}-{status}"
    upstream.reply(f"key-{name}", dialect.refused(status, "So it is.", **{"retry-after": "30"}))
    expected, code = CASES[status]
    asked: Any = {"model": name, "messages": [{"role": "user", "content": "Hi"}]}
    with gateway.sdk() as sdk, pytest.raises(openai.APIStatusError) as caught:
        sdk.chat.completions.create(**asked, stream=status == 500)
    error = caught.value
    assert error.status_code == expected
    assert isinstance(error.body, dict)
    assert error.body.keys() == {"message", "type", "param", "code"}
    if code is not None:
        assert error.code == code
    if status == 401:
        assert "So it is." not in error.message
    else:
        assert error.body["message"] == "So it is."
    if status == 429:
        assert 20 <= int(error.response.headers["retry-after"]) <= 30
        assert error.response.headers["x-should-retry"] == "true"
