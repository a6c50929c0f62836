"""An HTTP/1.1 answer, from bytes: its head, then its body by length, chunks, or to the end.

llhttp, the parser of Node, does the reading (by `httptools`), as strictly as there: only a head
with bare LFs is taken too, and one with both framings. The limits are ours, as it has none. Content
is given as it comes, and a body cut short never looks whole (RFC 9112, sections 4 to 7).
"""

from __future__ import annotations

import re

import httptools

from ...errors import UpstreamInvalid, UpstreamTruncated

# As much as http.client takes for one line, and twice what nginx takes in all by default.
MAX_HEAD_BYTES = 64 * 1024
MAX_INTERIM_HEADS = 32
# Of what comes with a body and is no content: trailers, extensions of chunks. LLM upstreams use
# neither.
MAX_FRAMING_BYTES = 16 * 1024

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")  # RFC 9112 section 5.2


class _Events:
    """What llhttp calls while it reads one answer."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.content: list[bytes] = []
        self.on_body = self.content.append
        self.is_whole = False

    def on_message_begin(self) -> None:
        if self.is_whole:
            raise httptools.HttpParserError("another answer behind the first")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_message_complete(self) -> None:
        self.is_whole = True


class AnswerReader:
    """Reads one answer, and passes over interim ones (1xx).

    `status`: 0 until the head is there. `headers`: by lower-case name, repeated ones joined by
    commas. `keep_alive`: the connection may serve another request after the body. `is_whole`: the
    body's end was read; `excess`: bytes came behind it. `fault`: the framing is broken behind the
    content that was given; nothing more can be read.
    """

    status = 0
    keep_alive = False
    is_whole = False
    excess = False
    fault: UpstreamInvalid | None = None
    started = False  # whether any byte of an answer has come

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self._buffer = bytearray()  # the head, while it is not whole
        self._interim = 0
        self._framing = 0  # bytes since there was content

    def feed(self, data: bytes) -> bytes:
        """The content in `data`, up to a fault; raises UpstreamInvalid for a broken head."""
        if not self.status:
            data = self._read_heads(data)
        if not data:
            return b""
        events = self._events
        try:
            _feed(self._parser, data)
        except httptools.HttpParserError as error:
            self.excess = events.is_whole
            if not self.excess:
                self.fault = UpstreamInvalid(f"the upstream's chunk framing is broken: {error}")
        self.is_whole = events.is_whole
        content = events.content[0] if len(events.content) == 1 else b"".join(events.content)
        events.content.clear()
        self._framing = 0 if content else self._framing + len(data)
        if self._framing > MAX_FRAMING_BYTES and not self.is_whole:
            self.fault = UpstreamInvalid(
                f"the upstream sent more than {MAX_FRAMING_BYTES} bytes of chunk framing at once"
            )
        return content

    def end(self) -> None:
        """The connection ended; raises UpstreamTruncated unless the body may end so."""
        if not self.is_whole and not self.headers.keys().isdisjoint(
            ("transfer-encoding", "content-length")
        ):
            raise UpstreamTruncated("the upstream's answer was cut off before its end")
        self.is_whole = True

    def _read_heads(self, data: bytes) -> bytes:
        """Reads up to the end of the final head; what stands behind it."""
        self.started = True
        buffer = self._buffer
        searched = max(0, len(buffer) - 3)
        buffer += data
        while not self.status:
            if not buffer.startswith(b"HTTP/1."[: len(buffer)]):
                raise UpstreamInvalid("the upstream's answer is not HTTP/1.1")
            found = _HEAD_END.search(buffer, searched)
            end = found.end() if found else len(buffer)
            if end > MAX_HEAD_BYTES:
                raise UpstreamInvalid(
                    f"the upstream sent more than {MAX_HEAD_BYTES} bytes of answer headers"
                )
            if not found:
                return b""
            self._read_head(bytes(buffer[:end]))
            del buffer[:end]
            searched = 0
        return bytes(buffer)

    def _read_head(self, head: bytes) -> None:
        self._events = _Events()
        self._parser = parser = httptools.HttpResponseParser(self._events)
        parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_chunked_length=True
        )
        if b"\n " in head or b"\n\t" in head:
            line, end, fields = head.partition(b"\n")
            head = line + end + _FOLD.sub(b" ", fields)
        try:
            _feed(parser, head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise UpstreamInvalid(f"the upstream's answer has a broken head: {error}") from error
        status = parser.get_status_code()
        if status // 100 == 1 and status != 101 and self._interim < MAX_INTERIM_HEADS:
            self._interim += 1
            return
        if not 200 <= status < 600:
            raise UpstreamInvalid(f"the upstream's answer has no final status, but {status}")
        headers = self.headers
        for name_bytes, value_bytes in self._events.fields:
            name = name_bytes.decode("ascii").lower()
            value = value_bytes.decode("latin-1").strip(" \t")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        coding = headers.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":
            raise UpstreamInvalid(f"the upstream's transfer encoding is {coding[:40]!r}")
        self.status = status
        self.is_whole = self._events.is_whole
        connection = headers.get("connection", "").lower()
        is_11 = parser.get_http_version() == "1.1"
        self.keep_alive = "close" not in connection if is_11 else "keep-alive" in connection
        # With both framings chunked wins (RFC 9112 section 6.3), but it may be an attack.
        is_framed = (coding is not None) != ("content-length" in headers)
        self.keep_alive &= self.is_whole or is_framed


def _feed(parser: httptools.HttpResponseParser, data: bytes) -> None:
    try:
        parser.feed_data(data)
    except httptools.HttpParserCallbackError as error:
        if isinstance(error.__context__, MemoryError):  # a want of our own
            raise error.__context__ from None
        raise
