"""The ledger, in this process and in others on the same file."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy import Caller, Proxy, Usage
from proxy.config.secrets import Secret
from proxy.net.watch import Clock
from proxy.record.record import Attempt, Record
from proxy.usage import ledger
from proxy.usage.ledger import FILE, Ledger, report
from tests.support.commandline import wait_for
from tests.support.gateway import PATIENCE_S, ROOT, environment, run_python

DAY_S = 86_400
NOON = 20_000 * DAY_S + DAY_S / 2
TODAY = "2024-10-04"
YESTERDAY = "2024-10-03"
KNOWN = ("m", "n")
EACH = ledger.GROUPS


class Wall(Clock):
    """A time of day that is set by hand."""

    def __init__(self) -> None:
        self.now = NOON
        self.wall = lambda: self.now


@pytest.fixture
def clock() -> Wall:
    return Wall()


@pytest.fixture
def make(tmp_path: Path, clock: Wall) -> Iterator[Callable[..., Ledger]]:
    """Makes ledgers of one folder, as processes have them, closed at the end."""
    made = []

    def make(days: int = 400, folder: Path = tmp_path / "state") -> Ledger:
        made.append(Ledger(str(folder), days, clock))
        return made[-1]

    yield make
    for each in made:
        each.close()


def record(
    usage: Usage | None = None,
    *,
    caller: Caller | str | None = "ann",
    model: str = "m",
    clients: tuple[str, ...] = ("a",),
    end: str = "ok",
    **more: Any,
) -> Record:
    """Of a request that is over; the last of its clients told the usage."""
    found = Record("r", endpoint="/", arrived=0.0, **more)
    found.who = Caller(caller) if isinstance(caller, str) else caller
    found.model, found.end = model, end
    found.attempts = [Attempt(client) for client in clients]
    if usage:
        found.attempts[-1].usage = usage
    return found


def rows(of: Ledger, *by: str, **asked: Any) -> list[list[Any]]:
    """The sums of a ledger, without the names of the columns and the zeros at the end."""
    of.flush()
    found = [list(row.values()) for row in report(of.folder, by=by or EACH, **asked)]
    for row in found:
        while row[-1] == 0:
            del row[-1]
    return found


# What is counted


def test_requests_add_up(make: Callable[..., Ledger]) -> None:
    """By day, caller, model, client and end."""
    one = make()
    for _ in range(2):
        one.add(record(Usage(5, 3, 2, 1, 1)), KNOWN)
    one.add(record(Usage(1, 1), caller="ben"), KNOWN)
    one.add(record(Usage(1), model="n", clients=("b",), end="caller_gone"), KNOWN)
    assert rows(one) == [
        [TODAY, "ann", "m", "a", "ok", 2, 0, 10, 6, 4, 2, 2],
        [TODAY, "ann", "n", "b", "caller_gone", 1, 1, 1],
        [TODAY, "ben", "m", "a", "ok", 1, 0, 1, 1],
    ]
    assert rows(one, "caller") == [["ann", 3, 1, 11, 6, 4, 2, 2], ["ben", 1, 0, 1, 1]]
    assert rows(one, "model", "caller")[0][:3] == ["m", "ann", 2]
    assert rows(one, "end") == [["caller_gone", 1, 1, 1], ["ok", 3, 0, 11, 7, 4, 2, 2]]


def test_tokens_count_for_the_client_that_told_them(make: Callable[..., Ledger]) -> None:
    """The request for the last one; an attempt without tokens makes no row."""
    one = make()
    asked = record(Usage(4, 4), clients=("a", "b", "c"))
    asked.attempts[0].usage = Usage(1, 2)
    one.add(asked, KNOWN)
    assert rows(one, "client") == [["a", 0, 0, 1, 2], ["c", 1, 0, 4, 4]]


def test_model_is_the_one_that_serves(make: Callable[..., Ledger]) -> None:
    """Of a name that a stranger makes up nothing is kept; of one that there is the refusals are."""
    one = make()
    one.add(record(fallback="n"), KNOWN)
    one.add(record(model="made-up", clients=(), end="model_not_found"), KNOWN)
    one.add(record(clients=(), end="no_client_free"), KNOWN)
    assert rows(one, "model", "client", "end") == [
        ["", "", "model_not_found", 1],
        ["m", "", "no_client_free", 1],
        ["n", "a", "ok", 1],
    ]


def test_odd_words_and_counts(make: Callable[..., Ledger]) -> None:
    """Of upstreams and callers: nothing in them may keep others from being counted."""
    one = make()
    one.add(record(Usage(2**80, -5), end="\ud83d\0'\""), KNOWN)
    one.add(record(Usage(2**52), model="x" * 9000), KNOWN)
    one.add(record(mask=lambda text: text.replace("secret", "..."), end="a secret"), KNOWN)
    assert rows(one, "end") == [
        ["\\ud83d\0'\"", 1, 1, ledger.MAX_TOKENS],
        ["a ...", 1],
        ["ok", 1, 0, ledger.MAX_TOKENS],
    ]
    assert rows(one, "model")[-1][0] == "x" * 256


def test_key_without_a_name_is_masked(make: Callable[..., Ledger]) -> None:
    """As elsewhere."""
    one = make()
    for caller in (Caller("", key=Secret("sk-0123456789-b780")), Caller(""), None):
        one.add(record(caller=caller), KNOWN)
    assert rows(one, "caller") == [["", 2], ["sk-...b780", 1]]


def test_days_end_at_midnight_utc(make: Callable[..., Ledger], clock: Wall) -> None:
    """By the time at which a request ends; `since` is the first that counts."""
    one = make()
    clock.now = 20_000 * DAY_S - 0.5
    one.add(record(), KNOWN)
    clock.now += 1
    one.add(record(), KNOWN)
    assert rows(one, "day") == [[YESTERDAY, 1], [TODAY, 1]]
    assert rows(one, "day", since=TODAY) == [[TODAY, 1]]


@pytest.mark.parametrize("asked", [{"by": []}, {"by": ["day", "x"]}, {"since": "yesterday"}])
def test_what_cannot_be_asked(tmp_path: Path, asked: Any) -> None:
    """A word in its place is part of no statement."""
    with pytest.raises(ValueError, match=r"usage is by|yesterday"):
        report(str(tmp_path), **asked)


def test_ledger_that_is_not_there(tmp_path: Path) -> None:
    """Is not made by a look at it."""
    with pytest.raises(OSError, match=FILE):
        report(str(tmp_path))
    assert not list(tmp_path.iterdir())


# What is kept


def test_last_days_are_kept(make: Callable[..., Ledger], clock: Wall) -> None:
    """So many as have requests."""
    for day in (0, 1, 5, 9):
        clock.now = NOON + day * DAY_S
        one = make(days=2)
        one.add(record(), KNOWN)
        one.flush()
    assert [row[0] for row in rows(one, "day")] == ["2024-10-09", "2024-10-13"]


def test_clock_that_jumps_costs_no_history(make: Callable[..., Ledger], clock: Wall) -> None:
    """By years, there and back."""
    one = make(days=30)
    for years in (0, 5, 0, -5, 0):
        clock.now = NOON + years * 365 * DAY_S
        one.add(record(), KNOWN)
        one.flush()
    assert rows(one, "day") == [["2019-10-06", 1], [TODAY, 3], ["2029-10-03", 1]]


def test_nobody_else_may_read_it(make: Callable[..., Ledger]) -> None:
    """The folder is made, and made private; so is the file in one that is there."""
    one = make()
    one.flush()
    assert stat.S_IMODE(os.stat(one.folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(f"{one.folder}/{FILE}").st_mode) == 0o600


# Several processes


def test_processes_share_it(make: Callable[..., Ledger]) -> None:
    """Each adds its own, however their turns fall."""
    ledgers = [make() for _ in range(4)]

    def work(one: Ledger) -> None:
        for _ in range(50):
            one.add(record(Usage(1, 1)), KNOWN)
            one.flush()

    threads = [threading.Thread(target=work, args=[one]) for one in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(ledgers[0], "caller") == [["ann", 200, 0, 200, 200]]


SCRIPT = """
import os, sys
from proxy import Proxy

proxy = Proxy({{"usage": True, "state-dir": {folder!r}, "demo": [{{"delay-ms": 0}}]}})
question = [{{"role": "user", "content": "Hi"}}]

def ask(caller):
    proxy.chat(model="demo", messages=question, caller=caller)

{rest}
"""


def script(folder: Path, rest: str) -> str:
    return SCRIPT.format(folder=str(folder), rest=rest)


@pytest.mark.long
def test_script_that_ends_loses_nothing(tmp_path: Path) -> None:
    """Though it never closed its `Proxy`."""
    run_python("-c", script(tmp_path, "for _ in range(3): ask('nightly')"))
    assert [row["requests"] for row in report(str(tmp_path), by=["caller"])] == [3]


FORKS = """
import threading
from proxy.usage.ledger import Ledger

is_writing, never, join = threading.Event(), threading.Event(), Ledger._join

def slow_join(ledger):
    join(ledger)
    is_writing.set()
    never.wait(0.3)

Ledger._join = slow_join
ask("parent")
is_writing.wait()
if not (child := os.fork()):
    ask("child")
    proxy.close()
    os._exit(0)
_, status = os.waitpid(child, 0)
ask("parent")
sys.exit(status)
"""


@pytest.mark.long
def test_forked_child_counts_its_own(tmp_path: Path) -> None:
    """And nothing of its parent's, of which it has a copy. Forked while its parent writes."""
    run_python("-W", "ignore", "-c", script(tmp_path, FORKS))
    found = report(str(tmp_path), by=["caller"])
    assert [(row["caller"], row["requests"]) for row in found] == [("child", 1), ("parent", 2)]


AT_ONCE = """
from proxy.usage import ledger
from proxy.usage.ledger import report

ledger.BUSY_S = 60.0  # each has its turn, however slow the disk is
for number in range(8):
    place = sys.argv[1] + f"/{number}"
    children = []
    with Proxy({"usage": True, "state-dir": place, "demo": [{"delay-ms": 0}]}) as proxy:
        for _ in range(4):
            if not (child := os.fork()):
                ask("one")
                proxy.close()
                os._exit(0)
            children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert [row["requests"] for row in report(place)] == [4]
"""


@pytest.mark.long
def test_processes_that_begin_at_once(tmp_path: Path) -> None:
    """One of them makes the file; none finds it locked."""
    program = script(tmp_path / "first", AT_ONCE)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


WAITS = """
ask("theirs")
proxy.usage()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another instance: the child of a shell, and not of this process."""
    command = ["sh", "-c", '"$0" -c "$1"; :', sys.executable, script(folder, WAITS)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=-1, stdout=-1, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()
        assert process.wait(20) == 0


@pytest.mark.long
def test_second_instance_starts_without_it(
    make: Callable[..., Ledger], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Says so, once, and writes what it had when the first one has ended."""
    one = make()
    with another(tmp_path / "state"):
        for _ in range(2):
            one.add(record(), KNOWN)
            assert rows(one, "caller") == [["theirs", 1, 0, 1, 8]]
    assert rows(one, "caller") == [["ann", 2], ["theirs", 1, 0, 1, 8]]
    assert [line.rpartition(": ")[2] for line in caplog.messages] == [
        "another instance keeps its own there",
        f"usage is kept in {tmp_path}/state again",
    ]


# What goes wrong


def test_what_cannot_be_written_waits(
    make: Callable[..., Ledger], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, however often; it is written once, when it can be."""
    folder = tmp_path / "file" / "state"
    folder.parent.write_text("in the way")
    one = make(folder=folder)
    for _ in range(3):
        one.add(record(Usage(1, 1)), KNOWN)
        one.flush()
    assert len(caplog.records) == 1
    assert str(folder) in caplog.messages[0]
    folder.parent.unlink()
    assert rows(one, "caller") == [["ann", 3, 0, 3, 3]]
    assert rows(one, "caller") == [["ann", 3, 0, 3, 3]]
    assert len(caplog.records) == 2


class Overtaken:
    """A lock at whose first release another thread has its turn before whoever had it goes on."""

    def __init__(self, turn: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._turns = [threading.Thread(target=turn)]

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self._turns:
            turn = self._turns.pop()
            turn.start()
            turn.join()


def test_who_writes_last_has_the_last_word(
    make: Callable[..., Ledger],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One whose write failed does not say so after another's came through."""
    folder = tmp_path / "file" / "state"
    folder.parent.write_text("in the way")
    one = make(folder=folder)

    def write() -> None:
        folder.parent.unlink()
        one.flush()

    monkeypatch.setattr(ledger, "_no_fork", Overtaken(write))
    one.flush()
    assert [message.endswith("again") for message in caplog.messages] == [False, True]


def test_it_is_tried_again_without_a_request(
    make: Callable[..., Ledger], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same thread."""
    monkeypatch.setattr(ledger, "FLUSH_S", 0.05)
    folder = tmp_path / "file"
    folder.write_text("in the way")
    one = make(folder=folder)
    one.add(record(), KNOWN)
    wait_for(lambda: one._is_failing)
    folder.unlink()
    wait_for((folder / FILE).exists)
    wait_for(lambda: not one._is_failing)
    assert [row["requests"] for row in report(str(folder))] == [1]


def test_locked_file(
    make: Callable[..., Ledger], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another program, for longer than a transaction is waited for."""
    monkeypatch.setattr(ledger, "BUSY_S", 0.05)
    one = make()
    one.flush()
    path = f"{one.folder}/{FILE}"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            one.add(record(), KNOWN)
            one.flush()
        other.execute("ROLLBACK")
    assert "database is locked" in caplog.messages[0]
    assert rows(one, "caller") == [["ann", 2]]


def test_file_that_is_removed_is_made_again(make: Callable[..., Ledger]) -> None:
    """As an operator may do to begin anew."""
    one = make()
    one.add(record(), KNOWN)
    one.flush()
    for path in Path(one.folder).glob(f"{FILE}*"):
        path.unlink(missing_ok=True)  # SQLite may be quicker
    one.add(record(), KNOWN)
    assert rows(one, "caller") == [["ann", 1]]


def test_rows_that_wait_are_bounded(
    make: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of callers each keeps its own."""
    monkeypatch.setattr(ledger, "MAX_ROWS", 3)
    one = make()
    monkeypatch.setattr(one, "_task", object())  # nobody writes
    for number in range(5):
        one.add(record(end=f"e{number}"), KNOWN)
    one.add(record(end="e0"), KNOWN)
    one.add(record(end="e9", clients=()), KNOWN)
    one.add(record(caller="ben"), KNOWN)
    monkeypatch.setattr(one, "_task", None)
    assert rows(one, "caller", "client", "end") == [
        ["ann", "", "other", 1],
        ["ann", "a", "e0", 2],
        ["ann", "a", "e1", 1],
        ["ann", "a", "e2", 1],
        ["ann", "other", "other", 2],
        ["ben", "other", "other", 1],
    ]


def test_where_there_can_be_no_thread(
    make: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request tries again."""
    one = make()
    with monkeypatch.context() as patch:

        def refuse(_: object) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(ledger._threads, "start", refuse)
        one.add(record(), KNOWN)
    one.add(record(), KNOWN)
    assert rows(one, "caller") == [["ann", 2]]


def test_what_waits_is_written_at_the_end(
    make: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a thread: by then there may be none."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(ledger._threads, "start", refuse)
    one = make()
    one.add(record(), KNOWN)
    one.close()
    assert [row["requests"] for row in report(one.folder)] == [1]


# What a caller has spent today

ANN = Caller("ann")


def test_spent_is_of_all_processes(make: Callable[..., Ledger], clock: Wall) -> None:
    """Own requests at once, those of others once they are written; of this day alone."""
    one, other = make(), make()
    clock.now -= DAY_S
    other.add(record(Usage(100, 100)), KNOWN)
    clock.now += DAY_S
    other.add(record(Usage(5, 3)), KNOWN)
    other.flush()
    assert one.spent_today(ANN) == (1, 8)
    one.add(record(Usage(1, 1)), KNOWN)
    one.add(record(clients=(), end="rate_limit_exceeded"), KNOWN)
    one.add(record(Usage(9, 9), caller="ben"), KNOWN)
    assert one.spent_today(ANN) == (2, 10)
    other.add(record(Usage(2, 2)), KNOWN)
    other.flush()
    one.flush()
    assert one.spent_today(ANN) == (3, 14)
    assert one.spent_today(Caller("eve")) == (0, 0)
    clock.now += DAY_S
    assert one.spent_today(ANN) == (0, 0)
    one.add(record(Usage(1, 0)), KNOWN)
    assert one.spent_today(ANN) == (1, 1)
    clock.now -= DAY_S
    one.flush()
    assert one.spent_today(ANN) == (3, 14)


def test_spent_is_late_by_one_flush(
    make: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process without requests of its own, too."""
    monkeypatch.setattr(ledger, "FLUSH_S", 0.05)
    one, other = make(), make()
    assert one.spent_today(ANN) == (0, 0)
    other.add(record(Usage(5, 3)), KNOWN)
    wait_for(lambda: one.spent_today(ANN) == (1, 8))


def test_spent_counts_what_cannot_be_written(make: Callable[..., Ledger], tmp_path: Path) -> None:
    """Of this process."""
    (tmp_path / "file").write_text("in the way")
    one = make(folder=tmp_path / "file")
    for spent in ((1, 8), (2, 16)):
        one.add(record(Usage(5, 3)), KNOWN)
        one.flush()
        assert one.spent_today(ANN) == spent


# In an application

DEMO: dict[str, Any] = {"demo": [{"name": "demo", "delay-ms": 0}]}
ASKED: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}


def test_application_asks(tmp_path: Path) -> None:
    """All that is over in its process counts."""
    with Proxy({**DEMO, "usage": True, "state-dir": str(tmp_path)}) as proxy:
        for caller in ("ann", "ben", "ann"):
            proxy.chat(**ASKED, caller=caller)
        found = proxy.usage(by=["caller"])
        assert [(row["caller"], row["requests"]) for row in found] == [("ann", 2), ("ben", 1)]
        assert list(proxy.usage()[0]) == [*EACH[:4], *ledger.SUMS]
    assert report(str(tmp_path), by=["caller"]) == found


def test_no_ledger_without_a_place(tmp_path: Path) -> None:
    """In an application; nor one that was not asked for."""
    for settings in ({"usage": True}, {"state-dir": str(tmp_path)}):
        with Proxy({**DEMO, **settings}) as proxy:
            proxy.chat(**ASKED)
            with pytest.raises(RuntimeError, match="state-dir"):
                proxy.usage()
    assert not list(tmp_path.iterdir())


def test_day_limit_turns_it_on(tmp_path: Path) -> None:
    """Once it is needed, and through reloads."""
    with Proxy({**DEMO, "state-dir": str(tmp_path)}) as proxy:
        gateway = proxy.gateway
        assert gateway.ledger is None
        found = gateway.need_ledger()
        assert found is not None
        proxy.chat(**ASKED, caller="ann")
        assert found.spent_today(ANN)[0] == 1
        gateway.adopt(gateway.config)
        assert gateway.need_ledger() is found


def test_who_asks_while_the_file_is_read_waits_for_it(
    make: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of many who come after a restart reads it; nobody is told that nothing is spent."""
    first = make()
    first.add(record(Usage(5, 3)), KNOWN)
    first.close()
    begun, goes_on, found = threading.Event(), threading.Event(), list[int]()

    def slow(self: Ledger, *given: Any, **more: Any) -> Any:
        begun.set()
        assert goes_on.wait(PATIENCE_S)
        return store(self, *given, **more)

    store = Ledger._store
    monkeypatch.setattr(Ledger, "_store", slow)
    again = make()
    threads = [
        threading.Thread(target=lambda: found.append(again.spent_today(ANN)[0])) for _ in range(8)
    ]
    threads[0].start()
    assert begun.wait(PATIENCE_S)
    for thread in threads[1:]:
        thread.start()
    threads[-1].join(0.1)
    goes_on.set()
    for thread in threads:
        thread.join()
    assert found == [1] * 8


def test_those_who_need_it_first_have_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes while another one makes it has to do neither without, nor with one of its own."""
    begun, goes_on = threading.Event(), threading.Event()

    class Slow(Ledger):
        def __init__(self, *given: Any) -> None:
            begun.set()
            assert goes_on.wait(PATIENCE_S)
            super().__init__(*given)

    monkeypatch.setattr(ledger, "Ledger", Slow)
    with Proxy({**DEMO, "state-dir": str(tmp_path)}) as proxy:
        gateway, found = proxy.gateway, list[object]()

        def need() -> None:
            found.append(gateway.need_ledger())

        threads = [threading.Thread(target=need) for _ in range(2)]
        threads[0].start()
        assert begun.wait(PATIENCE_S)
        threads[1].start()
        threads[1].join(0.1)
        goes_on.set()
        for thread in threads:
            thread.join()
        assert found == [gateway.ledger] * 2
        assert isinstance(gateway.ledger, Slow)


def test_reload_turns_it_on_and_off(tmp_path: Path) -> None:
    """And moves it; what came before is written."""
    path = tmp_path / "config.yaml"
    lines = "demo: [{delay-ms: 0}]\n"
    path.write_text(lines)
    with Proxy(path) as proxy:
        for folder in ("one", "two"):
            path.write_text(f"{lines}usage: true\nstate-dir: {tmp_path}/{folder}\n")
            proxy.reload()
            proxy.chat(**ASKED)
        path.write_text(lines)
        assert "usage true -> false" in proxy.reload()
        proxy.chat(**ASKED)
        assert proxy.gateway.ledger is None
    for folder in ("one", "two"):
        assert [row["requests"] for row in report(f"{tmp_path}/{folder}")] == [1]


OFF = """
import sys
from proxy import create_app

caller = create_app({"demo": [{"delay-ms": 0}]}).test_client()
body = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
assert caller.post("/v1/chat/completions", json=body).status_code == 200
print(sorted({"sqlite3", "proxy.usage.ledger"} & set(sys.modules)))
"""


@pytest.mark.long
def test_nothing_of_it_is_imported_when_it_is_off() -> None:
    """SQLite neither."""
    assert run_python("-c", OFF) == "[]\n"


def test_log_names_the_logger(
    make: Callable[..., Ledger], caplog: pytest.LogCaptureFixture
) -> None:
    """As docs/operations.md does."""
    with caplog.at_level(logging.WARNING):
        one = make(folder=Path("/dev/null/x"))
        one.flush()
    assert [line.name for line in caplog.records] == ["proxy.ledger"]
