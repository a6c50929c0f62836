"""Answers: strict where two readers could see two, and never a cut one that looks whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamInvalid, UpstreamTruncated
from proxy.wire.http.answer import (
    MAX_FRAMING_BYTES,
    MAX_HEAD_BYTES,
    MAX_INTERIM_HEADS,
    AnswerReader,
)
from tests.support import cases

OK = b"HTTP/1.1 200 OK\r\n"
END = b"\r\n"


LAST = b"0\r\n\r\n"


class Head(NamedTuple):
    """`framing`: a number of bytes, 0 for the body that there is none of, or the words for it."""

    status: int
    headers: dict[str, str]
    framing: int | str
    keep_alive: bool


def head(
    status: int = 200,
    headers: dict[str, str] | None = None,
    length: int | None = None,
    *,
    chunked: bool = False,
    keep_alive: bool = True,
) -> Head:
    framing = "chunked" if chunked else "to the end" if length is None else length
    return Head(status, headers or {}, framing, keep_alive)


def chunks(*contents: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(content), content) for content in contents) + LAST


def has_length(text: str, **more: str) -> dict[str, str]:
    return {"content-length": text, **more}


HEADS: dict[str, tuple[bytes, Head]] = {
    "length": (OK + b"Content-Length: 5\r\n\r\n", head(headers=has_length("5"), length=5)),
    "lf only": (b"HTTP/1.1 200 OK\nContent-Length: 5\n\n", head(headers=has_length("5"), length=5)),
    "mixed ends": (
        b"HTTP/1.1 200 OK\nContent-Length: 5\r\nA: b\n\r\n",
        head(headers=has_length("5", a="b"), length=5),
    ),
    "no headers": (OK + END, head(keep_alive=False)),
    "no reason": (b"HTTP/1.1 200\r\n\r\n", head(keep_alive=False)),
    "empty reason": (b"HTTP/1.1 200 \r\n\r\n", head(keep_alive=False)),
    "odd reason": (b"HTTP/1.1 503 \xe9 : so\r\n\r\n", head(503, keep_alive=False)),
    "chunked": (
        OK + b"Transfer-Encoding: Chunked\r\n\r\n",
        head(headers={"transfer-encoding": "Chunked"}, chunked=True),
    ),
    "both framings": (
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        head(
            headers=has_length("5", **{"transfer-encoding": "chunked"}),
            chunked=True,
            keep_alive=False,
        ),
    ),
    "both framings, in capitals": (
        OK + b"TRANSFER-ENCODING: CHUNKED\r\nCONTENT-LENGTH: 5\r\n\r\n",
        head(
            headers=has_length("5", **{"transfer-encoding": "CHUNKED"}),
            chunked=True,
            keep_alive=False,
        ),
    ),
    "close": (
        OK + b"Content-Length: 0\r\nConnection: Close\r\n\r\n",
        head(headers=has_length("0", connection="Close"), length=0, keep_alive=False),
    ),
    "1.0": (
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
        head(headers=has_length("1"), length=1, keep_alive=False),
    ),
    "1.0 kept alive": (
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n",
        head(headers=has_length("1", connection="keep-alive"), length=1),
    ),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", head(204, length=0)),
    "not modified": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        head(304, has_length("9"), length=0),
    ),
    "folded": (
        OK + b"A: b\r\n \t c\r\n\td\r\nContent-Length: 1\r\n\r\n",
        head(headers={"a": "b c d", "content-length": "1"}, length=1),
    ),
    "repeated": (
        OK + b"A: 1\r\nB: x\r\nA: 2\r\nContent-Length: 1\r\n\r\n",
        head(headers={"a": "1, 2", "b": "x", "content-length": "1"}, length=1),
    ),
    "spaces around values": (
        OK + b"A:\t  b c \t\r\nB:\r\nContent-Length:1\r\n\r\n",
        head(headers={"a": "b c", "b": "", "content-length": "1"}, length=1),
    ),
    "latin-1": (
        OK + b"A: \xe9\r\nContent-Length: 1\r\n\r\n",
        head(headers={"a": "\xe9", "content-length": "1"}, length=1),
    ),
    "after interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\nLink: x\n\n"
        b"HTTP/1.1 199 X\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\n",
        head(headers=has_length("5"), length=5),
    ),
}

BROKEN: dict[str, bytes] = {
    "tls": b"\x16\x03\x01 this is not HTTP\r\n\r\n",
    "http/2": b"HTTP/2 200\r\n\r\n",
    "http/0.9": b"<html>\r\n\r\n",
    "1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "lower case": b"http/1.1 200 OK\r\n\r\n",
    "leading space": b" HTTP/1.1 200 OK\r\n\r\n",
    "leading line": b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    "two spaces": b"HTTP/1.1  200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status with a letter": b"HTTP/1.1 200x\r\n\r\n",
    "status 099": b"HTTP/1.1 099 OK\r\n\r\n",
    "status 600": b"HTTP/1.1 600 OK\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
    "switching connections": b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "line without colon": OK + b"oops\r\n\r\n",
    "space before colon": OK + b"Content-Length : 5\r\n\r\n",
    "empty name": OK + b": x\r\n\r\n",
    "odd name": OK + b"a b: x\r\n\r\n",
    "name beyond ascii": OK + b"\xe9: x\r\n\r\n",
    "fold first": OK + b" a: b\r\n\r\n",
    "nul in a value": OK + b"a: b\0c\r\n\r\n",
    "cr in a value": OK + b"a: b\rc: d\r\n\r\n",
    "control in a value": OK + b"a: \x07\r\n\r\n",
    "negative length": OK + b"Content-Length: -1\r\n\r\n",
    "signed length": OK + b"Content-Length: +1\r\n\r\n",
    "hex length": OK + b"Content-Length: 0x10\r\n\r\n",
    "spelled length": OK + b"Content-Length: five\r\n\r\n",
    "empty length": OK + b"Content-Length:\r\n\r\n",
    "superscript length": OK + b"Content-Length: \xb2\r\n\r\n",
    "huge length": OK + b"Content-Length: " + b"9" * 20 + b"\r\n\r\n",
    "spelled length with chunks": OK
    + b"Transfer-Encoding: chunked\r\nContent-Length: five\r\n\r\n",
    "same length twice": OK + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\n",
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "listed lengths": OK + b"Content-Length: 5, 6\r\n\r\n",
    "gzip framing": OK + b"Transfer-Encoding: gzip\r\n\r\n",
    "two framings": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "empty framing": OK + b"Transfer-Encoding:\r\n\r\n",
    "only interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM_HEADS + 1),
    "garbage after an interim answer": b"HTTP/1.1 100 Continue\r\n\r\ngarbage\r\n\r\n",
    "endless line": OK + b"a: " + b"x" * MAX_HEAD_BYTES,
    "endless lines": OK + b"a: x\r\n" * (MAX_HEAD_BYTES // 6),
    "large and whole": OK + b"a: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
}


def read(pieces: Iterable[bytes]) -> AnswerReader:
    """A reader that has got these; no content is wanted."""
    reader = AnswerReader()
    for piece in pieces:
        reader.feed(piece)
    return reader


def content_of(reader: AnswerReader, pieces: Iterable[bytes]) -> bytes:
    """All content; the fault is left to look at."""
    content = b""
    for piece in pieces:
        if not reader.fault:
            content += reader.feed(piece)
    return content


@pytest.mark.parametrize("name", HEADS)
def test_head_is_the_same_however_the_bytes_are_cut(name: str) -> None:
    """Whole, byte by byte, and cut in two at every place, with a body behind it."""
    data, expected = HEADS[name]
    body = content = b"x" * (7 if isinstance(expected.framing, str) else expected.framing)
    if expected.framing == "chunked":
        body = chunks(content)
    for pieces in cases.every_way(data + body):
        reader = AnswerReader()
        assert content_of(reader, pieces) == content, pieces
        assert (reader.status, reader.headers) == (expected.status, expected.headers), pieces
        assert reader.keep_alive == expected.keep_alive, pieces
        assert (reader.excess, reader.fault) == (False, None), pieces
        assert reader.is_whole == (expected.framing != "to the end"), pieces


@pytest.mark.parametrize("name", HEADS)
def test_unfinished_head_is_none(name: str) -> None:
    """Cut short anywhere it is not there yet."""
    data, _ = HEADS[name]
    stop = data.rindex(b"\n")
    for count in range(stop):
        assert read([data[:count]]).status == 0


@pytest.mark.parametrize("name", BROKEN)
def test_broken_head_is_refused(name: str) -> None:
    """Whole, in blocks and byte by byte."""
    data = BROKEN[name]
    for pieces in ([data], cases.in_blocks(data, 1000), cases.byte_by_byte(data)):
        with pytest.raises(UpstreamInvalid):
            read(pieces)


def test_greatest_head_passes() -> None:
    """The limit is on all of its bytes."""
    data = OK + b"Content-Length: 1\r\na: "
    data += b"x" * (MAX_HEAD_BYTES - len(data) - 4) + b"\r\n\r\n"
    assert len(data) == MAX_HEAD_BYTES
    assert AnswerReader().feed(data + b"y") == b"y"
    larger = data.replace(b"a: ", b"a: x")
    for pieces in ([larger], cases.byte_by_byte(larger)):
        with pytest.raises(UpstreamInvalid, match=f"more than {MAX_HEAD_BYTES} bytes of answer"):
            read(pieces)


def test_most_interim_answers_pass() -> None:
    """One more is refused, as is one that would leave HTTP."""
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    final = OK + b"Content-Length: 0\r\n\r\n"
    assert read([interim * MAX_INTERIM_HEADS + final]).status == 200
    with pytest.raises(UpstreamInvalid, match="no final status, but 103"):
        read([interim * (MAX_INTERIM_HEADS + 1) + final])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (b"Content-Length: five", "Invalid character in Content-Length"),
        (b"Transfer-Encoding: Chunked, gzip", "transfer encoding is 'Chunked, gzip'"),
        (b"Transfer-Encoding: " + b"x" * 60, f"transfer encoding is '{'x' * 40}'"),
        (b"nothing", "broken head: Invalid header token"),
    ],
)
def test_refusal_says_what_is_wrong(fields: bytes, message: str) -> None:
    """And quotes no more of it than a message needs."""
    with pytest.raises(UpstreamInvalid, match=message):
        read([OK + fields + b"\r\n\r\n"])


def test_started_tells_whether_anything_came() -> None:
    """An interim answer counts, also when it was read and dropped."""
    reader = AnswerReader()
    assert not reader.started
    reader.feed(b"H")
    assert reader.started
    reader = AnswerReader()
    reader.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert reader.started


def test_garbage_is_refused_at_its_first_byte() -> None:
    """Nobody waits for the end of what is no HTTP."""
    with pytest.raises(UpstreamInvalid):
        AnswerReader().feed(b"<")


PIECES = st.sampled_from([
    OK, b"HTTP/1.1 ", b"200", b" ", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"a: b", b"a", b":",
    b"Content-Length: 5", b"Transfer-Encoding: chunked", b"\t", b"\0", b"HTTP/1.1 100 C\r\n\r\n",
])  # fmt: skip
ANY = st.lists(PIECES | st.binary(max_size=3), max_size=20).map(b"".join)


def outcome(pieces: Iterable[bytes]) -> object:
    reader = AnswerReader()
    try:
        content = content_of(reader, pieces)
    except UpstreamInvalid:
        return UpstreamInvalid
    return content, reader.status, reader.headers, reader.is_whole, reader.fault is not None


@given(st.data(), ANY | ANY.map(lambda rest: OK + rest))
def test_any_bytes_have_one_outcome(data: st.DataObject, stream: bytes) -> None:
    """The same however they are cut; nothing but UpstreamInvalid is raised."""
    assert outcome(data.draw(cases.cuts(stream))) == outcome([stream])


@given(
    st.integers(200, 599),
    st.dictionaries(
        st.from_regex(r"[a-z!#$%&'*+.^_`|~0-9-]{1,20}", fullmatch=True).filter(
            lambda name: name not in ("transfer-encoding", "content-length", "connection")
        ),
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=20)
        .filter(lambda text: not any("\x7f" <= char < "\x80" for char in text))
        .map(str.strip)
        .filter(lambda text: text == text.strip(" \t")),
    ),
)
def test_any_valid_head_is_read(status: int, headers: dict[str, str]) -> None:
    """Names in lower case, values as they were."""
    lines = [f"HTTP/1.1 {status} X", *(f"{name.title()}: {headers[name]}" for name in headers)]
    found = read(["\r\n".join([*lines, "", ""]).encode("latin-1")])
    assert (found.status, found.headers) == (status, headers)


HEAD_INPUTS: dict[str, Callable[[int], bytes]] = {
    "repeated": lambda size: OK + b"a:b\n" * (size // 4) + b"\n",
    "folded": lambda size: OK + b"a: b\n" + b" c\n" * (size // 3) + b"\n",
    "many": lambda size: OK + b"".join(b"a%d:\n" % n for n in range(size // 8)) + b"\n",
    "long": lambda size: OK + b"a: " + b"x" * size + b"\r\n\r\n",
    "spaces": lambda size: OK + b"a:" + b" " * size + b"x\r\n\r\n",
    "carriage returns": lambda size: OK + b"a: b" + b"\r" * size,
    "interim": lambda size: OK.replace(b"200", b"100") + b"a: " + b"x" * size + b"\r\n\r\n" + OK,
}


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
@pytest.mark.parametrize("name", HEAD_INPUTS)
def test_time_of_a_head_is_linear(name: str, block_bytes: int) -> None:
    """Up to the greatest head."""

    def make(size: int) -> Callable[[], object]:
        pieces = list(cases.in_blocks(HEAD_INPUTS[name](size), block_bytes))
        return lambda: read(pieces)

    cases.assert_linear(make, 6_000)


CHUNKED: dict[str, tuple[bytes, bytes]] = {
    "one": (chunks(b"hello"), b"hello"),
    "several": (chunks(b"a", b"bc", b"\r\n", b"x" * 300), b"abc\r\n" + b"x" * 300),
    "none": (LAST, b""),
    "upper and lower case": (b"A\r\n0123456789\r\na\r\n0123456789\r\n" + LAST, b"0123456789" * 2),
    "leading zeros": (b"0003\r\nabc\r\n000\r\n\r\n", b"abc"),
    "extensions": (b'3;a=b;c="d e"\r\nabc\r\n2;x\r\nde\r\n0;last\r\n\r\n', b"abcde"),
    "trailers": (b"3\r\nabc\r\n0\r\nA: b\r\nC: d\n\r\n", b"abc"),
}
ENDLESS = b"x" * (MAX_FRAMING_BYTES + 1)
BROKEN_CHUNKS: dict[str, tuple[bytes, bytes]] = {
    "no size": (b"\r\nabc\r\n", b""),
    "no hex": (b"3\r\nabc\r\nxyz\r\n", b"abc"),
    "signed": (b"+3\r\nabc\r\n", b""),
    "negative": (b"-3\r\nabc\r\n", b""),
    "prefixed": (b"0x3\r\nabc\r\n", b""),
    "underscored": (b"1_0\r\nabc\r\n", b""),
    "space before": (b" 3\r\nabc\r\n", b""),
    "huge": (b"1" * 17 + b"\r\n", b""),
    "longer than its size": (b"3\r\nabcd\r\n", b"abc"),
    "cr without lf": (b"3\r\nabc\rx", b"abc"),
    "lf behind the size": (b"3\nabc\r\n", b""),
    "space behind the size": (b"3 \r\nabc\r\n", b""),
    "endless size": (b"3;" + ENDLESS, b""),
    "endless trailer": (b"0\r\na:" + ENDLESS, b""),
    "endless trailers": (b"0\r\n" + b"a: b\r\n" * (MAX_FRAMING_BYTES // 6 + 1), b""),
}


def chunked() -> AnswerReader:
    """One that has read a head; chunks come next."""
    return read([OK + b"Transfer-Encoding: chunked\r\n\r\n"])


def of_length(length: int) -> AnswerReader:
    return read([OK + b"Content-Length: %d\r\n\r\n" % length])


def until_close() -> AnswerReader:
    return read([OK + b"\r\n"])


@pytest.mark.parametrize("name", CHUNKED)
def test_chunked_content_is_the_same_however_it_is_cut(name: str) -> None:
    """Whole, byte by byte, and cut in two at every place."""
    data, content = CHUNKED[name]
    for pieces in cases.every_way(data):
        body = chunked()
        assert content_of(body, pieces) == content
        assert (body.is_whole, body.excess, body.fault) == (True, False, None)
        body.end()


@pytest.mark.parametrize("name", CHUNKED)
def test_trailing_data_is_excess(name: str) -> None:
    """What follows the end is no content, and tells that the connection is out of step."""
    data, content = CHUNKED[name]
    for pieces in cases.every_way(data + b"x"):
        body = chunked()
        assert content_of(body, pieces) == content
        assert (body.is_whole, body.excess) == (True, True)


@pytest.mark.parametrize("name", CHUNKED)
def test_chunked_body_cut_anywhere_is_truncated(name: str) -> None:
    """Before the last byte of its framing it is never whole."""
    data, content = CHUNKED[name]
    for count in range(len(data)):
        body = chunked()
        assert content.startswith(content_of(body, [data[:count]]))
        assert not body.is_whole
        with pytest.raises(UpstreamTruncated):
            body.end()


@pytest.mark.parametrize("name", BROKEN_CHUNKS)
def test_broken_chunks_are_a_fault_behind_their_content(name: str) -> None:
    """The content before the fault is given, the body never done."""
    data, content = BROKEN_CHUNKS[name]
    for pieces in (cases.whole(data), cases.byte_by_byte(data), cases.in_blocks(data, 1000)):
        body = chunked()
        assert content_of(body, pieces) == content
        assert isinstance(body.fault, UpstreamInvalid)
        assert not body.is_whole
        with pytest.raises(UpstreamTruncated):
            body.end()


def test_framing_without_content_has_a_limit() -> None:
    """It begins anew with each content."""
    extension = b"1;" + b"x" * (MAX_FRAMING_BYTES - 6) + b"\r\n"
    body = chunked()
    assert content_of(body, cases.byte_by_byte((extension + b"y\r\n") * 3)) == b"yyy"
    assert body.fault is None
    content_of(body, cases.byte_by_byte(b"1;xxx" + extension[2:]))
    assert body.fault is not None
    assert "more than 16384 bytes of chunk framing" in body.fault.message


@given(st.data(), st.lists(st.binary(min_size=1)))
def test_any_chunks_are_read_back(data: st.DataObject, contents: list[bytes]) -> None:
    """Content may hold whatever looks like framing."""
    body = chunked()
    assert content_of(body, data.draw(cases.cuts(chunks(*contents)))) == b"".join(contents)
    assert body.is_whole
    assert not body.excess


FRAMING = st.sampled_from([
    b"3\r\nabc\r\n", b"0\r\n", b"\r\n", b"\n", b"\r", b"3", b"a", b";x", b"0", b" ", b"abc", b"g",
])  # fmt: skip


@given(st.data(), st.lists(FRAMING | st.binary(max_size=3), max_size=20).map(b"".join))
def test_any_chunks_have_one_outcome(data: st.DataObject, stream: bytes) -> None:
    """Content, end and fault do not depend on where the bytes are cut."""

    def outcome(pieces: list[bytes]) -> tuple[bytes, bool, bool]:
        body = chunked()
        return content_of(body, pieces), body.is_whole, body.fault is not None

    assert outcome(data.draw(cases.cuts(stream))) == outcome([stream])


@pytest.mark.parametrize("rest", [b"", b"rest"])
def test_body_of_a_length_ends_there(rest: bytes) -> None:
    """Bytes behind it are excess."""
    for pieces in cases.every_way(b"hello" + rest):
        body = of_length(5)
        assert content_of(body, pieces) == b"hello"
        assert (body.is_whole, body.excess) == (True, bool(rest))
        body.end()


def test_body_short_of_its_length_is_truncated() -> None:
    """However little is missing."""
    for count in range(5):
        body = of_length(5)
        body.feed(b"hello"[:count])
        assert not body.is_whole
        with pytest.raises(UpstreamTruncated, match="cut off"):
            body.end()


def test_empty_body_is_done_from_the_start() -> None:
    """Nothing is waited for."""
    body = of_length(0)
    assert body.is_whole
    body.feed(b"x")
    assert body.excess


def test_body_without_framing_ends_with_the_connection() -> None:
    """All that comes is content."""
    body = until_close()
    assert content_of(body, [b"a", b"", b"b"]) == b"ab"
    assert not body.is_whole
    body.end()
    assert body.is_whole


def test_second_answer_is_excess_and_no_content() -> None:
    """Whoever smuggles one in gets nobody to read it."""
    for ask in (
        b"Content-Length: 2\r\n\r\nhi",
        b"Transfer-Encoding: chunked\r\n\r\n" + chunks(b"hi"),
    ):
        for pieces in cases.every_way((OK + ask) * 2):
            body = AnswerReader()
            assert content_of(body, pieces) == b"hi"
            assert (body.is_whole, body.excess, body.fault) == (True, True, None)


BODY_INPUTS: dict[str, tuple[Callable[[], AnswerReader], Callable[[int], bytes]]] = {
    "tiny chunks": (chunked, lambda size: b"1\r\nx\r\n" * (size // 6)),
    "one chunk": (chunked, lambda size: b"%x\r\n" % size + b"x" * size),
    "extensions": (chunked, lambda size: (b"1;" + b"x" * 500 + b"\r\nx\r\n") * (size // 507)),
    "trailers": (chunked, lambda size: b"0\r\n" + b"a:b\n" * min(size // 4, 4000)),
    "length": (lambda: of_length(1 << 40), lambda size: b"x" * size),
    "until close": (until_close, lambda size: b"x" * size),
}


@pytest.mark.parametrize("block_bytes", [1, 1 << 30])
@pytest.mark.parametrize("name", BODY_INPUTS)
def test_time_of_a_body_is_linear(name: str, block_bytes: int) -> None:
    """In pieces of whatever size."""
    reader, make_input = BODY_INPUTS[name]

    def make(size: int) -> Callable[[], object]:
        pieces = list(cases.in_blocks(make_input(size), block_bytes))

        def work() -> None:
            feed = reader().feed
            for piece in pieces:
                feed(piece)

        return work

    cases.assert_linear(make, 5_000 if block_bytes == 1 else 50_000)
