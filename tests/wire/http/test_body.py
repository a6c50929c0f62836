"""Answer bodies: the content as it comes, and never a cut one that looks whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamInvalid, UpstreamTruncated
from proxy.wire.http.body import (
    MAX_CHUNK_LINE_BYTES,
    MAX_TRAILER_BYTES,
    BodyReader,
    ChunkedBody,
    LengthBody,
    UntilClose,
    body_reader,
)
from proxy.wire.http.head import Head
from tests.support import cases

LAST = b"0\r\n\r\n"


def head(length: int | None = None, *, chunked: bool = False) -> Head:
    return Head(200, {}, length, chunked, keep_alive=True)


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


INPUTS: dict[str, tuple[Callable[[], BodyReader], Callable[[int], bytes]]] = {
    "tiny chunks": (ChunkedBody, lambda size: b"1\r\nx\r\n" * (size // 6)),
    "one chunk": (ChunkedBody, lambda size: b"%x\r\n" % size + b"x" * size),
    "extensions": (ChunkedBody, lambda size: (b"1;" + b"x" * 500 + b"\r\nx\r\n") * (size // 507)),
    "trailers": (ChunkedBody, lambda size: b"0\r\n" + b"a:b\n" * min(size // 4, 4000)),
    "length": (lambda: LengthBody(1 << 40), lambda size: b"x" * size),
    "until close": (UntilClose, lambda size: b"x" * size),
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
