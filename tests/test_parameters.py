"""docs/parameters.md: what becomes of each parameter at Claude and Gemini.

tests/wire/claude/test_request.py holds Claude's translator to its column.
"""

from __future__ import annotations

from pathlib import Path

from proxy.wire.gemini.request import PARAMETERS as GEMINI
from tests.support.pages import table

PAGE = Path(__file__).parents[1] / "docs" / "parameters.md"


def test_column_of_gemini_is_the_translators_own() -> None:
    """Every parameter, in the words of its table; 400 where it has none."""
    rows = table(PAGE.read_text(), "| parameter | Claude | Gemini |")
    names = [name.strip("`") for name, *_ in rows]
    assert names == sorted(names)
    assert GEMINI.keys() <= set(names)
    told = [gemini.removesuffix(" |") for *_, gemini in rows]
    assert told == [GEMINI.get(name, "400") for name in names]
