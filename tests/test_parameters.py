"""docs/parameters.md: what becomes of each parameter at Claude and Gemini.

tests/wire/gemini/test_request.py holds Gemini's translator to its column.
"""

from __future__ import annotations

from pathlib import Path

from proxy.wire.claude.parameters import PARAMETERS as CLAUDE
from tests.support.pages import table

PAGE = Path(__file__).parents[1] / "docs" / "parameters.md"


def test_column_of_claude_is_the_translators_own() -> None:
    """Every parameter, in the words of its table; 400 where it has none."""
    rows = table(PAGE.read_text(), "| parameter | Claude | Gemini |")
    names = [name.strip("`") for name, *_ in rows]
    assert names == sorted(names)
    assert CLAUDE.keys() <= set(names)
    assert [claude for _, claude, _ in rows] == [CLAUDE.get(name, "400") for name in names]
