"""Answer heads: lenient where it is harmless, strict where two readers could see two answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamInvalid
from proxy.wire.http.head import MAX_HEAD_BYTES, MAX_INTERIM_HEADS, Head, HeadReader, parse_head
from tests.support import cases

OK = b"HTTP/1.1 200 OK\r\n"
END = b"\r\n"


def head(
    status: int = 200,
    headers: dict[str, str] | None = None,
    length: int | None = None,
    *,
    chunked: bool = False,
    keep_alive: bool = True,
) -> Head:
    return Head(status, headers or {}, length, chunked, keep_alive)


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
        OK + b"TRANSFER-ENCODING: CHUNKED\r\nContent-Length: five\r\n\r\n",
        head(
            headers=has_length("five", **{"transfer-encoding": "CHUNKED"}),
            chunked=True,
            keep_alive=False,
        ),
    ),
    "same length twice": (
        OK + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\n",
        head(headers=has_length("5, 5"), length=5),
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
    "huge length": OK + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n",
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


def read(pieces: Iterable[bytes]) -> tuple[Head, bytes] | None:
    """The head and all that came behind it."""
    reader = HeadReader()
    found: tuple[Head, bytes] | None = None
    for piece in pieces:
        found = (found[0], found[1] + piece) if found else reader.feed(piece)
    return found


@pytest.mark.parametrize("rest", [b"", b"x", b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"])
@pytest.mark.parametrize("name", HEADS)
def test_head_is_the_same_however_the_bytes_are_cut(name: str, rest: bytes) -> None:
    """Whole, byte by byte, cut in two at every place, and with data behind it."""
    data, expected = HEADS[name]
    for pieces in cases.every_way(data + rest):
        assert read(pieces) == (expected, rest), pieces


@pytest.mark.parametrize("name", HEADS)
def test_unfinished_head_is_none(name: str) -> None:
    """Cut short anywhere it is not there yet."""
    data, _ = HEADS[name]
    stop = data.rindex(b"\n")
    for count in range(stop):
        assert read([data[:count]]) is None


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
    found = read([data + b"y"])
    assert found is not None
    assert found[1] == b"y"
    larger = data.replace(b"a: ", b"a: x")
    for pieces in ([larger], cases.byte_by_byte(larger)):
        with pytest.raises(UpstreamInvalid, match=f"more than {MAX_HEAD_BYTES} bytes of answer"):
            read(pieces)


def test_most_interim_answers_pass() -> None:
    """One more is refused, as is one that would leave HTTP."""
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    final = OK + b"Content-Length: 0\r\n\r\n"
    assert read([interim * MAX_INTERIM_HEADS + final]) is not None
    with pytest.raises(UpstreamInvalid, match="without a final one"):
        read([interim * (MAX_INTERIM_HEADS + 1) + final])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (b"Content-Length: five", "Content-Length is 'five'"),
        (b"Content-Length: " + b"1" * 60, f"Content-Length is '{'1' * 40}'"),
        (b"Transfer-Encoding: Chunked, gzip", "transfer encoding is 'Chunked, gzip'"),
        (b"nothing", "invalid header line"),
    ],
)
def test_refusal_says_what_is_wrong(fields: bytes, message: str) -> None:
    """As the upstream spelled it, but no more of it than a message needs."""
    with pytest.raises(UpstreamInvalid, match=message):
        read([OK + fields + b"\r\n\r\n"])


def test_started_tells_whether_anything_came() -> None:
    """An interim answer counts, also when it was read and dropped."""
    reader = HeadReader()
    assert not reader.started
    reader.feed(b"H")
    assert reader.started
    reader = HeadReader()
    reader.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert reader.started


def test_garbage_is_refused_at_its_first_byte() -> None:
    """Nobody waits for the end of what is no HTTP."""
    with pytest.raises(UpstreamInvalid):
        HeadReader().feed(b"<")


PIECES = st.sampled_from([
    OK, b"HTTP/1.1 ", b"200", b" ", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"a: b", b"a", b":",
    b"Content-Length: 5", b"Transfer-Encoding: chunked", b"\t", b"\0", b"HTTP/1.1 100 C\r\n\r\n",
])  # fmt: skip
ANY = st.lists(PIECES | st.binary(max_size=3), max_size=20).map(b"".join)


def outcome(pieces: Iterable[bytes]) -> object:
    try:
        return read(pieces)
    except UpstreamInvalid:
        return UpstreamInvalid


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
    found = parse_head("\r\n".join(lines).encode("latin-1"))
    assert (found.status, found.headers) == (status, headers)


INPUTS: dict[str, Callable[[int], bytes]] = {
    "repeated": lambda size: OK + b"a:b\n" * (size // 4) + b"\n",
    "folded": lambda size: OK + b"a: b\n" + b" c\n" * (size // 3) + b"\n",
    "many": lambda size: OK + b"".join(b"a%d:\n" % n for n in range(size // 8)) + b"\n",
    "long": lambda size: OK + b"a: " + b"x" * size + b"\r\n\r\n",
    "spaces": lambda size: OK + b"a:" + b" " * size + b"x\r\n\r\n",
    "carriage returns": lambda size: OK + b"a: b" + b"\r" * size,
    "interim": lambda size: OK.replace(b"200", b"100") + b"a: " + b"x" * size + b"\r\n\r\n" + OK,
}


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
@pytest.mark.parametrize("name", INPUTS)
def test_time_is_linear(name: str, block_bytes: int) -> None:
    """Up to the greatest head."""

    def make(size: int) -> Callable[[], object]:
        pieces = list(cases.in_blocks(INPUTS[name](size), block_bytes))
        return lambda: read(pieces)

    cases.assert_linear(make, 6_000)
