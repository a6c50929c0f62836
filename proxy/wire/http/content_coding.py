"""A request's `Content-Encoding`, undone: gzip and deflate (RFC 9110 section 8.4.1)."""

from __future__ import annotations

import zlib

from ...errors import BodyTooLarge, InvalidRequest, UnsupportedCoding

_GZIP = ("gzip", "x-gzip")
_GZIP_WINDOW = zlib.MAX_WBITS | 16

# Compressed bytes undone at once: what comes behind a gzip member is copied with each of them.
_PIECE_BYTES = 4096

# Programs that pack in parallel make one of each 64 KiB or more. Tiny ones are work for nothing.
_MAX_MEMBERS = 1000

_MAX_SHOWN_CHARS = 40


def read_coding(field: str) -> str:
    """The coding that a `Content-Encoding` names, "" for none; raises UnsupportedCoding."""
    codings = [each.strip().lower() for each in field.split(",")]
    named = [each for each in codings if each not in ("", "identity")]
    if not named:
        return ""
    if named[1:] or named[0] not in (*_GZIP, "deflate"):
        raise UnsupportedCoding(
            f"the request body's Content-Encoding {field.strip()[:_MAX_SHOWN_CHARS]!r} is not "
            "supported: send it as gzip or deflate, or as it is"
        )
    return named[0]


def undo(body: bytes, coding: str, *, max_bytes: int) -> bytes:
    """The content of a body that is not empty, and whose coding `read_coding` named.

    Never holds much more than `max_bytes` of it. Raises InvalidRequest for what is no such data, or
    not whole; BodyTooLarge.
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
                    raise InvalidRequest("bytes follow the end of the deflated request body")
                members_left -= 1
                if not members_left:
                    raise InvalidRequest(
                        f"the request body has more than {_MAX_MEMBERS} gzip members"
                    )
                inflate = zlib.decompressobj(_GZIP_WINDOW)
            data = body[at : at + _PIECE_BYTES]
            part = inflate.decompress(data, left + 1)
            at += len(data) - len(inflate.unconsumed_tail) - len(inflate.unused_data)
            parts.append(part)
            left -= len(part)
            if left < 0:
                raise BodyTooLarge(
                    f"the request body is larger than {max_bytes} bytes (max-body-size) "
                    f"without its {coding}"
                )
    except zlib.error as error:
        raise InvalidRequest(f"the request body is no {coding} data") from error
    if not inflate.eof:
        raise InvalidRequest(f"the request body's {coding} data are cut off")
    return b"".join(parts)


def _window_bits(body: bytes, is_gzip: bool) -> int:
    if is_gzip:
        return _GZIP_WINDOW
    # With zlib's wrapper, as it should be, or without, as some send it. RFC 1950 section 2.2:
    # method 8 in the low bits, and a multiple of 31 in all.
    is_wrapped = body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if is_wrapped else -zlib.MAX_WBITS
