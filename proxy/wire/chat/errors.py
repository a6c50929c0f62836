"""OpenAI's error object as it goes to callers: an answer's body, or the event that ends a stream.

Source: platform.openai.com/docs/guides/error-codes, read 2026-11.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from ... import errors

# What a caller or an upstream sent may be quoted in a message: megabytes of it are no help.
MAX_MESSAGE_CHARS = 4000

# Vendors' words for a prompt that is longer than the model's context, read 2026-11: of Anthropic;
# of Gemini; of OpenAI, its look-alikes, Anthropic; of llama.cpp; of Amazon.
_TOO_LONG = re.compile(
    r"prompt is too long|input token count .*exceeds the maximum|maximum (context|prompt) length"
    r"|exceeds? (the )?context (limit|window|length)|available context size"
    r"|input is too long for requested model",
    re.IGNORECASE,
)


def is_too_long(message: str) -> bool:
    """Whether an upstream's message says that the context is too long for its model."""
    return _TOO_LONG.search(message) is not None


def envelope(
    message: str, *, type: str, param: str | None = None, code: str | int | None = None
) -> bytes:
    """The error object in its envelope."""
    told = {"message": bounded(message), "type": type, "param": param, "code": code}
    return msgspec.json.encode({"error": told})


def bounded(message: str) -> str:
    """The message, or the beginning of one that is too long."""
    return message if len(message) <= MAX_MESSAGE_CHARS else f"{message[:MAX_MESSAGE_CHARS]}…"


class ErrorFacts(NamedTuple):
    """An upstream's error in OpenAI's terms; `type`, `code` and `param` are for the error object.

    `status`: what it stands for, whatever the upstream's was; `retry_after_s`: the wait asked for.
    """

    status: int
    message: str
    type: str
    code: str | None
    param: str | None
    retry_after_s: float | None

    def refusal(self) -> errors.UpstreamRefusal:
        return errors.UpstreamRefusal(
            self.message,
            status=self.status,
            body=envelope(self.message, type=self.type, param=self.param, code=self.code),
            upstream_code=self.code,
            retry_after_s=self.retry_after_s,
        )


def error_body(error: errors.ProxyError, request_id: str = "") -> bytes:
    """An error's answer: of an upstream's own refusal the bytes that it sent."""
    if isinstance(error, errors.UpstreamRefusal) and error.body is not None:
        return error.body
    return envelope(error.message, type=error.type, param=error.param, code=error.code)


def error_event(error: errors.ProxyError, *, code: str | None) -> bytes:
    """The event that ends a stream that failed, in a shape that makes the official SDKs raise.

    openai-python and openai-node raise on an event whose `error` is an object with a string
    `message`, when no `event:` line came with it (their streaming modules, read 2026-11).
    """
    return envelope(stream_message(error), type=error.type, code=code)


def stream_message(error: errors.ProxyError) -> str:
    """What an error in mid-stream says, in any dialect. There is no status any more: agents know a
    fault that passes by words, and try again.
    """
    fault = _passing_fault(error)
    return f"upstream {fault}: {error.message}" if fault else error.message


def _passing_fault(error: errors.ProxyError) -> str | None:
    """Words that agents look for in errors (`isRetryable`, `shouldRetry` and the like of several,
    read 2026-11); None: to try again would be in vain.
    """
    if isinstance(error, errors.UpstreamRefusal):
        if error.status in (429, 503, 529) or "overloaded" in (error.code or ""):
            return "overloaded"
        if error.status in (408, 504):
            return "timeout"
        return "server error" if error.status >= 500 else None
    if isinstance(error, errors.UpstreamTimeout):
        return "timeout"
    if isinstance(error, (errors.AllCoolingDown, errors.NoClientFree)):
        return "overloaded"
    is_lasting = isinstance(error, (errors.UpstreamTooLarge, errors.UpstreamAuthentication))
    passes = isinstance(error, (errors.UpstreamError, errors.ShuttingDown)) and not is_lasting
    return "connection error" if passes else None
