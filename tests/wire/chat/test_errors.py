"""Vendors' words for a context that is too long."""

from __future__ import annotations

import pytest

from proxy.errors import ProxyError, UpstreamRefusal
from proxy.request.verdict import falls_back
from proxy.wire.chat.errors import is_too_long

TOO_LONG = {
    "OpenAI": "This model's maximum context length is 8192 tokens. However, your messages resulted"
    " in 9001 tokens. Please reduce the length of the messages.",
    "OpenAI, Responses": "Your input exceeds the context window of this model.",
    "Anthropic": "prompt is too long: 208310 tokens > 200000 maximum",
    "Anthropic, with max_tokens": "input length and `max_tokens` exceed context limit: 199000 + "
    "20000 > 200000, decrease input length or `max_tokens` and try again",
    "Gemini": "The input token count (1200000) exceeds the maximum number of tokens allowed "
    "(1048576).",
    "xAI": "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
    "llama.cpp": "the request exceeds the available context size, try increasing it",
    "Mistral": "Prompt contains 40000 tokens, too large for model with 32768 maximum context "
    "length",
    "Amazon": "Input is too long for requested model.",
}
OTHERS = (
    "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.",
    "Invalid 'messages[0].name': string too long.",
    "Request too large for gpt-4 on tokens per min (TPM): Limit 10000, Requested 12000.",
    "The image is too long.",
)


@pytest.mark.parametrize("vendor", TOO_LONG)
def test_vendors_words(vendor: str) -> None:
    """With the statuses that they come with; as a 500 it would be no refusal of the request."""
    assert is_too_long(TOO_LONG[vendor])
    for status in (400, 413, 422):
        refusal: ProxyError = UpstreamRefusal(TOO_LONG[vendor], status=status)
        assert falls_back(refusal, switch_project=True)


@pytest.mark.parametrize("message", OTHERS)
def test_other_words(message: str) -> None:
    """The request's own fault, whatever model it is for."""
    assert not is_too_long(message)
    assert not falls_back(UpstreamRefusal(message, status=400), switch_project=True)


def test_openais_code_is_enough() -> None:
    """Whatever the message is."""
    code = "context_length_exceeded"
    assert falls_back(UpstreamRefusal("x", status=400, upstream_code=code), switch_project=True)
