"""gunicorn's hooks by themselves, with what they use of an arbiter.

What they do in a server is shown in `e2e/` and in `test_systemd`.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import re
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxy import create_app
from proxy.config import Config, ConfigSource, load_config
from proxy.errors import ConfigError
from proxy.gateway import Gateway
from proxy.server import addresses, systemd
from proxy.server import hooks as module
from proxy.server.control.listener import COUNTS, DISABLED
from proxy.server.control.sockets import ask_all
from proxy.server.hooks import APPLICATION, EXIT_CONFIG, Hooks
from tests.support.gateway import PATIENCE_S

DEMO = {"demo": [{"name": "demo"}]}
ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
HELD = (signal.SIGHUP, signal.SIGUSR2)
SIGNALS = (*HELD, *ENDINGS, signal.SIGALRM, signal.SIGURG)


class Arbiter:
    """What the hooks use of gunicorn's; `heard` has what they ask of it, in order."""

    reexec_pid = 0
    pid = 4711
    worker_class = SimpleNamespace(_announce_stop=None)

    def __init__(self, uri: str = APPLICATION, **settings: Any) -> None:
        self.heard: list[object] = []
        self.app = SimpleNamespace(app_uri=uri, callable="made of what was read before")
        defaults = {"address": [], "reuse_port": False, "bind": ["here:1"], "workers": 3}
        self.cfg = SimpleNamespace(**{**defaults, "threads": 9, "env_orig": {}, **settings})
        self.log = SimpleNamespace(reopen_files=lambda: self.heard.append("logs"))
        self.num_workers = 2
        self.LISTENERS: list[Any] = []
        self.WORKERS: dict[int, Any] = {}
        self.SIG_QUEUE: queue.SimpleQueue[int] = queue.SimpleQueue()

    def handle_term(self) -> None:
        self.heard.append("end")

    def handle_hup(self) -> None:
        self.heard.append("start anew")

    def manage_workers(self) -> None:
        self.heard.append("manage")

    def kill_workers(self, number: signal.Signals) -> None:
        self.heard.append(number)

    def halt(self, *, exit_status: int) -> None:
        raise SystemExit(exit_status)


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What hooks set in a process is as before, afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr(Gateway, "is_stopping", False)
    monkeypatch.setattr(systemd, "_addresses", [])
    monkeypatch.setattr(addresses, "_bound", [])
    for name in ("NOTIFY_SOCKET", "GUNICORN_FD", "LISTEN_FDS"):
        monkeypatch.delenv(name, raising=False)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    for number, handler in before.items():
        signal.signal(number, handler)


def of(**settings: Any) -> Hooks:
    return Hooks(ConfigSource.of(load_config({**DEMO, **settings}, environ={})))


def started(hooks: Hooks, uri: str = APPLICATION) -> Arbiter:
    arbiter = Arbiter(uri)
    hooks.on_starting(arbiter)
    return arbiter


# What is read again


class Source:
    """A configuration that tests change, or break."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failure: Exception | None = None
        path.write_text("1")
        self.source = ConfigSource(self._read)

    def _read(self, seen: dict[str, Any]) -> Config:
        seen[str(self.path)] = None  # it is not there, until `change`
        if self.failure is not None:
            raise self.failure
        return load_config(DEMO, environ={})


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr("proxy.config.source.SETTLE_S", 0.0)
    return Source(tmp_path / "file")


@pytest.mark.parametrize("how", ["handle_hup", "manage_workers"])
@pytest.mark.parametrize(
    ("failure", "is_kept", "is_logged"),
    [
        (None, False, False),
        (ConfigError(["wrong"]), True, False),  # workers say what is wrong
        (LookupError("a fault of ours"), True, True),
    ],
    ids=["good", "wrong", "fault"],
)
def test_later_workers_have_what_was_read_last(
    source: Source,
    caplog: pytest.LogCaptureFixture,
    how: str,
    failure: Exception | None,
    is_kept: bool,
    is_logged: bool,
) -> None:
    """The application is made anew for them, and nothing that is wrong ends the master."""
    arbiter = started(Hooks(source.source))
    source.failure = failure
    getattr(arbiter, how)()
    assert bool(arbiter.app.callable) is is_kept
    assert ("could not be read again" in caplog.text) is is_logged
    assert arbiter.heard[-1] == ("manage" if how == "manage_workers" else signal.SIGHUP)


def test_what_did_not_change_is_not_read_again(source: Source) -> None:
    """The master looks once a second."""
    arbiter = started(Hooks(source.source))
    source.path.unlink()
    arbiter.manage_workers()
    assert arbiter.app.callable
    assert arbiter.heard == ["manage"]


@pytest.mark.parametrize(("before", "after"), [(2, 2), (0, 3)])
def test_sighup_reaches_workers_and_logs(before: int, after: int) -> None:
    """Where SIGWINCH has ended all workers, an upgrade is taken back: they are to come again."""
    arbiter = started(of())
    arbiter.num_workers = before
    arbiter.handle_hup()
    assert arbiter.heard == ["logs", signal.SIGHUP]
    assert arbiter.num_workers == after


def test_application_of_a_host_is_gunicorns_to_reload() -> None:
    """Its workers start anew."""
    arbiter = started(of(), "mine:app")
    arbiter.handle_hup()
    arbiter.manage_workers()
    assert arbiter.heard == ["start anew", "manage"]


@pytest.fixture(params=["path", "abstract"])
def told(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """systemd's socket: a path, or one of Linux's names without a file."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path if request.param == "path" else f"@{path}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path if request.param == "path" else f"\0{path}")
        sock.settimeout(10)
        yield sock


def test_systemd_is_told_of_a_start_a_reload_and_the_end(
    monkeypatch: pytest.MonkeyPatch, told: socket.socket
) -> None:
    """sd_notify(3): `Type=notify-reload` waits for both words of a reload."""
    monkeypatch.setattr(module, "tune", lambda *_: None)
    hooks = of()
    arbiter = started(hooks)
    assert "NOTIFY_SOCKET" not in os.environ  # or gunicorn would tell it, too
    hooks.post_worker_init(Worker())
    assert told.recv(99) == b"MAINPID=4711\nREADY=1"
    arbiter.handle_hup()
    assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d{6,}", told.recv(99))
    assert told.recv(99) == b"READY=1"
    arbiter.handle_term()
    assert told.recv(99) == b"STOPPING=1"
    arbiter.handle_hup()
    told.setblocking(False)
    with pytest.raises(BlockingIOError):
        told.recv(99)


def test_service_goes_on_in_the_server_of_an_upgrade(told: socket.socket) -> None:
    """So the end of the old one is not the service's."""
    arbiter = started(of())
    arbiter.reexec_pid = 5
    arbiter.handle_term()
    told.setblocking(False)
    with pytest.raises(BlockingIOError):
        told.recv(99)


class Worker:
    """What the hooks use of gunicorn's, in this process."""

    core = 7

    def __init__(self, application: Any = None, sockets: Iterable[Any] = ()) -> None:
        self.pid = self.ppid = os.getpid()
        self.sockets = [*sockets]
        self.cfg = SimpleNamespace(threads=9)
        self.app = SimpleNamespace(app_uri=APPLICATION, callable=application)
        self.reopened = threading.Event()
        self.log = SimpleNamespace(reopen_files=self.reopened.set)


def test_worker_takes_orders_and_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the port at which it listens, until its last request is served."""
    asked: list[object] = []
    monkeypatch.setattr(module, "tune", lambda *given: asked.append(given))
    with tempfile.TemporaryDirectory(prefix="pp-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        app = create_app(DEMO)
        listener = SimpleNamespace(getsockname=lambda: ("127.0.0.1", 8399))
        unix = SimpleNamespace(getsockname=lambda: "/a/socket")
        worker = Worker(app, [unix, listener])
        hooks = of()
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
        hooks.post_fork(Arbiter(), worker)
        for number in HELD:
            signal.signal(number, signal.SIG_IGN)
        hooks.post_worker_init(worker)
        assert asked == [(7, 9)]
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {*HELD}
        [answer] = ask_all(8399, {"do": "status"})
        assert (answer["pid"], answer["instance"]) == (os.getpid(), str(os.getpid()))
        signal.raise_signal(signal.SIGHUP)
        assert worker.reopened.wait(PATIENCE_S)
        hooks.worker_exit(None, worker)
        assert ask_all(8399, {"do": "status"}) == []
        app.extensions["proxy"]["proxy"].close()


def test_worker_of_another_application_has_no_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours may be wrapped in something that we do not know."""
    monkeypatch.setattr(module, "tune", lambda *_: None)
    worker = Worker(object())
    hooks = of()
    hooks.post_worker_init(worker)
    signal.raise_signal(signal.SIGHUP)  # is ignored
    hooks.worker_exit(None, worker)


def test_worker_has_a_core_that_no_other_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The master knows those of all; before each fork its memory is settled."""
    asked: list[object] = []

    def free_core(*given: object) -> int:
        asked.append(given)
        return 5

    monkeypatch.setattr(module, "free_core", free_core)
    monkeypatch.setattr(module, "settle", lambda: asked.append("settled"))
    arbiter, worker = Arbiter("mine:app"), SimpleNamespace()
    arbiter.WORKERS = {1: SimpleNamespace(core=7), 2: SimpleNamespace()}
    of().pre_fork(arbiter, worker)
    assert asked == [([7, None], 3), "settled"]
    assert worker.core == 5


# How it ends


def test_sigterm_is_announced_and_ends_after_the_delay() -> None:
    """A second one does not wait."""
    arbiter = started(of(**{"shutdown-delay": 5}))
    arbiter.handle_term()
    assert arbiter.heard == [signal.SIGUSR2]
    assert Gateway.is_stopping
    assert 4 < signal.getitimer(signal.ITIMER_REAL)[0] <= 5
    signal.raise_signal(signal.SIGALRM)
    assert arbiter.SIG_QUEUE.get_nowait() == signal.SIGTERM
    arbiter.handle_term()
    assert arbiter.heard == [signal.SIGUSR2, "end"]


@pytest.mark.parametrize("is_ours", [True, False])
def test_sigterm_ends_at_once_without_a_delay(
    monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    """Another's workers are not told: SIGUSR2 would kill them."""
    arbiter = started(of())
    if not is_ours:
        monkeypatch.setattr(arbiter, "worker_class", object())
    arbiter.handle_term()
    assert arbiter.heard == [signal.SIGUSR2] * is_ours + ["end"]
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_worker_that_has_ended_dies_of_no_late_signal() -> None:
    """Python gives its handlers back, and the default of these is to die."""
    for number in HELD:
        signal.signal(number, signal.SIG_DFL)
    of().worker_exit(Arbiter(), None)
    assert [signal.getsignal(number) for number in HELD] == [signal.SIG_IGN] * 2


def test_process_of_an_upgrade_inherits_orders_and_counts() -> None:
    """As open files, whose numbers its environment has."""
    arbiter = Arbiter()
    of().pre_exec(arbiter)
    assert arbiter.cfg.env_orig.keys() == {DISABLED, COUNTS}
    assert all(os.get_inheritable(int(fd)) for fd in arbiter.cfg.env_orig.values())


# What is said at the start


def test_summary_is_out_before_a_caller_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for it reads a pipe."""
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, write_through=False))
    of().when_ready(Arbiter())
    assert pipe.getvalue().startswith(b"poolproxy on here:1 (open")
    assert b"3 workers of 9 threads" in pipe.getvalue()


def test_summary_is_a_line_of_a_log_in_json(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever collects it takes nothing else."""
    caplog.set_level(logging.INFO, "proxy")
    of(**{"log-format": "json"}).when_ready(Arbiter())
    assert capsys.readouterr().out == ""
    assert [record.getMessage()[:20] for record in caplog.records] == ["poolproxy on here:1 "]


class Listener:
    """One of gunicorn's, by its address."""

    def __init__(self, host: str) -> None:
        self.host = host

    def getsockname(self) -> tuple[str, int]:
        return self.host, 80

    def __str__(self) -> str:
        return f"http://{self.host}"


@pytest.mark.parametrize(("host", "is_served"), [("127.0.0.1", True), ("192.0.2.1", False)])
def test_address_that_was_inherited_is_looked_at(
    capsys: pytest.CaptureFixture[str], host: str, is_served: bool
) -> None:
    """Nothing has checked it before it was bound."""
    arbiter = Arbiter()
    arbiter.LISTENERS = [Listener(host)]
    if is_served:
        of().when_ready(arbiter)
        assert capsys.readouterr().out.startswith(f"poolproxy on http://{host} (")
        return
    with pytest.raises(SystemExit) as raised:
        of().when_ready(arbiter)
    assert raised.value.code == EXIT_CONFIG
    said = capsys.readouterr()
    assert (said.out, "allow-unauthenticated" in said.err) == ("", True)


@pytest.mark.parametrize("variable", ["GUNICORN_FD", "LISTEN_FDS"])
def test_inherited_address_is_in_use_by_right(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """By an upgrade, or systemd: it is not bound anew."""
    asked: list[object] = []
    check: Callable[..., None] = lambda *given, **_: asked.append(given)  # noqa: E731
    monkeypatch.setattr(module, "check_addresses", check)
    started(of())
    assert len(asked) == 1
    monkeypatch.setenv(variable, "3")
    started(of())
    assert len(asked) == 1
