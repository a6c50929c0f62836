"""The worker, where the gunicorn that it meets is not the one that it was written for.

What it does with the one it knows is shown in `e2e/` and `hostile/`.
"""

from __future__ import annotations

import re
import shutil
import signal
import threading
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace

import gunicorn  # type: ignore[import-untyped]
import pytest
from gunicorn.workers.gthread import (  # type: ignore[import-untyped]
    PollableMethodQueue,
    ThreadWorker,
)
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from proxy.server.worker import GUNICORNS, Worker, _Threads
from tests.support.gateway import PATIENCE_S, ROOT, Gateway

CONFIG = {"demo": [{"name": "demo", "delay-ms": 0}]}
UNREADABLE = b"GET\r\n\r\n"

# What is replaced in gunicorn's code, by what the warning says of it.
MOVED = {
    "its version": [(r"version_info = .*", "version_info = (28, 0, 0)")],
    "`ThreadWorker.murder_pending`": [(r"\bmurder_pending\b", "close_overdue")],
    "`ThreadWorker.finish_request`": [
        (r"finish_request\(self, conn, fs\)", "finish_request(self, fs, conn)"),
        (r"finish_request, conn, fut\b", "finish_request, fut, conn"),
    ],
    "`ThreadWorker._serve`": [(r"\b_keepalive_after\b", "_serve")],
    "there is no `data_ready`": [(r"\bdata_ready\b", "has_data")],
    "has no attribute 'LimitRequestHeaders'": [(r"\bLimitRequestHeaders\b", "TooManyHeaders")],
}


def moved_gunicorn(where: Path, edits: list[tuple[str, str]]) -> None:
    """A copy of the installed gunicorn in `where`, with texts replaced in all its files."""
    shutil.copytree(Path(gunicorn.__file__).parent, where / "gunicorn")
    for pattern, text in edits:
        count = 0
        for path in (where / "gunicorn").rglob("*.py"):
            code, found = re.subn(pattern, text, path.read_text())
            if found:
                path.write_text(code)
                count += found
        assert count, pattern


def test_range_is_that_of_the_package() -> None:
    """pip installs no gunicorn that the worker does not know."""
    project = ConfigParser()
    project.read(ROOT / "setup.cfg")
    (line,) = re.findall(r"^gunicorn .*", project["options"]["install_requires"], re.MULTILINE)
    first, last = (".".join(map(str, version)) for version in GUNICORNS)
    assert Requirement(line).specifier == SpecifierSet(f">={first}, <{last}")


@pytest.mark.long
@pytest.mark.parametrize("difference", MOVED)
def test_unknown_gunicorn_is_served_as_plain_gthread(tmp_path: Path, difference: str) -> None:
    """One warning says so and why; callers are served."""
    moved_gunicorn(tmp_path, MOVED[difference])
    with Gateway(CONFIG, env={"PYTHONPATH": str(tmp_path)}) as gateway:
        assert gateway.chat("demo").status == 200
        assert gateway.chat("demo", stream=True).data[-1] == b"[DONE]"
        refused = gateway.exchange(UNREADABLE)
        assert (refused.status, refused.headers["content-type"]) == (400, "text/html")
        (warning,) = re.findall(r".*plain gthread.*", gateway.log)
    assert f"{difference})" in warning
    assert "WARNING" in warning


@pytest.mark.long
def test_known_gunicorn_is_not_warned_about(tmp_path: Path) -> None:
    """A copy by itself is no difference."""
    moved_gunicorn(tmp_path, [])
    with Gateway(CONFIG, env={"PYTHONPATH": str(tmp_path)}) as gateway:
        assert gateway.chat("demo").status == 200
        assert gateway.exchange(UNREADABLE).error["message"]
        assert "plain gthread" not in gateway.log


def test_sigterm_is_not_lost_while_the_master_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its handler may run between any two steps of the main thread."""
    worker = object.__new__(Worker)
    worker.alive = True

    def interrupted(self: Worker) -> bool:
        self.alive = False  # as `handle_exit` does
        return True

    monkeypatch.setattr(ThreadWorker, "is_parent_alive", interrupted)
    assert not worker.is_parent_alive()
    assert not worker.alive


def test_quick_end_waits_for_no_lock_of_its_own_thread() -> None:
    """Its handler may run while the main thread hands a request over to the pool, and twice."""
    worker = object.__new__(Worker)
    worker.cfg = SimpleNamespace(threads=1, worker_int=lambda _: None)
    worker.tpool = worker.get_thread_pool()
    worker.method_queue = PollableMethodQueue()
    worker.method_queue.init()

    def interrupt() -> None:
        worker.handle_quit(signal.SIGQUIT, None)
        worker.handle_quit(signal.SIGQUIT, None)

    handler = threading.Thread(target=interrupt, daemon=True)
    with worker.tpool._shutdown_lock:
        handler.start()
        handler.join(10)
        assert not handler.is_alive()
    with pytest.raises(SystemExit):
        worker.method_queue.run_callbacks(None)
    assert not worker.alive
    worker.method_queue.close()


def test_task_waits_until_a_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked is not told of it; the log is, and it is tried again."""
    told: list[str] = []
    threads = _Threads(told.append, max_workers=2)
    with monkeypatch.context() as patched:

        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", refuse)
        task = threads.submit(lambda: "done")
        threads.make_up()
    assert told == ["can't start new thread"] * 2
    assert not task.done()
    threads.make_up()
    assert task.result(PATIENCE_S) == "done"
    threads.make_up()  # there is nothing to make up for
    threads.shutdown()
    assert len(told) == 2
