"""What is read of an upstream's answer, whole or an error, and a whole one made chunks."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Raw, Struct

from ...errors import UpstreamInvalid, UpstreamRefusal
from ..lenient_json import decode_any, decoder, encode, legible, unshield
from .errors import envelope
from .usage import Usage, as_object, read_usage

# What is quoted of an upstream's error that is not in the envelope.
MAX_QUOTED_CHARS = 2000

# An error's `code` goes into logs.
MAX_CODE_CHARS = 100

_ERROR_STATUS = re.compile("[45][0-9]{2}")

# A protobuf Duration in JSON: protobuf.dev/programming-guides/json, read 2026-11.
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)s")

_HAS_CHOICE = re.compile(rb"\[[ \t\r\n]*\{")


class _AnswerHead(Struct):
    choices: Raw = Raw(b"null")
    data: Raw = Raw(b"null")
    error: Raw = Raw(b"null")
    usage: Raw = Raw(b"null")


_decode_answer = decoder(_AnswerHead)
_decode_items = decoder(list[Raw])


def read_answer(body: bytes, *, of_embeddings: bool = False) -> Usage | None:
    """Check a unary answer; raises UpstreamRefusal for an error sent as 2xx, UpstreamInvalid.

    `choices` is obligatory, or `data` (platform.openai.com/docs/api-reference/chat/object and
    /embeddings/create, read 2026-11); services whose quota is out have been seen to answer 200 with
    null in its place.
    """
    try:
        if not body.isascii():
            body.decode()  # msgspec takes invalid UTF-8 in what it skips
        head = _decode_answer(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        found = hidden_error(encode(_enveloped(body)[1]))
        raise found or UpstreamInvalid("the upstream's answer is not a JSON object") from error
    if not _HAS_CHOICE.match(head.data if of_embeddings else head.choices):
        missing = no_choices("embeddings" if of_embeddings else "choices")
        raise hidden_error(head.error) or error_object(body) or missing
    with suppress(msgspec.DecodeError):
        return read_usage(decode_any(head.usage))
    return None


def embeddings(vectors: list[Any], model: str, prompt_tokens: int | None) -> bytes:
    """A whole answer of embeddings, in floats or base64."""
    items = enumerate(vectors)
    data = [{"object": "embedding", "index": at, "embedding": each} for at, each in items]
    usage = {"prompt_tokens": prompt_tokens or 0, "total_tokens": prompt_tokens or 0}
    return encode({"object": "list", "data": data, "model": model, "usage": usage})


def unlisted(body: bytes) -> bytes:
    """A list's only item, as Google sends errors (googleapis/python-genai#1373), or the body."""
    if body.lstrip()[:1] == b"[":
        with suppress(msgspec.DecodeError, RecursionError):
            items = _decode_items(body)
            if len(items) == 1 and bytes(items[0])[:1] == b"{":
                return unshield(bytes(items[0]))
    return body


def no_choices(what: str = "choices") -> UpstreamInvalid:
    """The error for an answer without any choice."""
    return UpstreamInvalid(f"the upstream's answer has no {what}")


def hidden_error(raw: bytes | Raw) -> UpstreamRefusal | None:
    """What a 2xx body or event has as its error, under its `code` as status; None: nothing.

    OpenRouter and others answer 200 and put the HTTP status into `error.code`:
    openrouter.ai/docs/api-reference/errors, read 2026-11.
    """
    text = unshield(bytes(raw))
    try:
        error: Any = decode_any(text)
    except (msgspec.ValidationError, RecursionError, UnicodeDecodeError):
        error = True  # there is one, with a number out of all range or broken text in it
    if not error:
        return None
    code = str(as_object(error).get("code"))
    return read_error(int(code) if _ERROR_STATUS.fullmatch(code) else 502, b'{"error":%b}' % text)


def error_object(body: bytes) -> UpstreamRefusal | None:
    """A 2xx body or event that says that it is an error itself; None: it does not.

    That is vLLM's and FastChat's way: `{"object": "error", "message": ..., "code": 400}`
    (vllm/entrypoints/openai/protocol.py, `ErrorResponse`, until 0.10).
    """
    is_error = b'"error"' in body and read_object(body).get("object") == "error"
    return hidden_error(body) if is_error else None


def read_named_error(data: bytes) -> UpstreamRefusal:
    """The error in an event that is named `error`, whatever its data."""
    return (hidden_error(data) if read_object(data) else None) or read_error(502, data)


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`, or an empty one where there is none."""
    try:
        found = decode_any(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; none if it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def read_error(status: int, body: bytes) -> UpstreamRefusal:
    """An upstream's error answer; one that is not in the envelope is wrapped, its text bounded."""
    body, error = _enveloped(body)
    code = as_object(error).get("code")
    if isinstance(error, dict):
        message = _text(error.get("message"))[:MAX_QUOTED_CHARS]
        message = message or f"the upstream answered {status}"
    else:
        text = _text(error) if isinstance(error, str) else body.decode("utf-8", "replace").strip()
        message = text[:MAX_QUOTED_CHARS] or f"the upstream answered {status} without a body"
        body = envelope(message, type="upstream_error", code=None)
    return UpstreamRefusal(
        message,
        status=status,
        body=body,
        upstream_code=None if code is None else _text(code)[:MAX_CODE_CHARS],
        retry_after_s=read_retry_info(error),
    )


def read_retry_info(error: Any) -> float | None:
    """Seconds that an error object asks us to wait, by a google.rpc.RetryInfo in its `details`.

    Google's services send it, the OpenAI-compatible one too, and gateways pass it on
    (google/rpc/error_details.proto; ai.google.dev/gemini-api/docs/openai, read 2026-11).
    """
    for detail in objects(as_object(error).get("details")):
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and (found := _DURATION.fullmatch(delay.strip())):
            return float(found[1])
    return None


def _enveloped(body: bytes) -> tuple[bytes, Any]:
    """The body with the error in it, which may be the only item of a list or lack its envelope."""
    body = unlisted(body)
    found = read_object(body)
    if "error" not in found and found.get("object") == "error":
        return b'{"error":%b}' % body, found
    return body, found.get("error")


def _text(value: Any) -> str:
    """Text for people, of whatever type."""
    return legible(str(value or ""))


def chunks_of(body: bytes, *, with_usage: bool = True) -> list[bytes]:
    """A unary answer as the chunks of a stream; raises as `read_answer` does.

    For upstreams that answer a stream request with one JSON body. The first chunk carries the whole
    message; `with_usage`: the last one the usage, as streams with `include_usage` do.
    """
    read_answer(body)
    answer = read_object(body)
    head = {key: value for key, value in answer.items() if key not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    choices = [_streamed(*each) for each in enumerate(objects(answer["choices"]))]
    chunks = [encode({**head, "choices": choices})]
    if with_usage and answer.get("usage"):
        chunks.append(encode({**head, "choices": [], "usage": answer["usage"]}))
    return chunks


def _streamed(index: int, choice: dict[str, Any]) -> dict[str, Any]:
    delta = as_object(choice.pop("message", None))
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [
            {"index": at, **call} for at, call in enumerate(calls) if isinstance(call, dict)
        ]
    finish = choice.get("finish_reason") or "stop"
    return {"index": index, **choice, "delta": delta, "finish_reason": finish}
