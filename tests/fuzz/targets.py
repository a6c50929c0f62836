"""Everything that takes bytes from outside, as functions of bytes.

A target raises nothing: what it may raise is suppressed in it, anything else is a finding. Seeds
are files in `corpus/TARGET/`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gunicorn.config import Config as GunicornConfig  # type: ignore[import-untyped]
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]
from gunicorn.http.parser import RequestParser  # type: ignore[import-untyped]

from proxy.app import create_app
from proxy.config import document, load_config
from proxy.errors import CallerError, ConfigError, UpstreamError, UpstreamRefusal
from proxy.server.settings import settings
from proxy.wire.chat import (
    ChunkStream,
    chunks_of,
    error_body,
    read_answer,
    read_error,
    read_named_error,
    read_request,
)
from proxy.wire.claude.answer import ChatStream, to_chat
from proxy.wire.claude.api import read_error as read_claude_error
from proxy.wire.claude.request import to_request
from proxy.wire.completions import TextAnswers, read_completion
from proxy.wire.http.answer import AnswerReader
from proxy.wire.http.content_coding import inflater
from proxy.wire.http.headers import passed, read_retry_after
from proxy.wire.made_names import plain_name
from proxy.wire.sse import NamedEvent, SseDecoder, encode
from tests.support.claude_rules import violations
from tests.support.translators import ended, fed

CORPUS = Path(__file__).with_name("corpus")
MAX_EVENT_BYTES = 64 * 1024
BLOCK_BYTES = 4096
NOW_S = 1_760_000_000.0

_CONFIG = load_config({"demo": [{"name": "demo", "models": [{"name": "m"}]}]}, environ={})


def _blocks(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), BLOCK_BYTES):
        yield data[at : at + BLOCK_BYTES]


def sse(data: bytes) -> None:
    """An upstream's stream: its events, then what leaves for the caller."""
    decoder = SseDecoder(max_event_bytes=MAX_EVENT_BYTES)
    chunks = ChunkStream(names={"files.read": plain_name("files.read"), "run": "run"})
    try:
        for block in _blocks(data):
            for event in decoder.feed(block):
                if isinstance(event, NamedEvent) and event.name == b"error":
                    error_body(read_named_error(event))
                    return
                encode(fed(chunks, [event]))
        decoder.finish()
        ended(chunks)
    except UpstreamError:
        pass


def claude(data: bytes) -> None:
    """What comes of Anthropic's API, or of what looks like it: a stream, an answer, an error."""
    decoder = SseDecoder(max_event_bytes=MAX_EVENT_BYTES)
    stream = ChatStream(model="m", created=1, include_usage=True)
    with contextlib.suppress(UpstreamError):
        for block in _blocks(data):
            for event in decoder.feed(block):
                encode(fed(stream, [event]))
        ended(stream)
    with contextlib.suppress(UpstreamError):
        to_chat(data, model="m", created=1)
    read_claude_error(429, {}, data, now_s=NOW_S).refusal()


def history(data: bytes) -> None:
    """A caller's chat as Claude gets it: refused in our words, or a request that it takes."""
    for model in ("claude-opus-5-5", "claude-opus-4-8", "claude-haiku-4-5", "other"):
        with contextlib.suppress(CallerError):
            chat = read_request(data).body
            assert violations(json.loads(to_request(chat, model=model, stream=True))) == []


def answer(data: bytes) -> None:
    """All that comes on an upstream's connection: head, framing, coding, and the body in it."""
    with contextlib.suppress(UpstreamError):
        reader = AnswerReader()
        undo = None
        content = bytearray()
        for block in _blocks(data):
            is_head = not reader.status
            part = reader.feed(block)
            if is_head and reader.status:
                passed(reader.headers, with_hints=True)
                read_retry_after(reader.headers, now_s=NOW_S)
                undo = inflater(reader.headers.get("content-encoding", ""))
            content += undo.feed(part) if undo and part else part
            while undo and undo.has_more and len(content) <= MAX_EVENT_BYTES:
                content += undo.feed(b"")
            if reader.is_whole or reader.fault or len(content) > MAX_EVENT_BYTES:
                break
        unary(bytes(content))
        sse(bytes(content))
        reader.end()


def unary(data: bytes) -> None:
    """A unary answer: read, cut into chunks, made a text completion."""
    for read in (read_answer, chunks_of):
        with contextlib.suppress(UpstreamError):
            read(data)
    asked = read_request(b'{"model":"m","prompt":["a","b"]}', needs_messages=False)
    made = TextAnswers(read_completion(asked, is_native=False))
    with contextlib.suppress(UpstreamError):
        made.add(data, 0)
        made.whole()
    with contextlib.suppress(UpstreamError):
        made.chunks([data], 1)


def refusal(data: bytes) -> None:
    """An error's body, under any status; what leaves is bounded by what came."""
    for status in (400, 429, 503):
        found = read_error(status, data)
        assert isinstance(found, UpstreamRefusal)
        assert len(error_body(found)) <= max(len(data) + len('{"error":}'), 64 * 1024)


def retry_after(data: bytes) -> None:
    """A wait that an upstream asks for: seconds, a date, or nothing."""
    text = data.decode("latin-1")
    for name in ("retry-after", "retry-after-ms"):
        found = read_retry_after({name: text}, now_s=NOW_S)
        assert found is None or 0 <= found < 1e13


def request(data: bytes) -> None:
    """A caller's body, for chat and for completions."""
    with contextlib.suppress(CallerError):
        read_request(data).for_model("other")
    for is_native in (False, True):
        with contextlib.suppress(CallerError):
            asked = read_request(data, needs_messages=False)
            completion = read_completion(asked, is_native=is_native)
            for each in [*completion.natives, *([] if is_native else completion.hubs)]:
                each.for_model("other")


_GUNICORN = GunicornConfig()
for _name, _value in settings(_CONFIG).items():
    _GUNICORN.set(_name, _value)


def head(data: bytes) -> None:
    """What comes on a caller's connection, read by gunicorn with the settings as shipped."""
    parser = RequestParser(_GUNICORN, iter(_blocks(data)), ("127.0.0.1", 4711))
    # Its errors of a body that ends too soon are OSErrors.
    with contextlib.suppress(ParseException, OSError):
        for found in parser:
            while found.body.read(BLOCK_BYTES):
                pass


_APP: Any = create_app(_CONFIG)


def endpoint(data: bytes) -> None:
    """A request as the application gets it: `METHOD PATH`, header lines, an empty line, a body.

    Any answer but 500 will do; an error has the envelope.
    """
    top, _, body = data.partition(b"\n\n")
    line, *fields = top.decode("latin-1").split("\n")
    method, _, path = line.partition(" ")
    method = "".join(char for char in method.upper() if char.isascii() and char.isalpha()) or "GET"
    headers = [
        (name, value)
        for name, colon, value in (field.partition(":") for field in fields)
        if colon and name.isascii() and name.replace("-", "").isalnum() and value.isprintable()
    ]
    with _APP.test_client() as caller:
        found = caller.open(
            f"/{path.lstrip('/')}", method=method, headers=headers, data=body, buffered=True
        )
    assert found.status_code != 500, found.data
    if found.status_code >= 400 and method != "HEAD" and found.status_code != 503:
        assert found.json["error"]["message"]


def config(data: bytes) -> None:
    """A configuration file, `${NAME}` in it filled in."""
    with contextlib.suppress(ConfigError):
        tree = document.parse(data)
        if isinstance(tree, dict):
            load_config(tree, environ={"A": "1", "KEY": "sk-0123456789abcdef"})


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        claude,
        history,
        sse,
        answer,
        unary,
        refusal,
        retry_after,
        request,
        head,
        endpoint,
        config,
    )
}


def seeds(name: str) -> dict[str, bytes]:
    """The corpus of a target, by file name."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / name).iterdir())}
