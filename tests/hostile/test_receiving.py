"""What a caller sends has to come in time, and who sends nothing does not keep the server."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme

from proxy.net import timed_socket
from proxy.net.timed_socket import MAX_JOINED_BYTES, TimedSocket, limit_io
from proxy.net.watch import CallerConnection
from proxy.server.control.sockets import ask_all
from proxy.server.settings import SPARE_THREADS
from proxy.server.worker import MAX_HEAD_BYTES
from tests.support.callers import DEMO, half_close, head, read_all, statuses, trickle
from tests.support.clock import BUSY_S
from tests.support.gateway import CHAT, PATIENCE_S, Gateway

REQUEST_TIMEOUT_S = 1
IDLE_TIMEOUT_S = 5


@pytest.fixture
def ends() -> Iterator[tuple[TimedSocket, socket.socket]]:
    """Ours, and the caller's."""
    ours, theirs = socket.socketpair()
    timed = TimedSocket.from_socket(ours)
    with timed, theirs:
        yield timed, theirs


def test_trickle_ends_at_the_moment(ends: tuple[TimedSocket, socket.socket]) -> None:
    """Though each byte comes in its time; and the socket is as it was."""
    ours, theirs = ends
    began = time.monotonic()
    ours.receive_until, ours.receive_timeout_s = began + 0.3, PATIENCE_S
    over = threading.Event()

    def send() -> None:
        while not over.wait(0.01):
            theirs.send(b"x")

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(TimeoutError):
            receive_for_ever(ours)
    finally:
        over.set()
        sender.join()
    assert time.monotonic() - began >= 0.3
    assert ours.gettimeout() is None


def test_silence_ends_sooner_than_the_moment(ends: tuple[TimedSocket, socket.socket]) -> None:
    """`receive_timeout_s` counts from each call."""
    ours, theirs = ends
    theirs.send(b"x")
    ours.receive_until, ours.receive_timeout_s = time.monotonic() + PATIENCE_S, 0.05
    assert ours.recv(10) == b"x"
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        ours.recv(10)
    assert time.monotonic() - began < PATIENCE_S


def test_past_moment_receives_nothing(ends: tuple[TimedSocket, socket.socket]) -> None:
    """Not even what is there; a look at it (MSG_PEEK) is no receiving."""
    ours, theirs = ends
    theirs.send(b"x")
    ours.receive_until = time.monotonic()
    with pytest.raises(TimeoutError):
        ours.recv(10)
    assert ours.recv(10, socket.MSG_PEEK) == b"x"


def test_servers_timeout_holds_too(ends: tuple[TimedSocket, socket.socket]) -> None:
    """None: no limit but those; 0: not to wait; else the sooner of them ends the wait."""
    ours, theirs = ends
    assert ours.gettimeout() is None
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(10)
    ours.settimeout(0.02)
    with pytest.raises(TimeoutError):
        ours.recv(10)
    theirs.send(b"x")
    assert (ours.recv(10), ours.gettimeout()) == (b"x", 0.02)


def test_limit_of_writes_is_none_of_reads(ends: tuple[TimedSocket, socket.socket]) -> None:
    """Also where it is a time-out of Python's, as with these Unix sockets."""
    ours, theirs = ends
    began = time.monotonic()
    limit_io(ours, PATIENCE_S, receive_until=began + 0.05)
    theirs.send(b"x")
    assert ours.recv(10) == b"x"
    with pytest.raises(TimeoutError):
        ours.recv(10)
    assert time.monotonic() - began < PATIENCE_S


@pytest.mark.parametrize("size", [3, MAX_JOINED_BYTES + 1], ids=["joined", "large"])
def test_head_leaves_with_what_follows_it(
    ends: tuple[TimedSocket, socket.socket], size: int
) -> None:
    """Not alone, unless nothing follows; what comes later is not held."""
    ours, theirs = ends
    ours.hold_head()
    ours.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    assert theirs.recv(100) == b"HTTP/1.1 103 Early Hints\r\n\r\n"
    ours.sendall(b"HEAD")
    with pytest.raises(BlockingIOError):
        theirs.recv(10, socket.MSG_DONTWAIT)
    body = b"b" * size
    sender = threading.Thread(target=ours.sendall, args=(body,))
    sender.start()
    whole = b""
    while len(whole) < 4 + size:
        whole += theirs.recv(1 << 20)
    sender.join()
    assert whole == b"HEAD" + body
    ours.sendall(b"more")
    assert theirs.recv(10) == b"more"


def test_another_protocol_is_not_held(ends: tuple[TimedSocket, socket.socket]) -> None:
    """Behind 101 no head follows (RFC 9110 section 15.2.2)."""
    ours, theirs = ends
    ours.hold_head()
    for data in (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"frame"):
        ours.sendall(data)
        assert theirs.recv(100) == data


# What a caller takes

# How servers' sockets reach a caller: ours, and another server's.
KINDS = ["timed", "plain", "timed-unix", "plain-unix", "tls"]


@pytest.fixture(params=KINDS)
def taken(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, which writes, and the caller's."""
    kind = str(request.param)
    if kind.endswith("unix"):
        ours, theirs = socket.socketpair()
    else:
        ours, theirs = tcp_pair()
    if kind.startswith("timed"):
        ours = TimedSocket.from_socket(ours)
    elif kind == "tls":
        ours, theirs = over_tls(ours, theirs)
    with ours, theirs:
        yield ours, theirs


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends, of which the second has a small buffer: its kernel tells soon what was taken."""
    theirs = socket.socket()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs.connect(listener.getsockname())
        return listener.accept()[0], theirs


def over_tls(ours: socket.socket, theirs: socket.socket) -> tuple[socket.socket, socket.socket]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with ThreadPoolExecutor(1) as pool:
        server = pool.submit(context.wrap_socket, ours, server_side=True)
        client = trusting.wrap_socket(theirs, server_hostname="localhost")
        return server.result(), client


def test_caller_who_reads_slowly_gets_all(
    taken: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes, as long as something is taken within the time of a write."""
    limit_s = 1.0 + BUSY_S
    monkeypatch.setattr(timed_socket, "MIN_WRITE_TIMEOUT_S", limit_s)
    ours, theirs = taken
    CallerConnection(ours).limit_io(0.2)
    data = os.urandom(100 * 8192)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(ours.sendall, data)
        sent.add_done_callback(lambda _: ours.shutdown(socket.SHUT_WR))
        began = time.monotonic()
        whole = b""
        while piece := theirs.recv(8192):
            whole += piece
            time.sleep(limit_s / 70)  # is the case
        sent.result()
    assert whole == data
    assert time.monotonic() - began > limit_s * 1.3


def test_caller_who_takes_nothing_is_cut(
    taken: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a part of it, too, and by an error that servers take for a caller's."""
    monkeypatch.setattr(timed_socket, "MIN_WRITE_TIMEOUT_S", 0.05)
    ours, _ = taken
    CallerConnection(ours).limit_io(0.05)
    with pytest.raises(TimeoutError):
        ours.sendall(bytes(1 << 24))


def test_caller_who_takes_nothing_of_a_stream_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon, and not when megabytes wait for it."""
    monkeypatch.setattr(timed_socket, "MIN_WRITE_TIMEOUT_S", 0.05)
    ours, theirs = tcp_pair()
    with TimedSocket.from_socket(ours) as timed, theirs:
        limit_io(timed, 0.05)
        with pytest.raises(TimeoutError):
            send_for_ever(timed, b"x" * 1000, most=300)


def test_head_without_a_body_leaves_at_the_end(ends: tuple[TimedSocket, socket.socket]) -> None:
    """Before a file, too, which the server sends by its descriptor."""
    ours, theirs = ends
    ours.hold_head()
    ours.sendall(b"HEAD")
    ours.flush()
    assert theirs.recv(10) == b"HEAD"
    ours.hold_head()
    ours.sendall(b"HEAD")
    with tempfile.TemporaryFile() as file:
        file.write(b"file")
        file.seek(0)
        ours.sendfile(file)
    whole = b""
    while len(whole) < 8:
        whole += theirs.recv(10)
    assert whole == b"HEADfile"


def test_caller_sets_both_limits(ends: tuple[TimedSocket, socket.socket]) -> None:
    """And lifts the moment again."""
    ours, _ = ends
    caller = CallerConnection(ours)
    caller.limit_io(7.0, receive_until=1.0)
    assert (ours.receive_timeout_s, ours.receive_until) == (7.0, 1.0)
    caller.limit_io(7.0)
    assert ours.receive_until == float("inf")


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    config = {
        "request-timeout": REQUEST_TIMEOUT_S,
        "idle-timeout": IDLE_TIMEOUT_S,
        "demo": [{"name": DEMO}],
    }
    with Gateway(config) as running:
        yield running


def test_body_has_the_requests_time_in_all(gateway: Gateway) -> None:
    """`request-timeout`, however steadily it trickles; then 408, and the connection ends."""
    with gateway.connect() as sock:
        began = time.monotonic()
        sock.sendall(head(CHAT, "Content-Length: 1000", "x-request-id: slow"))
        over = trickle([sock], b"[", gap_s=0.05, until=began + PATIENCE_S)
        assert over - began >= REQUEST_TIMEOUT_S
        assert statuses(read_all(sock)) == [408]
    assert gateway.record_of("slow")["end"] == "body_too_slow"


def test_head_in_pieces_is_read(gateway: Gateway) -> None:
    """Slow is not too slow."""
    with gateway.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head("/healthz", method="GET"):
            sock.sendall(bytes([byte]))
        half_close(sock)
        assert statuses(read_all(sock)) == [200]


@pytest.mark.long
def test_head_that_does_not_come_has_no_thread() -> None:
    """Of more connections than threads: at their first byte, behind an answer, behind a request."""
    config = {"max-requests-in-flight": 1, "demo": [{"name": DEMO}]}
    whole = head("/healthz", method="GET")
    with Gateway(config) as running, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(running.connect()) for _ in range(3 * (1 + SPARE_THREADS))]
        for number, sock in enumerate(socks):
            if number % 3:
                ask(sock)
            sock.sendall(whole + b"G" if number % 3 == 2 else b"G")
        began = time.monotonic()
        for _ in range(10):
            assert running.call("GET", "/readyz").status == 200
        assert time.monotonic() - began < 10
        for number, sock in enumerate(socks):  # and all of them are waited for
            sock.sendall(whole[1:])
            if number % 3 == 2:
                read_answer(sock)
            read_answer(sock)


def test_head_that_is_refused_in_the_end_is_not_waited_for(gateway: Gateway) -> None:
    """One that is too long, and one that never ends as it began."""
    with gateway.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n" + b"A: " + b"a" * MAX_HEAD_BYTES)
        assert statuses(read_all(sock)) == [431]
    for refused in (b"GET / HTTP/1.1\nHost", b"G" * 9000):
        with gateway.connect() as sock:
            sock.sendall(refused)
            assert statuses(read_all(sock))[0] in (400, 414)


@pytest.mark.long
def test_callers_without_pause_leave_threads_to_others() -> None:
    """More of them than threads, each with its next request at once: nobody else waits long."""
    config = {"max-requests-in-flight": 1, "demo": [{"name": DEMO}]}
    over = threading.Event()
    served: list[bytes] = []

    def hammer(running: Gateway) -> None:
        with running.connect() as sock:
            while not over.is_set():
                served.append(ask(sock))

    with Gateway(config) as running:
        count = 1 + SPARE_THREADS + 10
        threads = [threading.Thread(target=hammer, args=(running,)) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            began = time.monotonic()
            for _ in range(10):
                assert running.call("GET", "/readyz").status == 200
            assert time.monotonic() - began < 10
        finally:
            over.set()
            for thread in threads:
                thread.join(PATIENCE_S)
        assert len(served) > len(threads)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="limits another process, and reads /proc")
def test_callers_for_whom_no_thread_can_be_had_wait() -> None:
    """For one that others leave, or that can be had later; the worker serves on."""
    with Gateway({"demo": [{"name": DEMO, "max-concurrency": 0, "delay-ms": 30}]}) as gateway:
        assert gateway.chat(DEMO).status == 200
        (worker,) = ask_all(gateway.port, {"do": "status"})
        pid, (unlimited, _) = worker["pid"], resource.getrlimit(resource.RLIMIT_AS)
        facts = Path(f"/proc/{pid}/status").read_text()
        size_kb = int(facts.partition("VmSize:")[2].split()[0])
        # Less than a thread's stack is left, and enough for everything else.
        limit = (size_kb + 6 * 1024) * 1024
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, unlimited))
        with ThreadPoolExecutor(20) as pool:
            answers = [pool.submit(gateway.chat, DEMO) for _ in range(40)]
            gateway.wait_for_line(lambda line: "callers have to wait: can't start" in line)
            assert {answer.result().status for answer in answers} == {200}
            assert gateway.log.count("callers have to wait") < 5  # once in ten seconds
            resource.prlimit(pid, resource.RLIMIT_AS, (unlimited, unlimited))
            answers = [pool.submit(gateway.chat, DEMO) for _ in range(40)]
            assert {answer.result().status for answer in answers} == {200}
        assert ask_all(gateway.port, {"do": "status"})[0]["pid"] == pid


@pytest.mark.long
def test_stop_does_not_wait_for_a_caller_without_pause() -> None:
    """Its last answer tells it that the connection ends."""
    with Gateway({"demo": [{"name": DEMO}]}) as gateway, gateway.connect() as sock:
        for _ in range(20):  # by now it has a thread of its own
            assert b"Connection: keep-alive" in ask(sock)
        gateway.terminate()
        while b"Connection: close" not in ask(sock):
            pass
        assert read_all(sock) == b""
        assert gateway.wait_ended() == 0


# For gunicorn: the moment outlasts a test.
LINGERING = """
from pathlib import Path
from proxy.server import worker

exec(Path("gunicorn.conf.py").read_text())
worker.STOP_LINGER_S = 3600
"""


@pytest.mark.long
def test_stop_waits_a_moment_for_first_bytes(tmp_path: Path) -> None:
    """A caller that was accepted may have sent its request already: it is on its way."""
    path = tmp_path / "conf.py"
    path.write_text(LINGERING)
    command = [sys.executable, "-m", "gunicorn", "-c", str(path)]
    with (
        Gateway({"demo": [{"name": DEMO}]}, command=command) as gateway,
        gateway.connect() as late,
        gateway.connect() as later,
    ):
        ask(later)  # connections are accepted in their order
        gateway.terminate()
        while b"Connection: close" not in ask(later):
            pass
        assert b"Connection: close" in ask(late)
        assert gateway.wait_ended() == 0


@pytest.mark.long
def test_stop_does_not_wait_for_silent_connections() -> None:
    """Neither for one that never said anything nor for one that is kept."""
    only_demo = {"demo": [{"name": DEMO}]}
    with Gateway(only_demo) as gateway, gateway.connect(), gateway.connect() as kept:
        kept.sendall(head("/healthz", method="GET"))
        assert kept.recv(12) == b"HTTP/1.1 200"
        began = time.monotonic()
        gateway.terminate()
        assert gateway.wait_ended() == 0
        assert time.monotonic() - began < 10


def ask(sock: socket.socket) -> bytes:
    """Whether it is healthy, and all of the answer."""
    sock.sendall(head("/healthz", method="GET"))
    return read_answer(sock)


def read_answer(sock: socket.socket) -> bytes:
    """One that says that it is healthy; what may follow it stays."""
    answer = b""
    while not answer.endswith(b"}") and (data := sock.recv(1)):
        answer += data
    assert answer.startswith(b"HTTP/1.1 200 OK")
    return answer


def send_for_ever(sock: socket.socket, data: bytes, *, most: int) -> None:
    for _ in range(most):
        sock.sendall(data)


def receive_for_ever(sock: socket.socket) -> None:
    while True:
        sock.recv(1)
