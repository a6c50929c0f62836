"""Helper threads: bounded, made at need, and every wait for them watches clock and caller."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from proxy.errors import CallerGone
from proxy.net.helpers import HelperThreads, Task, wait_any
from proxy.net.watch import CallerConnection

NOBODY = CallerConnection(None)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What blocked tasks wait for; opened at the end, so that no thread stays behind."""
    event = threading.Event()
    yield event
    event.set()


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{name}-")]


def soon() -> float:
    return time.monotonic() + 10.0


def test_result_is_what_the_work_returned() -> None:
    task = HelperThreads("test-result", 1).start(Task(lambda: 42))
    assert task.wait(soon(), NOBODY)
    assert task.result() == 42


def test_error_of_the_work_is_raised_to_each_who_asks() -> None:
    def fail() -> None:
        raise LookupError("no such name")

    task = HelperThreads("test-error", 1).start(Task(fail))
    assert task.wait(soon(), NOBODY)
    for _ in range(2):
        with pytest.raises(LookupError, match="no such name"):
            task.result()


def test_wait_ends_at_its_moment_and_can_be_taken_up_again(gate: threading.Event) -> None:
    task = HelperThreads("test-moment", 1).start(Task(gate.wait))
    assert not task.wait(time.monotonic() + 0.02, NOBODY)
    assert not task.done()
    gate.set()
    assert task.wait(soon(), NOBODY)


def test_wait_ends_when_the_caller_leaves(gate: threading.Event) -> None:
    task = HelperThreads("test-caller", 1).start(Task(gate.wait))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.close()
        with pytest.raises(CallerGone):
            task.wait(soon(), CallerConnection(ours))


def test_wait_for_any_ends_with_the_first(gate: threading.Event) -> None:
    """One that hangs holds up nobody who has what he needs from another."""
    threads = HelperThreads("test-any", 2)
    hung = threads.start(Task(gate.wait))
    go_on = threading.Event()
    quick = threads.start(Task(lambda: go_on.wait(10)))
    assert not wait_any([hung, quick], time.monotonic() + 0.02, NOBODY)
    go_on.set()
    assert wait_any([hung, quick], soon(), NOBODY)
    assert (hung.done(), quick.done()) == (False, True)
    assert wait_any([hung, quick], -math.inf, NOBODY)


def test_all_who_wait_are_woken(gate: threading.Event) -> None:
    task = HelperThreads("test-all", 1).start(Task(gate.wait))
    seen: list[bool] = []
    waiting = [
        threading.Thread(target=lambda: seen.append(task.wait(soon(), NOBODY))) for _ in range(8)
    ]
    for thread in waiting:
        thread.start()
    gate.set()
    for thread in waiting:
        thread.join()
    assert seen == [True] * 8


def test_threads_are_daemons_made_at_need_and_no_more_than_the_limit(
    gate: threading.Event,
) -> None:
    threads = HelperThreads("test-limit", 3)
    assert named("test-limit") == []
    tasks = [threads.start(Task(gate.wait)) for _ in range(7)]
    assert len(named("test-limit")) == 3
    assert all(thread.daemon for thread in named("test-limit"))
    gate.set()
    assert all(task.wait(soon(), NOBODY) for task in tasks)
    assert len(named("test-limit")) == 3


def test_idle_thread_takes_the_next_task() -> None:
    threads = HelperThreads("test-idle", 3)
    for _ in range(5):
        task = threads.start(Task(threading.get_ident))
        assert task.wait(soon(), NOBODY)
        deadline = soon()
        while threads._idle < 1 and time.monotonic() < deadline:
            os.sched_yield()
    assert len(named("test-idle")) == 1


def test_forked_child_has_threads_of_its_own(gate: threading.Event) -> None:
    threads = HelperThreads("test-fork", 1)
    threads.start(Task(gate.wait))
    child = os.fork()
    if not child:
        task = threads.start(Task(lambda: True))
        os._exit(0 if task.wait(soon(), NOBODY) and task.result() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_task_waits_for_a_busy_thread_where_no_further_one_can_be_had(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = HelperThreads("test-want", 2)
    threads.start(Task(gate.wait))

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    task = threads.start(Task(lambda: 1))
    gate.set()
    assert task.wait(soon(), NOBODY)
    lost = Task(lambda: 1)
    with pytest.raises(RuntimeError):
        HelperThreads("test-none", 2).start(lost)
    assert lost.wait(soon(), NOBODY)
    with pytest.raises(RuntimeError):
        lost.result()
