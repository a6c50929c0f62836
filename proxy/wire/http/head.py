"""The head of an HTTP/1.1 answer, from bytes (RFC 9112, sections 4 to 6), and what of it goes back.

Lenient where upstreams are known to stray (bare LF, folded lines, no reason phrase), strict where
leniency would let two readers see two answers (framing fields).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ...errors import RETRY_HINTS, UpstreamInvalid

# As much as http.client takes for one line, and twice what nginx takes in all by default.
MAX_HEAD_BYTES = 64 * 1024
MAX_INTERIM_HEADS = 32

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\0\n]*)?")
# RFC 9110 sections 5.1 and 5.5. No control characters: some of these values go on to the caller.
_FIELD = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)\r*\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")  # RFC 9112 section 5.2

# What http.client and gunicorn take: no control characters, above all no line ends.
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Head(NamedTuple):
    """Status, header fields by lower-case name (repeated ones joined by commas), and framing.

    `length`: bytes of the body if its head says so; `chunked`: by chunks; neither: to the end of
    the connection. `keep_alive`: the connection may serve another request after the body.
    """

    status: int
    headers: dict[str, str]
    length: int | None
    chunked: bool
    keep_alive: bool


class HeadReader:
    """Reads until the final head is there, and passes over interim answers (1xx)."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._interim = 0

    @property
    def started(self) -> bool:
        """Whether any byte of an answer has come."""
        return bool(self._buffer) or self._interim > 0

    def feed(self, data: bytes) -> tuple[Head, bytes] | None:
        """The head and the bytes behind it, None while it is not whole; raises UpstreamInvalid."""
        searched = max(0, len(self._buffer) - 3)
        buffer = self._buffer
        buffer += data
        self._check_start()
        while end := _HEAD_END.search(buffer, searched):
            if end.end() > MAX_HEAD_BYTES:
                break
            head = parse_head(bytes(buffer[: end.start()]))
            if head.status >= 200:
                return head, bytes(buffer[end.end() :])
            self._interim += 1
            if head.status == 101 or self._interim > MAX_INTERIM_HEADS:
                raise UpstreamInvalid("the upstream sent interim answers without a final one")
            del buffer[: end.end()]
            self._check_start()
            searched = 0
        if len(buffer) > MAX_HEAD_BYTES:
            raise UpstreamInvalid(
                f"the upstream sent more than {MAX_HEAD_BYTES} bytes of answer headers"
            )
        return None

    def _check_start(self) -> None:
        if not self._buffer.startswith(b"HTTP/1."[: len(self._buffer)]):
            raise UpstreamInvalid("the upstream's answer is not HTTP/1.1")


def parse_head(block: bytes) -> Head:
    """A head without the blank line that ends it; raises UpstreamInvalid."""
    status_line, _, fields = block.partition(b"\n")
    found = _STATUS_LINE.fullmatch(status_line.rstrip(b"\r"))
    if not found:
        raise UpstreamInvalid("the upstream's answer has no valid HTTP status line")
    headers = _headers(_FOLD.sub(b" ", fields).decode("latin-1") + "\n") if fields else {}
    return _framed(int(found[2]), headers, is_http_11=found[1] == b"1")


def _headers(lines: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    end = 0
    for field in _FIELD.finditer(lines):
        if field.start() != end:
            break
        end = field.end()
        name, value = field[1].lower(), field[2].strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if end != len(lines):
        raise UpstreamInvalid("the upstream's answer has an invalid header line")
    return headers


def _framed(status: int, headers: dict[str, str], *, is_http_11: bool) -> Head:
    """The body's framing by RFC 9112 section 6.3."""
    connection = headers.get("connection", "").lower()
    keep_alive = "close" not in connection if is_http_11 else "keep-alive" in connection
    length: int | None = None
    chunked = False
    if status in (204, 304) or status < 200:
        length = 0
    elif (coding := headers.get("transfer-encoding")) is not None:
        chunked = coding.lower() == "chunked"
        if not chunked:
            raise UpstreamInvalid(f"the upstream's transfer encoding is {coding[:40]!r}")
        # With both framings at once chunked wins, and the connection is not trusted afterwards.
        keep_alive = keep_alive and "content-length" not in headers
    elif (text := headers.get("content-length")) is not None:
        lengths = {part.strip() for part in text.split(",")}
        value = lengths.pop()
        if lengths or not (value.isascii() and value.isdigit()) or len(value) > 18:
            raise UpstreamInvalid(f"the upstream's Content-Length is {text[:40]!r}")
        length = int(value)
    else:
        keep_alive = False
    return Head(status, headers, length, chunked, keep_alive)


def passed(headers: Mapping[str, str], *, with_hints: bool = False) -> dict[str, str]:
    """Of an upstream's headers (by lower-case name) those that the caller gets.

    Never Set-Cookie, hop-by-hop fields or the `x-ratelimit-*` of one key among many.
    """
    return {
        name: value
        for name, value in headers.items()
        if (name.startswith("openai-") or (with_hints and name in RETRY_HINTS))
        and _VALUE.fullmatch(value)
    }
