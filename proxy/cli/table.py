"""Text for a terminal: tables, names, counts."""

from __future__ import annotations

from collections.abc import Sequence

# What was left out of a list of names is counted.
MAX_NAMES = 6


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


def names(items: Sequence[str]) -> str:
    """A list of names for one cell. Only the first few are shown if there are many."""
    left_out = len(items) - MAX_NAMES
    if left_out > 1:
        return f"{', '.join(items[:MAX_NAMES])} and {left_out} more"
    return ", ".join(items)


def count(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str) -> str:
    """Text from elsewhere in one line, without control characters for the terminal."""
    return "".join(char if char.isprintable() else " " for char in text).strip()
