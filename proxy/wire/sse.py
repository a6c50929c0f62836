"""Server-sent events: bytes to events and back.

The standard: html.spec.whatwg.org, "Server-sent events", 9.2.6. An event here is the payload of its
`data:` fields, which knows its name if it came with one (`NamedEvent`). `id:`, `retry:`, comments
and events without data are dropped, because the official OpenAI SDKs mistake some of them for data
(openai-python parses an empty string after a data-less event). An event named `error` always comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..errors import UpstreamTooLarge

DONE = b"[DONE]"
KEEP_ALIVE = b": keep-alive\n\n"

_BOM = b"\xef\xbb\xbf"


class NamedEvent(bytes):
    """An event's data, with the name that it came with."""

    name: bytes


class SseDecoder:
    """Events out of a stream of bytes, however it is cut and whatever ends its lines."""

    def __init__(self, *, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._pending = bytearray()  # the unfinished event, line ends made LF
        self._after_cr = False  # a LF that comes next belongs to the CR before it
        self._started = False

    def feed(self, data: bytes) -> Iterable[bytes]:
        """The events that end in `data`; after those that came before raises UpstreamTooLarge.

        Lazy: exhaust it before the next call.
        """
        goes_on = not self._started or self._pending or self._after_cr
        # The usual is a read that gave one event of one line, with a name before it or without.
        if not goes_on and len(b"data: \n\n") < len(data) <= self._max_event_bytes:
            end = data.find(b"\n")
            if data[:6] == b"data: ":
                if data[end:] == b"\n\n" and b"\r" not in data:
                    return (data[6:end],)
                if data[end - 1 :] == b"\r\n\r\n" and 6 < data.find(b"\r") == end - 1:  # Gemini's
                    return (data[6 : end - 1],)
            elif data[:7] == b"event: " and data[end : end + 7] == b"\ndata: ":
                at = data.find(b"\n", end + 7)
                if at > end + 7 and data[at:] == b"\n\n" and b"\r" not in data:
                    return (named(data[end + 7 : at], data[7:end].strip()),)
        return self._events(data)

    def _events(self, data: bytes) -> Iterator[bytes]:
        if not self._started:
            data = self._without_bom(data)
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        pending = self._pending
        if pending:
            is_end = b"\n\n" in data or (data[:1] == b"\n" and pending[-1:] == b"\n")
            pending += data
            data = b""
            if is_end:
                data = bytes(pending)
                pending.clear()
        *blocks, rest = data.split(b"\n\n")
        pending += rest
        for block in blocks:
            event = self._event(block)
            if event or (type(event) is NamedEvent and event.name == b"error"):
                yield event
        self._limit(len(pending))

    def finish(self) -> list[bytes]:
        """At the end of the stream: an unfinished event is dropped unless it is `[DONE]`."""
        rest = bytes(self._pending)
        self._limit(len(rest))
        return [DONE] if _read(rest).strip() == DONE else []

    def _limit(self, size: int) -> None:
        if size > self._max_event_bytes:
            raise UpstreamTooLarge(
                f"the upstream sent an event of more than {self._max_event_bytes} bytes "
                "(max-event-size)"
            )

    def _without_bom(self, data: bytes) -> bytes:
        data = bytes(self._pending + data)
        self._pending.clear()
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._pending += data
            return b""
        self._started = True
        return data[len(_BOM) :] if data.startswith(_BOM) else data

    def _with_lf(self, data: bytes) -> bytes:
        if not data:
            return data
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]
        self._after_cr = data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _event(self, block: bytes) -> bytes:
        self._limit(len(block))
        if block[:5] == b"data:" and b"\n" not in block:
            return block[6:] if block[5:6] == b" " else block[5:]
        if block[:7] == b"event: ":  # as Claude has them
            head, _, line = block.partition(b"\n")
            if line[:6] == b"data: " and b"\n" not in line:
                return named(line[6:], head[7:].strip())
        return _read(block)


def named(data: bytes, name: bytes) -> NamedEvent:
    """An event that has a name."""
    event = NamedEvent(data)
    event.name = name
    return event


def _read(block: bytes) -> bytes:
    values = []
    event_name = b""
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            values.append(value[1:] if value[:1] == b" " else value)
        elif name == b"event":
            event_name = value.strip()
    data = b"\n".join(values)
    return named(data, event_name) if event_name else data


def encode(events: Sequence[bytes]) -> bytes:
    """The events as they go on the wire, without names."""
    if len(events) == 1 and b"\n" not in events[0]:
        return b"data: " + events[0] + b"\n\n"
    return b"".join([b"data: %b\n\n" % event.replace(b"\n", b"\ndata: ") for event in events])


def encode_named(events: Sequence[bytes]) -> bytes:
    """The events as they go on the wire, with the names of those that have one."""
    return b"".join(
        [
            b"event: %b\ndata: %b\n\n" % (event.name, event.replace(b"\n", b"\ndata: "))
            if type(event) is NamedEvent and event.name
            else encode([event])
            for event in events
        ]
    )
