"""The ledger: the requests and tokens of each day. Not imported where none is kept.

It is a file of SQLite's in `state-dir`, which the workers of one instance share. A request adds to
rows in memory. A helper thread of the process adds those to the file: at once where it was idle,
and then each FLUSH_S. What cannot be written stays in memory until it can. So a process that is
killed loses what it had for FLUSH_S, and nothing else is lost. Rows leave memory for one
transaction and come back if that fails, so that nothing is counted twice.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, suppress
from datetime import date
from functools import partial
from hashlib import sha256
from operator import add
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import quote

from ..config import Caller
from ..net.helpers import HelperThreads, Task
from ..net.watch import Clock
from ..record.record import MAX_MODEL_CHARS, Record

FILE = "usage.sqlite"
FLUSH_S = 2.0
BUSY_S = 2.0  # for other processes' transactions: the worst of four took 258 ms

MAX_ROWS = 10_000  # that wait to be written; past it models, clients and ends are "other"
MAX_TOKENS = 2**40  # of an answer, whatever an upstream says: sums stay far below 2**63

# What a row is about, and what it sums. `partial`: answers that were cut off, whose upstreams may
# count more tokens than they have told.
GROUPS = ("day", "caller", "model", "client", "end")
TOKENS = (
    "prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens",
)  # fmt: skip
SUMS = ("requests", "partial", *TOKENS)

_KEY = ", ".join(f'"{name}"' for name in GROUPS)
_CREATE = f"""CREATE TABLE IF NOT EXISTS usage ({_KEY}, {", ".join(SUMS)}, PRIMARY KEY ({_KEY}))
    WITHOUT ROWID"""
_DAY = "date(? * 86400, 'unixepoch')"
_ADD = f"""INSERT INTO usage VALUES ({_DAY}, {", ".join("?" for _ in (*GROUPS[1:], *SUMS))})
    ON CONFLICT ({_KEY}) DO UPDATE SET {", ".join(f"{n} = {n} + excluded.{n}" for n in SUMS)}
    """  # noqa: S608
# Days without requests do not count: a clock that is wrong for a while costs no history.
_PRUNE = """DELETE FROM usage WHERE day < (
    SELECT min(day) FROM (SELECT DISTINCT day FROM usage ORDER BY day DESC LIMIT ?))"""
_SPENT = f"""SELECT caller, sum(requests), sum(prompt_tokens + completion_tokens) FROM usage
    WHERE day = {_DAY} AND client <> '' GROUP BY caller"""  # noqa: S608

_Rows: TypeAlias = dict[tuple[int, str, str, str, str], list[int]]  # days since 1970
_Spent: TypeAlias = dict[tuple[int, str], tuple[int, int]]  # by day and caller

log = logging.getLogger("proxy.ledger")

_threads = HelperThreads("poolproxy-ledger", 4)
_no_fork = threading.Lock()  # held while the file is open: SQLite's locks do not survive a fork


def default_dirs(path: str) -> list[str]:
    """Where the ledger of a server with the configuration at `path` is; who asks looks in all."""
    service = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    digest = sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:12]
    users = os.path.abspath(f"{home}/poolproxy/{digest}")
    return [*filter(None, [service]), users, "/var/lib/poolproxy"]  # systemd's for our name


class Ledger:
    """A process's part in the ledger of a folder. Touches no disk before it is begun."""

    def __init__(self, folder: str, days: int, clock: Clock) -> None:
        self.folder, self.days = folder, days  # that are kept
        self._wall: Callable[[], float] = clock.wall
        self._share: BinaryIO | None = None  # of the lock that the processes of an instance have
        self._maker = os.getpid(), os.getppid()
        self._is_failing = False  # and the log says so
        self._pruned_on = 0
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()  # guards _rows, _spent
        self._rows: _Rows = {}  # not written yet
        self._spent: _Spent | None = None  # by the file and _rows, once somebody has asked
        self._task: object = None  # of the thread that writes, while there is one

    def add(self, record: Record, known: Collection[str]) -> None:
        """Count a request that is over. `known`: the models there are, as strangers name others."""
        attempts, usage = record.attempts, record.usage
        model = record.fallback or record.model
        model = record.mask(model) if attempts or model in known else ""
        caller = str(record.who.identity) if record.who else ""
        told = self._today(), _text(caller), _text(model)
        client, end = attempts[-1].client if attempts else "", _text(record.mask(record.end))
        is_partial = usage is not None and usage.partial
        rows: _Rows = {(*told, client, end): [1, int(is_partial), *(0 for _ in TOKENS)]}
        for attempt in attempts:
            if attempt.usage is not None:
                counts = [getattr(attempt.usage, name) or 0 for name in TOKENS]
                tokens = [max(0, min(count, MAX_TOKENS)) for count in counts]
                _merge(rows, {(*told, attempt.client, end): [0, 0, *tokens]})
        with self._lock:
            _merge(self._rows, rows)
            if self._spent is not None:
                _spend(self._spent, rows)
        self.begin()

    def spent_today(self, caller: Caller) -> tuple[int, int]:
        """The requests and tokens of this caller since the last midnight, UTC.

        Of this process all that are over, of others of the instance those that they have written.
        Requests that came to no client do not count. The first call in a process reads the file,
        and those beside it wait for that. From then on a helper thread does, each FLUSH_S.
        """
        with self._lock:
            is_first = self._spent is None
        if is_first:
            self.flush(is_first=True)
        self.begin()
        with self._lock:
            spent = self._spent or {}
        return spent.get((self._today(), _text(str(caller.identity))), (0, 0))

    def begin(self) -> None:
        """Have a thread write what there is, unless there is one. Does not block."""
        with self._lock:
            if self._task is not None:
                return
            self._task = task = object()
        try:
            _threads.start(Task(partial(self._run, task)))
        except RuntimeError:  # none can be had; who comes next tries again
            self._task = None

    def _run(self, task: object) -> None:
        """In a helper thread: write, and go on until there is nothing to be done for a while."""
        while self._task is task:
            self.flush(task)
            time.sleep(FLUSH_S)
            with self._lock:
                if self._task is task and not self._rows and self._spent is None:
                    self._task = None

    def close(self) -> None:
        """Write what there is, and leave the instance. Who comes later begins again."""
        with self._lock:
            is_behind = self._rows or self._task
            self._task = None
        if is_behind:
            self.flush()
        if self._share is not None:
            self._share.close()
        with self._lock:
            self._share = self._spent = None

    def flush(self, task: object = None, *, is_first: bool = False) -> None:
        """Add the rows to the file; if that fails they stay. Blocks.

        Does nothing if another `task` writes by then, or `is_first` and it is read already.
        """
        with _no_fork:  # one at a time
            with self._lock:
                if task not in (None, self._task) or (is_first and self._spent is not None):
                    return
                rows, self._rows = self._rows, {}
                asks = is_first or self._spent is not None
            found, failure = _Spent(), ""
            try:
                found = self._store(rows, asks=asks)
            except (OSError, sqlite3.Error) as error:
                failure = f" as long as this lasts: {error}"
            with self._lock:
                if failure:
                    _merge(self._rows, rows)
                if asks and not (failure and self._spent):
                    self._spent = _spend(found, self._rows)
            if self._is_failing != bool(failure):  # the last word has who wrote last
                self._is_failing = bool(failure)
                is_kept, how = ("not kept", failure) if failure else ("kept", " again")
                log.warning("usage is %s in %s%s", is_kept, self.folder, how)

    def _store(self, rows: _Rows, *, asks: bool) -> _Spent:
        """One transaction; returns what is spent, if it `asks`. Raises OSError, sqlite3.Error."""
        os.makedirs(self.folder, 0o700, exist_ok=True)
        with suppress(FileExistsError):  # for nobody else to read
            os.close(os.open(os.path.join(self.folder, FILE), os.O_CREAT | os.O_EXCL, 0o600))
        today = self._today()
        with closing(_opened(self.folder)) as file, file:
            with suppress(sqlite3.OperationalError):  # another process is about to: a turn will do
                file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = NORMAL")
            file.execute("BEGIN IMMEDIATE")
            self._join()
            file.execute(_CREATE)
            file.executemany(_ADD, ((*key, *row) for key, row in rows.items()))
            if today != self._pruned_on:
                file.execute(_PRUNE, [self.days])
                self._pruned_on = today
            found = file.execute(_SPENT, [today]) if asks else ()
            return {(today, caller): (requests, tokens) for caller, requests, tokens in found}

    def _join(self) -> None:
        """Be of the one instance that writes here; raises OSError. In a transaction: one at a time.

        Processes of one parent are one, and forks of the process that made this object.
        """
        if self._share is None:
            self._share = open(os.path.join(self.folder, "instance"), "a+b", buffering=0)  # noqa: SIM115
        pids = self._maker[::-1] if os.getpid() == self._maker[0] else self._maker
        names = [f"{os.uname().nodename} {pid}".encode() for pid in pids]
        self._share.seek(0)
        if self._share.read() not in names:
            try:
                fcntl.flock(self._share, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError("another instance keeps its own there") from None
            try:
                self._share.truncate(0)
                self._share.write(names[0])
            except OSError:  # a full disk: of this instance all may try
                fcntl.flock(self._share, fcntl.LOCK_UN)
                raise
        fcntl.flock(self._share, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _today(self) -> int:
        return int(self._wall() // 86_400)


def report(
    folder: str, *, since: date | str = "", by: Sequence[str] = GROUPS[:4]
) -> list[dict[str, Any]]:
    """The sums from this day on, by some of GROUPS. Raises OSError and ValueError."""
    if not by or not set(by) <= set(GROUPS):
        raise ValueError(f"usage is by {', '.join(GROUPS)}, not by {', '.join(by) or 'nothing'}")
    first = since and date.fromisoformat(str(since))
    groups = ", ".join(f'"{name}"' for name in by)
    sums = ", ".join(f"sum({name}) AS {name}" for name in SUMS)
    select = f"SELECT {groups}, {sums} FROM usage WHERE day >= ?"  # noqa: S608
    try:
        with _no_fork, closing(_opened(folder)) as file:
            file.row_factory = sqlite3.Row
            found = file.execute(f"{select} GROUP BY {groups} ORDER BY {groups}", [str(first)])
            return [dict(row) for row in found]
    except sqlite3.Error as error:
        raise OSError(f"{os.path.join(folder, FILE)}: {error}") from error


def _opened(folder: str) -> sqlite3.Connection:
    """The file, which has to be there; raises sqlite3.Error."""
    name = quote(os.fsencode(os.path.join(folder, FILE)))
    return sqlite3.connect(f"file:{name}?mode=rw", BUSY_S, isolation_level=None, uri=True)


def _spend(spent: _Spent, rows: _Rows) -> _Spent:
    """Add these rows to what callers have spent."""
    for (day, caller, _, client, _), row in rows.items():
        if client:
            requests, tokens = spent.get((day, caller), (0, 0))
            spent[day, caller] = requests + row[0], tokens + row[2] + row[3]
    return spent


def _merge(rows: _Rows, more: _Rows) -> None:
    """Add these rows to others."""
    for key, row in more.items():
        is_one_too_many = len(rows) >= MAX_ROWS and key not in rows
        to = (*key[:2], "other", key[3] and "other", "other") if is_one_too_many else key
        rows[to] = [*map(add, rows.get(to, [0 for _ in SUMS]), row)]


def _text(text: str) -> str:
    """As SQLite takes it, and no longer than the name of any model that is configured."""
    return text[:MAX_MODEL_CHARS].encode(errors="backslashreplace").decode()


_all: weakref.WeakSet[Ledger] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for ledger in tuple(_all):
        ledger.close()


def _begin_all() -> None:
    """A forked child has none of its parent's rows."""
    _no_fork.release()
    for ledger in tuple(_all):
        ledger._begin()


os.register_at_fork(
    before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_begin_all
)
