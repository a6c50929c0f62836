"""A request's `Content-Encoding`: what is undone, what is refused, and how much memory it takes."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from proxy.errors import BodyTooLarge, InvalidRequest, UnsupportedCoding
from proxy.wire.http.content_coding import read_coding, undo

BODY = b'{"model": "m"}' * 1000


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKED = {
    "gzip": ("gzip", gzip.compress(BODY)),
    "x-gzip": ("x-gzip", gzip.compress(BODY)),
    "members": (
        "gzip",
        b"".join([gzip.compress(BODY[at : at + 700]) for at in range(0, 14000, 700)]),
    ),
    "stored": ("gzip", gzip.compress(BODY, compresslevel=0)),
    "zlib": ("deflate", zlib.compress(BODY)),
    "raw": ("deflate", raw_deflate(BODY)),
}


@pytest.mark.parametrize("name", PACKED)
def test_content_is_undone(name: str) -> None:
    """Up to the very limit; one byte more is too much."""
    coding, data = PACKED[name]
    assert undo(data, coding, max_bytes=len(BODY)) == BODY
    with pytest.raises(BodyTooLarge, match="max-body-size"):
        undo(data, coding, max_bytes=len(BODY) - 1)


@pytest.mark.parametrize("name", PACKED)
def test_half_of_the_data_is_none(name: str) -> None:
    """Wherever they are cut off, but behind a gzip member; nor what is no such data."""
    coding, data = PACKED[name]
    for cut in (1, 2, 5, len(data) // 2 + 1, len(data) - 1):
        with pytest.raises(InvalidRequest):
            undo(data[:cut], coding, max_bytes=len(BODY))
    with pytest.raises(InvalidRequest, match=f"is no {coding} data"):
        undo(BODY, coding, max_bytes=len(BODY))
    with pytest.raises(InvalidRequest):
        undo(data + b"rubbish", coding, max_bytes=len(BODY))


def test_bomb_takes_no_memory() -> None:
    """Nor does one within the limit of what is sent take more than the limit of what it is."""
    bomb = gzip.compress(bytes(200_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            undo(bomb, "gzip", max_bytes=1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000


def test_gzip_members_are_bounded() -> None:
    """Millions of empty ones would be seconds of work."""
    empty = gzip.compress(b"")
    assert undo(empty * 999 + gzip.compress(BODY), "gzip", max_bytes=len(BODY)) == BODY
    with pytest.raises(InvalidRequest, match="more than 1000 gzip members"):
        undo(empty * 1001, "gzip", max_bytes=1)


@pytest.mark.parametrize("field", ["", "identity", " , ", "Identity,"])
def test_no_coding(field: str) -> None:
    """Named, or not."""
    assert read_coding(field) == ""


@pytest.mark.parametrize(
    ("field", "coding"),
    [("gzip", "gzip"), (" GZip ", "gzip"), ("identity, x-gzip", "x-gzip"), ("deflate", "deflate")],
)
def test_known_codings(field: str, coding: str) -> None:
    """In any letter case."""
    assert read_coding(field) == coding


@pytest.mark.parametrize("field", ["br", "zstd", "compress", "gzip, gzip", "gzip;q=1", "x" * 9000])
def test_other_codings_are_named(field: str) -> None:
    """415, and what may be sent instead."""
    with pytest.raises(UnsupportedCoding, match=field[:40]) as caught:
        read_coding(field)
    assert len(caught.value.message) < 200
    assert caught.value.headers() == {"Accept-Encoding": "gzip, deflate, identity"}
