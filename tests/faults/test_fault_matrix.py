"""The fault matrix: whatever breaks towards an upstream, nothing is lost and nothing stays behind.

{21 faults} x {unary, stream} x {one client, three, the faulty one first} x {plain, TLS}, for pairs
of a caller's and an upstream's dialect: for each the status, body and headers that the caller sees,
the attempts, the connections and the locks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.matrix import Cell, Matrix, all_cells, check

pytestmark = pytest.mark.slow

# Of the callers that have a third of the cells `make test-slow` runs a ninth.
CELLS = [
    pytest.param(
        cell,
        id=cell.model,
        marks=pytest.mark.further if cell.caller.share > 1 and number % 3 else (),
    )
    for number, cell in enumerate(all_cells())
]


@pytest.fixture(scope="module")
def matrix(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Matrix]:
    """Runs the cells that this session asks for, from its start on."""
    asked = [cell for cell in map(_cell_of, request.session.items) if cell is not None]
    running = Matrix(asked, tmp_path_factory.mktemp("matrix"))
    try:
        yield running
    finally:
        running.close()


def _cell_of(item: pytest.Item) -> Cell | None:
    call: Any = getattr(item, "callspec", None)
    cell = call.params.get("cell") if call else None
    return cell if isinstance(cell, Cell) else None


@pytest.mark.parametrize("cell", CELLS)
def test_cell(matrix: Matrix, cell: Cell) -> None:
    """What `check` says."""
    check(matrix, cell)


def test_no_redirect_is_followed(matrix: Matrix, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody came to where the redirects point; and the sum of it all."""
    assert matrix.trap.connections == 0
    lost = matrix.losses(check)
    with capsys.disabled():
        print(f"\nfault matrix: {len(matrix)} cells, {len(lost)} lost")
    assert not lost
