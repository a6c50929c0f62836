"""Exit statuses, and the error that ends a command with one."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """The exit statuses. `--help` explains them."""

    OK = 0
    FAILED = 1
    CONFIG = 2  # argparse's own status for a wrong command line, too
    BUSY = 3
    NOT_RUNNING = 4
    INTERRUPTED = 130  # 128 + SIGINT, as in a shell


class Failure(Exception):
    """Ends a command with a one-line message and an exit status."""

    def __init__(self, message: str, status: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.status = status
