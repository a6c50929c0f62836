"""`Content-Encoding`: what is undone, what is refused, and how much memory it takes."""

from __future__ import annotations

import gzip
import itertools
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import (
    BodyTooLarge,
    InvalidRequest,
    UnsupportedCoding,
    UpstreamInvalid,
    UpstreamTooLarge,
    UpstreamTruncated,
)
from proxy.wire.http.content_coding import (
    MAX_RATIO,
    PIECE_BYTES,
    UNSUSPICIOUS_BYTES,
    Inflater,
    inflater,
    read_coding,
    undo,
)
from tests.support import cases

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


@pytest.mark.long
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


# Answers


def pack(content: bytes, wbits: int) -> bytes:
    packer = zlib.compressobj(wbits=wbits)
    half = len(content) // 2
    packed = packer.compress(content[:half]) + packer.flush(zlib.Z_SYNC_FLUSH)
    return packed + packer.compress(content[half:]) + packer.flush()


TEXT = b'data: {"a": 1}\n\n' * 20
COMPRESSED = {
    "gzip": ("gzip", pack(TEXT, 31)),
    "x-gzip": ("X-GZip ", pack(TEXT, 31)),
    "members": ("gzip", gzip.compress(TEXT[:100]) + gzip.compress(b"") + gzip.compress(TEXT[100:])),
    "deflate": ("deflate", pack(TEXT, 15)),
    "raw deflate": ("deflate", pack(TEXT, -15)),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_compression_is_undone_however_it_is_cut(name: str) -> None:
    """gzip of any members, deflate with and without zlib's wrapper."""
    coding, data = COMPRESSED[name]
    for pieces in cases.every_way(data):
        undo = inflater(coding)
        assert undo is not None
        assert b"".join(map(undo.feed, pieces)) == TEXT
        undo.end()


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_body_cut_anywhere_is_truncated(name: str) -> None:
    """Unless what came is whole by itself (a gzip member), or nothing came."""
    coding, data = COMPRESSED[name]
    is_members = name == "members"
    ends = {at for at in range(len(data)) if is_members and data.startswith(b"\x1f\x8b", at)}
    for count in set(range(1, len(data))) - ends:
        undo = Inflater(coding.strip().lower())
        undo.feed(data[:count])
        with pytest.raises(UpstreamTruncated):
            undo.end()


def test_content_is_undone_as_soon_as_it_is_flushed() -> None:
    """A compressed stream streams."""
    packer = zlib.compressobj(wbits=31)
    undo = Inflater("gzip")
    for event in (b"data: a\n\n", b"data: b\n\n"):
        assert undo.feed(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)) == event


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", b"not gzip"),
        ("gzip", b"\0" + gzip.compress(b"a", mtime=0)),
        ("gzip", gzip.compress(b"hello" * 9, mtime=0)[:-8] + b"12345678"),
        ("gzip", gzip.compress(b"a", mtime=0) + gzip.compress(b"b", mtime=0)[:-8] + b"12345678"),
        ("deflate", b"\x78\x9c\xff\xff\xff"),
        ("deflate", b"\xff\xff\xff\xff"),
    ],
)
def test_broken_compression_is_refused(coding: str, data: bytes) -> None:
    """Also checksums, and those of a further member."""
    for pieces in (cases.whole(data), cases.byte_by_byte(data)):
        undo = Inflater(coding)
        with pytest.raises(UpstreamInvalid, match="compressed answer is broken"):
            [undo.feed(piece) for piece in pieces]


@pytest.mark.parametrize("rest", [b"\0", b"\0" * 600, b"rubbish", b"\x1f\x8b\x07", b"\x1f" * 2])
@pytest.mark.parametrize("name", COMPRESSED)
def test_what_follows_whole_data_is_dropped(name: str, rest: bytes) -> None:
    """Tape blocks pad with zeros, and some servers say more; what was whole is the answer."""
    coding, data = COMPRESSED[name]
    for pieces in cases.every_way(data + rest):
        undo = Inflater(coding.strip().lower())
        assert b"".join(map(undo.feed, pieces)) == TEXT
        assert undo.excess
        undo.end()
    assert undo.feed(data) == b""


@pytest.mark.parametrize("count", [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 700_000])
@pytest.mark.parametrize("wbits", [31, 15, -15])
def test_content_comes_in_bounded_pieces(count: int, wbits: int) -> None:
    """Whoever reads can stop at a limit; what is left comes without more input."""
    text = (b"%07d\n" * (count // 8 + 1) % tuple(range(count // 8 + 1)))[:count]
    undo = Inflater("gzip" if wbits == 31 else "deflate")
    pieces = [undo.feed(pack(text, wbits))]
    while undo.has_more:
        pieces.append(undo.feed(b""))
    assert b"".join(pieces) == text
    assert max(map(len, pieces)) <= PIECE_BYTES
    undo.end()


def pieces_of(data: bytes, coding: str = "gzip") -> Iterator[bytes]:
    """The content; raises what the inflater raises."""
    undo = Inflater(coding)
    yield undo.feed(data)
    while undo.has_more:
        yield undo.feed(b"")


@pytest.mark.parametrize("wbits", [31, 15, -15])
def test_bomb_is_refused_early(wbits: int) -> None:
    """64 KB of it would be 64 MB; as much as is compressed like that honestly passes."""
    coding = "gzip" if wbits == 31 else "deflate"
    honest = pieces_of(pack(b"x" * UNSUSPICIOUS_BYTES, wbits), coding)
    assert sum(map(len, honest)) == UNSUSPICIOUS_BYTES == 4 << 20
    with pytest.raises(UpstreamTooLarge):
        list(pieces_of(pack(b"x" * (UNSUSPICIOUS_BYTES + PIECE_BYTES), wbits), coding))
    bomb = pack(b"x" * (64 << 20), wbits)
    allowed = itertools.islice(pieces_of(bomb, coding), MAX_RATIO * len(bomb) // PIECE_BYTES + 1)
    with pytest.raises(UpstreamTooLarge, match="100 times as large"):
        list(allowed)


def test_large_answer_of_the_usual_kind_is_no_bomb() -> None:
    """Even JSON that repeats itself, as an embedding's or a list's does."""
    text = b"".join(
        b'{"id":"model-%d","object":"model","owned_by":"x"},' % n for n in range(200_000)
    )
    assert sum(map(len, pieces_of(gzip.compress(text)))) == len(text) > 2 * UNSUSPICIOUS_BYTES


@given(st.data(), st.sampled_from(["gzip", "deflate"]), st.binary(max_size=40))
def test_any_bytes_are_undone_or_refused(data: st.DataObject, coding: str, packed: bytes) -> None:
    """Nothing but our errors is raised."""
    undo = Inflater(coding)
    try:
        for piece in data.draw(cases.cuts(packed)):
            undo.feed(piece)
        undo.end()
    except (UpstreamInvalid, UpstreamTruncated):
        pass


@pytest.mark.parametrize("coding", ["", "identity", " Identity "])
def test_plain_body_is_not_inflated(coding: str) -> None:
    """No coding, or that which is none."""
    assert inflater(coding) is None


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress", "x" * 5000])
def test_other_codings_are_refused(coding: str) -> None:
    """We asked for identity; the message is short."""
    with pytest.raises(UpstreamInvalid) as caught:
        inflater(coding)
    assert len(caught.value.message) < 100


INPUTS: dict[str, tuple[Callable[[], Inflater], Callable[[int], bytes]]] = {
    "gzip members": (lambda: Inflater("gzip"), lambda size: gzip.compress(b"") * (size // 20)),
    "gzip": (lambda: Inflater("gzip"), lambda size: gzip.compress(b"x" * size)),
    "deflate": (lambda: Inflater("deflate"), lambda size: pack(b"x" * size, -15)),
}


@pytest.mark.parametrize("block_bytes", [1, 1 << 30])
@pytest.mark.parametrize("name", INPUTS)
def test_time_to_inflate_is_linear(name: str, block_bytes: int) -> None:
    """In pieces of whatever size."""
    inflate, make_input = INPUTS[name]

    def make(size: int) -> Callable[[], object]:
        pieces = list(cases.in_blocks(make_input(size), block_bytes))

        def work() -> None:
            feed = inflate().feed
            for piece in pieces:
                feed(piece)

        return work

    cases.assert_linear(make, 5_000 if block_bytes == 1 else 50_000)
