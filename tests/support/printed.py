"""What a process prints, line by line, while it runs."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO


class Printed:
    """The lines that come from a pipe, until its other end is closed.

    A thread reads them, or the process would wait. So does whoever looks: all that was written
    before is there, however late that thread is.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        os.set_blocking(pipe.fileno(), False)
        self._grown = threading.Condition()  # guards the rest; notified of every change
        self._lines: list[str] = []
        self._begun = b""  # of a line
        self._is_over = False
        self._counts: dict[str, tuple[int, int]] = {}  # by part: lines looked at, found
        self._reader = threading.Thread(target=self._read, name="printed", daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """All so far."""
        with self._grown:
            self._take_locked()
            return "".join(self._lines)

    def count(self, part: str) -> int:
        """How many lines so far hold these words."""
        with self._grown:
            self._take_locked()
            looked_at, count = self._counts.get(part, (0, 0))
            count += sum(part in line for line in self._lines[looked_at:])
            self._counts[part] = len(self._lines), count
        return count

    def wait_for(self, fits: Callable[[str], object], timeout_s: float) -> str:
        """Block until there is a line that fits; raises TimeoutError."""
        looked_at = 0
        until = time.monotonic() + timeout_s
        with self._grown:
            while True:
                for line in self._lines[looked_at:]:
                    if fits(line):
                        return line
                looked_at = len(self._lines)
                left_s = until - time.monotonic()
                if self._is_over or left_s <= 0:
                    raise TimeoutError("no such line in the log:\n" + "".join(self._lines))
                self._grown.wait(left_s)

    def close(self) -> None:
        """Wait until the other end is closed."""
        self._reader.join()
        self._pipe.close()

    def _read(self) -> None:
        poller = select.poll()
        poller.register(self._pipe, select.POLLIN)
        while not self._is_over:
            poller.poll()
            with self._grown:
                self._take_locked()

    def _take_locked(self) -> None:
        """Take what is in the pipe."""
        with suppress(BlockingIOError):
            while not self._is_over:
                data = os.read(self._pipe.fileno(), 65536)
                self._is_over = not data
                *whole, self._begun = (self._begun + data).split(b"\n")
                self._lines += [f"{line.decode()}\n" for line in whole]
                if self._is_over and self._begun:
                    self._lines.append(self._begun.decode())
                self._grown.notify_all()
