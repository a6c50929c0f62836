"""The table of the matrix: what can go wrong on the way to an upstream, and what comes of it.

A `Fault` makes the place that fails; `unary` and `stream` say what a caller gets of it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tests.faults.dialects import Dialect
from tests.support.certificates import Authority
from tests.support.rude import FullBacklog
from tests.support.upstream import CUT, HANG, RESET, Framing, Reply, Step, Upstream, raw

# None of these may reach a caller.
NOISE = (("Set-Cookie", "who=me"), ("x-ratelimit-remaining-requests", "7"), ("Server", "secret"))

ERROR_BODY_BYTES = 10_000_000
# So slow that it is felt, and that an event still comes within the gateway's `idle-timeout`.
TRICKLE_S = 0.002


@dataclass(frozen=True)
class Good:
    """Nothing is lost: one attempt, and its answer."""


@dataclass(frozen=True)
class Failed:
    """The attempt fails before the answer begins: another client answers, or this is the error."""

    status: int
    code: str | None
    # The upstream's connection may serve on: its answer was whole.
    reusable: bool = False
    # What it is called where OpenSSL takes a RST for an end.
    tls_code: str | None = None


# What the dialect's own error stands for, and one in plain text.
SAID = Failed(0, None, reusable=True)
PLAIN = Failed(500, None)


@dataclass(frozen=True)
class Broken:
    """The stream breaks after its first event: an error event of this code, and no retry."""

    code: str


Outcome: TypeAlias = Good | Failed | Broken


@dataclass
class Site:
    """Where a faulty client sends its requests. `upstream`: None where there is none to ask."""

    origin: str
    upstream: Upstream | None = None
    # Requests that go well before the one that counts, to each client.
    warm_ups: int = 0
    # ... and their connections have ended before it.
    goes_cold: bool = False


@dataclass(frozen=True)
class Setting:
    """What a fault is made of."""

    dialect: Dialect
    is_stream: bool
    is_tls: bool
    authority: Authority
    trap: str  # a URL that nobody may ask for
    held: ExitStack

    def upstream(self, *, tls: Authority | None = None) -> Upstream:
        """A server of the cell's own, with a certificate of `tls` or the trusted one."""
        context = (tls or self.authority).server() if self.is_tls else None
        return self.held.enter_context(Upstream(tls=context))

    def good(self, framing: Framing = "chunked") -> Reply:
        """The dialect's whole answer, with headers that must not pass."""
        kind = "text/event-stream" if self.is_stream else "application/json"
        dialect = self.dialect
        body = [*dialect.events] if self.is_stream else [dialect.whole[:20], dialect.whole[20:]]
        return Reply(body, headers=[("Content-Type", kind), *NOISE], framing=framing)


@dataclass(frozen=True)
class Fault:
    name: str
    unary: Outcome
    stream: Outcome
    make: Callable[[Setting], Site] = field(repr=False)

    def outcome(self, is_stream: bool) -> Outcome:
        return self.stream if is_stream else self.unary


def _answering(answer: Callable[[Setting], Reply]) -> Callable[[Setting], Site]:
    """A site whose every answer is this one."""

    def make(setting: Setting) -> Site:
        upstream = setting.upstream()
        upstream.default = answer(setting)
        return Site(upstream.origin, upstream)

    return make


# Places that cannot be reached


def _refused(setting: Setting) -> Site:
    sock = setting.held.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))  # and does not listen: nobody else can have the port
    return Site(f"{_scheme(setting)}://127.0.0.1:{sock.getsockname()[1]}")


def _nowhere(setting: Setting) -> Site:
    """RFC 6761 section 6.4: .invalid never resolves."""
    return Site(f"{_scheme(setting)}://nowhere.invalid")


def _full_backlog(setting: Setting) -> Site:
    """A listener that takes no more connections: the kernel drops what knocks."""
    port = setting.held.enter_context(FullBacklog()).port
    return Site(f"{_scheme(setting)}://127.0.0.1:{port}")


def _no_tls(setting: Setting) -> Site:
    """A certificate that nobody vouches for; before a plain one, plain HTTP where TLS is spoken."""
    if setting.is_tls:
        upstream = setting.upstream(tls=Authority())
        return Site(upstream.origin, upstream)
    upstream = setting.upstream()
    upstream.on_connect = [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", CUT]
    return Site(upstream.origin.replace("http:", "https:"), upstream)


def _scheme(setting: Setting) -> str:
    return "https" if setting.is_tls else "http"


# Answers that break


def _head(setting: Setting, *more: str) -> bytes:
    kind = "text/event-stream" if setting.is_stream else "application/json"
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {kind}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def _pieces(setting: Setting) -> Sequence[bytes]:
    """An answer in two pieces: of a stream, its first event and the rest."""
    if setting.is_stream:
        first, *rest = setting.dialect.events
        return first, b"".join(rest)
    whole = setting.dialect.whole
    return whole[: len(whole) // 2], whole[len(whole) // 2 :]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _after_head(*steps: Step) -> Callable[[Setting], Reply]:
    def answer(setting: Setting) -> Reply:
        return raw(_head(setting, "Transfer-Encoding: chunked"), *steps)

    return answer


def _first_event_error(setting: Setting) -> Reply:
    dialect = setting.dialect
    body = dialect.error_event if setting.is_stream else dialect.error
    return Reply([body], headers=setting.good().headers, framing="chunked")


def _cut_inside_event(setting: Setting) -> Reply:
    first, rest = _pieces(setting)
    return raw(_head(setting, "Connection: close"), first, rest[: len(rest) // 3], CUT)


def _cut_between_events(setting: Setting) -> Reply:
    first, _ = _pieces(setting)
    if setting.is_stream:  # nothing but the dialect's own end tells that it is not whole
        return raw(_head(setting, "Connection: close"), first, CUT)
    return raw(_head(setting, "Transfer-Encoding: chunked"), _chunk(first), CUT)


def _cut_inside_framing(setting: Setting) -> Reply:
    first, rest = _pieces(setting)
    start = b"%x" % len(rest)
    return raw(_head(setting, "Transfer-Encoding: chunked"), _chunk(first), start, CUT)


def _length_not_reached(setting: Setting) -> Reply:
    first, rest = _pieces(setting)
    return raw(_head(setting, f"Content-Length: {len(first + rest) + 1}"), first + rest[:-1], CUT)


def _endless_headers(setting: Setting) -> Reply:
    lines: list[Step] = [b"X-Filler: %b\r\n" % (b"x" * 100) * 10] * 1000
    return raw(_head(setting)[:-2], *lines, HANG)


def _huge_error(_setting: Setting) -> Reply:
    return Reply([b"x" * ERROR_BODY_BYTES], 500, [("Content-Type", "text/plain"), *NOISE])


def _brotli(setting: Setting) -> Reply:
    return setting.good().with_headers({"Content-Encoding": "br"})


def _redirect(setting: Setting) -> Reply:
    return Reply([], 307, [("Location", setting.trap), *NOISE])


def _trickle(setting: Setting) -> Reply:
    return setting.good("length").byte_by_byte(TRICKLE_S)


# Connections that served before


def _ends_unanswered(setting: Setting) -> Site:
    """The second request on a connection gets its end for an answer."""
    upstream = setting.upstream()
    upstream.default = setting.good()
    upstream.reply(None, setting.good(), raw(CUT))
    return Site(upstream.origin, upstream, warm_ups=1)


def _ended_while_idle(setting: Setting) -> Site:
    """It said that the connection stays, and ends it."""
    upstream = setting.upstream()
    upstream.default = setting.good()
    upstream.reply(None, setting.good("length").then(CUT))
    return Site(upstream.origin, upstream, warm_ups=1, goes_cold=True)


_Way = Literal["unreachable", "reset", "invalid_response", "truncated", "timeout"]


def _failed(way: _Way) -> Failed:
    return Failed(504 if way == "timeout" else 502, f"upstream_{way}")


def _fault(
    name: str,
    make: Callable[[Setting], Site],
    unary: Outcome,
    stream: Outcome | None = None,
) -> Fault:
    return Fault(name, unary, stream or unary, make)


_RESET = Failed(502, "upstream_reset", tls_code="upstream_truncated")
_CUT = _failed("truncated")
_TRUNCATED = Broken("upstream_truncated")

FAULTS = [
    _fault("refused", _refused, _failed("unreachable")),
    _fault("dns", _nowhere, _failed("unreachable")),
    _fault("connect-timeout", _full_backlog, _failed("timeout")),
    _fault("tls", _no_tls, _failed("unreachable")),
    _fault("reset-before-headers", _answering(lambda _: raw(RESET)), _failed("reset")),
    _fault(
        "garbage",
        _answering(lambda _: raw(b"\x16\x03\x01 this is not HTTP\r\n\r\n", CUT)),
        _failed("invalid_response"),
    ),
    _fault("hang-after-headers", _answering(_after_head(HANG)), _failed("timeout")),
    _fault("reset-after-headers", _answering(_after_head(RESET)), _RESET),
    _fault("first-event-an-error", _answering(_first_event_error), SAID),
    _fault(
        "cut-inside-event", _answering(_cut_inside_event), _failed("invalid_response"), _TRUNCATED
    ),
    _fault("cut-between-events", _answering(_cut_between_events), _CUT, _TRUNCATED),
    _fault("cut-inside-framing", _answering(_cut_inside_framing), _CUT, _TRUNCATED),
    _fault("length-not-reached", _answering(_length_not_reached), _CUT, _TRUNCATED),
    _fault("endless-headers", _answering(_endless_headers), _failed("invalid_response")),
    _fault("huge-error", _answering(_huge_error), PLAIN),
    _fault("gzip", _answering(lambda setting: setting.good().compressed()), Good()),
    _fault("brotli", _answering(_brotli), _failed("invalid_response")),
    _fault("redirect", _answering(_redirect), Failed(502, "upstream_invalid_response", True)),
    _fault("byte-by-byte", _answering(_trickle), Good()),
    _fault("stale-unanswered", _ends_unanswered, Good()),
    _fault("stale-while-idle", _ended_while_idle, Good()),
]
