"""Want of descriptors, memory and threads of our own: known for what it is, and nobody's fault."""

from __future__ import annotations

import errno
import io
import logging
import os
import ssl
from typing import NoReturn

import pytest

from proxy.app import create_app
from proxy.errors import OutOfResources, UpstreamUnreachable
from proxy.net import shortage
from proxy.net.bell import Bell
from proxy.net.opening import connect_error
from proxy.pool import Effect
from proxy.request.verdict import Verdict, judge
from tests.support.attempts import ScriptedClient, ScriptedReply, Stage, error_of
from tests.support.upstream import chat, stream

WANTS = [
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ENFILE, "Too many open files in system"),
    OSError(errno.ENOBUFS, "No buffer space available"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    ssl.SSLError(0xC0100, "[SSL] malloc failure (_ssl.c:3098)"),
    MemoryError(),
    RuntimeError("can't start new thread"),
]


def raising(error: Exception) -> NoReturn:
    raise error


def caused_by(error: BaseException, *, openly: bool) -> Exception:
    outer = OSError("a library's own words")
    if openly:
        outer.__cause__ = error
    else:
        outer.__context__ = error
    return outer


LACKING = [
    *("open files (RLIMIT_NOFILE)", "open files (the machine's limit)", "memory for sockets"),
    *("memory", "memory", "memory", "threads, or memory for them"),
]


@pytest.mark.parametrize(("error", "what"), [*zip(WANTS, LACKING, strict=True)], ids=repr)
def test_want_is_known_for_what_it_is(error: Exception, what: str) -> None:
    """Whatever libraries have wrapped it in; the caller may try again soon."""
    for each in (error, caused_by(error, openly=True), caused_by(error, openly=False)):
        found = shortage.recognised(each)
        assert isinstance(found, OutOfResources)
        assert (found.status, found.code) == (503, "server_out_of_resources")
        assert f" no more {what} at the moment" in found.message
        assert found.headers()["x-should-retry"] == "true"
        assert isinstance(connect_error(each, "h", 1.0), OutOfResources)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ECONNREFUSED, "refused"),
        OSError("no number"),
        ssl.SSLError(1, "[SSL] wrong version number"),
        ValueError("memory"),
    ],
    ids=repr,
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    """Nor is an endless chain of them followed."""
    error.__cause__ = error
    assert shortage.recognised(error) is None
    assert isinstance(connect_error(error, "h", 1.0), UpstreamUnreachable)


def test_other_faults_of_ours_are_no_upstreams() -> None:
    """They are for the log, with where they came from, and no reason to try another client."""
    error = RuntimeError("dictionary changed size during iteration")
    assert shortage.recognised(error) is None
    with pytest.raises(RuntimeError, match="changed size"):
        connect_error(error, "h", 1.0)


def test_log_says_it_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """Each kind for itself: thousands of requests a second may meet it."""
    shortage._told_at.clear()
    with caplog.at_level(logging.ERROR, "proxy.shortage"):
        for _ in range(50):
            shortage.recognised(MemoryError())
            shortage.recognised(OSError(errno.EMFILE, ""))
    assert [f"process {os.getpid()}" in line for line in caplog.messages] == [True, True]


def test_want_says_nothing_about_clients() -> None:
    """No other client is tried: it would be the same there."""
    error = OutOfResources("no more")
    assert judge(error, switch_project=True) == Verdict(Effect.NONE, moves_on=False)


def test_bell_that_cannot_be_had_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback comes out of its end (warnings are errors here)."""
    for name in ("eventfd", "pipe"):
        monkeypatch.setattr(os, name, lambda *_: raising(WANTS[0]), raising=False)
    with pytest.raises(OSError, match="Too many"):
        Bell()
    monkeypatch.delattr(os, "eventfd")
    with pytest.raises(OSError, match="Too many"):
        Bell()


@pytest.mark.parametrize("error", WANTS, ids=repr)
def test_waiter_without_a_bell_is_refused(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It never joined the queue, and the client serves on."""
    stage = Stage([chat("a"), chat("b")])
    lease = stage.occupy("a")
    monkeypatch.setattr("proxy.pool.pool.my_bell", lambda: raising(error))
    with pytest.raises(type(error)):
        stage.ask()
    assert stage.pool.queue_facts()["m"]["waiting"] == 0
    stage.free(lease)
    stage.ask()


@pytest.mark.parametrize("error", WANTS, ids=repr)
@pytest.mark.parametrize("owner", [ScriptedClient, ScriptedReply])
@pytest.mark.parametrize("is_stream", [False, True])
def test_want_costs_one_request_and_no_client(
    monkeypatch: pytest.MonkeyPatch, owner: type, error: Exception, is_stream: bool
) -> None:
    """In sending as in reading: no retry, the permit is back, health untouched."""
    stage = Stage([chat("a"), chat("b")], [chat("c")])
    with monkeypatch.context() as patch:
        name = "send" if owner is ScriptedClient else "read"
        patch.setattr(owner, name, lambda *_, **__: raising(error))
        with pytest.raises(type(error)):
            stage.stream() if is_stream else stage.ask()
    assert stage.state_of("a")["state"] == stage.state_of("b")["state"] == "ready"
    stage.ask()


@pytest.mark.parametrize("error", WANTS, ids=repr)
def test_want_in_mid_stream_is_an_error_event(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Never half an answer for a whole, and no fault of the client's."""
    stage = Stage([stream("a", "b")])
    read = ScriptedReply.read
    reads = iter(range(100))

    def read_once(reply: ScriptedReply, until: float) -> bytes | None:
        return read(reply, until) if next(reads) == 0 else raising(error)

    monkeypatch.setattr(ScriptedReply, "read", read_once)
    writes = stage.stream()
    assert len(writes) == 2
    last = writes[-1].removeprefix(b"data: ")
    assert error_of(last)["code"] == "server_out_of_resources"
    assert stage.record.end == "server_out_of_resources"
    assert stage.state_of("a")["state"] == "ready"


def test_request_that_does_not_fit_into_memory_is_refused() -> None:
    """It is not its caller's framing that is wrong."""

    class Filling(io.BytesIO):
        def read(self, size: int | None = -1) -> NoReturn:
            raise MemoryError

    caller = create_app({"demo": [{"name": "demo", "models": [{"name": "m"}]}]}).test_client()
    answer = caller.post("/v1/chat/completions", input_stream=Filling(b"{}"))
    assert answer.status_code == 503
    assert error_of(answer.data)["code"] == "server_out_of_resources"
    assert answer.headers["retry-after"] == "1"
