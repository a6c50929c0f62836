"""A scriptable upstream on a real socket: HTTP/1.1 by hand, so that it can break at any byte.

`Reply` says what goes over the wire and when; the plain functions (`chat`, `stream`, `error`, ...)
make the usual ones. `Upstream` serves them, a thread per connection, and keeps a `Received` for
each request: what came, when the answer ended, whether the peer left before that. It reads requests
strictly: one that breaks RFC 9112, like any other fault in a handler, is raised by `close()`.

Shapes: OpenAI's API reference, "Chat", "Completions (Legacy)", "Models" and "Error codes", 2026-11,
proved against the official SDK's types in test_upstream.py.
"""

from __future__ import annotations

import enum
import json
import re
import socket
import ssl
import threading
import time
import weakref
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

from tests.support.server import Connection, FakeServer, Over, PeerLeft

Json: TypeAlias = dict[str, Any]
Framing: TypeAlias = Literal["length", "chunked", "close", "raw"]

MODEL = "gpt-4.1-mini"
CREATED = 1_760_000_000


# What is sent, and when


@dataclass(frozen=True)
class Pause:
    """Say nothing for `seconds`."""

    seconds: float


class Gate(threading.Event):
    """An event that poll() can wait for, from its first `set()` on; it cannot be cleared."""

    def __init__(self) -> None:
        super().__init__()
        self._waited_for, self._end = socket.socketpair()
        weakref.finalize(self, _close, self._waited_for, self._end)

    def set(self) -> None:
        super().set()
        self._end.shutdown(socket.SHUT_WR)

    def clear(self) -> None:
        raise AssertionError("a gate stays open")

    def fileno(self) -> int:
        return self._waited_for.fileno()


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        each.close()


@dataclass(frozen=True)
class Hold:
    """Say nothing until `event` is set; many at once are cheap with a Gate only."""

    event: threading.Event


class Ending(enum.Enum):
    """Steps that nothing can follow."""

    CUT = "close in order: FIN, and TLS's close_notify before it"
    RESET = "close by RST"
    HANG = "say nothing until the peer leaves"


CUT, RESET, HANG = Ending
Step: TypeAlias = bytes | Pause | Hold | Ending


@dataclass(frozen=True)
class Reply:
    """One answer: `before_head`, then the head, then `body` in steps, a write (and chunk) for each.

    `framing` "raw": `body` is the whole answer from the status line on. Headers of the framing are
    added unless `headers` has them. The end of a chunked body goes out with its last bytes; a Pause
    or Hold after them parts the two, an `Ending` leaves it out. Methods return changed copies.
    """

    body: Sequence[Step] = ()
    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    framing: Framing = "length"
    reason: str | None = None
    before_head: Sequence[Step] = ()

    def wire(self) -> list[Step]:
        """The steps as they go over the wire, head and framing included."""
        if self.framing == "raw":
            return [*self.before_head, *self.body]
        headers = {name.lower(): value for name, value in self.headers}
        body = [step for step in self.body if step != b""]
        added: list[tuple[str, str]] = []
        if self.framing == "chunked":
            added = [("Transfer-Encoding", "chunked")]
            body = _chunked(body)
        elif self.framing == "length":
            added = [("Content-Length", str(sum(map(len, _bytes_in(body)))))]
        else:
            added = [("Connection", "close")]
        added = [pair for pair in added if pair[0].lower() not in headers]
        if (headers | {n.lower(): v for n, v in added}).get("connection") == "close":
            body = _ended(body, CUT)
        return [*self.before_head, self._head(added), *body]

    def content(self) -> bytes:
        """The body without its framing, in one piece."""
        return b"".join(_bytes_in(self.body))

    def wire_bytes(self) -> bytes:
        """All that goes over the wire, in one piece."""
        return b"".join(_bytes_in(self.wire()))

    def borders(self) -> list[int]:
        """Where `cut_at` tells most: before, within and after every line end, and at the start."""
        ends = [match.span() for match in re.finditer(rb"\r\n|\n|\r", self.wire_bytes())]
        return sorted({0, *(at for start, end in ends for at in range(start, end + 1))})

    def cut_at(self, count: int, how: Ending = CUT) -> Reply:
        """End by `how` after `count` bytes on the wire; head and chunk framing count."""
        kept: list[Step] = []
        for step in self.wire():
            if isinstance(step, bytes):
                if count <= len(step):
                    return raw(*kept, step[:count], how)
                count -= len(step)
            kept.append(step)
        raise ValueError(f"the reply ends {count} bytes before that cut")

    def byte_by_byte(self, gap_s: float = 0) -> Reply:
        """Write every byte of the wire by itself, `gap_s` apart."""
        return raw(*_pieces(self.wire(), 1, gap_s))

    def in_pieces(self, size: int, gap_s: float = 0) -> Reply:
        """Cut the body, not the wire, into writes (and chunks) of `size` bytes, `gap_s` apart."""
        return replace(self, body=_pieces(self.body, size, gap_s))

    def compressed(self, coding: Literal["gzip", "deflate", "raw-deflate"] = "gzip") -> Reply:
        """Compress the body, each step so that it can be decoded as soon as it is there.

        "deflate" is the zlib format that RFC 9110, 8.4.1.2 asks for, "raw-deflate" what some send.
        """
        wbits = {"gzip": 31, "deflate": 15, "raw-deflate": -15}[coding]
        packer = zlib.compressobj(wbits=wbits)
        body = [
            packer.compress(step) + packer.flush(zlib.Z_SYNC_FLUSH)
            if isinstance(step, bytes)
            else step
            for step in self.body
        ]
        packed = replace(self, body=_ended(body, packer.flush()))
        return packed.with_headers({"Content-Encoding": coding.removeprefix("raw-")})

    def with_headers(self, headers: Mapping[str, str]) -> Reply:
        """Add `headers`; one that is there already is sent twice."""
        return replace(self, headers=(*self.headers, *headers.items()))

    def after(self, *steps: Step) -> Reply:
        """Take `steps` before anything else."""
        return replace(self, before_head=(*steps, *self.before_head))

    def then(self, *steps: Step) -> Reply:
        """Take `steps` after the body."""
        return replace(self, body=(*self.body, *steps))

    def _head(self, added: Iterable[tuple[str, str]]) -> bytes:
        reason = HTTPStatus(self.status).phrase if self.reason is None else self.reason
        lines = [f"HTTP/1.1 {self.status} {reason}"]
        lines += [f"{name}: {value}" for name, value in (*self.headers, *added)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _bytes_in(steps: Iterable[Step]) -> Iterator[bytes]:
    return (step for step in steps if isinstance(step, bytes))


def _ended(steps: Sequence[Step], end: Step) -> list[Step]:
    """`steps` and `end`: joined where both are bytes, without it after an Ending."""
    if not steps or isinstance(steps[-1], Pause | Hold):
        return [*steps, end]
    last = steps[-1]
    if isinstance(last, bytes):
        return [*steps[:-1], last + end] if isinstance(end, bytes) else [*steps, end]
    return list(steps)


def _chunked(body: Iterable[Step]) -> list[Step]:
    chunks: list[Step] = [
        b"%x\r\n%b\r\n" % (len(step), step) if isinstance(step, bytes) else step for step in body
    ]
    return _ended(chunks, b"0\r\n\r\n")


def _pieces(steps: Iterable[Step], size: int, gap_s: float) -> list[Step]:
    pieces: list[Step] = []
    for step in steps:
        if not isinstance(step, bytes):
            pieces.append(step)
            continue
        for start in range(0, len(step), size):
            if gap_s and pieces:
                pieces.append(Pause(gap_s))
            pieces.append(step[start : start + size])
    return pieces


# Replies of any dialect


def raw(*steps: Step) -> Reply:
    """Exactly these steps, status line and all; the connection stays open unless one ends it."""
    return Reply([step for step in steps if step != b""], framing="raw")


def garbage(data: bytes = b"\x16\x03\x01 this is not HTTP\r\n\r\n") -> Reply:
    """Bytes that are no HTTP, then the end of the connection."""
    return raw(data, CUT)


def json_reply(
    payload: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Reply:
    """A JSON body with its length."""
    body = json.dumps(payload, ensure_ascii=False).encode()
    return Reply([body], status, [("Content-Type", "application/json"), *(headers or {}).items()])


def events(
    *payloads: Json | str | Step,
    gap_s: float = 0,
    framing: Framing = "chunked",
    newline: str = "\n",
    one_write: bool = False,
    named: bool = False,
) -> Reply:
    """Server-sent events: a dict becomes `data: JSON`, a str `data: str`; steps stay as they are.

    `gap_s` lies between any two; `one_write` sends neighbours in one write and chunk; `named` puts
    `event: TYPE` before the data of a dict with a `type`, as Claude's streams have it.
    """
    steps: list[Step] = []
    for payload in payloads:
        step = _event(payload, newline, named) if isinstance(payload, dict | str) else payload
        if gap_s and steps:
            steps.append(Pause(gap_s))
        if one_write and steps and isinstance(steps[-1], bytes) and isinstance(step, bytes):
            steps[-1] += step
        else:
            steps.append(step)
    headers = [("Content-Type", "text/event-stream; charset=utf-8"), ("Cache-Control", "no-cache")]
    return Reply(steps, headers=headers, framing=framing)


def _event(payload: Json | str, newline: str, named: bool) -> bytes:
    name = ""
    if isinstance(payload, dict):
        name = f"event: {payload['type']}{newline}" if named and "type" in payload else ""
        payload = json.dumps(payload, ensure_ascii=False)
    return f"{name}data: {payload}{newline}{newline}".encode()


# OpenAI's replies


def chat(
    *texts: str,
    finish: str | None = "stop",
    usage: tuple[int, int] | None = (9, 3),
    message: Json | None = None,
    **more: Any,
) -> Reply:
    """A `chat.completion` with a choice for each text; `message` and `more` overwrite fields."""
    choices: list[Json] = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []}
            | (message or {}),
            "logprobs": None,
            "finish_reason": finish,
        }
        for index, text in enumerate(texts)
    ]
    return json_reply(_answer("chat.completion", choices, _usage(usage)) | more)


def stream(
    *texts: str,
    finish: str | None = "stop",
    done: bool = True,
    usage: tuple[int, int] | None = None,
    more: Json | None = None,
    **sent: Any,
) -> Reply:
    """The `chat.completion.chunk`s of one choice: its role, a chunk for each text, the finish.

    With `usage` a chunk without choices ends it, and the others have `usage: null`, as
    `stream_options.include_usage` asks for. `more` overwrites fields of every chunk, `sent` is for
    `events`. Without `finish` and `done` it is the stream of an upstream that broke off.
    """
    deltas: list[Json] = [{"role": "assistant", "content": "", "refusal": None}]
    deltas += [{"content": text} for text in texts]
    return _stream(deltas, finish, done=done, usage=usage, more=more, sent=sent)


def endless() -> Reply:
    """A stream with a hundred events each second, which outlasts a test."""
    steps: list[Json | Step] = [chunk({"content": "a"}), Pause(0.01)]
    return events(*steps * 2000)


def tool_calls(*calls: tuple[str, Json], **more: Any) -> Reply:
    """A `chat.completion` that calls tools: name and arguments of each."""
    made = [
        {"id": f"call_{index}", "type": "function"}
        | {"function": {"name": name, "arguments": json.dumps(arguments)}}
        for index, (name, arguments) in enumerate(calls)
    ]
    return chat("", finish="tool_calls", message={"content": None, "tool_calls": made}, **more)


def stream_tool_calls(
    *calls: tuple[str, Json],
    piece_size: int = 8,
    done: bool = True,
    usage: tuple[int, int] | None = None,
    more: Json | None = None,
    **sent: Any,
) -> Reply:
    """The same as a stream: id and name first, then the arguments in pieces of `piece_size`."""
    deltas: list[Json] = [{"role": "assistant", "content": None, "refusal": None}]
    for index, (name, arguments) in enumerate(calls):
        head = {"id": f"call_{index}", "type": "function"}
        deltas.append(
            {"tool_calls": [{"index": index, **head, "function": {"name": name, "arguments": ""}}]}
        )
        text = json.dumps(arguments)
        deltas += [
            {
                "tool_calls": [
                    {"index": index, "function": {"arguments": text[at : at + piece_size]}}
                ]
            }
            for at in range(0, len(text), piece_size)
        ]
    return _stream(deltas, "tool_calls", done=done, usage=usage, more=more, sent=sent)


def chunk(delta: Json | None, *, index: int = 0, finish: str | None = None, **more: Any) -> Json:
    """One `chat.completion.chunk`, for `events`; without choices when `delta` is None."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _answer("chat.completion.chunk", [] if delta is None else [choice]) | more


def completion(*texts: str, usage: tuple[int, int] | None = (9, 3), **more: Any) -> Reply:
    """A legacy `text_completion` with a choice for each text."""
    choices = [_text_choice(text, index, "stop") for index, text in enumerate(texts)]
    return json_reply(_answer("text_completion", choices, _usage(usage)) | more)


def stream_completion(
    *texts: str, usage: tuple[int, int] | None = None, more: Json | None = None, **sent: Any
) -> Reply:
    """The same as a stream of one choice."""
    common: Json = ({"usage": None} if usage else {}) | (more or {})
    choices = [*(_text_choice(text, 0, None) for text in texts), _text_choice("", 0, "stop")]
    chunks = [_answer("text_completion", [choice]) | common for choice in choices]
    if usage:
        chunks.append(_answer("text_completion", []) | common | _usage(usage))
    return events(*chunks, "[DONE]", **sent)


def error(
    status: int,
    message: str = "The upstream refuses.",
    *,
    code: str | None = None,
    type: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """An error status with OpenAI's error object."""
    kind = type or ("invalid_request_error" if status < 500 else "server_error")
    return json_reply(error_object(message, code=code, type=kind), status, headers)


def error_object(
    message: str, *, code: str | int | None = None, type: str = "server_error"
) -> Json:
    """OpenAI's error object: a body, or an event in mid-stream."""
    return {"error": {"message": message, "type": type, "param": None, "code": code}}


def as_asked(*texts: str) -> Callable[[Received], Reply]:
    """Answer like OpenAI: chat or completion, streamed or not, with the name of the asked model."""

    def answer(received: Received) -> Reply:
        makers = {
            "/v1/chat/completions": (chat, stream),
            "/v1/completions": (completion, stream_completion),
        }
        if received.path not in makers:
            return not_found(received)
        whole, streamed = makers[received.path]
        asked = received.json()
        if not asked.get("stream"):
            return whole("".join(texts), model=asked["model"])
        usage = (9, 3) if (asked.get("stream_options") or {}).get("include_usage") else None
        return streamed(*texts, usage=usage, more={"model": asked["model"]})

    return answer


def not_found(received: Received) -> Reply:
    """What OpenAI says of an unknown path."""
    return error(404, f"Invalid URL ({received.method} {received.path})")


def _stream(
    deltas: Iterable[Json],
    finish: str | None,
    *,
    done: bool,
    usage: tuple[int, int] | None,
    more: Json | None,
    sent: Json,
) -> Reply:
    common: Json = ({"usage": None} if usage else {}) | (more or {})
    payloads: list[Json | str] = [chunk(delta, **common) for delta in deltas]
    if finish:
        payloads.append(chunk({}, finish=finish, **common))
    if usage:
        payloads.append(chunk(None, **common | _usage(usage)))
    return events(*payloads, *(["[DONE]"] if done else []), **sent)


def _answer(kind: str, choices: list[Json], usage: Json | None = None) -> Json:
    ids = {"text_completion": "cmpl-1"}
    head = {"id": ids.get(kind, "chatcmpl-1"), "object": kind, "created": CREATED, "model": MODEL}
    return head | {"choices": choices, "system_fingerprint": "fp_44709d6fcb"} | (usage or {})


def _text_choice(text: str, index: int, finish: str | None) -> Json:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}


def _usage(tokens: tuple[int, int] | None) -> Json:
    if tokens is None:
        return {}
    prompt, made = tokens
    counts = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
    details = {
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    return {"usage": counts | details}


# Only a Gate can be polled: how often a Hold looks at any other threading.Event.
_HOLD_SLICE_S = 0.005


def _play(steps: Iterable[Step], connection: Connection) -> None:
    """Take the steps; raises `Over` if one of them ends the connection."""
    for step in steps:
        match step:
            case Pause(seconds):
                connection.wait(seconds)
            case Hold(Gate() as gate):
                connection.wait(also=gate)
            case Hold(event):
                while not event.is_set():
                    connection.wait(_HOLD_SLICE_S)
            case Ending.HANG:
                connection.wait()
            case Ending.RESET:
                connection.reset()
                raise Over
            case Ending.CUT:
                raise Over
            case _:
                connection.send(step)


# Requests


@dataclass
class Received:
    """A request as it came, and how its answer went; times are `time.monotonic()`."""

    key: str | None
    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int
    arrived: float
    ended: float | None = None
    aborted: bool = False  # the peer left before all was sent
    _over: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def header(self) -> dict[str, str]:
        """The headers by lower-case name; of several with one name the last."""
        return {name.lower(): value for name, value in self.headers}

    def json(self) -> Any:
        return json.loads(self.body)

    def wait_ended(self, timeout_s: float = 5) -> Received:
        """Block until the answer was sent, or cut off by either side; raises TimeoutError."""
        if not self._over.wait(timeout_s):
            raise TimeoutError(f"the answer to {self.method} {self.path} goes on")
        return self

    def end(self, *, aborted: bool) -> None:
        self.aborted = aborted
        self.ended = time.monotonic()
        self._over.set()


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(;.*)?")


class MalformedRequest(Exception):
    """The peer sent what RFC 9112 does not allow."""


def _read_request(connection: Connection) -> Received:
    """The next request; raises MalformedRequest."""
    head = connection.read_until(b"\r\n\r\n").decode("latin-1")
    request_line, *lines = head.split("\r\n")
    match request_line.split(" "):
        case [method, target, "HTTP/1.1"]:
            path, _, query = target.partition("?")
        case _:
            raise MalformedRequest(f"request line {request_line!r}")
    headers = [_parse_header(line) for line in lines]
    names = [name.lower() for name, _ in headers]
    if names.count("host") != 1 or names.count("content-length") > 1:
        raise MalformedRequest(f"not one Host, or several Content-Length: {names}")
    received = Received(
        None, method, path, query, headers, b"", connection.number, time.monotonic()
    )
    header = received.header
    received.key = _key_of(header)
    if header.get("expect", "").lower() == "100-continue":
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    received.body = _read_body(connection, header)
    received.arrived = time.monotonic()
    return received


def _parse_header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not _TOKEN.fullmatch(name) or re.search("[\r\n\0]", value):
        raise MalformedRequest(f"header line {line!r}")
    return name, value.strip(" \t")


def _key_of(header: Mapping[str, str]) -> str | None:
    scheme, _, key = header.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key
    return header.get("x-api-key", header.get("x-goog-api-key"))


def _read_body(connection: Connection, header: Mapping[str, str]) -> bytes:
    coding, length = header.get("transfer-encoding"), header.get("content-length")
    if coding is None:
        if length is not None and not (length.isascii() and length.isdigit()):
            raise MalformedRequest(f"Content-Length {length!r}")
        return connection.read_exactly(int(length or 0))
    if coding.lower() != "chunked" or length is not None:
        raise MalformedRequest(f"Transfer-Encoding {coding!r}, Content-Length {length!r}")
    body = bytearray()
    while size := _chunk_size(connection.read_until(b"\r\n")):
        body += connection.read_exactly(size)
        if connection.read_exactly(2) != b"\r\n":
            raise MalformedRequest("a chunk is longer than its size")
    while connection.read_until(b"\r\n"):
        pass  # trailers
    return bytes(body)


def _chunk_size(line: bytes) -> int:
    size = _CHUNK_SIZE.fullmatch(line)
    if not size:
        raise MalformedRequest(f"chunk size {line!r}")
    return int(size[1], 16)


# The server

Answer: TypeAlias = Reply | Callable[[Received], Reply]


class Upstream(FakeServer):
    """A server that answers as told.

    A POST to any path takes the next reply queued for its key, else one queued for None, else the
    key's standing answer (`always`), else `default`. A GET takes its path's answer from `pages`.
    `on_connect` are steps before the first byte is read, and before TLS. All of these can be
    changed at any time.
    """

    path = "/v1"

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.default: Answer = as_asked("Hello", " there", "!")
        self.models = [MODEL]
        self.pages: dict[str, Answer] = {"/v1/models": self._models_page}
        self.on_connect: Sequence[Step] = ()
        self.history: list[Received] = []
        self._queues: dict[str | None, deque[Answer]] = defaultdict(deque)
        self._standing: dict[str, Answer] = {}
        super().__init__(tls=tls, host=host)

    def reply(self, key: str | None, *answers: Answer) -> None:
        """Queue answers for requests with `key`; None: for those whose key has none queued."""
        with self._changed:
            self._queues[key].extend(answers)

    def always(self, key: str, answer: Answer) -> None:
        """Answer requests with `key` so whenever nothing is queued for them."""
        with self._changed:
            self._standing[key] = answer

    def received(self, key: str | None = None) -> list[Received]:
        """The requests so far, in order of arrival; with `key` only its own."""
        with self._changed:
            return [one for one in self.history if key in (None, one.key)]

    def wait_for(self, n: int = 1, key: str | None = None, timeout_s: float = 5) -> list[Received]:
        """Block until `n` requests arrived whole, and return all so far; raises TimeoutError."""
        self._wait(lambda: len(self.received(key)) >= n, timeout_s, f"{n} requests of {key}")
        return self.received(key)

    def begin(self, connection: Connection) -> None:
        _play(self.on_connect, connection)
        super().begin(connection)

    def serve(self, connection: Connection) -> None:
        while True:
            self._answer(connection, _read_request(connection))

    def _so_far(self) -> str:
        asked = [(one.key, one.method, one.path) for one in self.history]
        return f"{super()._so_far()}, got {asked}"

    def _models_page(self, received: Received) -> Reply:
        own = {"object": "model", "created": CREATED, "owned_by": "upstream"}
        return json_reply({"object": "list", "data": [{"id": one, **own} for one in self.models]})

    def _answer(self, connection: Connection, received: Received) -> None:
        aborted = False
        with self._changed:
            self.history.append(received)
            answer = self._choose(received)
            self._changed.notify_all()
        try:
            reply = answer if isinstance(answer, Reply) else answer(received)
            _play(reply.wire(), connection)
        except PeerLeft:
            aborted = True
            raise
        finally:
            received.end(aborted=aborted)
        if received.header.get("connection", "").lower() == "close":
            raise Over

    def _choose(self, received: Received) -> Answer:
        if received.method == "GET":
            return self.pages.get(received.path, not_found)
        if received.method != "POST":
            return error(405, f"Not allowed to {received.method} on {received.path}")
        for key in (received.key, None):
            if self._queues[key]:
                return self._queues[key].popleft()
        return self._standing.get(received.key or "", self.default)
