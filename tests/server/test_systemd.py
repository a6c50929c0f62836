"""What systemd is told, at a socket like its own: sd_notify(3). It runs nowhere in these tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from proxy.server import systemd
from tests.support.gateway import COMMAND, PATIENCE_S, ROOT, environment
from tests.support.leaks import death_in

WAYS = {"gunicorn": COMMAND, "serve": [sys.executable, "-m", "proxy", "serve"]}


class Systemd:
    """The end of the socket that services write to."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE_S)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def __enter__(self) -> Systemd:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def next(self) -> str:
        """Block until something is said; raises TimeoutError."""
        return self._socket.recv(4096).decode()

    def rest(self) -> list[str]:
        """What was said and not asked for."""
        said = []
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                said.append(self._socket.recv(4096).decode())
        return said


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because a socket's address is."""
    with tempfile.TemporaryDirectory(prefix="pp-", dir="/tmp") as directory:
        path = Path(directory)
        (path / "config.yaml").write_text(json.dumps({"port": 0, "demo": [{"name": "demo"}]}))
        yield path


@contextmanager
def service(
    folder: Path, command: Sequence[str], address: str, **env: str
) -> Iterator[subprocess.Popen[str]]:
    """A server as systemd starts it; nothing of it is left afterwards."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(
                NOTIFY_SOCKET=address,
                XDG_RUNTIME_DIR=str(folder),
                PROXY_CONFIG=str(folder / "config.yaml"),
                **env,
            ),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def workers(folder: Path) -> list[int]:
    """The pids of those that can be asked for their state."""
    return [int(path.stem.rpartition("-")[2]) for path in folder.glob("poolproxy-*/*.sock")]


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_ready_is_said_when_a_worker_serves(folder: Path, way: str) -> None:
    """By the main process, and nothing before it; STOPPING while requests may still end."""
    with (
        Systemd(str(folder / "notify")) as told,
        service(folder, WAYS[way], told.address) as process,
    ):
        assert told.next() == f"MAINPID={process.pid}\nREADY=1"
        assert len(workers(folder)) == 1
        process.terminate()
        assert told.next() == "STOPPING=1"
        assert process.wait(PATIENCE_S) == 0
        assert told.rest() == []
    log = (folder / "log").read_text()
    assert "Traceback" not in log
    assert death_in(log) is None


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_reload_is_told_at_its_begin_and_its_end(folder: Path, way: str) -> None:
    """RELOADING with the moment, by which systemd knows that it is no earlier one."""
    with (
        Systemd(str(folder / "notify")) as told,
        service(folder, WAYS[way], told.address) as process,
    ):
        told.next()
        before = time.monotonic_ns() // 1000
        process.send_signal(signal.SIGHUP)
        state, moment = told.next().split("\n")
        assert state == "RELOADING=1"
        assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
        assert told.next() == "READY=1"


@pytest.mark.long
def test_stopping_is_said_before_the_delay(folder: Path) -> None:
    """Of `shutdown-delay`, while callers are still taken; once."""
    config = {"port": 0, "shutdown-delay": 300, "demo": [{"name": "demo"}]}
    (folder / "config.yaml").write_text(json.dumps(config))
    with (
        Systemd(str(folder / "notify")) as told,
        service(folder, WAYS["serve"], told.address) as process,
    ):
        told.next()
        process.terminate()
        assert told.next() == "STOPPING=1"
        assert process.poll() is None
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        assert told.rest() == []


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="a name without a file is Linux's")
def test_server_that_gets_no_worker_is_never_ready(folder: Path) -> None:
    """systemd sees it end. The socket may have an abstract name, as that of a user's systemd."""
    name = f"@{folder.name}"
    with (
        Systemd(name) as told,
        service(
            folder, COMMAND, told.address, GUNICORN_CMD_ARGS="--worker-tmp-dir /nowhere"
        ) as process,
    ):
        assert process.wait(PATIENCE_S) != 0
        assert told.rest() == []


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_upgrade_hands_the_service_on(folder: Path) -> None:
    """SIGUSR2 starts a new server: it is the main process once it serves, and the end of the old
    one is not the service's.
    """
    with (
        Systemd(str(folder / "notify")) as told,
        service(folder, WAYS["serve"], told.address) as process,
    ):
        told.next()
        process.send_signal(signal.SIGUSR2)
        main, ready = told.next().split("\n")
        assert ready == "READY=1"
        pid = int(main.removeprefix("MAINPID="))
        assert pid != process.pid
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        assert told.rest() == []
        assert Path(f"/proc/{pid}").exists()


def test_nothing_is_sent_where_nobody_wants_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """No signal either: the server is as it was."""

    class Arbiter:
        def stop(self) -> None:
            raise AssertionError

    before = signal.getsignal(signal.SIGURG)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    server = Arbiter()
    systemd.expect_workers(server)
    assert "stop" not in vars(server)
    assert signal.getsignal(signal.SIGURG) is before
    monkeypatch.setattr(os, "kill", None)
    monkeypatch.setattr(socket, "socket", None)
    systemd.serves(1)
    systemd.notify("READY=1")


@pytest.mark.parametrize("end", ["gone", "full"])
def test_systemd_that_does_not_listen_holds_up_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """It is gone, or does not read: the message is lost."""
    address = str(folder / "notify")
    monkeypatch.setattr(systemd, "_addresses", [address])
    if end == "gone":
        systemd.notify("READY=1")
        return
    with Systemd(address):
        for _ in range(1000):  # net.unix.max_dgram_qlen is 10 by default, 512 with systemd
            systemd.notify("READY=1")
