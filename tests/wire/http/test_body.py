"""Answer bodies: the content as it comes, and never a cut one that looks whole."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamInvalid, UpstreamTooLarge, UpstreamTruncated
from proxy.wire.http.body import (
    MAX_CHUNK_LINE_BYTES,
    MAX_RATIO,
    MAX_TRAILER_BYTES,
    PIECE_BYTES,
    UNSUSPICIOUS_BYTES,
    BodyReader,
    ChunkedBody,
    Inflater,
    LengthBody,
    UntilClose,
    body_reader,
    inflater,
)
from proxy.wire.http.head import Head
from tests.support import cases

LAST = b"0\r\n\r\n"


def head(length: int | None = None, *, chunked: bool = False, coding: str | None = None) -> Head:
    headers = {} if coding is None else {"content-encoding": coding}
    return Head(200, headers, length, chunked, keep_alive=True)


def chunks(*contents: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(content), content) for content in contents) + LAST


CHUNKED: dict[str, tuple[bytes, bytes]] = {
    "one": (chunks(b"hello"), b"hello"),
    "several": (chunks(b"a", b"bc", b"\r\n", b"x" * 300), b"abc\r\n" + b"x" * 300),
    "none": (LAST, b""),
    "lf only": (b"3\nabc\n0\n\n", b"abc"),
    "mixed ends": (b"3\r\nabc\n2\nde\r\n0\n\r\n", b"abcde"),
    "upper and lower case": (b"A\r\n0123456789\r\na\r\n0123456789\r\n" + LAST, b"0123456789" * 2),
    "leading zeros": (b"0003\r\nabc\r\n000\r\n\r\n", b"abc"),
    "extensions": (b'3;a=b;c="d e"\r\nabc\r\n2 ; x\r\nde\r\n0;last\r\n\r\n', b"abcde"),
    "space behind the size": (b"3 \t\r\nabc\r\n0 \r\n\r\n", b"abc"),
    "trailers": (b"3\r\nabc\r\n0\r\nA: b\r\nC: d\n\r\n", b"abc"),
}
LINE = b"x" * MAX_CHUNK_LINE_BYTES
BROKEN: dict[str, tuple[bytes, bytes]] = {
    "no size": (b"\r\nabc\r\n", b""),
    "no hex": (b"3\r\nabc\r\nxyz\r\n", b"abc"),
    "signed": (b"+3\r\nabc\r\n", b""),
    "negative": (b"-3\r\nabc\r\n", b""),
    "prefixed": (b"0x3\r\nabc\r\n", b""),
    "underscored": (b"1_0\r\nabc\r\n", b""),
    "space before": (b" 3\r\nabc\r\n", b""),
    "huge": (b"1" * 16 + b"\r\n", b""),
    "longer than its size": (b"3\r\nabcd\r\n", b"abc"),
    "cr without lf": (b"3\r\nabc\rx", b"abc"),
    "endless size line": (b"3\r\nabc\r\n3;" + LINE, b"abc"),
    "endless whole size line": (b"3;" + LINE + b"\r\nabc", b""),
    "endless trailer": (b"3\r\nabc\r\n0\r\n" + b"x" * (MAX_TRAILER_BYTES + 1), b"abc"),
    "endless trailers": (b"3\r\nabc\r\n0\r\n" + b"a: b\r\n" * (MAX_TRAILER_BYTES // 6 + 1), b"abc"),
}


def read(body: BodyReader, pieces: Iterable[bytes]) -> bytes:
    """All content; the fault is left to look at."""
    content = b""
    for piece in pieces:
        if not body.fault:
            content += body.feed(piece)
    return content


@pytest.mark.parametrize("name", CHUNKED)
def test_chunked_content_is_the_same_however_it_is_cut(name: str) -> None:
    """Whole, byte by byte, and cut in two at every place."""
    data, content = CHUNKED[name]
    for pieces in cases.every_way(data):
        body = ChunkedBody()
        assert read(body, pieces) == content
        assert (body.is_whole, body.excess, body.fault) == (True, False, None)
        body.end()


@pytest.mark.parametrize("name", CHUNKED)
def test_trailing_data_is_excess(name: str) -> None:
    """What follows the end is no content, and tells that the connection is out of step."""
    data, content = CHUNKED[name]
    for pieces in cases.every_way(data + b"x"):
        body = ChunkedBody()
        assert read(body, pieces) == content
        assert (body.is_whole, body.excess) == (True, True)


@pytest.mark.parametrize("name", CHUNKED)
def test_chunked_body_cut_anywhere_is_truncated(name: str) -> None:
    """Before the last byte of its framing it is never whole."""
    data, content = CHUNKED[name]
    for count in range(len(data)):
        body = ChunkedBody()
        assert content.startswith(read(body, [data[:count]]))
        assert not body.is_whole
        with pytest.raises(UpstreamTruncated):
            body.end()


@pytest.mark.parametrize("name", BROKEN)
def test_broken_chunks_are_a_fault_behind_their_content(name: str) -> None:
    """The content before the fault is given, the body never done."""
    data, content = BROKEN[name]
    for pieces in (cases.whole(data), cases.byte_by_byte(data), cases.in_blocks(data, 1000)):
        body = ChunkedBody()
        assert read(body, pieces) == content
        assert isinstance(body.fault, UpstreamInvalid)
        assert not body.is_whole
        with pytest.raises(UpstreamTruncated):
            body.end()


def size_line(size: int) -> bytes:
    return b"1;" + b"x" * (size - 4) + b"\r\n"


def trailers(size: int) -> bytes:
    return b"0\r\n" + b"ab: c\r\n" * 2 + b"d" * (size - 18) + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("make", "limit", "message"),
    [
        (size_line, MAX_CHUNK_LINE_BYTES, "a chunk-size line of more than 4096 bytes"),
        (trailers, MAX_TRAILER_BYTES, "more than 16384 bytes of trailers"),
    ],
)
def test_limits_of_framing_hold_to_the_byte(
    make: Callable[[int], bytes], limit: int, message: str
) -> None:
    """And are told as they are, not as what was left of them."""
    for pieces in (cases.whole, cases.byte_by_byte):
        body = ChunkedBody()
        read(body, pieces(make(limit)))
        assert body.fault is None
        body = ChunkedBody()
        read(body, pieces(make(limit + 1)))
        assert body.fault is not None
        assert message in body.fault.message


@given(st.data(), st.lists(st.binary(min_size=1)))
def test_any_chunks_are_read_back(data: st.DataObject, contents: list[bytes]) -> None:
    """Content may hold whatever looks like framing."""
    body = ChunkedBody()
    assert read(body, data.draw(cases.cuts(chunks(*contents)))) == b"".join(contents)
    assert body.is_whole
    assert not body.excess


FRAMING = st.sampled_from([
    b"3\r\nabc\r\n", b"0\r\n", b"\r\n", b"\n", b"\r", b"3", b"a", b";x", b"0", b" ", b"abc", b"g",
])  # fmt: skip


@given(st.data(), st.lists(FRAMING | st.binary(max_size=3), max_size=20).map(b"".join))
def test_any_bytes_have_one_outcome(data: st.DataObject, stream: bytes) -> None:
    """Content, end and fault do not depend on where the bytes are cut."""

    def outcome(pieces: list[bytes]) -> tuple[bytes, bool, bool]:
        body = ChunkedBody()
        return read(body, pieces), body.is_whole, body.fault is not None

    assert outcome(data.draw(cases.cuts(stream))) == outcome([stream])


@pytest.mark.parametrize("rest", [b"", b"rest"])
def test_body_of_a_length_ends_there(rest: bytes) -> None:
    """Bytes behind it are excess."""
    for pieces in cases.every_way(b"hello" + rest):
        body = LengthBody(5)
        assert read(body, pieces) == b"hello"
        assert (body.is_whole, body.excess) == (True, bool(rest))
        body.end()


def test_body_short_of_its_length_is_truncated() -> None:
    """However little is missing."""
    for count in range(5):
        body = LengthBody(5)
        body.feed(b"hello"[:count])
        assert not body.is_whole
        with pytest.raises(UpstreamTruncated, match=f"{5 - count} bytes short"):
            body.end()


def test_empty_body_is_done_from_the_start() -> None:
    """Nothing is waited for."""
    body = LengthBody(0)
    assert body.is_whole
    body.feed(b"x")
    assert body.excess


def test_body_without_framing_ends_with_the_connection() -> None:
    """All that comes is content."""
    body = UntilClose()
    assert read(body, [b"a", b"", b"b"]) == b"ab"
    assert not body.is_whole
    body.end()
    assert body.is_whole


@pytest.mark.parametrize(
    ("of", "expected"),
    [(head(chunked=True), ChunkedBody), (head(3), LengthBody), (head(), UntilClose)],
)
def test_reader_is_chosen_by_the_head(of: Head, expected: type) -> None:
    """RFC 9112 section 6.3."""
    assert type(body_reader(of)) is expected


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
        undo = inflater(head(coding=coding))
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


@pytest.mark.parametrize("coding", [None, "", "identity", " Identity "])
def test_plain_body_is_not_inflated(coding: str | None) -> None:
    """No coding, or that which is none."""
    assert inflater(head(coding=coding)) is None


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress", "x" * 5000])
def test_other_codings_are_refused(coding: str) -> None:
    """We asked for identity; the message is short."""
    with pytest.raises(UpstreamInvalid) as caught:
        inflater(head(coding=coding))
    assert len(caught.value.message) < 100


INPUTS: dict[str, tuple[Callable[[], BodyReader | Inflater], Callable[[int], bytes]]] = {
    "tiny chunks": (ChunkedBody, lambda size: b"1\r\nx\r\n" * (size // 6)),
    "one chunk": (ChunkedBody, lambda size: b"%x\r\n" % size + b"x" * size),
    "extensions": (ChunkedBody, lambda size: (b"1;" + b"x" * 500 + b"\r\nx\r\n") * (size // 507)),
    "trailers": (ChunkedBody, lambda size: b"0\r\n" + b"a:b\n" * min(size // 4, 4000)),
    "length": (lambda: LengthBody(1 << 40), lambda size: b"x" * size),
    "until close": (UntilClose, lambda size: b"x" * size),
    "gzip members": (lambda: Inflater("gzip"), lambda size: gzip.compress(b"") * (size // 20)),
    "gzip": (lambda: Inflater("gzip"), lambda size: gzip.compress(b"x" * size)),
    "deflate": (lambda: Inflater("deflate"), lambda size: pack(b"x" * size, -15)),
}


@pytest.mark.parametrize("block_bytes", [1, 1 << 30])
@pytest.mark.parametrize("name", INPUTS)
def test_time_is_linear(name: str, block_bytes: int) -> None:
    """In pieces of whatever size."""
    reader, make_input = INPUTS[name]

    def make(size: int) -> Callable[[], object]:
        pieces = list(cases.in_blocks(make_input(size), block_bytes))

        def work() -> None:
            feed = reader().feed
            for piece in pieces:
                feed(piece)

        return work

    cases.assert_linear(make, 5_000 if block_bytes == 1 else 50_000)
