"""SSE both ways: however bytes are cut and lines end, the same events come out."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamTooLarge
from proxy.wire.sse import DONE, KEEP_ALIVE, NamedEvent, SseDecoder, encode, encode_named, named
from tests.support import cases

BOM = b"\xef\xbb\xbf"
UNLIMITED = 1 << 30

# The bytes of a stream, and the events in them. The first ones are also what `encode` writes.
WRITTEN: dict[str, tuple[bytes, list[bytes]]] = {
    "one": (b"data: a\n\n", [b"a"]),
    "several": (b"data: a\n\ndata: b\n\ndata: [DONE]\n\n", [b"a", b"b", DONE]),
    "lines": (b"data: a\ndata: b\ndata: \ndata: c\n\n", [b"a\nb\n\nc"]),
    "space kept": (b"data:  a \n\n", [b" a "]),
    "colons": (b"data: :a:b:\n\n", [b":a:b:"]),
    "utf-8": ("data: é\u2028\u0085😀\n\n".encode(), ["é\u2028\u0085😀".encode()]),
    "json": (b'data: {"a":"b\\n"}\n\n', [b'{"a":"b\\n"}']),
    "invalid utf-8": (b"data: \xff\x00\n\n", [b"\xff\x00"]),
    "nothing": (b"", []),
}
READ: dict[str, tuple[bytes, list[bytes]]] = {
    "no space": (b"data:a\n\ndata:b\n\n", [b"a", b"b"]),
    "crlf": (b"data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n", [b"a\nb", b"c"]),
    "cr": (b"data: a\rdata: b\r\rdata: c\r\r", [b"a\nb", b"c"]),
    "mixed ends": (b"data: a\r\n\ndata: b\r\r\ndata: c\n\r\n", [b"a", b"b", b"c"]),
    "bom": (BOM + b"data: a\n\n", [b"a"]),
    "bom only first": (BOM + BOM + b"data: a\n\ndata: b\n\n", [b"b"]),
    "bom alone": (BOM, []),
    "half a bom": (BOM[:2], []),
    "no bom after all": (b"\xef\xbbdata: a\n\ndata: b\n\n", [b"b"]),
    "comments": (b": hi\n\n:\n\ndata: a\n: in between\ndata: b\n\n", [b"a\nb"]),
    "other fields": (b"event: x\nid: 1\nretry: 5\ndata: a\nfoo: b\n\n", [b"a"]),
    "only other fields": (b"event: ping\n\nid: 1\n\n", []),
    "names that begin alike": (b"datax: a\ndat: b\n data: c\n\n", []),
    "field without a colon": (b"data\ndata: a\n\n", [b"\na"]),
    "empty data": (b"data:\n\ndata: \n\ndata\n\n", []),
    "blank lines": (b"\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n\n", [b"a", b"b"]),
    "unfinished": (b"data: a\n\ndata: b\n", [b"a"]),
    "unfinished line": (b"data: a\n\ndata: b", [b"a"]),
    "unfinished done": (b"data: a\n\ndata: [DONE]", [b"a", DONE]),
    "unfinished done line": (b"data: a\n\ndata:[DONE]\r\n", [b"a", DONE]),
    "unfinished done with a space": (b"data: a\n\ndata: [DONE] ", [b"a", DONE]),
    "nearly done": (b"data: [DONE", []),
    "done in a longer event": (b"data: a\ndata: [DONE]", []),
    "keep-alive": (KEEP_ALIVE + b"data: a\n\n" + KEEP_ALIVE, [b"a"]),
    "named, without a space": (b"event: m\ndata:a\n\nevent:m\ndata: b\n\n", [b"a", b"b"]),
    "named, more data": (b"event: m\ndata: a\ndata: b\n\n", [b"a\nb"]),
    "named twice": (b"event: m\nevent: n\ndata: a\n\n", [b"a"]),
    "other names": (b"event: message\ndata: a\n\nevent: errors\ndata: b\n\n", [b"a", b"b"]),
    "unfinished error": (b"data: a\n\nevent: error\ndata: [DONE", [b"a"]),
    "cr at the end": (b"data: a\n\r", [b"a"]),
}
ALL = WRITTEN | READ


def decode(pieces: Iterable[bytes], max_event_bytes: int = UNLIMITED) -> list[bytes]:
    events: list[bytes] = []
    decoder = feed_into(events, pieces, max_event_bytes=max_event_bytes)
    return events + decoder.finish()


def feed_into(found: list[bytes], pieces: Iterable[bytes], *, max_event_bytes: int) -> SseDecoder:
    decoder = SseDecoder(max_event_bytes=max_event_bytes)
    for piece in pieces:
        found.extend(decoder.feed(piece))
    return decoder


@pytest.mark.parametrize(
    ("block", "data"),
    [
        (b"event: error\ndata: a", b"a"),
        (b"data:a\r\nevent:error", b"a"),
        (b"event: error", b""),
        (b"event: ping\nevent: error\ndata: a\ndata: b", b"a\nb"),
        (b": hi\nid: 1\nevent:error\nretry: 1\ndata: {}", b"{}"),
    ],
)
def test_event_named_error_is_told_whatever_its_data(block: bytes, data: bytes) -> None:
    """However it is cut."""
    for pieces in cases.every_way(b"data: before\n\n" + block + b"\n\ndata: after\n\n"):
        found = decode(pieces)
        assert found == [b"before", data, b"after"]
        assert [name_of(event) for event in found] == [b"", b"error", b""]
        assert isinstance(found[1], NamedEvent)
        assert found[1].name == b"error"


@pytest.mark.parametrize(
    "read",
    [
        *(b"data: a\n\n", b"data: a\r\n\r\n", b"data: a\r\r", b"data: \n\n", b"data: \r\n\r\n"),
        *(b"data: a\rb\r\n\r\n", b"data: a\r\r\n\r\n", b"data: a\n\r\n", b"data: a\r\n\n"),
        *(b"data: a\ndata: b\n\n", b"data: a\r\ndata: b\r\n\r\n", b"data: a\n\ndata: b\n\n"),
        *(b"data: a", b"data: a\n", b"data: a\r\n", b"data: a\r\n\r", b"data: a\n\n\n"),
        *(b"event: n\ndata: a\n\n", b"event: n\r\ndata: a\r\n\r\n", b"event: n\ndata: \n\n"),
        *(b"event: n\rdata: a\n\n", b"event: n\ndata: a\r\n\n", b"event:  n \ndata: a\n\n"),
        *(b"event: n\ndata: a\ndata: b\n\n", b"event: n\nid: 1\ndata: a\n\n", b"event: n\n\n"),
        *(b"event: n\ndata: a\n", b"event: \ndata: a\n\n", b"event: error\ndata: \n\n"),
    ],
)
def test_read_of_one_event_is_what_its_bytes_are(read: bytes) -> None:
    """The short way of what most reads are, in the middle of a stream; and what follows it."""
    found = []
    for pieces in ([read, b"data: z\n\n"], [bytes([byte]) for byte in read + b"data: z\n\n"]):
        events = decode([b"data: y\n\n", *pieces])
        found.append([(name_of(event), event) for event in events])
    assert found[0] == found[1]


def name_of(event: bytes) -> bytes:
    return event.name if isinstance(event, NamedEvent) else b""


@pytest.mark.parametrize(
    ("stream", "named"),
    [
        (b"event: m\ndata: a\n\nevent: n\ndata: b\n\n", [(b"m", b"a"), (b"n", b"b")]),
        (b"event: m\ndata: a\n\ndata: b\n\n", [(b"m", b"a"), (b"", b"b")]),
        (b"data: a\nevent:m\n\nevent:\ndata: b\n\n", [(b"m", b"a"), (b"", b"b")]),
        (b"event: m\nevent: n\ndata: a\ndata: b\n\n", [(b"n", b"a\nb")]),
        (b"id: 1\revent: m \rdata: a\r\r", [(b"m", b"a")]),
        (b"event: ping\n\nevent: m\ndata:\n\ndata: a\n\n", [(b"", b"a")]),
    ],
)
def test_event_keeps_its_name(stream: bytes, named: list[tuple[bytes, bytes]]) -> None:
    """Its own: none stays for the next, and none is told without data."""
    for pieces in cases.every_way(stream):
        found = decode(pieces)
        assert [(name_of(event), event) for event in found] == named
        assert [isinstance(event, NamedEvent) and event.name == b"error" for event in found] == [
            False
        ] * len(found)


def reference(stream: bytes) -> list[bytes]:
    """The standard's algorithm line by line; events without data are left out."""
    text = stream.removeprefix(BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, rest = text.split(b"\n")
    events: list[bytes] = []
    values: list[bytes] = []
    for line in lines:
        if not line:
            events.append(b"\n".join(values))
            values = []
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            values.append(value.removeprefix(b" "))
    name, _, value = rest.partition(b":")
    if name == b"data":
        values.append(value.removeprefix(b" "))
    last = [DONE] if b"\n".join(values).strip() == DONE else []
    return [event for event in events if event] + last


@pytest.mark.parametrize("name", ALL)
def test_events_are_the_same_however_the_bytes_are_cut(name: str) -> None:
    """Whole, byte by byte, and in two pieces cut at every place."""
    data, events = ALL[name]
    for pieces in cases.every_way(data):
        assert decode(pieces) == events, pieces


@pytest.mark.parametrize("name", ALL)
def test_reference_agrees(name: str) -> None:
    """The table holds what the standard says."""
    data, events = ALL[name]
    assert reference(data) == events


@pytest.mark.parametrize("name", WRITTEN)
def test_writer_writes_what_the_reader_reads(name: str) -> None:
    """One table drives both."""
    data, events = WRITTEN[name]
    assert encode(events) == data


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("unfin")])
def test_trailing_data_is_a_further_event(name: str) -> None:
    """What follows a stream is read on its own."""
    data, events = ALL[name]
    for pieces in ([data + b"\n\ndata: more\n\n"], [data, b"\n\n", b"data: more\n\n"]):
        found = decode(pieces)
        assert found[-1] == b"more"
        assert found[: len(events)] == events


PIECES = st.sampled_from([
    b"data", b":", b": ", b"data: ", b"data:", b"event", b"id: 1", b"\n", b"\r", b"\r\n", b"\n\n",
    b"\r\n\r\n", b"\r\r", b"a", b"[DONE]", BOM, b"\xef", b"\xbb", b" ", b"\x00", b"{}",
])  # fmt: skip
STREAMS = st.lists(PIECES | st.binary(max_size=4), max_size=40).map(b"".join)


@given(st.data(), STREAMS)
def test_any_stream_reads_as_in_the_standard(data: st.DataObject, stream: bytes) -> None:
    """The decoder against a simple reference, cut anywhere."""
    assert decode(data.draw(cases.cuts(stream))) == reference(stream)


@given(st.data(), st.lists(st.binary(min_size=1).filter(lambda event: b"\r" not in event)))
def test_what_is_written_is_read_back(data: st.DataObject, events: list[bytes]) -> None:
    """Writer, then reader."""
    assert decode(data.draw(cases.cuts(encode(events)))) == events


def test_whole_events_are_given_at_once() -> None:
    """Nothing whole waits for the next read: an end of a lone CR counts without its LF."""
    decoder = SseDecoder(max_event_bytes=UNLIMITED)
    assert list(decoder.feed(b"data: a\r\n\r")) == [b"a"]
    assert list(decoder.feed(b"\ndata: b\n\nda")) == [b"b"]
    assert list(decoder.feed(b"ta: c\n")) == []
    assert list(decoder.feed(b"\n")) == [b"c"]


def test_events_are_written_with_the_names_that_they_have() -> None:
    """And their lines, however many."""
    events = [named(b"a\nb", b"n"), named(b"c", b""), b"d\ne"]
    assert encode_named(events) == (
        b"event: n\ndata: a\ndata: b\n\ndata: c\n\ndata: d\ndata: e\n\n"
    )


def test_one_megabyte_events_pass() -> None:
    """Cut as a socket gives them."""
    event = b"x" * (1 << 20)
    stream = encode([event, event])
    assert decode(cases.in_blocks(stream, 16_384), max_event_bytes=len(event) + 64) == [event] * 2


@pytest.mark.parametrize("split", [cases.whole, cases.byte_by_byte])
@pytest.mark.parametrize("end", [b"\n\n", b"\n", b""])
def test_larger_events_are_refused(split: Callable[[bytes], list[bytes]], end: bytes) -> None:
    """Over max-event-size, finished or not; the events before it come first."""
    found: list[bytes] = []
    pieces = split(b"data: a\n\ndata: " + b"x" * 100 + end)
    with pytest.raises(UpstreamTooLarge, match="max-event-size"):
        feed_into(found, pieces, max_event_bytes=100)
    assert found == [b"a"]


def test_an_event_of_the_greatest_size_passes() -> None:
    """The limit is on the bytes of its lines."""
    event = b"x" * 94
    assert decode([encode([event])], max_event_bytes=100) == [event]


def test_endless_comments_without_a_blank_line_are_bounded() -> None:
    """They are part of an event that does not end."""
    with pytest.raises(UpstreamTooLarge):
        feed_into([], [b": ping\n"] * 1000, max_event_bytes=1000)


INPUTS: dict[str, Callable[[int], bytes]] = {
    "one event": lambda size: b"data: " + b"x" * size + b"\n\n",
    "small events": lambda size: b"data: abc\n\n" * (size // 11),
    "lines": lambda size: b"data: a\n" * (size // 8) + b"\n",
    "blank lines": lambda size: b"\n" * size,
    "cr": lambda size: b"\r" * size,
    "crlf lines": lambda size: b"data: a\r\n" * (size // 9),
    "colons": lambda size: b":" * size,
}


@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 30])
@pytest.mark.parametrize("name", INPUTS)
def test_time_is_linear(name: str, block_bytes: int) -> None:
    """Whatever comes, in pieces of whatever size."""

    def make(size: int) -> Callable[[], object]:
        pieces = list(cases.in_blocks(INPUTS[name](size), block_bytes))
        return lambda: decode(pieces)

    cases.assert_linear(make, 3_000 if block_bytes < 10 else 30_000)


@pytest.mark.long
def test_memory_is_bounded_by_the_event() -> None:
    """An unfinished event in tiny pieces takes little more than its bytes."""
    decoder = SseDecoder(max_event_bytes=1 << 20)
    tracemalloc.start()
    try:
        for _ in range(1 << 15):
            list(decoder.feed(b"xyz"))
        assert tracemalloc.get_traced_memory()[0] < 1 << 18
    finally:
        tracemalloc.stop()
