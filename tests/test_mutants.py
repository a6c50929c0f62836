"""The mutants (`tests.mutants`) still fit the code: the places are there, and so are the tests."""

from __future__ import annotations

import ast

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_fits_the_code(mutant: Mutant) -> None:
    """Its place stands once in the tree, what replaces it compiles, and its tests exist."""
    text = (ROOT / mutant.path).read_text()
    assert text.count(mutant.old) == 1
    ast.parse(text.replace(mutant.old, mutant.new))
    for argument in mutant.tests:
        if ".py" in argument:
            path, _, name = argument.partition("::")
            tests = ast.parse((ROOT / "tests" / path).read_text())
            names = {node.name for node in tests.body if isinstance(node, ast.FunctionDef)}
            assert not name or name in names, argument


def test_mutants_have_names_of_their_own() -> None:
    """By which one can be asked for."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20
