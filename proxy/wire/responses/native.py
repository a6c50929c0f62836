"""Responses on their way between a caller and an upstream who both speak them, as they are.

What is read of answers is how they end and what they cost; what is left out of requests is
reasoning in containers of ours, which another kind of client made.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Raw

from ...errors import UpstreamInvalid, UpstreamRefusal, UpstreamTruncated
from ..chat import Usage, objects, read_error, read_object
from ..chat.usage import as_object, read_usage
from ..lenient_json import decode_object, decoder, encode
from ..native import NativeStream
from ..reasoning import MARK
from ..sse import named

_read_items = decoder(list[Raw])
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# What the codes of a Response that failed stand for (types/responses/response_error.py); most of
# the others are about the request.
_STATUSES: Final = {"server_error": 502, "rate_limit_exceeded": 429, "vector_store_timeout": 504}


def without_reasoning(body: bytes, *, every: bool) -> bytes:
    """The request without `every` item of reasoning, or those of other kinds of clients, whose
    `encrypted_content` is a container; the same bytes if there is none.
    """
    mark = "" if every else MARK
    if mark.encode() in body:
        with suppress(*_UNREADABLE, KeyError):  # the upstream answers for what is odd
            fields = decode_object(body)
            items = _read_items(fields["input"])
            kept = [raw for raw in items if not _is_reasoning(raw, mark)]
            return encode({**fields, "input": kept}) if len(kept) < len(items) else body
    return body


def _is_reasoning(raw: Raw, mark: str) -> bool:
    if b'"reasoning"' not in bytes(raw):
        return False
    item = read_object(raw)
    return item.get("type") == "reasoning" and str(item.get("encrypted_content")).startswith(mark)


class _Response(msgspec.Struct, frozen=True):
    object: str | None = None
    status: str | None = None
    usage: Any = None


class _Event(msgspec.Struct):
    response: _Response = _Response()


_decode = decoder(_Response)
_decode_event = decoder(_Event)


def read_response(body: bytes) -> Usage | None:
    """Check a whole answer; raises UpstreamRefusal for an error sent as 2xx, UpstreamInvalid."""
    try:
        body.decode()  # msgspec takes invalid UTF-8 in what it skips
        response = _decode(body)
    except _UNREADABLE as error:
        raise UpstreamInvalid(f"the upstream's answer is no response: {error}") from error
    if response.object != "response" or response.status == "failed":
        raise _refusal(read_object(body)) or UpstreamInvalid("the upstream's answer is no response")
    return read_usage(response.usage)


def _refusal(told: dict[str, Any]) -> UpstreamRefusal | None:
    """The error in a Response, in an event, or in an envelope."""
    error = (as_object(told.get("response")) or told).get("error")
    error = error if isinstance(error, dict) else told
    if error is told and not told.get("message"):
        return None
    code = str(error.get("code") or "server_error")
    status = int(code) if code.isdecimal() and 400 <= int(code) <= 599 else _STATUSES.get(code, 400)
    return read_error(status, encode({"error": error}))


def events_of(body: bytes) -> list[bytes]:
    """A whole answer as the events that programs need of a stream."""
    response = read_object(body)
    told: list[dict[str, Any]] = [{"type": "response.created", "response": response}]
    told += [
        {"type": f"response.output_item.{name}", "output_index": at, "item": item}
        for at, item in enumerate(objects(response.get("output")))
        for name in ("added", "done")
    ]
    last = "incomplete" if response.get("status") == "incomplete" else "completed"
    told.append({"type": f"response.{last}", "response": response})
    numbered = [{**event, "sequence_number": at} for at, event in enumerate(told)]
    return [named(encode(event), event["type"].encode()) for event in numbered]


class ResponseEvents(NativeStream):
    """The events of a response."""

    preamble: ClassVar = frozenset(
        (b"response.created", b"response.in_progress", b"response.queued")
    )
    errors: ClassVar = frozenset((b"error", b"response.failed"))
    watched: ClassVar = frozenset((b"response.completed", b"response.incomplete"))

    def _watch(self, name: bytes, data: bytes) -> None:
        self.is_over = True
        with suppress(*_UNREADABLE):  # it is the caller's to read
            self.usage = read_usage(_decode_event(data).response.usage)

    def _refusal(self, data: bytes) -> UpstreamRefusal:
        told = read_object(data)
        self.usage = read_usage(as_object(told.get("response")).get("usage"))
        refusal = _refusal(told) or read_error(502, b"")
        if told.get("type"):
            refusal.as_sent = data
        return refusal

    def finish(self, chunks: list[bytes]) -> None:
        raise UpstreamTruncated("the upstream's stream ended before response.completed")
