"""docs/parameters.md: what becomes of each parameter at Claude and Gemini is what they say."""

from __future__ import annotations

from pathlib import Path

from proxy.wire.claude.parameters import PARAMETERS as CLAUDE
from proxy.wire.gemini.request import PARAMETERS as GEMINI

PAGE = Path(__file__).parents[1] / "docs" / "parameters.md"


def test_table_of_parameters_is_the_translators_own() -> None:
    """Every parameter of either, in the words of its table; 400 where it has none."""
    expected = [
        f"| `{name}` | {CLAUDE.get(name, '400')} | {GEMINI.get(name, '400')} |"
        for name in sorted({*CLAUDE, *GEMINI})
    ]
    lines = PAGE.read_text().splitlines()
    begin = lines.index("| parameter | Claude | Gemini |")
    assert lines[begin + 2 : begin + 2 + len(expected)] == expected
