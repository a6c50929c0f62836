"""The stop-watch table: every deadline holds, whatever hangs on the way to an upstream.

{6 deadlines} x {unary, stream, a list of prompts} x {5 faults}, each within a tenth of the deadline
and 0.3 s; others are served meanwhile, and no client stays in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.faults.stopwatch import Cell, Deadline, Watch, all_cells, check
from tests.support.clock import BUSY_S, SLACK_S

# What needs nothing of all this.
WELL_S = 2.0 + BUSY_S
# A server without requests is gone by then.
ENDED_S = 2.0

# A few seconds' worth of it.
QUICK = ("first-byte-timeout",)


def marked(cell: Cell) -> Any:
    marks = () if cell.deadline.name in QUICK else (pytest.mark.slow,)
    return pytest.param(cell, id=cell.model, marks=marks)


@pytest.fixture(scope="module")
def watch_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Deadline], Watch]]:
    """Runs all cells of a deadline that this session asks for, at the first of them."""
    running: dict[str, Watch] = {}
    asked = [cell for cell in map(_cell_of, request.session.items) if cell is not None]

    with ExitStack() as held:

        def get(deadline: Deadline) -> Watch:
            watch = running.get(deadline.name)
            if watch is None:
                cells = [cell for cell in asked if cell.deadline is deadline]
                watch = Watch(cells, tmp_path_factory.mktemp(deadline.name))
                held.callback(watch.close)
                running[deadline.name] = watch
            return watch

        yield get


def _cell_of(item: pytest.Item) -> Cell | None:
    call: Any = getattr(item, "callspec", None)
    cell = call.params.get("cell") if call else None
    return cell if isinstance(cell, Cell) else None


@pytest.mark.parametrize("cell", [marked(cell) for cell in all_cells()])
def test_cell(watch_of: Callable[[Deadline], Watch], cell: Cell) -> None:
    """What `check` says, and what holds for all cells of a deadline together."""
    watch = watch_of(cell.deadline)
    check(watch, cell)
    assert watch.well_s < WELL_S
    if cell.deadline.name == "sigterm":
        assert watch.stopped_s < cell.deadline.over_s * 1.1 + SLACK_S + ENDED_S
        return
    for client in watch.facts():
        held = {name: client[name] for name in ("in_flight", "waiting", "leases")}
        assert held == {"in_flight": 0, "waiting": 0, "leases": []}
