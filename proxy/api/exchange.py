"""One HTTP request, from its environ to its Response: id, record, body, headers, errors."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Response, g, request
from flask.globals import app_ctx
from werkzeug.datastructures import Headers
from werkzeug.wsgi import ClosingIterator

from ..dialects.base import Dialect
from ..errors import BodyTooLarge, BodyTooSlow, InvalidRequest, PathNotFound, ProxyError
from ..net.lost import LOST
from ..net.watch import CallerConnection
from ..record.record import Record
from ..request.stream import StreamBody
from ..wire.chat.request import SESSION_HEADERS
from ..wire.http.content_coding import read_coding, undo
from ..wire.http.headers import FORWARDED, caller_address
from .auth import Doorkeeper
from .faults import in_our_terms

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger("proxy")

JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"

# A unary answer leaves in pieces of this size, so that the caller's time to take it counts anew.
PIECE_BYTES = 256 * 1024

# The latter tells nginx to pass each event on at once.
_STREAM_HEADERS = [("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]

_NO_QUERY = re.compile(r"[^!$-~]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")


def _key(name: str) -> str:
    """Where an environ has a header."""
    return f"HTTP_{name.upper().replace('-', '_')}"


_NONE: Mapping[str, str] = {}
_SESSION = tuple(map(_key, SESSION_HEADERS))
_FORWARDED = tuple((name, _key(name)) for name in FORWARDED)


class _Lines(Headers):
    """Header lines taken as they are: names and values of strings, in a list of our own making."""

    def __init__(self, lines: list[tuple[str, str]]) -> None:
        for name, value in lines:
            if "\n" in value or "\r" in value:
                raise ValueError(f"the header {name} would have more than one line")
        self._list = lines


class _Pieces(list[bytes]):
    """A whole body, as long as no hook put another in its place."""


class _Response(Response):
    """One of ours: nothing in its headers is left to be worked out, nor in its body as a rule."""

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        return self.headers

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        pieces = self.response
        if isinstance(pieces, _Pieces) and self.status_code == HTTPStatus.OK and not self._on_close:
            return pieces if environ["REQUEST_METHOD"] != "HEAD" else ()
        body = super().get_app_iter(environ)
        if self.direct_passthrough and self._on_close:  # else werkzeug sees to it, or nobody asks
            return ClosingIterator(body, self.close)
        return body


class Exchange:
    """One HTTP request and its response; `dialect` is that of errors."""

    def __init__(self, doorkeeper: Doorkeeper, environ: WSGIEnvironment, dialect: Dialect) -> None:
        gateway = doorkeeper.gateway
        given = environ.get("HTTP_X_REQUEST_ID", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{os.urandom(16).hex()}"
        self.gateway = gateway
        self.doorkeeper = doorkeeper
        self.dialect = dialect
        self.environ = environ
        self.connection = CallerConnection.from_environ(environ)
        address = environ.get("REMOTE_ADDR", "")
        if forwarded := environ.get("HTTP_X_FORWARDED_FOR"):
            address = caller_address(address, forwarded, gateway.config.trusted_proxies)
        self.record = Record(
            self.request_id,
            endpoint=environ.get("PATH_INFO", ""),
            arrived=gateway.arrival(),
            mask=gateway.config.secrets.mask,
            address=address,
            host=app_ctx.app,
        )

    def upstream_headers(self) -> dict[str, str]:
        """The caller's headers that go on, and the request's id."""
        environ = self.environ
        headers = {name: environ[key] for name, key in _FORWARDED if key in environ}
        own = {name: environ[_key(name)] for name in self.dialect.headers if _key(name) in environ}
        return {**headers, **own, "x-request-id": self.request_id}

    def session(self) -> str:
        """The session that a header names; "": none does."""
        for key in _SESSION:
            if named := self.environ.get(key):
                return str(named)
        return ""

    def query(self) -> str:
        """The query as it may go on: what has to be escaped (RFC 3986 section 3.4) is."""
        query: str = self.environ.get("QUERY_STRING", "")
        return _NO_QUERY.sub(lambda found: f"%{ord(found[0]):02X}", query)

    def read_body(self) -> bytes:
        """The request's body; raises BodyTooLarge before reading more than is allowed.

        By `max-body-size`, or the application's MAX_CONTENT_LENGTH if that is smaller.
        Raises UnsupportedCoding before reading any, InvalidRequest if it does not come whole, or
        not as its coding says. Its caller may stop sending for no longer than `idle-timeout`, and
        has `request-timeout` for all of it: then BodyTooSlow. Raises ShuttingDown. From then on a
        write to the caller fails when it takes nothing for `idle-timeout`.
        """
        config = self.gateway.config
        deadline = self.record.arrived + config.request_timeout_s
        self.connection.limit_io(config.idle_timeout_s, receive_until=deadline)
        try:
            return self._receive()
        except (TimeoutError, BlockingIOError) as error:  # how servers' sockets say it
            raise BodyTooSlow("the request body did not come in time") from error
        finally:
            self.connection.limit_io(config.idle_timeout_s)

    def _receive(self) -> bytes:
        own, theirs = self.gateway.config.max_body_bytes, request.max_content_length
        most = own if theirs is None else min(own, theirs)
        field = self.environ.get("HTTP_CONTENT_ENCODING")
        coding = read_coding(field) if field else ""
        length = self._content_length()
        if length is not None and length > most:
            raise _too_large(most, own)
        try:
            # One byte more than is allowed tells a body that is too large from one that just fits.
            body = _read(self.environ["wsgi.input"], most + 1 if length is None else length)
            if not body and length != 0:  # unless a hook of the embedding application was first
                body = request.get_data()
        except (TimeoutError, BlockingIOError, MemoryError, ProxyError):
            raise
        except Exception as error:  # each server has its own for broken framing
            raise InvalidRequest("the request body is framed wrongly") from error
        self.record.bytes_in = len(body)
        if self.record.transcript is not None:
            self.record.transcript.body = body
        if len(body) > most:
            raise _too_large(most, own)
        if length is not None and len(body) < length:
            why = "" if body else ", or a hook of the application has read it"
            raise InvalidRequest(f"the request body broke off after {len(body)} bytes{why}")
        if coding and body:
            body = undo(body, coding, max_bytes=own)
            if self.record.transcript is not None:
                self.record.transcript.body = body
        return body

    def _content_length(self) -> int | None:
        """Bytes of the body; None where the server tells its end (chunked)."""
        environ = self.environ
        text = environ.get("CONTENT_LENGTH")
        if not text or "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower():
            return None if environ.get("wsgi.input_terminated") else 0
        if not (text.isascii() and text.isdecimal()) or len(text) > 18:
            raise InvalidRequest("the request's Content-Length is not a number")
        return int(text)

    def reply(
        self, body: bytes | StreamBody, *, status: int = 200, headers: Mapping[str, str] = _NONE
    ) -> Response:
        """A response, with what every response of ours carries."""
        lines = [
            ("Content-Type", JSON if isinstance(body, bytes) else EVENT_STREAM),
            ("x-request-id", self.request_id),
            ("X-Content-Type-Options", "nosniff"),  # to a browser no answer is a page
            *headers.items(),
        ]
        if self.dialect.id_header:
            lines.append((self.dialect.id_header, self.request_id))
        content: Any = body
        if not isinstance(body, bytes):
            lines += _STREAM_HEADERS
        else:
            if status != HTTPStatus.NO_CONTENT:  # RFC 9110 section 8.6
                lines.append(("Content-Length", str(len(body))))
            starts = range(0, len(body), PIECE_BYTES)
            content = _Pieces([body[at : at + PIECE_BYTES] for at in starts])
        if (who := self.record.who) is not None and who.is_metered:
            lines += self.gateway.limits.headers(who, self.record).items()
        lines += self.doorkeeper.cors_headers(self.environ)
        if self.record.transcript is not None:
            self.record.transcript.answer(status, lines, body)
        # A stream's chunks and its close() are the server's: no wrapper of werkzeug's between.
        is_stream = not isinstance(body, bytes)
        return _Response(content, status, _Lines(lines), direct_passthrough=is_stream)

    def attempt_headers(self) -> dict[str, str]:
        """Who answered and after how many attempts, as known now."""
        attempts = self.record.attempts
        if not attempts:
            return {}
        found = {"x-proxy-client": attempts[-1].client, "x-proxy-attempts": str(len(attempts))}
        if self.record.fallback:
            found["x-proxy-model"] = self.record.mask(ascii(self.record.fallback)[1:-1])
        if self.record.dropped:
            found["x-proxy-dropped"] = self.record.mask(self.record.dropped_text())
        return found

    def refuse(self, error: Exception) -> Response:
        """Whatever an endpoint raised as a response, in the caller's dialect."""
        known = in_our_terms(error, self.record)
        if self.record.ended is None:  # it did not become a call
            self.record.failed(known)
            self.gateway.count(self.record)
        # Frames that hold it would keep the request until a garbage collection.
        known.__traceback__ = known.__cause__ = known.__context__ = None
        return self.reply(
            self.dialect.error(known, self.request_id),
            status=known.status,
            headers={**known.headers(), **self.attempt_headers()},
        )


def make_view(
    doorkeeper: Doorkeeper, answer: Callable[..., Response], dialect: Dialect
) -> Callable[..., Response]:
    """The view for Flask. A hook of the blueprint before it would cost more than is done here."""

    def view(**values: str) -> Response:
        environ = request.environ
        # PEP 3333; what stands for a server in tests has no name.
        _warn_of_server(bool(environ["wsgi.multithread"] or "SERVER_SOFTWARE" not in environ))
        exchange = Exchange(doorkeeper, environ, dialect)
        try:
            if exchange.environ.get("PATH_INFO", "").startswith("//"):  # werkzeug takes one
                raise PathNotFound(f"there is no {request.path}: it begins with two slashes")
            # By `**` the call would have a frame on the thread's C stack.
            response = answer(exchange, **values) if values else answer(exchange)
        except Exception as error:  # the boundary: a caller gets an answer, whatever happened
            return exchange.refuse(error)
        if response.direct_passthrough:
            g.poolproxy_stream = response
        return response

    return view


@functools.cache
def _warn_of_server(has_threads: bool) -> None:
    """Warn, once in a process, of a server that takes one request at a time."""
    if not has_threads:
        log.warning(
            "this server serves one request at a time (wsgi.multithread is false): every stream"
            " holds up all other callers, and gunicorn's sync worker cuts it off at gunicorn's"
            " `timeout`, without a word; with gunicorn set `worker_class` to"
            ' "proxy.worker.Worker", and `threads`'
        )


def let_go(error: BaseException | None) -> None:
    """A stream is the server's from here on; nobody's, where a hook spoilt it after the view."""
    stream = g.pop("poolproxy_stream", None)
    if stream is not None:
        if error is not None:
            stream.close()
        del stream  # it is lost here if a hook put another response in its place
        if LOST.notes:
            LOST.give_back()


def _read(stream: Any, most: int) -> bytes:
    """What comes until the end, `most` bytes at most, copied no more often than need be."""
    parts: list[bytes] = []
    while most and (data := stream.read(most)) != b"":
        if data is None:  # werkzeug's: of a socket with a time-out (io.BufferedIOBase.read)
            raise TimeoutError("timed out")
        parts.append(data)
        most -= len(data)
    return b"".join(parts)  # of one part: that part itself


def _too_large(most: int, own: int) -> BodyTooLarge:
    whose = "max-body-size" if most == own else "the application's MAX_CONTENT_LENGTH"
    return BodyTooLarge(f"the request body is larger than {most} bytes ({whose})")
