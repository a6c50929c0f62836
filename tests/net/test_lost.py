"""What finalizers find lost: noted without a lock, given back by whoever wakes or comes next."""

from __future__ import annotations

import ast
import errno
import functools
import gc
import http.client
import json
import logging
import math
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response
from werkzeug.test import Client

import proxy
from proxy import Proxy
from proxy.errors import ShuttingDown
from proxy.net.bell import Bell
from proxy.net.lost import LOST, Lost
from proxy.net.timed_socket import TimedSocket, limit_io
from proxy.net.watch import CLOCK, CallerConnection
from proxy.pool import Lease
from tests.support.gateway import CHAT, PATIENCE_S, asked
from tests.support.pool import Desk, make_client
from tests.support.upstream import HANG, MODEL, Upstream, chunk, events
from tests.support.wsgi import werkzeug_server

KEY = "sk-lost-0123456789"

PACKAGE = Path(proxy.__file__).parent

# What may be called in a finalizer: none of these takes a lock.
ALLOWED = {"LOST.note", "os.close", "line.close"}
ALLOWED_IN_NOTE = {"self.notes.append", "self._bell.ring"}
ALLOWED_IN_RING = {"os.write"}

# Names that have a function called when an object goes.
WATCHERS = {"finalize", "WeakMethod", "WeakValueDictionary", "WeakKeyDictionary", "callbacks"}


@functools.cache  # all of the package's code takes half a second
def trees() -> list[tuple[str, ast.Module]]:
    return [
        (str(path.relative_to(PACKAGE)), ast.parse(path.read_text()))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def calls(function: ast.FunctionDef) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}


def own_nodes(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, list[ast.AST]]]:
    """The nodes of a function without those of functions in it, each with what it stands in."""
    stack: list[tuple[ast.AST, list[ast.AST]]] = [(node, []) for node in function.body]
    while stack:
        node, around = stack.pop()
        yield node, around
        if not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            stack += [(child, [*around, node]) for child in ast.iter_child_nodes(node)]


# No finalizer takes a lock


def test_finalizers_only_make_a_note() -> None:
    """`__del__` may run in a thread that holds any lock, so that it takes none."""
    found = {}
    for name, tree in trees():
        for function in functions(tree):
            if function.name == "__del__":
                found[name] = calls(function)
                is_with = any(isinstance(node, ast.With) for node in ast.walk(function))
                assert not is_with, f"{name}: `with` in a finalizer"
                assert calls(function) <= ALLOWED, f"{name}: {calls(function) - ALLOWED}"
    assert {"request/stream.py", "net/bell.py"} <= found.keys()


def test_making_a_note_is_an_append_and_a_write() -> None:
    """Both are one step of the interpreter's."""
    made = {f.name: calls(f) for name, tree in trees() for f in functions(tree)
            if name in ("net/lost.py", "net/bell.py")}  # fmt: skip
    assert made["note"] == ALLOWED_IN_NOTE
    assert made["ring"] == ALLOWED_IN_RING


def test_nothing_else_runs_when_an_object_goes() -> None:
    """No callbacks of weak references but those of WeakSet, and one that closes sockets."""
    [closing] = [f for name, tree in trees() for f in functions(tree)
                 if (name, f.name) == ("net/transport.py", "_close_all")]  # fmt: skip
    assert calls(closing) == {"channel.close"}
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in WATCHERS:
                assert ast.unparse(node) == "weakref.finalize", f"{name}:{node.lineno}"
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if ast.unparse(node.func).startswith("weakref."):
                is_closing = ast.unparse(node).startswith("weakref.finalize(self, _close_all, ")
                allowed = is_closing or ast.unparse(node.func) == "weakref.WeakSet"
                assert allowed, f"{name}:{node.lineno}"


def test_generators_clean_up_nothing() -> None:
    """One that is collected is closed at its `yield`: what stands around that would run there."""
    for name, tree in trees():
        for function in functions(tree):
            if any("contextmanager" in ast.unparse(one) for one in function.decorator_list):
                continue  # its frame is held by a `with`, which ends before it is collected
            if name.startswith("cli/"):
                continue  # a command has no lock to wait for
            for node, around in own_nodes(function):
                if not isinstance(node, (ast.Yield, ast.YieldFrom)):
                    continue
                for outer in around:
                    assert not isinstance(outer, ast.With), f"{name}:{outer.lineno}"
                    if isinstance(outer, ast.Try):
                        caught = [ast.unparse(one.type or ast.Constant("all"))
                                  for one in outer.handlers]  # fmt: skip
                        is_bare = {"all", "BaseException", "GeneratorExit"} & set(caught)
                        assert not outer.finalbody, f"{name}:{outer.lineno}"
                        assert not is_bare, f"{name}:{outer.lineno}"


# Notes


def test_notes_are_kept_where_no_descriptor_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks next does what was noted; a wait is told of nothing, and fails at nothing."""

    def refuse() -> Bell:
        raise OSError(errno.EMFILE, "Too many open files")

    lost, done = Lost(), []
    with monkeypatch.context() as patched:
        patched.setattr("proxy.net.lost.Bell", refuse)
        assert lost.open() is False
        assert lost.fd == -1
        lost.note(lambda: done.append(1))
        lost.stop()
        assert lost.is_stopping
    lost.give_back()
    assert (done, [*lost.notes]) == ([1], [])
    assert lost.open() is True
    assert lost.fd >= 0


class Scene:
    """Notes of its own, and a thread that waits with them in its poll set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost = Lost()
        monkeypatch.setattr("proxy.net.watch.LOST", self.lost)
        self.done = threading.Event()
        self.in_thread: threading.Thread | None = None

    def give_back(self) -> None:
        self.in_thread = threading.current_thread()
        self.done.set()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    scene = Scene(monkeypatch)
    yield scene
    scene.lost.forget()


def test_who_waits_gives_back_at_once(scene: Scene) -> None:
    """Whatever it waits for: the wait goes on afterwards, to its own end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        waiting = threading.Event()
        ends: list[BaseException] = []

        class Watched(CallerConnection):
            __slots__ = ()

            def join(self, poller: Any) -> None:
                super().join(poller)
                waiting.set()

        def wait() -> None:
            try:
                Watched(ours).pause(time.monotonic() + PATIENCE_S)
            except BaseException as error:
                ends.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(PATIENCE_S)
        scene.lost.note(scene.give_back)
        assert scene.done.wait(PATIENCE_S)
        assert scene.in_thread is thread
        assert not ends
        theirs.close()
        thread.join(PATIENCE_S)
        assert [type(end).__name__ for end in ends] == ["CallerGone"]


@pytest.mark.long
def test_a_note_wakes_once(scene: Scene) -> None:
    """Nobody spins: whoever wakes hushes the bell, though another gave back already."""
    scene.lost.note(lambda: None)  # nobody has ever waited: there is no descriptor yet
    CallerConnection(None).raise_if_gone()
    for _ in range(70_000):  # more than a pipe holds
        scene.lost.note(lambda: None)
    scene.lost.give_back()
    for _ in range(2):
        CallerConnection(None).raise_if_gone()
        assert os.get_blocking(scene.lost.fd) is False
        with pytest.raises(BlockingIOError):
            os.read(scene.lost.fd, 8)


# The end of the process


def test_every_wait_ends_when_the_process_does(scene: Scene) -> None:
    """Those under way, all at once, and those to come; what is lost is still given back."""
    told = []
    waiting = threading.Semaphore(0)

    class Watched(CallerConnection):
        __slots__ = ()

        def join(self, poller: Any) -> None:
            super().join(poller)
            waiting.release()

    def wait(work: Callable[[CallerConnection], object]) -> None:
        try:
            work(Watched(None))
        except ShuttingDown as error:
            told.append(error)

    until = time.monotonic() + PATIENCE_S
    works = [
        lambda caller: caller.pause(until),
        lambda caller: Bell().wait(until, caller, CLOCK),
    ] * 8
    threads = [threading.Thread(target=wait, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=PATIENCE_S)
    scene.lost.stop()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(told) == len(threads)
    assert told[0].headers()["retry-after"] == "1"
    scene.lost.note(scene.give_back)
    with pytest.raises(ShuttingDown):
        CallerConnection(None).raise_if_gone()
    assert scene.done.is_set()


@pytest.mark.parametrize("is_body", [True, False])
def test_body_that_does_not_come_is_not_waited_for_when_the_process_ends(
    monkeypatch: pytest.MonkeyPatch, is_body: bool
) -> None:
    """But who only lingers for the end of a connection, behind an answer, is left in peace."""
    lost = Lost()
    monkeypatch.setattr("proxy.net.timed_socket.LOST", lost)
    ours, theirs = socket.socketpair()
    sock = TimedSocket.from_socket(ours)
    limit_io(sock, 0.05, receive_until=time.monotonic() + PATIENCE_S if is_body else math.inf)
    lost.stop()
    with sock, theirs, pytest.raises(ShuttingDown if is_body else TimeoutError):
        sock.recv(1)
    lost.forget()


def test_the_end_of_an_answer_is_not_awaited_when_the_process_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer was whole: its caller need not hear of it."""
    lost = Lost()
    with Upstream() as upstream:
        upstream.reply(KEY, events(chunk({"content": "a"}, finish="stop"), "[DONE]", HANG))
        provider = {"name": "up", "base-url": upstream.url, "api-keys": [KEY], "models": [MODEL]}
        client = Client(proxy.create_app({"openai-compatibility": [provider]}))
        monkeypatch.setattr("proxy.net.watch.LOST", lost)
        answer = client.post(CHAT, json=asked(MODEL, stream=True), buffered=False)
        for written in answer.iter_encoded():
            if b"[DONE]" in written:
                lost.stop()
        answer.close()
    lost.forget()


def test_what_fails_is_logged_and_the_rest_given_back(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not the fault of the request that came next."""
    scene.lost.note(lambda: 1 / 0)  # type: ignore[arg-type]
    scene.lost.note(scene.give_back)
    scene.lost.give_back()
    assert scene.done.is_set()
    assert "ZeroDivisionError" in caplog.text


def test_a_forked_child_has_no_notes_of_its_parents(scene: Scene) -> None:
    """Nor its pipe: what the parent's requests held is the parent's."""
    CallerConnection(None).raise_if_gone()
    read_fd, write_fd = os.pipe()
    scene.lost.note(scene.give_back)
    pid = os.fork()
    if pid == 0:
        try:
            scene.lost.forget()
            scene.lost.give_back()
            assert not scene.done.is_set()
            CallerConnection(None).raise_if_gone()  # by a pipe of its own
            assert not scene.done.is_set()
            os.write(write_fd, b"1")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write_fd)
    with open(read_fd, "rb") as file:
        assert file.read() == b"1"
    CallerConnection(None).raise_if_gone()
    assert scene.done.is_set()


def test_without_descriptors_a_note_waits_for_who_comes_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no wait fails for the want of one."""

    def no_pipe() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe", no_pipe)
        CallerConnection(None).raise_if_gone()
    scene.lost.note(scene.give_back)
    scene.lost.give_back()
    assert scene.done.is_set()


# Who comes next


COMERS: dict[str, Callable[[Desk], object]] = {
    "acquire": lambda desk: desk.pool.acquire(desk.ticket(), desk.routes["m"], 0.0),
    "snapshot": lambda desk: desk.pool.snapshot(),
    "queue_facts": lambda desk: desk.pool.queue_facts(),
    "has_service": lambda desk: desk.pool.has_service(),
}


class Owner:
    """Has a lease, and notes it when it is lost, as a stream's body does."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def __del__(self) -> None:
        LOST.note(self._lease.release)


@pytest.mark.parametrize("comer", COMERS)
def test_who_comes_next_gives_back(comer: str) -> None:
    """The one permit was lost with its lease."""
    desk = Desk(make_client("a"))
    Owner(desk.take())
    [line] = desk.pool._lines.values()
    with desk.lock:
        assert len(line.lock.leases) == 1, "a finalizer gives nothing back"
    found = COMERS[comer](desk)
    with desk.lock:
        assert len(line.lock.leases) == (comer == "acquire")
    if comer == "acquire":
        assert found is not None
        found.release()  # type: ignore[attr-defined]
    desk.assert_idle()


def test_who_waits_for_a_client_is_given_the_lost_one() -> None:
    """At once: the queue is woken, not only who comes next."""
    desk = Desk(make_client("a"), clock=CLOCK)
    lost = [Owner(desk.take())]
    leases: list[Lease | None] = []

    def work() -> None:
        leases.append(desk.pool.acquire(desk.ticket(), desk.routes["m"], PATIENCE_S + 1e9))

    thread = threading.Thread(target=work)
    thread.start()
    while not any(queue.waiters for queue in list(desk.pool._queues.values())):
        assert thread.is_alive()
        CallerConnection(None).pause(time.monotonic() + 0.001)
    lost.clear()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert leases[0] is not None
    leases[0].release()
    desk.assert_idle()


@pytest.mark.long
# The interpreter's own finalizer of a socket says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_whole", [False, True])
def test_a_connection_that_the_collector_closed_serves_nobody(is_whole: bool) -> None:
    """Though the answer was whole: sockets of a lost stream are found lost with it."""
    rest = [HANG] if not is_whole else []
    with Upstream() as upstream:
        upstream.reply(KEY, events(chunk({"content": "a"}, finish="stop"), *rest))
        provider = {"name": "up", "base-url": upstream.url, "api-keys": [KEY], "models": [MODEL]}
        ours = proxy.create_app({"openai-compatibility": [provider]})
        client = Client(ours)
        answer = client.post(CHAT, json=asked(MODEL, stream=True), buffered=False)
        chunks = answer.iter_encoded()
        assert next(chunks).startswith(b"data: ")
        cycle: list[object] = [answer, chunks]
        cycle.append(cycle)
        del answer, chunks, cycle
        gc.collect()
        assert client.get("/readyz").status_code == 200
        assert client.post(CHAT, json=asked(MODEL)).headers["x-proxy-attempts"] == "1"
        assert len({received.connection for received in upstream.received(KEY)}) == 2


# The embedding application that makes a cycle of response and body

QUIET = logging.getLogger("werkzeug")
RESET = struct.pack("ii", 1, 0)  # struct linger: close with a RST


class Collecting:
    """A lock in whose critical sections the collector runs, and which knows who holds it."""

    faults: list[str] = []  # noqa: RUF012 - of all of them

    def __init__(self) -> None:
        self._lock = _Lock()
        self._owner = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking and self._owner == threading.get_ident():
            self.faults.append("a thread waits for itself")
            raise RuntimeError("a thread waits for itself")
        if not self._lock.acquire(blocking, timeout):
            return False
        self._owner = threading.get_ident()
        gc.collect()
        return True

    def release(self) -> None:
        self._owner = 0
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *raised: object) -> None:
        self.release()


_Lock = threading.Lock
TALK = {"role": "user", "content": " ".join(["word"] * 200)}


@contextmanager
def embedded(
    lock: Any = threading.Lock, *, is_forgetful: bool = False
) -> Iterator[tuple[Proxy, int]]:
    """An application whose hook closes over its response, on werkzeug's server.

    `lock`: the kind of the gateway's locks; `is_forgetful`: nothing is ever closed. The server
    itself forgets it when reading from a caller who reset fails.
    """
    demo = [{"name": "demo", "max-concurrency": 3, "delay-ms": 1, "models": [{"name": "demo"}]}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "Lock", lock)
        ours = Proxy({"demo": demo, "queue-timeout": PATIENCE_S})
    app = Flask("theirs")

    @app.after_request
    def count(response: Response) -> Response:
        response.call_on_close(lambda: response.status_code)
        return response

    ours.init_app(app, url_prefix="/llm")
    if is_forgetful:
        serve = app.wsgi_app
        app.wsgi_app = lambda *given: map(bytes, serve(*given))  # type: ignore[method-assign]
    before = QUIET.level
    QUIET.setLevel(logging.CRITICAL)
    try:
        with werkzeug_server(app) as port:
            yield ours, port
    finally:
        QUIET.setLevel(before)
        ours.gateway.close()


def reset_in_mid_stream(port: int) -> None:
    body = json.dumps({"model": "demo", "stream": True, "messages": [TALK]}).encode()
    head = f"POST /llm{CHAT} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock:
        sock.sendall(head.encode() + body)
        assert sock.recv(12).split(b" ")[1] == b"200"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


@contextmanager
def collector() -> Iterator[None]:
    """Collect all the time, as a busy process would; what there was before is left alone."""
    over = threading.Event()

    def collect() -> None:
        while not over.wait(0.01):
            gc.collect()

    gc.collect()
    gc.freeze()
    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        gc.unfreeze()


def check_that_all_is_given_back(ours: Proxy, port: int) -> None:
    """Served as if nothing had been; the requests that were left end by and by."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("POST", f"/llm{CHAT}", json.dumps({"model": "demo", "messages": [TALK]}))
    assert connection.getresponse().status == 200
    connection.close()
    deadline = time.monotonic() + PATIENCE_S
    while ours.gateway.pool.snapshot()[0]["in_flight"]:
        assert time.monotonic() < deadline, "a permit is lost"
        gc.collect()
        CallerConnection(None).pause(time.monotonic() + 0.01)
    assert not ours.gateway._places._taken


@pytest.mark.long
@pytest.mark.parametrize("is_forgetful", [False, True])
def test_collector_may_run_wherever_a_lock_is_held(
    monkeypatch: pytest.MonkeyPatch, is_forgetful: bool
) -> None:
    """A thread that comes upon a lost stream there does not wait for itself."""
    monkeypatch.setattr(Collecting, "faults", [])
    with collector(), embedded(Collecting, is_forgetful=is_forgetful) as (ours, port):
        for _ in range(60):
            reset_in_mid_stream(port)
        check_that_all_is_given_back(ours, port)
    assert Collecting.faults == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_forgetful", [False, True])
def test_20000_resets(capsys: pytest.CaptureFixture[str], is_forgetful: bool) -> None:
    """No hang, no permit lost, with the collector in a hurry."""
    threads, each = 4, 5000
    errors: list[BaseException] = []
    began = time.monotonic()
    with collector(), embedded(is_forgetful=is_forgetful) as (ours, port):

        def work() -> None:
            try:
                for _ in range(each):
                    reset_in_mid_stream(port)
            except BaseException as error:
                errors.append(error)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not errors
        check_that_all_is_given_back(ours, port)
    with capsys.disabled():
        print(f"\n{threads * each} resets in {time.monotonic() - began:.1f} s")


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="as the command line is quoted")
def test_the_end_of_the_process_is_silent() -> None:
    """A stream that is still open then is found by a finalizer when modules are going already."""
    code = """
import proxy
from werkzeug.test import Client
app = proxy.create_app({"demo": [{"name": "demo", "delay-ms": 0, "models": [{"name": "demo"}]}]})
body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "a b c"}]}
answer = Client(app).post("/v1/chat/completions", json=body, buffered=False)
chunks = answer.iter_encoded()
print(next(chunks))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("b'data: ")
    assert done.stderr == ""
