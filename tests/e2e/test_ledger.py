"""The ledger of a real server: workers that share it and are killed, disks, locks, clocks.

A witness counts what callers got. The ledger has to come to the same.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy.net.watch import Clock
from proxy.usage.ledger import FILE, FLUSH_S, Ledger, report
from tests.e2e.test_surroundings import JUMPING
from tests.support.commandline import wait_for
from tests.support.gateway import CHAT, COMMAND, PATIENCE_S, ROOT, Gateway, asked, environment
from tests.support.upstream import HANG, MODEL, Upstream, chunk, events

WORKERS = 4
KEYS = {name: f"sk-caller-{name}-0123456789" for name in ("ann", "ben")}
DEMO: dict[str, Any] = {"demo": [{"name": "demo", "delay-ms": 0}]}
SERVE = [sys.executable, "-m", "proxy", "serve"]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pp-") as name:
        yield Path(name) / "state"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


def configured(folder: Path, **more: Any) -> dict[str, Any]:
    return {**DEMO, "usage": True, "state-dir": str(folder), **more}


def total(folder: Path) -> int:
    """The requests in the ledger by now."""
    try:
        return sum(row["requests"] for row in report(str(folder), by=["day"]))
    except OSError:  # there is none yet
        return 0


def has_total(folder: Path, number: int) -> bool:
    return total(folder) == number


def wait_for_total(folder: Path, number: int) -> None:
    """Block until so many are there; fails when there are more, also after another flush."""
    wait_for(lambda: total(folder) >= number, lambda: f"{total(folder)} of {number}")
    time.sleep(FLUSH_S + 0.5)  # what would be counted twice comes with the next transaction
    assert total(folder) == number


class Crowd:
    """Callers who ask, one request after the other, while the `with` lasts. Half of them stream."""

    def __init__(self, gateway: Gateway, model: str) -> None:
        self._gateway = gateway
        self._model = model
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[n]) for n in range(6)]
        self.whole: list[tuple[float, str]] = []  # when, and for whom
        self.broken = 0

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        name = ("ann", "ben")[number % 2]
        headers = {"Authorization": f"Bearer {KEYS[name]}"}
        while not self._is_over.is_set():
            body = asked(self._model, stream=number < 3)
            try:
                answer = self._gateway.call("POST", CHAT, body, headers)
            except (OSError, http.client.HTTPException):
                self.broken += 1
                continue
            assert answer.status == 200
            if number < 3 and not answer.body.endswith(b"data: [DONE]\n\n"):
                self.broken += 1
                continue
            self.whole.append((time.monotonic(), name))


@pytest.mark.long
def test_workers_share_it_and_a_killed_one_loses_its_last_interval(
    upstream: Upstream, folder: Path
) -> None:
    """Of requests that came whole all others are there, once, with their tokens."""
    provider = {"name": "p", "base-url": upstream.url, "max-concurrency": 0, "models": [MODEL]}
    keys = [{"name": name, "key": key} for name, key in KEYS.items()]
    config = configured(folder, **{"api-keys": keys, "openai-compatibility": [provider]})
    with Gateway(config, workers=WORKERS) as gateway:
        wait_for(lambda: len(gateway.workers()) == WORKERS)
        with Crowd(gateway, MODEL) as crowd:
            wait_for(lambda: len(crowd.whole) > 200)
            before = len(crowd.whole)
            wait_for(lambda: total(folder) >= before)
            victim = min(gateway.workers())
            killed_at = time.monotonic()
            gateway.kill(victim)
            wait_for(lambda: len(crowd.whole) > before + 300)
        answered = len(crowd.whole)
        # A transaction may take its time behind those of three others.
        late = sum(killed_at - 2 * FLUSH_S < at <= killed_at + 0.5 for at, _ in crowd.whole)
        assert crowd.broken <= 6
        wait_for(lambda: total(folder) >= answered - late)
    found = total(folder)
    assert answered - late <= found <= answered + crowd.broken
    sums = {row["caller"]: row for row in report(str(folder), by=["caller", "end"])}
    assert set(sums) == {"ann", "ben"}
    for name, row in sums.items():
        theirs = sum(who == name for _, who in crowd.whole)
        assert theirs - late <= row["requests"] <= theirs + crowd.broken
        tokens = (row["prompt_tokens"], row["completion_tokens"])
        assert (row["end"], tokens) == ("ok", (9 * row["requests"], 3 * row["requests"]))
    [names] = report(str(folder), by=["model", "client"])
    assert (names["model"], names["client"]) == (MODEL, "p")


@pytest.mark.long
def test_killed_worker_that_was_idle_loses_nothing(folder: Path) -> None:
    """Nor is anything counted twice by the one in its place; at the end all is written at once."""
    with Gateway(configured(folder), workers=WORKERS) as gateway:
        for _ in range(20):
            assert gateway.chat("demo").status == 200
        wait_for_total(folder, 20)
        for worker in gateway.workers():
            gateway.kill(worker)
        wait_for(lambda: len(gateway.workers() - gateway.killed) == WORKERS)
        for _ in range(20):
            assert gateway.chat("demo").status == 200
    assert total(folder) == 40


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of its own, of a quarter of a megabyte."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 512)
        except OSError:
            return


def warnings(gateway: Gateway) -> list[str]:
    return [line for line in gateway.log.splitlines() if " WARNING proxy.ledger " in line]


@pytest.mark.long
def test_full_disk(folder: Path) -> None:
    """From the start, and later: requests are served, and their counts wait for room."""
    with small_disk(folder), Gateway(configured(folder), workers=WORKERS) as gateway:
        asked_for = 0
        for _ in range(2):
            fill(folder / "filler")
            for number in range(20):
                assert gateway.chat("demo", user=str(number)).status == 200
                asked_for += 1
            wait_for(lambda: bool(warnings(gateway)))
            (folder / "filler").unlink()
            wait_for_total(folder, asked_for)
        said = [line for line in warnings(gateway) if "as long as this lasts" in line]
        assert all("disk" in line or "space" in line for line in said), said
        assert len(said) <= 2 * WORKERS


def test_name_of_the_instance_that_finds_no_room(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever could not write it keeps none of the instance's other workers from trying."""
    disk = folder.parent / "disk"
    with small_disk(disk):
        (disk / "instance").touch()
        fill(disk / "filler")
        folder.mkdir()
        (folder / "instance").symlink_to(disk / "instance")
        workers = [Ledger(str(folder), 400, Clock()) for _ in range(2)]
        for worker in workers:
            worker.flush()
            assert "No space left" in caplog.messages[-1]
        (disk / "filler").unlink()
        for worker in workers:
            worker.flush()
            worker.close()
    assert [message.endswith("again") for message in caplog.messages] == [False] * 2 + [True] * 2


@pytest.mark.long
def test_limit_on_the_size_of_files(folder: Path) -> None:
    """`ulimit -f`: a write fails in the middle of a transaction. All is there when it is lifted."""
    command = ["sh", "-c", 'ulimit -S -f 24; exec "$@"', "sh", *SERVE]
    with Gateway(configured(folder), command=command) as gateway:
        for _ in range(10):
            assert gateway.chat("demo").status == 200
        wait_for(lambda: bool(warnings(gateway)))
        assert total(folder) == 0
        for worker in gateway.workers():
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        wait_for_total(folder, 10)


@pytest.mark.long
def test_file_that_another_program_locks(folder: Path) -> None:
    """For longer than a transaction is waited for; then all is there, once."""
    with Gateway(configured(folder), workers=2) as gateway:
        assert gateway.chat("demo").status == 200
        wait_for(lambda: total(folder) == 1)
        with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for _ in range(20):
                assert gateway.chat("demo").status == 200
            wait_for(lambda: "database is locked" in gateway.log)
            other.execute("ROLLBACK")
        wait_for_total(folder, 21)


@pytest.mark.long
def test_clock_that_moves(folder: Path, tmp_path: Path) -> None:
    """By years, there and back: each request is there, and the history too."""
    offset = tmp_path / "offset"
    (tmp_path / "sitecustomize.py").write_text(JUMPING.format(offset=str(offset)))
    config = configured(folder, **{"usage-days": 3})
    with Gateway(config, workers=2, env={"PYTHONPATH": str(tmp_path)}) as gateway:
        for number, years in enumerate((0, 3, 0, -3, 0), start=1):
            offset.write_text(str(years * 365 * 86_400))
            for _ in range(4):
                assert gateway.chat("demo").status == 200
            wait_for(partial(has_total, folder, 4 * number))
    days = [(row["day"], row["requests"]) for row in report(str(folder), by=["day"])]
    assert [requests for _, requests in days] == [4, 12, 4]
    assert days == sorted(days)


@pytest.mark.long
def test_folder_that_cannot_be_had(tmp_path: Path) -> None:
    """One warning, and no ledger."""
    (tmp_path / "file").write_text("")
    with Gateway(configured(tmp_path / "file" / "state")) as gateway:
        wait_for(lambda: bool(warnings(gateway)))
        for _ in range(3):
            assert gateway.chat("demo").status == 200
        assert len(warnings(gateway)) == 1


@pytest.mark.long
def test_second_server_starts_without_it_and_goes_on_with_it(folder: Path) -> None:
    """When the first one has ended: nothing of either is lost."""
    with Gateway(configured(folder), workers=2) as one:
        assert one.chat("demo").status == 200
        wait_for(lambda: total(folder) == 1)
        with Gateway(configured(folder), workers=2) as other:
            other.wait_for_line(lambda line: "another instance keeps its own there" in line)
            for _ in range(8):
                assert other.chat("demo").status == 200
            assert one.chat("demo").status == 200
            wait_for(lambda: total(folder) == 2)
            one.close()
            wait_for_total(folder, 10)


@pytest.mark.long
def test_stream_that_a_stop_cuts_is_counted(upstream: Upstream, folder: Path) -> None:
    """With what is known by then, as partial; and it is written though the server ends."""
    told = {"prompt_tokens": 5, "completion_tokens": 1}
    upstream.default = events(chunk({"content": "a"}, usage=told), HANG)
    provider = {"name": "p", "base-url": upstream.url, "models": [MODEL]}
    config = configured(folder, **{"openai-compatibility": [provider]})
    with Gateway(config, env={"GUNICORN_CMD_ARGS": "--graceful-timeout 3"}) as gateway:
        with gateway.open("POST", CHAT, asked(MODEL, stream=True)) as response:
            assert response.readline().startswith(b"data: ")
            gateway.terminate()
            assert b"server_shutting_down" in response.read()
        assert gateway.wait_ended() == 0
    [row] = report(str(folder), by=["end", "client"])
    assert (row["end"], row["client"]) == ("server_shutting_down", "p")
    assert (row["partial"], row["prompt_tokens"], row["completion_tokens"]) == (1, 5, 1)


APP = """
from flask import Flask
from proxy import Proxy

proxy = Proxy({config!r})

def create_app():
    app = Flask("theirs")
    proxy.init_app(app)
    return app
"""


@pytest.mark.long
def test_workers_of_an_application_share_it(folder: Path, tmp_path: Path) -> None:
    """Each of which has made its own `Proxy`, after it was forked."""
    (tmp_path / "theirs.py").write_text(APP.format(config=configured(folder)))
    command = [*COMMAND[:3], "--workers", "3", "--threads", "4", "--bind", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, "theirs:create_app()"],
        cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "Listening at" in line)
            port = int(re.search(r"//127.0.0.1:(\d+)", line)[1])  # type: ignore[index]
            body = json.dumps(asked("demo"))
            for _ in range(30):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
                connection.request("POST", CHAT, body)
                assert connection.getresponse().status == 200
                connection.close()
        finally:
            process.terminate()
            rest = process.stderr.read()
    assert process.returncode == 0
    assert "usage is not kept" not in rest
    assert total(folder) == 30


PLACES = {
    "of systemd's": ({"STATE_DIRECTORY": "{place}/service:{place}/other"}, "service"),
    "of the user": ({"XDG_STATE_HOME": "{place}/home"}, "home/poolproxy/*"),
    "in its home": ({"HOME": "{place}", "XDG_STATE_HOME": ""}, ".local/state/poolproxy/*"),
}


@pytest.mark.long
@pytest.mark.parametrize("case", PLACES)
def test_where_it_is_by_default(case: str, tmp_path: Path) -> None:
    """The command finds it by the same configuration, also where that cannot be read whole."""
    given, pattern = PLACES[case]
    env = {"STATE_DIRECTORY": "", "TEAM_KEY": "sk-caller-0123456789"}
    env |= {name: value.format(place=tmp_path) for name, value in given.items()}
    config = {**DEMO, "usage": True, "api-keys": ["${TEAM_KEY}"]}
    with Gateway(config, env=env, command=SERVE) as gateway:
        key = {"Authorization": f"Bearer {env.pop('TEAM_KEY')}"}
        assert gateway.call("POST", CHAT, asked("demo"), key).status == 200
        wait_for(lambda: any(total(each) for each in tmp_path.glob(pattern)))
        done = subprocess.run(
            [sys.executable, "-m", "proxy", "usage", str(gateway.path), "--json"],
            cwd=ROOT, env=environment(**env), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        [row] = json.loads(done.stdout)
        assert (row["caller"], row["requests"]) == ("sk-...6789", 1)
