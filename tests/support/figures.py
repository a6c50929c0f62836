"""The README's figures: some rows and columns of `bench/RESULTS.md`, put in by `make readme`."""

from __future__ import annotations

import re

from tests.support.gateway import ROOT
from tests.support.pages import table

PAGE = ROOT / "README.md"
RESULTS = ROOT / "bench" / "RESULTS.md"
TABLE = re.compile(r"(\| measured [^\n]*\n\|[-|:]+\|\n)((?:\|.*\n)+)")


def renewed(page: str, results: str) -> str:
    """`page` with the medians of these results, in the rows and columns that it has."""
    head = next(line for line in results.splitlines() if line.startswith("|  |"))
    columns = [cell.strip() for cell in head.strip("|").split(" | ")]
    measured = {row[0]: dict(zip(columns, row, strict=True)) for row in table(results, head)[::-1]}

    def renew(found: re.Match[str]) -> str:
        _, *shown = [cell.strip() for cell in found[1].splitlines()[0].strip("|").split(" | ")]
        titles = re.findall(r"^\| (.+?) \|", found[2], re.MULTILINE)
        lines = [
            # In brackets is the ratio to one of the columns.
            [title, *(measured[title][name].split(" (")[0] for name in shown)]
            for title in titles
        ]
        return found[1] + "".join(f"| {' | '.join(line)} |\n" for line in lines)

    made, count = TABLE.subn(renew, page)
    assert count == 1, "the page has not its table of figures"
    return made


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(), RESULTS.read_text()))
