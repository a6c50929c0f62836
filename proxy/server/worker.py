"""gunicorn's threaded worker, changed so that slow callers hold up nobody but themselves.

gthread gives each new connection a thread for 5 s before its first byte. It waits for ever for a
request's head, and for a short answer to be taken. It lingers on each connection that it closes for
2 s, in the one thread that accepts all others. Here a connection has no thread until a request's
head is whole, and each of these waits is bounded and happens in a thread of the pool. Over TLS a
handshake and a head need a thread: at most a quarter of all threads do that.
"""

from __future__ import annotations

import concurrent.futures.thread  # by name: else gthread loads it after the fork, in each worker
import contextlib
import math
import select
import selectors
import signal
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn.http import errors as unread  # type: ignore[import-untyped]
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from ..errors import InvalidRequest, ProxyError
from ..gateway import Gateway, gateways
from ..net import shortage
from ..net.lost import LOST
from ..net.timed_socket import TimedSocket, limit_io
from ..wire.chat import error_body

# The limit for a connection's first byte, and from a request's first byte to the end of its head.
# Callers send a few hundred bytes. nginx allows 60 s, Apache 20 s and more.
HEAD_TIMEOUT_S = 20.0

# The longest head that is waited for. Proxies in front allow less (nginx 32 KB). The limit bounds
# the memory that connections without a key can take.
MAX_HEAD_BYTES = 64 * 1024
_MAX_LINE_BYTES = 8192  # gunicorn allows no longer request line
_PIECE_BYTES = 8192

# One thread in so many may be busy with handshakes and heads of TLS. One more ends the oldest.
TLS_HEADS_SHARE = 4

_PRIOR_KNOWLEDGE = ("prior-knowledge", "both")  # of gunicorn's `http2_cleartext`

_UNFINISHED = object()  # the result for a head whose rest the main thread has to wait for

HEADS_LOOK_S = 0.25  # between two looks for heads whose time is up

# How long a worker that is to end waits for the first byte of a connection that it has accepted.
# The byte may be on its way.
STOP_LINGER_S = 1.0

# How long a write waits while the caller takes nothing, where the endpoint does not set a limit.
WRITE_TIMEOUT_S = 20.0

# A worker that is to end tells those whom it still serves so long before `graceful_timeout`.
TELL_S = 2.0

# What a connection that is to be accepted needs may be there again after this time.
EXHAUSTED_PAUSE_S = 0.1
EXHAUSTED_TOLD_S = 10.0  # at least so long between two lines in the log about it

# Why a request cannot be read, by the name of gunicorn's error. Neither the answer nor the log
# quotes the request, because a key may stand anywhere in it.
_UNREAD = {
    "LimitRequestLine": (414, "the request line is too long"),
    "LimitRequestHeaders": (431, "the request's header fields are too many, or too long"),
    "ExpectationFailed": (417, "`Expect` may say `100-continue`, and nothing else"),
    "UnsupportedTransferCoding": (501, "its transfer coding is not supported: `chunked` is"),
    "ForbiddenProxyRequest": (403, "the PROXY protocol is not taken from this address"),
}

# A caller that sent its next request within this time after an answer is likely to do so again.
BRISK_S = 0.01


class Worker(ThreadWorker):  # type: ignore[misc]
    """Overrides methods of `ThreadWorker` (gunicorn 27.0.1, workers/gthread.py)."""

    wsgi: Callable[..., Any]  # the application
    alive: bool  # whether it is to go on
    ends_at: float | None = None  # of waiting for first bytes, once the worker is to end
    tells_at = math.inf  # when all who are still served are told that the worker ends
    exhausted_at = -math.inf  # when the log said so
    looks_at = -math.inf  # for heads that did not come

    def get_thread_pool(self) -> concurrent.futures.ThreadPoolExecutor:
        """Make the pool of threads, before the worker's process has begun its work."""
        return _Threads(self._tell_wait, max_workers=self.cfg.threads)

    def _tell_wait(self, why: str) -> None:
        """Main thread: log, once in a while, that callers wait for want of resources."""
        if time.monotonic() - self.exhausted_at > EXHAUSTED_TOLD_S:
            self.exhausted_at = time.monotonic()
            self.log.error("callers have to wait: %s", why)

    def init_process(self) -> None:
        """Set up the worker's process."""
        # gunicorn finds a setting by two calls, and each request looks at thirty.
        self.cfg.__dict__.update({name: each.get() for name, each in self.cfg.settings.items()})
        self.is_tls = self.cfg.is_ssl
        # Until when a head may come, by connection: for those that the poller waits for, and for
        # those that have a thread.
        self.heads: dict[Any, float] = {}
        self.tls_heads: dict[Any, float] = {}
        # A connection that may turn out to be HTTP/2 is gunicorn's to read.
        self.has_heads = not self.is_tls and self.cfg.http2_cleartext not in _PRIOR_KNOWLEDGE
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application. If the worker is to end, answers say `Connection: close`."""
        super().load_wsgi()
        self.wsgi = partial(self._call, self.wsgi)

    def _call(self, app: Callable[..., Any], environ: Any, start_response: Any) -> Any:
        def start(status: str, headers: Any, exc_info: Any = None) -> Any:
            if Gateway.is_stopping or not self.alive:
                start_response.__self__.force_close()  # it is a method of gunicorn's `Response`
            return start_response(status, headers, exc_info)

        return app(environ, start)

    def accept(self, listener: Any) -> None:
        """Main thread: accept a caller. If there are no resources, the others are served on."""
        try:
            super().accept(listener)
        except OSError as error:
            if not shortage.lacking(error):
                raise
            self._tell_wait(str(error.strerror))
            time.sleep(EXHAUSTED_PAUSE_S)

    def init_signals(self) -> None:
        """Set the handlers. By SIGUSR2 the master says that all of the server is to stop."""
        super().init_signals()
        signal.signal(signal.SIGUSR2, lambda *_: self.method_queue.defer(self._announce_stop))
        signal.siginterrupt(signal.SIGUSR2, False)

    def handle_quit(self, sig: int, frame: object) -> None:
        """By SIGINT and SIGQUIT: end, but out of the main loop. It may hold the threads' lock now.

        After a terminal's ^C the master sends one more, which must not break in on the end.
        """
        self.method_queue.defer(super().handle_quit, sig, frame)

    def run(self) -> None:
        """Main thread: serve. However this ends, the process ends when its threads have."""
        try:
            super().run()
        finally:  # also by SIGINT and SIGQUIT, and by a fault of the loop
            LOST.stop()

    def _announce_stop(self) -> None:
        """Main thread: callers are still taken, and told to go elsewhere next time."""
        Gateway.is_stopping = True

    def is_parent_alive(self) -> bool:
        """Main thread: whether there is a master. Without one the worker ends as by SIGTERM."""
        if not super().is_parent_alive():
            self.alive = False  # never set to true: a SIGTERM may come at any moment
        return self.alive

    def set_accept_enabled(self, enabled: bool) -> None:
        """Main thread. A worker that is to end refuses callers, who would wait in vain."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            self.tells_at = time.monotonic() + max(0.0, self.cfg.graceful_timeout - TELL_S)
            for listener in self.sockets:
                before = -1
                while before != self.nr_conns:  # the kernel would cut off who is connected already
                    before = self.nr_conns
                    self.accept(listener)
                listener.close()
            for gateway in gateways if Gateway.is_stopping else ():
                gateway.pool.dismiss()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Main thread: one round. In time, have requests end that would be cut off otherwise."""
        if not self.alive and not LOST.is_stopping:
            left_s = self.tells_at - time.monotonic()
            timeout = max(0.0, min(timeout, left_s))
            if left_s <= 0:
                LOST.stop()
        super().wait_for_and_dispatch_events(timeout)

    def enqueue_req(self, conn: Any) -> None:
        """Main thread: have a request served; a new connection waits here for its first byte."""
        if conn.initialized or conn.data_ready:
            super().enqueue_req(conn)
            return
        conn.sock = TimedSocket.from_socket(conn.sock)
        self._wait_for_head(conn, time.monotonic() + HEAD_TIMEOUT_S)

    def _wait_for_head(self, conn: Any, until: float) -> None:
        """Main thread: a head's first byte, or more of it, has to come before this moment."""
        self.heads[conn] = until
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_head, conn))

    def _on_head(self, conn: Any, sock: Any) -> None:
        """Main thread: a part of the head has come."""
        self.poller.unregister(sock)
        del self.heads[conn]
        conn.data_ready = True
        self.enqueue_req(conn)

    def murder_pending(self) -> None:
        """Main thread, after each wait: close connections whose heads do not come in time."""
        now = time.monotonic()
        self.tpool.make_up()
        self._murder_tls_heads(now)
        if now < self.looks_at:  # each request ends a wait, and there may be thousands of heads
            return
        self.looks_at = now + HEADS_LOOK_S
        if not self.alive:
            self.ends_at = self.ends_at or now + STOP_LINGER_S
        for conn, until in list(self.heads.items()):
            last = until if conn.initialized or self.ends_at is None else self.ends_at
            if now > min(until, last):
                self.poller.unregister(conn.sock)
                del self.heads[conn]
                self.nr_conns -= 1
                conn.close()

    def _murder_tls_heads(self, now: float) -> None:
        tls_heads = list(self.tls_heads.items())
        too_many = len(tls_heads) - max(1, self.cfg.threads // TLS_HEADS_SHARE)
        for number, (conn, until) in enumerate(tls_heads):
            if number < too_many or now > until:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(conn.sock, socket.SHUT_RDWR)  # and not of its TLS

    def handle(self, conn: Any) -> Any:
        """A thread of the pool: serve a request, and those that follow it at once.

        Falsy: the connection is closed. `_UNFINISHED`: only a part of a request's head has come.
        """
        keeps = self._serve(conn)
        while keeps is True and self._goes_on(conn):
            keeps = self._serve(conn)
        if not keeps:
            conn.close(graceful=True)
        return keeps

    def _serve(self, conn: Any) -> Any:
        sock = conn.sock
        if isinstance(sock, TimedSocket):
            now = time.monotonic()
            if sock.head_until is None:
                sock.is_brisk = now - sock.answered_at < BRISK_S
                sock.head_until = now + HEAD_TIMEOUT_S
            sock.receive_until = sock.head_until
            if self.has_heads:
                try:
                    if not _has_head(conn):
                        return _UNFINISHED
                except unread.LimitRequestHeaders as error:
                    self.handle_error(None, sock, conn.client, error)
                    return False
            sock.head_until = None
        if self.is_tls:
            self.tls_heads[conn] = time.monotonic() + HEAD_TIMEOUT_S
        try:
            keeps = super().handle(conn)
        finally:
            self.tls_heads.pop(conn, None)
        if isinstance(sock, TimedSocket):
            sock.answered_at = time.monotonic()
        if keeps is True:
            conn.parser.mesg = None  # it is read to its end, there is nothing more to be skipped
        return keeps

    def _goes_on(self, conn: Any) -> bool:
        """Whether the next request is here at once: then it saves the way by the main thread.

        Waits for it only if the last one came as quickly, and there are threads for all callers.
        """
        if not (isinstance(conn.sock, TimedSocket) and conn.sock.is_brisk and self.alive):
            return False
        if self.nr_conns > self.cfg.threads or conn.parser.unreader.buf.getvalue():
            return False
        poller = select.poll()
        poller.register(conn.sock, select.POLLIN)
        return bool(poller.poll(BRISK_S * 1000))

    def handle_request(self, req: Any, conn: Any) -> Any:
        """The same thread, when the head is whole."""
        self.tls_heads.pop(conn, None)
        sock = conn.sock
        _limit(sock)
        headers = dict(req.headers)
        if "HOST" not in headers and req.version >= (1, 1):  # RFC 9112 section 3.2
            error = InvalidRequest("the request has no `Host` header")
            self.handle_error(req, sock, conn.client, error)
            return False
        if not isinstance(sock, TimedSocket):
            return super().handle_request(req, conn)
        if "UPGRADE" in headers:
            sock.receive_timeout_s = math.inf  # a WebSocket may be silent
        sock.hold_head()
        try:
            return super().handle_request(req, conn)
        finally:
            sock.flush()

    def handle_http2(self, conn: Any) -> Any:
        """The same thread: one connection's streams."""
        self.tls_heads.pop(conn, None)
        return super().handle_http2(conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """The same thread: answer what is no request, or failed before it was answered."""
        error = in_our_terms(exc, is_read=req is not None)
        if isinstance(error, InvalidRequest):
            where = addr and addr[0]
            self.log.warning("refused what %s sent: %d, %s", where, error.status, error.message)
        else:
            self.log.error("a request failed", exc_info=exc)
        body = error_body(error)
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nConnection: close\r\n"
            "Content-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            _limit(client)
            client.sendall(head.encode() + body)

    def finish_request(self, conn: Any, fs: concurrent.futures.Future[Any]) -> None:
        """Main thread, after `handle`."""
        if fs.cancelled() or fs.exception() is not None:
            super().finish_request(conn, fs)
        elif fs.result() is _UNFINISHED:
            self._wait_for_head(conn, conn.sock.head_until)
        elif fs.result():
            super().finish_request(conn, fs)
        else:
            self.nr_conns -= 1


class _Threads(concurrent.futures.ThreadPoolExecutor):
    """A pool whose tasks wait if the process can have no more threads. Of the main thread alone."""

    def __init__(self, tell: Callable[[str], None], *, max_workers: int) -> None:
        super().__init__(max_workers)
        self._tell = tell
        self._is_short = False

    def _adjust_thread_count(self) -> None:
        """By `submit`, when it has queued something: start a thread if none is idle."""
        self._is_short = False
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            self._is_short = True
            self._tell(str(error))

    def make_up(self) -> None:
        """Try again to start a thread: those that run may be busy for long, if there are any."""
        if self._is_short:
            self._adjust_thread_count()


def _has_head(conn: Any) -> bool:
    """Whether the parser need not wait for the rest of a head. Gives the parser what has come.

    True also for what is no head, or ends too soon: the parser says so. Raises LimitRequestHeaders.
    """
    conn.init()
    held = conn.parser.unreader.buf
    head = held.getvalue()
    while not (head and _is_whole(head)):
        if len(head) > MAX_HEAD_BYTES:
            raise unread.LimitRequestHeaders(f"more than {MAX_HEAD_BYTES} bytes")
        try:
            piece = conn.sock.recv(_PIECE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        if not piece:
            return True
        held.write(piece)
        head += piece
    return True


def _is_whole(head: bytes) -> bool:
    """Whether the head's end is here, or gunicorn's parser refuses what has come of it."""
    if b"\r\n\r\n" in head:
        return True
    has_bare_lf = head.count(b"\n") != head.count(b"\r\n")
    return has_bare_lf or (len(head) > _MAX_LINE_BYTES and b"\r\n" not in head)


def _limit(sock: Any) -> None:
    """Keep the last endpoint's limit on writes until this request's endpoint sets its own."""
    limit_io(sock, getattr(sock, "write_timeout_s", None) or WRITE_TIMEOUT_S)


def in_our_terms(fault: Exception, *, is_read: bool) -> ProxyError:
    if isinstance(fault, ProxyError):
        return fault
    if isinstance(fault, ssl.SSLError):
        return InvalidRequest("the TLS connection failed")
    for name, (status, why) in _UNREAD.items():
        if isinstance(fault, getattr(unread, name)):
            error = InvalidRequest(why)
            error.status = status
            return error
    # If the request was read, a header at fault is the answer's.
    headers = (unread.InvalidHeader, unread.InvalidHeaderName)
    if isinstance(fault, unread.ParseException) and not (is_read and isinstance(fault, headers)):
        return InvalidRequest(f"this is no valid HTTP request ({type(fault).__name__})")
    return ProxyError("the proxy failed; its log says why")
