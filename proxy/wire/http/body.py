"""The body of an HTTP/1.1 answer, from bytes: by length, by chunks, or to the connection's end.

Each reader takes the bytes as they come (RFC 9112, sections 6.3 and 7.1), gives the content in them
at once, and knows whether it was whole: a body cut short never looks finished.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable

from ...errors import UpstreamInvalid, UpstreamTruncated
from .head import Head

# The limits for a chunk-size line with its extensions, and for trailers. LLM upstreams use neither.
MAX_CHUNK_LINE_BYTES = 4096
MAX_TRAILER_BYTES = 16 * 1024

_LONG_CHUNK_LINE = f"a chunk-size line of more than {MAX_CHUNK_LINE_BYTES} bytes"
_LONG_TRAILERS = f"more than {MAX_TRAILER_BYTES} bytes of trailers"
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?")
_PLAIN_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")


class BodyReader(ABC):
    """`is_whole`: the body's end was read; `excess`: bytes came behind it.

    `fault`: the framing is broken behind the content that was given; nothing more can be read.
    """

    is_whole = False
    excess = False
    fault: UpstreamInvalid | None = None

    @abstractmethod
    def feed(self, data: bytes) -> bytes:
        """The content in `data`, up to a fault."""

    @abstractmethod
    def end(self) -> None:
        """The connection ended; raises UpstreamTruncated unless the body may end so."""


def body_reader(head: Head) -> BodyReader:
    """The reader for the body that follows this head."""
    if head.chunked:
        return ChunkedBody()
    if head.length is not None:
        return LengthBody(head.length)
    return UntilClose()


class LengthBody(BodyReader):
    """A body of as many bytes as its head said."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.is_whole = length == 0

    def feed(self, data: bytes) -> bytes:
        if len(data) > self._left:
            self.excess = True
            data = data[: self._left]
        self._left -= len(data)
        self.is_whole = self._left == 0
        return data

    def end(self) -> None:
        if not self.is_whole:
            raise UpstreamTruncated(
                f"the upstream's answer was cut off, {self._left} bytes short of its Content-Length"
            )


class UntilClose(BodyReader):
    """A body without a length, which ends with the connection."""

    def feed(self, data: bytes) -> bytes:
        return data

    def end(self) -> None:
        self.is_whole = True


class ChunkedBody(BodyReader):
    """A body in chunks. States: a size line, content, the line end behind it, trailers, done."""

    def __init__(self) -> None:
        self._left = 0  # content bytes of this chunk still to come
        self._pending = b""  # the beginning of a line
        self._trailer_left = MAX_TRAILER_BYTES
        self._is_between = True  # a size line comes next
        self._state: Callable[[bytes, int, list[bytes]], int] = self._size_line

    def feed(self, data: bytes) -> bytes:
        if self._pending:
            data = self._pending + data
            self._pending = b""
        elif self._is_between:
            # Most reads give one whole chunk, whose size line can only be this.
            line_end = data.find(b"\r\n", 0, 16)
            size = len(data) - line_end - 4
            if size > 0 and data[:line_end] == b"%x" % size and data[-2:] == b"\r\n":
                return data[line_end + 2 : -2]
        content: list[bytes] = []
        at = 0
        try:
            while at < len(data) and not self.is_whole:
                if self._is_between:
                    at = self._whole_chunks(data, at, content)
                    if at == len(data):
                        break
                at = self._state(data, at, content)
        except UpstreamInvalid as error:
            self.fault = error
        if self.is_whole and at < len(data):
            self.excess = True
        return content[0] if len(content) == 1 else b"".join(content)

    def end(self) -> None:
        if not self.is_whole:
            raise UpstreamTruncated("the upstream's answer was cut off between its chunks")

    def _line(self, data: bytes, at: int, left: int, limit: str) -> int:
        """Where the line ends (behind its LF), or 0 if its end has not come yet.

        `left`: the bytes that it may have; `limit`: that limit in words, for the error.
        """
        end = data.find(b"\n", at) + 1
        if (end or len(data)) - at > left:
            raise UpstreamInvalid(f"the upstream sent {limit}")
        if not end:
            self._pending = data[at:]
        return end

    @staticmethod
    def _whole_chunks(data: bytes, at: int, content: list[bytes]) -> int:
        """Take whole and plain chunks, as nearly all are; returns where the next begins."""
        while line := _PLAIN_CHUNK_LINE.match(data, at):
            begin = line.end()
            end = begin + int(line[1], 16)
            if end == begin or data[end : end + 2] != b"\r\n":
                break
            content.append(data[begin:end])
            at = end + 2
        return at

    def _size_line(self, data: bytes, at: int, _content: list[bytes]) -> int:
        end = self._line(data, at, MAX_CHUNK_LINE_BYTES, _LONG_CHUNK_LINE)
        if not end:
            return len(data)
        found = _CHUNK_LINE.fullmatch(data, at, end - 1)
        if not found:
            raise UpstreamInvalid("the upstream's chunk framing is broken")
        self._left = int(found[1], 16)
        self._is_between = False
        self._state = self._chunk if self._left else self._trailer
        return end

    def _chunk(self, data: bytes, at: int, content: list[bytes]) -> int:
        end = min(at + self._left, len(data))
        content.append(data[at:end] if at or end < len(data) else data)
        self._left -= end - at
        if not self._left:
            self._state = self._chunk_end
        return end

    def _chunk_end(self, data: bytes, at: int, _content: list[bytes]) -> int:
        if data[at:] == b"\r":
            self._pending = b"\r"
            return len(data)
        end = at + 2 if data.startswith(b"\r\n", at) else at + 1
        if data[end - 1 : end] != b"\n":
            raise UpstreamInvalid("the upstream's chunk framing is broken")
        self._is_between = True
        self._state = self._size_line
        return end

    def _trailer(self, data: bytes, at: int, _content: list[bytes]) -> int:
        end = self._line(data, at, self._trailer_left, _LONG_TRAILERS)
        if not end:
            return len(data)
        self._trailer_left -= end - at
        self.is_whole = data[at:end] in (b"\r\n", b"\n")
        return end
