"""Runs cells of the fault matrix, all before one gateway and many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from proxy.server.control.sockets import ask_all
from tests.faults.callers import CALLERS, Caller, Heard
from tests.faults.dialects import TEXT, Dialect
from tests.faults.faults import (
    FAULTS,
    PLAIN,
    SAID,
    Broken,
    Failed,
    Fault,
    Good,
    Outcome,
    Setting,
    Site,
)
from tests.support.certificates import Authority
from tests.support.gateway import PATIENCE_S, Gateway, Response
from tests.support.upstream import Received, Reply, Upstream

RETRIES = 2
CONNECT_TIMEOUT_S = 2
IDLE_TIMEOUT_S = 4

CELLS_AT_ONCE = 24

# What a caller may see of an answer's headers; a stream has the last two besides.
HEADERS = {
    "connection",
    "content-length",
    "content-type",
    "date",
    "server",
    "transfer-encoding",
    "x-content-type-options",
    "x-proxy-attempts",
    "x-proxy-client",
    "x-request-id",
}
STREAM_HEADERS = {"cache-control", "x-accel-buffering"}


@dataclass(frozen=True)
class Cell:
    """One fault under one condition; with several clients the faulty one comes first."""

    caller: Caller
    dialect: Dialect
    fault: Fault
    is_stream: bool
    clients: int
    is_tls: bool

    @property
    def model(self) -> str:
        """What tells it apart everywhere: in names, in requests' ids, in the log."""
        kind = "stream" if self.is_stream else "unary"
        way = "tls" if self.is_tls else "plain"
        caller = "" if self.caller is CALLERS[0] else f"{self.caller.name}-"
        return f"{caller}{self.dialect.name}-{self.fault.name}-{kind}-{self.clients}-{way}"

    @property
    def outcome(self) -> Outcome:
        outcome, dialect = self.fault.outcome(self.is_stream), self.dialect
        if outcome is SAID:
            return replace(SAID, status=dialect.error_status, code=dialect.error_code)
        if outcome is PLAIN:
            return replace(PLAIN, code=dialect.plain_code)
        return outcome

    @property
    def keys(self) -> list[str]:
        return [f"sk-{self.model}-{number:04}" for number in range(self.clients)]

    @property
    def answers(self) -> bool:
        """Whether somebody gives a whole answer in the end."""
        return isinstance(self.outcome, Good) or (
            isinstance(self.outcome, Failed) and self.clients > 1
        )

    @property
    def attempts(self) -> int:
        """How many have to be made: `request-retry` and one; two time-outs of a unary request."""
        if not isinstance(self.outcome, Failed):
            return 1
        if self.clients > 1:
            return 2
        is_timeout = self.outcome.status == 504
        return 2 if is_timeout and not self.is_stream else 1 + RETRIES


def all_cells() -> list[Cell]:
    """Every fault for every pair of dialects, less those beyond the share of either."""
    cells: list[Cell] = []
    for caller, dialect in [pair for one in CALLERS for pair in product([one], one.upstreams)]:
        if dialect.callers and caller.name not in dialect.callers:
            continue
        conditions = product(FAULTS, (False, True), (1, 3), (False, True))
        share = max(caller.share, dialect.share)
        cells += [
            Cell(caller, dialect, fault, is_stream, clients, is_tls)
            for number, (fault, is_stream, clients, is_tls) in enumerate(conditions)
            if number % share == 0 and (caller.streams or not is_stream)
        ]
    return cells


@dataclass(frozen=True)
class Seen:
    """What came of a cell. `faulty`: requests at its site; `well`: at its other clients."""

    answer: Response
    record: dict[str, str]
    faulty: list[Received]
    well: list[Received]
    clients: list[dict[str, Any]]


class Matrix:
    """A gateway before the sites of these cells; `seen` runs a cell's request, once."""

    def __init__(self, cells: Iterable[Cell], directory: Path) -> None:
        with ExitStack() as held:
            self._authority = Authority()
            self._bundle = str(self._authority.write(directory / "ca.pem"))
            self.trap = held.enter_context(Upstream())
            self._well: dict[tuple[Dialect, bool], Upstream] = {}
            self._sites: dict[Cell, Site] = {}
            providers: dict[str, list[dict[str, Any]]] = {}
            for cell in cells:
                section = providers.setdefault(cell.dialect.section, [])
                section += self._providers(cell, held)
            self.gateway = held.enter_context(Gateway(_config(providers)))
            pool = held.enter_context(ThreadPoolExecutor(CELLS_AT_ONCE))
            self._futures: dict[Cell, Future[Seen]] = {
                cell: pool.submit(self._run, cell) for cell in self._sites
            }
            self._held = held.pop_all()

    def __len__(self) -> int:
        return len(self._sites)

    def close(self) -> None:
        """Wait for what still runs, and end it all."""
        self._held.close()

    def seen(self, cell: Cell) -> Seen:
        """What came of it; blocks until it is over."""
        return self._futures[cell].result()

    def site(self, cell: Cell) -> Site:
        return self._sites[cell]

    def losses(self, check: Callable[[Matrix, Cell], None]) -> list[str]:
        """The cells that fail this check."""
        lost = []
        for cell in self._sites:
            try:
                check(self, cell)
            except Exception as error:  # whatever it is, the cell is lost
                lost.append(f"{cell.model}: {error!r}"[:500])
        return lost

    def _providers(self, cell: Cell, held: ExitStack) -> Iterable[dict[str, Any]]:
        setting = Setting(
            cell.dialect, cell.is_stream, cell.is_tls, self._authority, self.trap.url, held
        )
        self._sites[cell] = site = cell.fault.make(setting)
        well = self._well.get((cell.dialect, cell.is_tls))
        if well is None:
            well = self._well[cell.dialect, cell.is_tls] = setting.upstream()
            well.default = _well_answer(setting)
        origins = [site.origin, *[well.origin] * (cell.clients - 1)]
        for key, origin in zip(cell.keys, origins, strict=True):
            more = {"ca-bundle": self._bundle} if origin.startswith("https") else {}
            yield cell.dialect.provider(cell.model, origin, key, more)

    def _run(self, cell: Cell) -> Seen:
        site = self._sites[cell]
        for number in range(site.warm_ups * cell.clients):
            request_id = f"{cell.model}-warm-up-{number}"
            assert self._ask(cell, request_id).status == 200
            self.gateway.record_of(request_id)
        if site.goes_cold and site.upstream:
            site.upstream.wait_for_connections(0, timeout_s=PATIENCE_S)
        answer = self._ask(cell, cell.model)
        record = self.gateway.record_of(cell.model)
        faulty = site.upstream.received() if site.upstream else []
        well = self._well[cell.dialect, cell.is_tls]
        others = [one for key in cell.keys[1:] for one in well.received(key)]
        for one in (*faulty, *others):
            one.wait_ended(PATIENCE_S)
        return Seen(answer, record, faulty, others, self._clients(cell))

    def _ask(self, cell: Cell, request_id: str) -> Response:
        headers = {"x-request-id": request_id}
        return cell.caller.ask(self.gateway, cell.model, headers, is_stream=cell.is_stream)

    def _clients(self, cell: Cell) -> list[dict[str, Any]]:
        """The pool's facts on the cell's clients."""
        request = {"do": "overview", "model": cell.model}
        (worker,) = ask_all(self.gateway.port, request, timeout_s=PATIENCE_S)
        clients: list[dict[str, Any]] = worker["clients"]
        return clients


def _config(providers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "request-retry": RETRIES,
        "connect-timeout": CONNECT_TIMEOUT_S,
        "idle-timeout": IDLE_TIMEOUT_S,
        **providers,
    }


def _well_answer(setting: Setting) -> Callable[[Received], Reply]:
    """What is asked for, streamed or not."""

    def answer(received: Received) -> Reply:
        is_stream = setting.dialect.asks_for_stream(received)
        return replace(setting, is_stream=is_stream).good()

    return answer


# What has to hold


def check(matrix: Matrix, cell: Cell) -> None:
    """The caller's view, the attempts, and what is left behind."""
    seen = matrix.seen(cell)
    check_answer(cell, seen.answer)
    check_headers(cell, seen)
    check_attempts(matrix, cell, seen)
    assert len(seen.clients) == cell.clients
    for facts in seen.clients:
        held = {name: facts[name] for name in ("in_flight", "waiting", "leases")}
        assert held == {"in_flight": 0, "waiting": 0, "leases": []}
    upstream = matrix.site(cell).upstream
    if upstream:
        upstream.wait_for_connections(int(_may_keep(cell.outcome)), timeout_s=PATIENCE_S)


def _may_keep(outcome: Outcome) -> bool:
    """Whether the faulty site's connection may stay for another request."""
    return isinstance(outcome, Good) or (isinstance(outcome, Failed) and outcome.reusable)


def check_answer(cell: Cell, answer: Response) -> None:
    """Whole, or an error that nobody takes for a whole answer."""
    outcome, caller = cell.outcome, cell.caller
    if cell.answers:
        assert answer.status == 200
        assert caller.hear(answer, cell.is_stream) == Heard(TEXT, True)
    elif isinstance(outcome, Broken):
        assert answer.status == 200
        heard = caller.hear(answer, True)
        assert not heard.is_whole
        assert heard.code in caller.code(502, [outcome.code])
        assert heard.text
        assert TEXT.startswith(heard.text)
    else:
        assert isinstance(outcome, Failed)
        assert answer.status == outcome.status
        assert answer.headers["content-type"] == "application/json"
        message, code = caller.error(answer)
        codes = [outcome.code, outcome.tls_code if cell.is_tls else outcome.code]
        assert code in caller.code(outcome.status, codes)
        assert message
        assert len(answer.body) < 10_000


def check_headers(cell: Cell, seen: Seen) -> None:
    """Ours and no others, and they tell the truth."""
    headers = seen.answer.headers
    is_stream = cell.is_stream and seen.answer.status == 200
    known = HEADERS | cell.caller.headers
    assert set(headers) <= (known | STREAM_HEADERS if is_stream else known)
    kind = "text/event-stream; charset=utf-8" if is_stream else "application/json"
    assert headers["content-type"] == kind
    assert headers["server"] == "gunicorn"
    assert headers["x-request-id"] == cell.model
    assert headers["x-proxy-attempts"] == str(cell.attempts)
    number = 1 if cell.answers and isinstance(cell.outcome, Failed) else 0
    label = headers["x-proxy-client"].partition("#")[0]  # "#2" where a mask stands twice
    assert label.endswith(cell.keys[number][-4:])


def check_attempts(matrix: Matrix, cell: Cell, seen: Seen) -> None:
    """Each at its place, and no more than are due."""
    assert seen.record["attempts"] == str(cell.attempts)
    is_moved = isinstance(cell.outcome, Failed) and cell.clients > 1
    warm_ups = matrix.site(cell).warm_ups
    assert len(seen.well) == int(is_moved) + warm_ups * (cell.clients - 1)
    if cell.fault.name == "tls":
        assert not seen.faulty  # no byte of a request leaves for whom nobody vouches
    elif cell.fault.name == "stale-unanswered":
        assert len(seen.faulty) == 3  # to warm up, in vain, and again
    elif matrix.site(cell).upstream:
        assert len(seen.faulty) == warm_ups + cell.attempts - int(is_moved)
