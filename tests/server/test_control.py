"""The control socket: what a worker answers, whom it trusts, what is left of the dead."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from proxy.api.status import overview
from proxy.cli import main
from proxy.cli.running import _lines
from proxy.config import Config, ConfigSource, Seen, load_config
from proxy.gateway import Gateway
from proxy.server.control.listener import (
    _MOST_SILENT,
    MAX_REQUEST_BYTES,
    Control,
    keep_disabled,
    read_disabled,
)
from proxy.server.control.sockets import REQUEST_TIMEOUT_S, ask_all
from proxy.server.control.sockets import ports as running_ports
from proxy.version import __version__
from tests.support.commandline import wait_for
from tests.support.server import free_port

# Of this process alone, because all look into /tmp, too; and another.
PORT, OTHER_PORT = free_port(), free_port()
KEY = "sk-0123456789-abcd"
LABEL = "alpha/sk-...abcd"
INSTANCE = str(os.getppid())
STATUS = {"do": "status"}
PATIENCE_S = 20.0


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where sockets are put first; a short path, because a socket's address is short."""
    with tempfile.TemporaryDirectory(prefix="pp-") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        (Path(directory) / "next").mkdir()
        monkeypatch.setenv("TMPDIR", f"{directory}/next")
        yield Path(directory)


def home_in(directory: Path) -> Path:
    return directory / f"poolproxy-{os.geteuid()}"


def socket_in(directory: Path) -> Path:
    return home_in(directory) / f"{PORT}-{os.getpid()}.sock"


@pytest.fixture
def fd() -> Iterator[int]:
    """What a server's workers have in common."""
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


@contextlib.contextmanager
def control_of(gateway: Gateway, **options: Any) -> Iterator[Control]:
    """A control that is closed afterwards, and what it was told is forgotten."""
    with tempfile.TemporaryFile() as file:
        given = {"port": PORT, "instance": INSTANCE, "orders_fd": file.fileno(), **options}
        control = Control(gateway, **given)
        try:
            yield control
        finally:
            control.close()
            control.close()


def make_gateway() -> Gateway:
    alpha = {"name": "alpha", "base-url": "https://a.test/v1", "api-keys": [KEY]}
    return Gateway(
        load_config(
            {
                "openai-compatibility": [{**alpha, "models": [{"name": "m", "alias": "n"}]}],
                "demo": [{"name": "demo"}],
            }
        )
    )


@contextlib.contextmanager
def worker(gateway: Gateway | None = None, **options: Any) -> Iterator[Gateway]:
    """A gateway that can be asked."""
    gateway = gateway or make_gateway()
    with control_of(gateway, **options):
        yield gateway
    assert not any(thread.name == "control" for thread in threading.enumerate())


def clients() -> dict[str, dict[str, Any]]:
    (answer,) = ask_all(PORT, STATUS)
    return {facts["client"]: facts for facts in answer["clients"]}


def talk(path: Path, data: bytes) -> Any:
    """The answer to these bytes."""
    with socket.socket(socket.AF_UNIX) as asker:
        asker.settimeout(PATIENCE_S)
        asker.connect(str(path))
        with contextlib.suppress(BrokenPipeError):
            asker.sendall(data)
            asker.shutdown(socket.SHUT_WR)
        with asker.makefile("rb") as answer:
            return json.loads(answer.read() or b"null")


class Stranger:
    """Listens where a worker would, and says nothing."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()

    def __enter__(self) -> socket.socket:
        return self.listener

    def __exit__(self, *_: object) -> None:
        self.listener.close()


# Questions and answers


def test_worker_tells_its_clients_without_their_keys(runtime: Path) -> None:
    """The pool's snapshot, with the models that each client offers."""
    with worker():
        (answer,) = ask_all(PORT, {"do": "overview"})
    assert answer["pid"] == os.getpid()
    assert answer["instance"] == INSTANCE
    assert [facts["offered"] for facts in answer["clients"]] == ["n", "demo"]
    assert [facts["client"] for facts in answer["clients"]] == [LABEL, "demo"]
    assert KEY not in json.dumps(answer)


def test_order_takes_effect_before_its_answer(runtime: Path) -> None:
    """Disabled and enabled in the pool itself, that one client only."""
    with worker() as gateway:
        assert "error" not in ask_all(PORT, {"do": "disable", "client": LABEL})[0]
        disabled = {facts["client"]: facts["disabled"] for facts in gateway.pool.snapshot()}
        assert disabled == {LABEL: True, "demo": False}
        ask_all(PORT, {"do": "enable", "client": LABEL})
        assert not any(facts["disabled"] for facts in gateway.pool.snapshot())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "not a control request"),
        (b"\xff\xfe\n", "not a control request"),
        (b"[" * 3000 + b"\n", "not a control request"),
        (b'{"do":"explode"}\n', "not a control request: 'explode'"),
        (b'{"do":"status","key":1}\n', "not a control request"),
        (b'{"do":"disable","client":"nobody"}\n', "there is no client 'nobody'"),
        (b'{"do":"disable"}\n', "there is no client ''"),
    ],
)
def test_nonsense_is_answered_with_an_error(runtime: Path, line: bytes, said: str) -> None:
    """And the next question with an answer."""
    with worker():
        assert said in talk(socket_in(runtime), line)["error"]
        assert clients()


def test_endless_request_is_not_read(runtime: Path) -> None:
    """A request comes at once, and has a limit."""
    with worker():
        with contextlib.suppress(ConnectionResetError):
            said = talk(socket_in(runtime), b" " * 64 * MAX_REQUEST_BYTES)
            assert "not a control request" in said["error"]
        assert clients()


def test_silent_asker_does_not_keep_others_from_asking(runtime: Path) -> None:
    """It is given up after a while."""
    with worker(), socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(socket_in(runtime)))
        assert clients()


def test_many_silent_askers_keep_nobody_from_asking(runtime: Path) -> None:
    """All are served at once; nor does one who asks and does not read hold anybody up."""
    with worker(), contextlib.ExitStack() as stack:
        for number in range(100):
            silent = stack.enter_context(socket.socket(socket.AF_UNIX))
            silent.connect(str(socket_in(runtime)))
            if number % 2:
                silent.sendall(b'{"do":"status"}\n')
        began = time.monotonic()
        assert clients()
        assert time.monotonic() - began < REQUEST_TIMEOUT_S


def test_answer_ends_with_its_line(runtime: Path) -> None:
    """The asker does not wait for the end of the connection."""
    with (
        Stranger(socket_in(runtime).with_name(f"{PORT}-1.sock")) as stranger,
        contextlib.ExitStack() as kept,
    ):

        def answer() -> None:
            asker, _ = stranger.accept()
            kept.enter_context(asker)
            asker.sendall(b"{}")
            asker.sendall(b"\n")

        stranger.settimeout(PATIENCE_S)
        thread = threading.Thread(target=answer)
        thread.start()
        assert ask_all(PORT, STATUS, timeout_s=PATIENCE_S) == [{"pid": 1}]
        thread.join()


def test_too_many_askers_cost_the_oldest_its_place(runtime: Path) -> None:
    """So that they hold no more descriptors; the others are answered."""
    with worker(), contextlib.ExitStack() as stack:
        askers = []
        for _ in range(_MOST_SILENT + 2):
            asker = stack.enter_context(socket.socket(socket.AF_UNIX))
            asker.connect(str(socket_in(runtime)))
            asker.settimeout(PATIENCE_S)
            askers.append(asker)
        ended = [asker.recv(1) for asker in askers[:2]]
        assert ended == [b"", b""]
        for asker in askers[2:]:
            asker.sendall(b'{"do":"status"}\n')
            assert asker.recv(1) == b"{"


def test_worker_that_does_not_answer_is_reported(runtime: Path) -> None:
    """By pid, beside the answers of the others."""
    with worker(), Stranger(socket_in(runtime).with_name(f"{PORT}-1.sock")):
        silent, good = ask_all(PORT, STATUS, timeout_s=2.0)
    assert silent == {"pid": 1, "error": "no answer from worker 1: timed out"}
    assert good["clients"]


def test_worker_that_starts_meanwhile_gets_the_order_too(runtime: Path) -> None:
    """One that appears while another is asked is not forgotten."""
    gateway = make_gateway()
    with (
        contextlib.ExitStack() as late,
        Stranger(socket_in(runtime).with_name(f"{PORT}-1.sock")) as first,
    ):

        def answer_late() -> None:
            asker, _ = first.accept()
            with asker:
                late.enter_context(worker(gateway=gateway))
                asker.sendall(b"{}\n")

        first.settimeout(PATIENCE_S)
        thread = threading.Thread(target=answer_late)
        thread.start()
        answers = ask_all(PORT, {"do": "disable", "client": LABEL})
        thread.join()
        assert [answer["pid"] for answer in answers] == [1, os.getpid()]
        assert clients_of(gateway)[LABEL]["disabled"]


def clients_of(gateway: Gateway) -> dict[str, dict[str, Any]]:
    return {facts["client"]: facts for facts in gateway.pool.snapshot()}


# Orders for workers that start later


def test_later_worker_of_the_server_obeys_what_was_ordered(runtime: Path, fd: int) -> None:
    """From its first moment on, on any port; what was taken back is not obeyed."""
    with worker(orders_fd=fd):
        ask_all(PORT, {"do": "disable", "client": LABEL})
        ask_all(PORT, {"do": "disable", "client": "demo"})
        ask_all(PORT, {"do": "enable", "client": "demo"})
    with worker(orders_fd=fd, port=OTHER_PORT) as gateway:
        assert clients_of(gateway)[LABEL]["disabled"]
        assert not clients_of(gateway)["demo"]["disabled"]


def test_order_for_a_client_that_is_gone_is_told(
    runtime: Path, fd: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds no longer: a reload has taken the client away."""
    keep_disabled(fd, ["gone/sk-...0000"])
    with worker(orders_fd=fd):
        assert "gone/sk-...0000 was disabled by hand, and is no client any more" in caplog.text


def test_unreadable_orders_are_no_reason_not_to_start(runtime: Path, fd: int) -> None:
    """A warning; nothing is disabled."""
    os.write(fd, b"[1")
    with worker(orders_fd=fd) as gateway:
        assert not any(facts["disabled"] for facts in gateway.pool.snapshot())


def test_order_that_cannot_be_kept_says_so(runtime: Path) -> None:
    """It holds in this worker, and the asker learns that later ones will not know of it."""
    with open("/dev/full", "r+b", 0) as full, worker(orders_fd=full.fileno()) as gateway:
        (answer,) = ask_all(PORT, {"do": "disable", "client": LABEL})
        assert "workers that start later will not know" in answer["error"]
        assert clients_of(gateway)[LABEL]["disabled"]


# Whose sockets, and where


def test_sockets_are_their_users_alone(runtime: Path) -> None:
    """The directory's mode is the authentication."""
    with worker():
        assert stat.S_IMODE(home_in(runtime).stat().st_mode) == 0o700
        assert socket_in(runtime).is_socket()
        assert PORT in running_ports()
    assert not list(home_in(runtime).iterdir())


@pytest.mark.parametrize("bit", [None, 0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_directory_that_others_could_open_is_not_used(runtime: Path, bit: int | None) -> None:
    """Neither to listen in nor to ask: the next place is taken. Nor is a link; one bit suffices."""
    if bit is not None:
        home_in(runtime).mkdir()
        home_in(runtime).chmod(0o700 | bit)
    else:
        (runtime / "elsewhere").mkdir(mode=0o700)
        home_in(runtime).symlink_to(runtime / "elsewhere")
    with worker():
        assert not socket_in(runtime).exists()
        assert socket_in(runtime / "next").exists()
        assert clients()
    with Stranger(socket_in(runtime)):
        assert ask_all(PORT, STATUS) == []


def test_path_too_long_for_a_socket_is_passed_over(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next place is taken."""
    deep = runtime / ("x" * 103)  # an AF_UNIX address has 108 bytes on Linux, 104 elsewhere
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with worker():
        assert socket_in(runtime / "next").exists()
        assert clients()
    monkeypatch.setenv("TMPDIR", str(deep))
    with worker():
        assert socket_in(Path("/tmp")).exists()
        assert clients()


def test_server_and_asker_may_differ_in_their_environment(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service has no XDG_RUNTIME_DIR, the user who asks it has."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with worker():
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        assert clients()


def test_what_the_dead_left_is_removed(runtime: Path) -> None:
    """By whoever asks, and by the next worker."""
    directory = socket_in(runtime).parent
    for name in (f"{PORT}-1.sock", f"{PORT}-2.sock"):
        with Stranger(directory / name):
            pass
    assert ask_all(PORT, STATUS) == []
    assert list(directory.iterdir()) == []
    with Stranger(directory / f"{PORT}-1.sock"):
        pass
    assert PORT not in running_ports()
    with Stranger(directory / f"{PORT}-{os.getpid()}.sock"):
        pass
    with worker():
        assert [path.name for path in directory.iterdir()] == [socket_in(runtime).name]
        assert clients()


def test_folder_with_a_sockets_name_is_passed_over(runtime: Path) -> None:
    """It is none of ours: it stays, and the workers beside it answer."""
    folder = socket_in(runtime).with_name(f"{PORT}-1.sock")
    with worker():
        folder.mkdir()
        assert clients()
        assert PORT in running_ports()
        folder.with_name(f"{PORT}-2.sock").write_text("")
        assert clients()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("is_asked", [False, True])
def test_worker_without_a_socket_reads_its_configuration(
    runtime: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_asked: bool,
) -> None:
    """Where no directory can be had, or is its own, the log says so; the rest goes on.

    No request comes: the file is looked at once a second, or read at once when SIGHUP asks for it.
    """

    def refuse(*_: object) -> str:
        raise PermissionError("/run/theirs is not a directory of this user's alone (mode 0700)")

    monkeypatch.setattr("proxy.server.control.listener.listen", refuse)
    path = runtime / "config.yaml"
    path.write_text("demo: [{name: one}]")
    source = ConfigSource(lambda seen: load_config(path, seen=seen))
    gateway = Gateway(source, auto_reload=not is_asked)
    with control_of(gateway) as control:
        assert "`poolproxy status` will not find worker" in caplog.text
        path.write_text("demo: [{name: two}]\ndebug: true")
        if is_asked:
            control.wake()
        wait_for(lambda: [one.label for one in gateway.generation.clients] == ["two"])
    control.wake()


def test_orders_follow_a_client_to_another_label(runtime: Path, fd: int) -> None:
    """Workers that start later know it by that name."""
    path = runtime / "config.yaml"
    path.write_text("openai-compatibility: [{name: one, base-url: 'http://a.test', models: [m]}]")
    gateway = Gateway(ConfigSource(lambda seen: load_config(path, seen=seen)))
    with worker(gateway, orders_fd=fd):
        (answer,) = ask_all(PORT, {"do": "disable", "client": "one"})
        assert "error" not in answer
        path.write_text(path.read_text().replace("one", "two"))
        (answer,) = ask_all(PORT, {"do": "reload"})
        assert answer["changed"] == "1 client changed"
        wait_for(lambda: read_disabled(fd) == ["two"])
        assert clients()["two"]["disabled"]


@pytest.mark.parametrize("is_slow", [False, True])
def test_order_to_reload_is_answered(runtime: Path, is_slow: bool) -> None:
    """With what is wrong; or with an error, if reading takes too long."""
    gate = threading.Event()
    path = runtime / "config.yaml"
    path.write_text("demo: [{name: one}]")

    def read(seen: Seen) -> Config:
        if gate.is_set():
            gate.clear()
            wait_for(gate.is_set)
        return load_config(path, seen=seen)

    with worker(gateway=Gateway(ConfigSource(read))):
        if is_slow:
            gate.set()
            (answer,) = ask_all(PORT, {"do": "reload"})
            assert "still being read" in answer["error"]
            gate.set()
        else:
            path.write_text("demo: 3")
            (answer,) = ask_all(PORT, {"do": "reload"})
            assert answer["problems"] == [f"{path}: demo: expected a list, got a number"]
            (answer,) = ask_all(PORT, {"do": "overview"})
            assert answer["problems"] == [f"{path}: demo: expected a list, got a number"]


# A service's


@pytest.fixture
def service(runtime: Path) -> Path:
    """A directory of a service's own."""
    path = runtime / "service"
    path.mkdir()
    path.chmod(0o750)
    return path


def mode_in(service: Path) -> int:
    """Of the one socket in it."""
    (path,) = service.glob(f"{PORT}-*.sock")
    return stat.S_IMODE(path.stat().st_mode)


def test_service_lets_its_directorys_group_in(service: Path, runtime: Path) -> None:
    """Whatever the umask; not if the directory's mode does not."""
    before = os.umask(0o077)
    try:
        with worker(control_dir=str(service)):
            assert mode_in(service) == 0o660
            assert ask_all(PORT, STATUS) == []
            order = {"do": "disable", "client": "demo"}
            assert len(ask_all(PORT, order, control_dir=str(service))) == 1
            assert PORT in running_ports(str(service))
            assert not home_in(runtime).exists()
        assert list(service.iterdir()) == []
        service.chmod(0o700)
        with worker(control_dir=str(service)):
            assert mode_in(service) == 0o700
    finally:
        os.umask(before)


def test_service_of_systemd_says_where_by_itself(
    service: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`RuntimeDirectory=` sets this variable."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(service))
    with worker():
        assert mode_in(service) == 0o660
        assert clients()


@pytest.mark.parametrize("bit", [0o004, 0o002, 0o001])
def test_service_directory_that_everybody_may_enter_is_not_used(
    service: Path, runtime: Path, bit: int
) -> None:
    """Neither to listen in nor to ask; nor one that they may list, or write to."""
    service.chmod(0o770 | bit)
    with worker(control_dir=str(service)):
        assert socket_in(runtime).exists()
    with Stranger(service / f"{PORT}-1.sock"):
        assert ask_all(PORT, STATUS, control_dir=str(service)) == []


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes other users' places")

SOMEBODY, THEIR_GROUP = 54321, 54322


def as_somebody(groups: list[int], ask: Callable[[], Any]) -> Any:
    """What another user, who is in these groups, gets; None if it raised."""
    near, far = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(SOMEBODY, SOMEBODY, SOMEBODY)
            os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
            os.write(far, json.dumps(ask()).encode())
        finally:
            os._exit(0)
    os.close(far)
    with open(near, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None


@needs_root
def test_member_of_the_services_group_may_ask_and_no_other(service: Path, runtime: Path) -> None:
    """A member may not remove what a dead worker left, and asks on."""
    runtime.chmod(0o755)
    os.chown(service, -1, THEIR_GROUP)

    def ask() -> Any:
        answers = ask_all(PORT, STATUS, control_dir=str(service))
        return [answer.get("error", answer["pid"]) for answer in answers]

    left = service / f"{PORT}-1.sock"
    with worker(control_dir=str(service)):
        with Stranger(left):
            os.chown(left, -1, THEIR_GROUP)
            left.chmod(0o660)
        assert as_somebody([THEIR_GROUP], ask) == [os.getpid()]
        assert as_somebody([], ask) == []
        assert left.exists()
    left.unlink()


@needs_root
def test_root_may_ask_any_service(service: Path, runtime: Path) -> None:
    """Of a user who comes and goes with it, too."""
    runtime.chmod(0o755)
    service.chmod(0o700)
    os.chown(service, SOMEBODY, SOMEBODY)

    def serve_and_be_asked() -> Any:
        with worker(control_dir=str(service)):
            os.write(ready, b"1")
            return os.read(done, 1).decode()

    (near, ready), (done, end) = os.pipe(), os.pipe()
    with ThreadPoolExecutor() as pool:
        child = pool.submit(as_somebody, [], serve_and_be_asked)
        child.add_done_callback(lambda _: os.write(ready, b"0"))  # it may fail before it is ready
        os.read(near, 1)
        answers = ask_all(PORT, STATUS, control_dir=str(service))
        os.write(end, b"2")
        assert child.result(PATIENCE_S) == "2"
    for each in (near, ready, done, end):
        os.close(each)
    assert [answer["instance"] for answer in answers] == [INSTANCE]
    assert "clients" in answers[0]


# Sums


def test_status_as_a_person_reads_it(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts at the right of their columns; what a client serves under the names of callers."""
    with worker() as gateway:
        gateway.pool.set_disabled(LABEL, True)
        assert main(["status", "--port", str(PORT)]) == 0
    head, *rest = capsys.readouterr().out.splitlines()
    about = f"{__version__} on port {PORT}: 1 worker (pid {os.getpid()}), 0 requests waiting"
    assert head == f"poolproxy {about}"
    assert rest == [
        f"not served: n, as {LABEL} cannot be used",
        f"{LABEL}: disabled by hand",
        "client            state             in flight  waiting  answered  failed  models",
        "alpha/sk-...abcd  disabled by hand        0/1        0         0       0  n",
        "demo              ready                   0/∞        0         0       0  demo",
    ]


def test_status_is_of_all_servers_on_a_port() -> None:
    """How many requests wait in them, which versions they are, and that they are several."""
    usual: dict[str, Any] = {"clients": [], "models": {}, "recent": None, "path": "", "read_at": 0}
    answers = [
        {**usual, "pid": pid, "instance": instance, "version": version, "queues": queues}
        for pid, instance, version, queues in (
            (7, "1", "2.0", {"m": {"waiting": 1}, "n": {"waiting": 2}}),
            (8, "1", "2.0", {}),
            (9, "2", "1.9", {"m": {"waiting": 4}}),
        )
    ]
    assert next(_lines(80, overview(answers[:2]))) == (
        "poolproxy 2.0 on port 80: 2 workers (pid 7, 8), 3 requests waiting"
    )
    assert next(_lines(80, overview(answers))) == (
        "poolproxy 1.9 and 2.0 on port 80: 3 workers of 2 servers (pid 7, 8, 9), 7 requests waiting"
    )
