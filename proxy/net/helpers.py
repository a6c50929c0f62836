"""Work that blocks and cannot be polled for, done by a few threads of the process.

`getaddrinfo` has no descriptor, and many requests want the same model list. Such a call is a
`Task`: a helper thread runs it, and any number of requests wait for it.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any, TypeVar

from .bell import my_bell
from .watch import CLOCK, CallerConnection, Clock

_T = TypeVar("_T")


class Task(Future[_T]):
    """One call of `work`, which `HelperThreads` run once, and those who wait for its end."""

    def __init__(self, work: Callable[[], _T]) -> None:
        super().__init__()
        self._work = work

    def run(self) -> None:
        try:
            value = self._work()
        except Exception as error:  # whoever waits is told
            self.set_exception(error)
        else:
            self.set_result(value)

    def wait(self, until: float, caller: CallerConnection, clock: Clock = CLOCK) -> bool:
        """Whether it was over before the monotonic moment `until`; raises CallerGone."""
        return wait_any([self], until, caller, clock)


def wait_any(
    tasks: Collection[Task[_T]], until: float, caller: CallerConnection, clock: Clock = CLOCK
) -> bool:
    """Whether one of these was over before the monotonic moment `until`; raises CallerGone."""
    bell = my_bell()
    for task in tasks:
        task.add_done_callback(bell.ring)
    while not any(task.done() for task in tasks):  # it may be rung for an earlier wait
        if not bell.wait(until, caller, clock):
            return False
    return True


class HelperThreads:
    """At most `limit` threads of the process, each started when a task finds all others busy.

    They are daemons, because nothing can end a call of `getaddrinfo`, and the process must not wait
    for one. A forked child starts without threads, and with an empty queue.
    """

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()  # guards _threads, _idle
        self._threads = 0
        self._idle = 0  # threads without a task, less the tasks that are queued for them
        self._tasks: queue.SimpleQueue[Task[Any]] = queue.SimpleQueue()

    def start(self, task: Task[_T]) -> Task[_T]:
        """Have a task run as soon as a thread is free, in order.

        Raises RuntimeError if the process can have no thread and none is there to take it; the
        task is over then, with the same error for whoever waits for it already.
        """
        with self._lock:
            self._idle -= 1
            needs_thread = self._idle < 0 and self._threads < self._limit
            if needs_thread:
                self._threads += 1
                self._idle += 1
            number = self._threads
        if needs_thread:
            try:
                threading.Thread(
                    target=self._serve, args=(task,), name=f"{self._name}-{number}", daemon=True
                ).start()
            except RuntimeError as error:
                with self._lock:
                    self._threads -= 1
                    has_others = self._threads > 0
                    self._idle -= has_others
                if not has_others:
                    task.set_exception(error)
                    raise
            else:
                return task
        self._tasks.put(task)
        return task

    def _serve(self, task: Task[Any]) -> None:
        tasks = self._tasks
        while True:
            task.run()
            del task  # a result is not kept for as long as the thread is idle
            with self._lock:
                self._idle += 1
            task = tasks.get()
