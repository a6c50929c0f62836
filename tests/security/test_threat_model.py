"""`docs/threat-model.md` promises nothing without a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "threat-model.md"
LINES = [
    line
    for line in PAGE.read_text().splitlines()
    if line.startswith("|") and not line.startswith(("|--", "| What must not happen |"))
]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip()[:60])
def test_line_has_its_tests(line: str) -> None:
    """Which exist, by this name."""
    _, threat, tests, _ = line.split("|")
    named = NAMED.findall(tests)
    assert threat.strip()
    assert NAMED.sub("", tests).strip(" ,") == ""
    assert named
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, path


def test_page_is_a_page() -> None:
    """Long enough to say something, short enough to be read."""
    assert 30 <= len(LINES) <= 60
