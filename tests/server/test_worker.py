"""The worker, where the gunicorn that it meets is not the one that it was written for.

And what its parts do by themselves. The whole of it is shown in `e2e/` and `hostile/`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import io
import math
import re
import selectors
import shutil
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gunicorn  # type: ignore[import-untyped]
import pytest
from gunicorn.http import errors as unread  # type: ignore[import-untyped]
from gunicorn.workers.gthread import (  # type: ignore[import-untyped]
    PollableMethodQueue,
    ThreadWorker,
)
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from proxy.errors import ProxyError
from proxy.net.timed_socket import TimedSocket, limit_io
from proxy.server import worker as module
from proxy.server.worker import (
    Worker,
    _has_head,
    _is_whole,
    _limit,
    _Threads,
    in_our_terms,
)
from proxy.worker import GUNICORNS
from tests.support.gateway import PATIENCE_S, ROOT, Gateway

CONFIG = {"demo": [{"name": "demo", "delay-ms": 0}]}
UNREADABLE = b"GET\r\n\r\n"

# What is replaced in gunicorn's code, by what the warning says of it.
MOVED = {
    "its version": [(r"version_info = .*", "version_info = (28, 0, 0)")],
    "`ThreadWorker.murder_pending`": [(r"\bmurder_pending\b", "close_overdue")],
    "`ThreadWorker.finish_request`": [
        (r"finish_request\(self, conn, fs\)", "finish_request(self, fs, conn)"),
        (r"finish_request, conn, fut\b", "finish_request, fut, conn"),
    ],
    "`ThreadWorker._serve`": [(r"\b_keepalive_after\b", "_serve")],
    "there is no `data_ready`": [(r"\bdata_ready\b", "has_data")],
    "has no attribute 'LimitRequestHeaders'": [(r"\bLimitRequestHeaders\b", "TooManyHeaders")],
}


def moved_gunicorn(where: Path, edits: list[tuple[str, str]]) -> None:
    """A copy of the installed gunicorn in `where`, with texts replaced in all its files."""
    compiled = shutil.ignore_patterns("__pycache__")  # a server that starts may write there
    shutil.copytree(Path(gunicorn.__file__).parent, where / "gunicorn", ignore=compiled)
    for pattern, text in edits:
        count = 0
        for path in (where / "gunicorn").rglob("*.py"):
            code, found = re.subn(pattern, text, path.read_text())
            if found:
                path.write_text(code)
                count += found
        assert count, pattern


def test_range_is_that_of_the_package() -> None:
    """pip installs no gunicorn that the worker does not know."""
    project = ConfigParser()
    project.read(ROOT / "setup.cfg")
    (line,) = re.findall(r"^gunicorn .*", project["options"]["install_requires"], re.MULTILINE)
    first, last = (".".join(map(str, version)) for version in GUNICORNS)
    assert Requirement(line).specifier == SpecifierSet(f">={first}, <{last}")


@pytest.mark.long
@pytest.mark.parametrize("difference", MOVED)
def test_unknown_gunicorn_is_served_as_plain_gthread(tmp_path: Path, difference: str) -> None:
    """One warning says so and why; callers are served."""
    moved_gunicorn(tmp_path, MOVED[difference])
    with Gateway(CONFIG, env={"PYTHONPATH": str(tmp_path)}) as gateway:
        assert gateway.chat("demo").status == 200
        assert gateway.chat("demo", stream=True).data[-1] == b"[DONE]"
        refused = gateway.exchange(UNREADABLE)
        assert (refused.status, refused.headers["content-type"]) == (400, "text/html")
        (warning,) = re.findall(r".*plain gthread.*", gateway.log)
    assert f"{difference})" in warning
    assert "WARNING" in warning


@pytest.mark.long
def test_known_gunicorn_is_not_warned_about(tmp_path: Path) -> None:
    """A copy by itself is no difference."""
    moved_gunicorn(tmp_path, [])
    with Gateway(CONFIG, env={"PYTHONPATH": str(tmp_path)}) as gateway:
        assert gateway.chat("demo").status == 200
        assert gateway.exchange(UNREADABLE).error["message"]
        assert "plain gthread" not in gateway.log


def test_sigterm_is_not_lost_while_the_master_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its handler may run between any two steps of the main thread."""
    worker = object.__new__(Worker)
    worker.alive = True

    def interrupted(self: Worker) -> bool:
        self.alive = False  # as `handle_exit` does
        return True

    monkeypatch.setattr(ThreadWorker, "is_parent_alive", interrupted)
    assert not worker.is_parent_alive()
    assert not worker.alive


def test_quick_end_waits_for_no_lock_of_its_own_thread() -> None:
    """Its handler may run while the main thread hands a request over to the pool, and twice."""
    worker = object.__new__(Worker)
    worker.cfg = SimpleNamespace(threads=1, worker_int=lambda _: None)
    worker.tpool = worker.get_thread_pool()
    worker.method_queue = PollableMethodQueue()
    worker.method_queue.init()

    def interrupt() -> None:
        worker.handle_quit(signal.SIGQUIT, None)
        worker.handle_quit(signal.SIGQUIT, None)

    handler = threading.Thread(target=interrupt, daemon=True)
    with worker.tpool._shutdown_lock:
        handler.start()
        handler.join(10)
        assert not handler.is_alive()
    with pytest.raises(SystemExit):
        worker.method_queue.run_callbacks(None)
    assert not worker.alive
    worker.method_queue.close()


def test_task_waits_until_a_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked is not told of it; the log is, and it is tried again."""
    told: list[str] = []
    threads = _Threads(told.append, max_workers=2)
    with monkeypatch.context() as patched:

        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", refuse)
        task = threads.submit(lambda: "done")
        threads.make_up()
    assert told == ["can't start new thread"] * 2
    assert not task.done()
    threads.make_up()
    assert task.result(PATIENCE_S) == "done"
    threads.make_up()  # there is nothing to make up for
    threads.shutdown()
    assert len(told) == 2


# Heads


@pytest.mark.parametrize(
    ("head", "is_whole"),
    [
        (b"GET / HTTP/1.1\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\n\r\nbody", True),
        (b"GET / HTTP/1.1\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\n", True),
        (b"x" * 8192, False),
        (b"x" * 8193, True),
        (b"x" * 8191 + b"\r\n", False),
        (b"", False),
    ],
)
def test_head_that_the_parser_need_not_wait_for(head: bytes, is_whole: bool) -> None:
    """It is there, or the parser refuses what has come of it."""
    assert _is_whole(head) is is_whole


class Connection:
    """What the worker uses of gunicorn's."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.parser = SimpleNamespace(unreader=SimpleNamespace(buf=io.BytesIO()))
        self.initialized = False
        self.is_closed = False

    def init(self) -> None:
        self.initialized = True

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection, and its caller's end."""
    ours, theirs = socket.socketpair()
    with TimedSocket.from_socket(ours) as sock, theirs:
        yield Connection(sock), theirs


def test_head_is_taken_as_it_comes(pair: tuple[Connection, socket.socket]) -> None:
    """What has come is the parser's, and nothing waits for the rest."""
    conn, peer = pair
    assert not _has_head(conn)
    assert conn.initialized
    for part in (b"GET / HT", b"TP/1.1\r\nHost: a\r\n"):
        peer.sendall(part)
        assert not _has_head(conn)
    peer.sendall(b"\r\n")
    assert _has_head(conn)
    assert conn.parser.unreader.buf.getvalue() == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert _has_head(conn)  # a next request's, say, that came with it


def test_head_may_end_early(pair: tuple[Connection, socket.socket]) -> None:
    """The parser says what is wrong with it."""
    conn, peer = pair
    peer.sendall(b"GET / HTTP/1.1\r\n")
    peer.close()
    assert _has_head(conn)
    assert conn.parser.unreader.buf.getvalue() == b"GET / HTTP/1.1\r\n"


def test_head_has_a_limit(
    pair: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory: callers without a key send heads."""
    monkeypatch.setattr(module, "MAX_HEAD_BYTES", 100)
    conn, peer = pair
    peer.sendall(b"GET / HTTP/1.1\r\n" + b"a" * 84)
    assert not _has_head(conn)
    peer.sendall(b"b")
    with pytest.raises(unread.LimitRequestHeaders):
        _has_head(conn)


class Poller:
    """Of the main thread: what it waits for."""

    def __init__(self) -> None:
        self.waits: dict[Any, Any] = {}

    def register(self, sock: Any, events: int, data: Any) -> None:
        assert events == selectors.EVENT_READ
        self.waits[sock] = data

    def unregister(self, sock: Any) -> None:
        del self.waits[sock]


def make_worker(**settings: Any) -> Any:
    """One that has not begun its work. `said` has its log, `served` what goes to a thread."""
    worker = object.__new__(Worker)
    worker.cfg = SimpleNamespace(**{"threads": 8, "graceful_timeout": 120, **settings})
    worker.alive = True
    worker.heads, worker.tls_heads = {}, {}
    worker.poller = Poller()
    worker.tpool = SimpleNamespace(make_up=lambda: None)
    worker.nr_conns = 0
    worker.said = []
    worker.log = SimpleNamespace(error=lambda text, *args, **_: worker.said.append(text % args))
    worker.served = []
    return worker


def test_connection_waits_for_its_head_without_a_thread(
    pair: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until something of it is there, and no longer than HEAD_TIMEOUT_S."""
    worker = make_worker()
    monkeypatch.setattr(ThreadWorker, "enqueue_req", lambda _, conn: worker.served.append(conn))
    conn, _ = pair
    conn.initialized = False
    conn.data_ready = False  # type: ignore[attr-defined]
    before = time.monotonic()
    worker.enqueue_req(conn)
    assert worker.served == []
    assert 0 <= worker.heads[conn] - before - module.HEAD_TIMEOUT_S < 5
    assert type(conn.sock) is TimedSocket
    worker.poller.waits[conn.sock](conn.sock)
    assert (worker.served, worker.heads, worker.poller.waits) == ([conn], {}, {})
    conn.data_ready = False  # type: ignore[attr-defined]
    conn.initialized = True
    worker.enqueue_req(conn)
    assert worker.served == [conn, conn]
    conn.sock.close()


def test_heads_that_do_not_come_cost_their_connections() -> None:
    """Looked for now and then; a worker that ends waits less for first bytes, not for the rest."""
    worker = make_worker()
    now = time.monotonic()
    late, begun, new = (Connection(object()) for _ in range(3))
    begun.initialized = True
    for conn, until in ((late, now - 1), (begun, now + 60), (new, now + 60)):
        worker._wait_for_head(conn, until)
    worker.nr_conns = 3
    worker.murder_pending()
    assert [conn.is_closed for conn in (late, begun, new)] == [True, False, False]
    assert (worker.nr_conns, set(worker.heads)) == (2, {begun, new})
    assert set(worker.poller.waits) == {begun.sock, new.sock}
    assert now + 0.25 <= worker.looks_at < now + 10
    worker.heads[begun] = now - 1
    worker.murder_pending()  # too soon to look again
    assert not begun.is_closed
    worker.heads[begun] = now + 60
    worker.alive = False
    worker.looks_at = -math.inf
    worker.murder_pending()
    assert now + 1 <= worker.ends_at < now + 10
    assert not new.is_closed
    worker.looks_at, worker.ends_at = -math.inf, now - 0.1
    worker.murder_pending()
    assert [conn.is_closed for conn in (begun, new)] == [False, True]


def test_handshakes_may_take_a_quarter_of_the_threads() -> None:
    """One more ends the oldest; each has its time."""
    worker = make_worker(threads=8)
    now = time.monotonic()
    with contextlib.ExitStack() as held:
        pairs = [socket.socketpair() for _ in range(3)]
        conns = []
        for ours, theirs in pairs:
            held.enter_context(ours)
            held.enter_context(theirs).setblocking(False)
            conns.append(Connection(ours))
        worker.tls_heads = dict.fromkeys(conns, now + 60)
        worker._murder_tls_heads(now)
        assert pairs[0][1].recv(1) == b""
        for _, theirs in pairs[1:]:
            with pytest.raises(BlockingIOError):
                theirs.recv(1)
        worker.tls_heads = {conns[1]: now - 1, conns[2]: now + 60}
        worker._murder_tls_heads(now)
        assert pairs[1][1].recv(1) == b""
        with pytest.raises(BlockingIOError):
            pairs[2][1].recv(1)


def test_want_of_descriptors_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes; the log says so now and then. What else goes wrong is not taken for it."""
    worker = make_worker()
    slept: list[float] = []
    monkeypatch.setattr("proxy.server.worker.time.sleep", slept.append)
    failure = OSError(errno.EMFILE, "Too many open files")

    def accept(self: Worker, listener: object) -> None:
        raise failure

    monkeypatch.setattr(ThreadWorker, "accept", accept)
    for _ in range(3):
        worker.accept(None)
    assert worker.said == ["callers have to wait: Too many open files"]
    assert slept == [0.1] * 3
    worker.exhausted_at -= 11
    worker.accept(None)
    assert len(worker.said) == 2
    failure = OSError(errno.EPERM, "Operation not permitted")
    with pytest.raises(OSError, match="not permitted"):
        worker.accept(None)


def test_writes_have_a_limit_before_an_endpoint_sets_its_own(
    pair: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And keep the last one's from then on, also on a socket that is not ours."""
    monkeypatch.setattr(module, "WRITE_TIMEOUT_S", 30.0)
    conn, peer = pair
    _limit(conn.sock)
    assert conn.sock.write_timeout_s == 30.0
    limit_io(conn.sock, 7.0)
    _limit(conn.sock)
    assert conn.sock.write_timeout_s == 7.0
    _limit(peer)
    value = peer.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)
    assert struct.unpack("ll", value) == (30, 0)


@pytest.mark.parametrize(
    ("result", "left", "is_theirs"),
    [
        (module._UNFINISHED, 5, False),  # the rest of its head is waited for
        (True, 5, True),  # it is kept, as gunicorn does
        (False, 4, False),
        (None, 4, False),
        (LookupError("x"), 5, True),
        ("cancelled", 5, True),
    ],
    ids=["unfinished", "kept", "ended", "none", "failed", "cancelled"],
)
def test_what_becomes_of_a_connection_after_a_request(
    pair: tuple[Connection, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    result: Any,
    left: int,
    is_theirs: bool,
) -> None:
    """One that is closed is counted no more; gunicorn sees to what is kept, and what failed."""
    worker = make_worker()
    worker.nr_conns = 5
    monkeypatch.setattr(
        ThreadWorker, "finish_request", lambda _, conn, fs: worker.served.append(conn)
    )
    conn, _ = pair
    conn.sock.head_until = 8.0
    done: concurrent.futures.Future[Any] = concurrent.futures.Future()
    if result == "cancelled":
        done.cancel()
    elif isinstance(result, Exception):
        done.set_exception(result)
    else:
        done.set_result(result)
    worker.finish_request(conn, done)
    assert worker.nr_conns == left
    assert worker.served == [conn] * is_theirs
    assert worker.heads == ({conn: 8.0} if result is module._UNFINISHED else {})


def test_thread_keeps_a_brisk_caller(pair: tuple[Connection, socket.socket]) -> None:
    """Whose next request is here at once, while there are threads for all and it is to go on."""
    worker = make_worker(threads=2)
    worker.nr_conns = 2
    conn, peer = pair
    sock: Any = conn.sock
    sock.is_brisk = True
    assert not worker._goes_on(conn)  # nothing came
    peer.sendall(b"G")
    assert worker._goes_on(conn)
    worker.nr_conns = 3
    assert not worker._goes_on(conn)
    worker.nr_conns = 2
    conn.parser.unreader.buf.write(b"x")  # the main thread sees to what is here already
    assert not worker._goes_on(conn)
    conn.parser.unreader.buf.truncate(0)
    sock.is_brisk = False
    assert not worker._goes_on(conn)
    sock.is_brisk = True
    worker.alive = False
    assert not worker._goes_on(conn)


@pytest.mark.parametrize(
    ("fault", "is_read", "status", "said"),
    [
        (ProxyError("ours"), False, 500, "ours"),
        (ssl.SSLError("x"), False, 400, "the TLS connection failed"),
        (unread.LimitRequestLine(9, 8), False, 414, "the request line is too long"),
        (unread.LimitRequestHeaders("x"), False, 431, "header fields are too many, or too long"),
        (unread.ExpectationFailed("x"), False, 417, "`Expect` may say `100-continue`"),
        (unread.UnsupportedTransferCoding("x"), False, 501, "`chunked` is"),
        (unread.ForbiddenProxyRequest("x"), False, 403, "the PROXY protocol is not taken"),
        (unread.InvalidRequestMethod("x"), False, 400, "no valid HTTP request (InvalidRequestM"),
        (unread.InvalidHeader("x"), False, 400, "no valid HTTP request (InvalidHeader)"),
        (unread.InvalidHeader("x"), True, 500, "the proxy failed"),
        (unread.InvalidHeaderName("x"), True, 500, "the proxy failed"),
        (unread.InvalidChunkSize(b"x"), True, 400, "no valid HTTP request (InvalidChunkSize)"),
        (ValueError("x"), True, 500, "the proxy failed; its log says why"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_gunicorn_raises_in_our_terms(
    fault: Exception, is_read: bool, status: int, said: str
) -> None:
    """Once the request was read, a header at fault is the answer's."""
    error = in_our_terms(fault, is_read=is_read)
    assert error.status == status
    assert said in error.message
