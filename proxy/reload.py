"""Keeps a process on the configuration that its files hold: looks at them, and reads what changed.

One helper thread of the process does all looking and reading. So no request waits for a disk, and
two readings cannot overtake each other.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from contextlib import suppress

from .config import Config, ConfigSource, changes
from .errors import ConfigError
from .net.helpers import HelperThreads, Task
from .net.watch import Clock

# The time between two looks: with SETTLE_S a change is in force within 2 s.
LOOK_S = 1.0

_threads = HelperThreads("poolproxy-reload", 1)

log = logging.getLogger("proxy.config")


class Reloader:
    """Reads a source again and has what it holds adopted. What is wrong with it changes nothing.

    `adopt` takes a configuration into force, and returns how many requests of clients that are gone
    are under way. With `auto` a request that comes at `looks_at` or later calls `look`.
    """

    def __init__(
        self, source: ConfigSource, adopt: Callable[[Config], int], *, auto: bool, clock: Clock
    ) -> None:
        self.looks_at = -math.inf if auto and source.seen else math.inf
        self.counted: Callable[[str], object] = str  # is told of each reading: `ok` or `failed`
        self.read_at = clock.wall()  # what is in force, by the wall clock
        self.source = source
        self._config = source.config  # in force
        self._adopt = adopt
        self._clock = clock
        self._looking: tuple[int, Task[None]] | None = None  # in which process

    def look(self) -> None:
        """Have the files looked at, and read if they have changed. Does not block."""
        self.looks_at = self._clock.monotonic() + LOOK_S
        pid, task = self._looking or (0, None)
        if task is None or task.done() or pid != os.getpid():
            task = Task(self._look)
            self._looking = os.getpid(), task
            try:
                _threads.start(task)
            except RuntimeError as error:  # no thread can be had; the next look tries again
                log.debug("the configuration is not looked at: %s", error)

    def begin(self) -> Task[str]:
        """As `reload`, which this begins. Raises RuntimeError if the process can have no thread."""
        return _threads.start(Task(self._read))

    def reload(self) -> str:
        """Read the files, changed or not, and tell what has changed once it is in force."""
        return self.begin().result()

    def report(self) -> None:
        """Log what is wrong with the files."""
        if self.source.problems:
            log.error("the configuration stays as it was: %s", "\n".join(self.source.problems))

    def _look(self) -> None:
        """In the helper thread: read what has changed, and changes no more."""
        if self.source.has_changed():
            with suppress(Exception):  # it is logged
                self._read()

    def _read(self) -> str:
        """In the helper thread; logs what it returns or raises."""
        old, seen, known = self._config, self.source.seen, self.source.problems
        try:
            new = self.source.read()
            told = changes(old, new, draining=self._adopt(new))
        except ConfigError:
            self.counted("failed")
            if self.source.problems != known:
                self.report()
            raise
        except Exception:
            self.counted("failed")
            log.exception("the configuration could not be read again")
            raise
        self.counted("ok")
        told += [
            f"{path} is another"
            for path, stamp in self.source.seen.items()
            if path != new.path and stamp != seen.get(path, stamp)
        ]
        self._config, self.read_at = new, self._clock.wall()
        text = ", ".join(told) or "nothing changed"
        log.info("configuration read again: %s", text)
        for warning in new.warnings:
            if warning not in old.warnings:
                log.warning("%s", warning)
        return text
