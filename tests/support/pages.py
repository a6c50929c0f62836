"""Tables in pages of docs/, read: for tests that compare them with the code."""

from __future__ import annotations

import re


def table(page: str, head: str) -> list[list[str]]:
    """The cells of each row below this head, of all tables that have it."""
    found = re.findall(rf"^{re.escape(head)}\n\|[-|: ]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert found, head
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for lines in found
        for line in lines.splitlines()
    ]


def quoted(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def first_column(page: str, head: str) -> list[str]:
    """All that is quoted there."""
    return [name for row in table(page, head) for name in quoted(row[0])]
