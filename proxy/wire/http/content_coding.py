"""`Content-Encoding` undone: gzip and deflate (RFC 9110 section 8.4.1).

A caller's request is undone whole, an upstream's answer piece by piece as it comes.
"""

from __future__ import annotations

import zlib

from ... import errors

_GZIP = ("gzip", "x-gzip")
_GZIP_WINDOW = zlib.MAX_WBITS | 16

# Programs that pack in parallel make a gzip member of each 64 KiB or more.
_MAX_MEMBERS = 1000
_MAX_SHOWN_CHARS = 40
# Compressed bytes that are undone at once. Each gzip member that ends in them costs a copy.
INFLATE_BYTES = 4096
# Content that is given at once, as much as a plain read gives.
PIECE_BYTES = 64 * 1024
# Compression makes JSON 5 to 50 times smaller; deflate can do 1032. Small answers may be all alike.
MAX_RATIO = 100
UNSUSPICIOUS_BYTES = 4 * 1024 * 1024

_MEMBER = b"\x1f\x8b\x08"  # RFC 1952 section 2.3.1: two magic bytes, and deflate, its only method
_BROKEN = "the upstream's compressed answer is broken"


def read_coding(field: str) -> str:
    """The coding that a `Content-Encoding` names, "" for none; raises UnsupportedCoding."""
    codings = [each.strip().lower() for each in field.split(",")]
    named = [each for each in codings if each not in ("", "identity")]
    if not named:
        return ""
    if named[1:] or named[0] not in (*_GZIP, "deflate"):
        raise errors.UnsupportedCoding(
            f"the request body's Content-Encoding {field.strip()[:_MAX_SHOWN_CHARS]!r} is not "
            "supported: send it as gzip or deflate, or as it is"
        )
    return named[0]


def undo(body: bytes, coding: str, *, max_bytes: int) -> bytes:
    """The content of a request's body. The body is not empty, `coding` is `read_coding`'s.

    Never holds much more than `max_bytes` of content. Raises BodyTooLarge beyond them, and
    InvalidRequest for what is no such data, or not whole.
    """
    is_gzip = coding in _GZIP
    inflate = zlib.decompressobj(_window_bits(body, is_gzip))
    parts: list[bytes] = []
    left = max_bytes
    members_left = _MAX_MEMBERS
    at = 0
    try:
        while at < len(body):
            if inflate.eof:  # a further member, RFC 1952 section 2.2
                if not is_gzip:
                    raise errors.InvalidRequest("bytes follow the end of the deflated request body")
                members_left -= 1
                if not members_left:
                    raise errors.InvalidRequest(
                        f"the request body has more than {_MAX_MEMBERS} gzip members"
                    )
                inflate = zlib.decompressobj(_GZIP_WINDOW)
            data = body[at : at + INFLATE_BYTES]
            part = inflate.decompress(data, left + 1)
            at += len(data) - len(inflate.unconsumed_tail) - len(inflate.unused_data)
            parts.append(part)
            left -= len(part)
            if left < 0:
                raise errors.BodyTooLarge(
                    f"the request body is larger than {max_bytes} bytes (max-body-size) "
                    f"without its {coding}"
                )
    except zlib.error as error:
        raise errors.InvalidRequest(f"the request body is no {coding} data") from error
    if not inflate.eof:
        raise errors.InvalidRequest(f"the request body's {coding} data are cut off")
    return b"".join(parts)


def _window_bits(start: bytes, is_gzip: bool) -> int:
    if is_gzip:
        return _GZIP_WINDOW
    # Deflate should come in zlib's wrapper, but some programs send it without. The wrapper has
    # method 8 in the low bits, and is a multiple of 31 in all (RFC 1950 section 2.2).
    is_wrapped = start[0] & 0x0F == 8 and int.from_bytes(start[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if is_wrapped else -zlib.MAX_WBITS


class Inflater:
    """Undoes `Content-Encoding: gzip` or `deflate`, the latter with or without zlib's wrapper.

    Gives content in pieces of at most PIECE_BYTES, so that whoever takes it can stop at a limit of
    its own. `has_more`: `feed(b"")` may give more of what was fed. `excess`: what follows the end
    of the data is none, and was dropped.
    """

    def __init__(self, coding: str) -> None:
        self.has_more = False
        self.excess = False
        self._is_gzip = coding != "deflate"
        self._fed = b""
        self._at = 0  # what stands before it in _fed was undone
        self._inflate: zlib._Decompress | None = None  # within data
        self._is_first = True  # nothing was whole yet
        self._taken = self._given = 0  # bytes before and after, in all

    def feed(self, data: bytes) -> bytes:
        """The next piece of the content; raises UpstreamInvalid, UpstreamTooLarge for a bomb."""
        if data:
            self._fed = self._fed[self._at :] + data
            self._at = 0
        out: list[bytes] = []
        left = PIECE_BYTES
        while left and (self.has_more or self._at < len(self._fed)) and self._is_within():
            self.has_more = False
            piece = self._undo(self._fed[self._at : self._at + INFLATE_BYTES], left)
            left -= len(piece)
            out.append(piece)
        self.has_more = not left
        return out[0] if len(out) == 1 else b"".join(out)

    def _undo(self, data: bytes, most: int) -> bytes:
        inflate = self._inflate
        assert inflate is not None
        try:
            content = inflate.decompress(data, most)
        except zlib.error as error:
            raise errors.UpstreamInvalid(_BROKEN) from error
        taken = len(data) - len(inflate.unconsumed_tail) - len(inflate.unused_data)
        self._at += taken
        self._taken += taken
        self._given += len(content)
        if self._given > max(UNSUSPICIOUS_BYTES, MAX_RATIO * self._taken):
            raise errors.UpstreamTooLarge(
                f"the upstream's compressed answer is more than {MAX_RATIO} times as large as it"
                " came"
            )
        if inflate.eof:
            self._inflate = None
            self._is_first = False
        return content

    def _is_within(self) -> bool:
        """Whether data come next. Waits for more of what may be the beginning of data."""
        if self._inflate is not None:
            return True
        start = self._fed[self._at : self._at + 3]
        # Behind the end only a further gzip member may follow (RFC 1952 section 2.2).
        if start and not (_MEMBER.startswith(start) if self._is_gzip else self._is_first):
            if self._is_first:
                raise errors.UpstreamInvalid(_BROKEN)
            self.excess = True
        if self.excess:
            self._at = len(self._fed)
        elif len(start) >= (3 if self._is_gzip else 2):
            self._inflate = zlib.decompressobj(_window_bits(start, self._is_gzip))
        return self._inflate is not None

    @property
    def rest(self) -> bytes:
        """What was fed and not undone, as it came."""
        return self._fed[self._at :]

    def end(self) -> None:
        """The body ended; raises UpstreamTruncated if its content did not."""
        if self._inflate is not None or self._at < len(self._fed):
            raise errors.UpstreamTruncated("the upstream's compressed answer was cut off")


def inflater(field: str) -> Inflater | None:
    """What undoes an answer's `Content-Encoding`; raises UpstreamInvalid if nothing here can."""
    coding = field.strip().lower()
    if coding in ("", "identity"):
        return None
    if coding in (*_GZIP, "deflate"):
        return Inflater(coding)
    raise errors.UpstreamInvalid(f"the upstream's answer is encoded as {coding[:40]!r}")
