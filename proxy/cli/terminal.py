"""What a terminal and a shell are told: exit statuses, tables, and the words of others."""

from __future__ import annotations

import enum
from collections.abc import Sequence


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


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Rows under a head, each column as wide as its widest cell. `right` columns are numbers."""
    lines = [head, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
