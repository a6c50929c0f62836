"""The shipped configuration works as it is, and a start tells the truth in a few lines."""

from __future__ import annotations

import fcntl
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from proxy.config import load_config
from proxy.server.settings import settings
from tests.support.callers import chat_request
from tests.support.commandline import wait_for
from tests.support.gateway import (
    COMMAND,
    PATIENCE_S,
    ROOT,
    Gateway,
    curl,
    data_of,
    environment,
    run_to_end,
    text_of,
)
from tests.support.leaks import death_in
from tests.support.server import free_port

# <fcntl.h>; Python 3.10 has it too, but not everywhere.
F_SETPIPE_SZ = 1031

SHIPPED = ROOT / "config.yaml"
HI = '{"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}'
ANSWER = "Hello from the demo provider. You said: Hi"

OPEN = "(open, this machine only: set api-keys before you put anything in front)"


@pytest.fixture(scope="module")
def shipped() -> Iterator[Gateway]:
    with Gateway(SHIPPED, env={"PORT": "0"}) as running:
        yield running


def test_shipped_configuration_answers_curl(shipped: Gateway) -> None:
    """The README's first call needs no key, no network, and no header."""
    answer = json.loads(curl(f"{shipped.url}/v1/chat/completions", "-d", HI))
    assert answer["choices"][0]["message"]["content"] == ANSWER


def test_shipped_configuration_streams_to_curl(shipped: Gateway) -> None:
    """The call in docs/requests.md, word by word."""
    body = HI.replace("{", '{"stream": true, ', 1)
    data = data_of(curl("-N", f"{shipped.url}/v1/chat/completions", "-d", body).encode())
    assert text_of(data) == ANSWER
    assert data[-1] == b"[DONE]"
    assert len(data) == len(ANSWER.split()) + 2


def test_summary_says_what_is_served(shipped: Gateway) -> None:
    """Address, access, providers on and off with the reason, clients, models, permits, threads."""
    assert shipped.log.splitlines()[:6] == [
        f"poolproxy on {shipped.url} {OPEN}",
        "  demo: 1 client, 1 model, unlimited at once",
        "  openai: off, no key in OPENAI_API_KEY",
        "  gemini: off, no key in GEMINI_API_KEY",
        "  claude: off, no key in ANTHROPIC_API_KEY",
        "  1 worker of 1056 threads: 1024 requests in flight at most, each",
    ]


@pytest.mark.long
def test_key_in_the_environment_turns_its_provider_on() -> None:
    """The same file serves the real API once its key is set, and does not show the key."""
    key = "sk-proj-0123456789abcdef"
    env = {"PORT": "0", "OPENAI_API_KEY": key}
    with Gateway(SHIPPED, env=env, workers=2, secrets=[key]) as running:
        log = running.log
    assert "  openai: 1 client, the upstream's models, 32 (16 per worker) at once\n" in log
    assert "  2 workers of 1056 threads: 1024 requests in flight at most, each\n" in log


@pytest.mark.long
def test_summary_of_a_keyed_gateway() -> None:
    """The number of callers' keys, of clients, and warnings; never a key."""
    config = {
        "api-keys": ["caller-key-000001", {"name": "ci", "key": "caller-key-000002"}],
        "logging-to-file": False,
        "max-requests-in-flight": 7,
        "openai-compatibility": [
            {
                "name": "pool",
                "base-url": "http://127.0.0.1:9/v1",
                "api-keys": ["sk-000000000001", {"api-key": "sk-000000000002", "weight": 3}],
                "max-concurrency": 4,
                "models": ["a", {"name": "b", "alias": "c"}],
            }
        ],
    }
    with Gateway(config) as running:
        log = running.log
    assert "(2 callers' keys)\n" in log
    assert "  pool: 2 clients, 2 models, 8 at once\n" in log
    assert "  1 worker of 39 threads: 7 requests in flight at most, each\n" in log
    assert log.count("warning: ") == 1
    assert "logging-to-file" in log


@pytest.mark.long
def test_port_in_use_is_one_line_and_status_3() -> None:
    """Nothing but the reason, and what to do; gunicorn's retries and traceback stay out."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        done = run_to_end(PROXY_CONFIG=str(SHIPPED), PORT=str(port))
    assert done.returncode == 3
    assert done.stderr == (
        f"poolproxy: port {port} is in use: set another `port`, or stop what listens there\n"
    )
    assert done.stdout == ""


@pytest.mark.long
@pytest.mark.parametrize("command", [COMMAND, [sys.executable, "-m", "proxy", "serve"]])
@pytest.mark.parametrize("taken", ["socket", "file"])
def test_unix_socket_in_use_is_one_line_and_status_3(
    tmp_path: Path, command: list[str], taken: str
) -> None:
    """It stays whose it is: gunicorn by itself would take it over, and remove it at its end."""
    path = tmp_path / "s"
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"demo": [{"name": "demo"}]}))
    with socket.socket(socket.AF_UNIX) as owner:
        if taken == "socket":
            owner.bind(str(path))
            owner.listen(0)
            why = f"poolproxy: unix:{path} is in use: bind another, or stop what listens there\n"
        else:
            path.write_text("theirs")
            why = f"poolproxy: cannot listen on unix:{path}: it is there, and no socket\n"
        env = {"PROXY_CONFIG": str(config), "GUNICORN_CMD_ARGS": f"--bind unix:{path}"}
        for _ in range(2 if taken == "socket" else 1):  # the first fills the backlog
            done = run_to_end(command=command, **env)
            assert (done.returncode, done.stderr, done.stdout) == (3, why, "")
    assert path.exists()


WAYS = {
    "gunicorn": [str(Path(sys.executable).with_name("gunicorn")), "-c", "gunicorn.conf.py"],
    "serve": [sys.executable, "-m", "proxy", "serve"],
}


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for Unix sockets, whose paths have a hundred characters at most (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="pp-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("way", ["gunicorn", pytest.param("serve", marks=pytest.mark.slow)])
def test_unix_socket_left_from_a_crash_is_replaced(short_path: Path, way: str) -> None:
    """And outlives an upgrade by SIGUSR2, which inherits it, as orders do."""
    path, log = short_path / "s", short_path / "log"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    (short_path / "config.yaml").write_text(json.dumps({"port": 0, "demo": [{"name": "demo"}]}))
    env = environment(
        XDG_RUNTIME_DIR=str(short_path),
        PROXY_CONFIG=str(short_path / "config.yaml"),
        GUNICORN_CMD_ARGS=f"--bind unix:{path}",
    )

    def workers() -> set[int]:
        return {int(one.stem[2:]) for one in short_path.glob("poolproxy-*/0-*.sock")}

    def check_one(*, but: set[int]) -> int:
        """Another worker serves, with the order; its pid."""
        wait_for(lambda: len(workers()) == 1 and not workers() & but, log.read_text)
        answer = curl("--unix-socket", str(path), "http://localhost/v1/chat/completions", "-d", HI)
        assert json.loads(answer)["error"]["code"] == "no_client_in_service"
        return workers().pop()

    with log.open("wb") as output:
        process = subprocess.Popen(WAYS[way], cwd=ROOT, env=env, stdout=output, stderr=output)
    master = process.pid
    try:
        wait_for(lambda: len(workers()) == 1, log.read_text)
        before = workers()
        disable = [sys.executable, "-m", "proxy", "disable", "demo", "--port", "0"]
        subprocess.run(disable, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
        os.kill(master, signal.SIGUSR2)
        wait_for(lambda: len(workers()) == 2, log.read_text)
        (upgraded,) = workers() - before
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        master = int(Path(f"/proc/{upgraded}/stat").read_text().rpartition(")")[2].split()[1])
        assert check_one(but=before) == upgraded
        promoted = time.monotonic() + 2  # the new server looks once a second for the old one
        wait_for(lambda: time.monotonic() > promoted)
    finally:
        os.kill(master, signal.SIGTERM)
        wait_for(
            lambda: not path.exists() and not [*short_path.glob("poolproxy-*/*.sock")],
            log.read_text,
        )
    assert "Traceback" not in log.read_text()
    assert death_in(log.read_text()) is None


def test_config_errors_come_all_at_once_with_status_2(tmp_path: Path) -> None:
    """Each problem is a line with file, path and expectation; no traceback."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "port: high\nqueue-timout: 3\nopenai-compatibility:\n"
        "  - {name: a, base-url: openrouter.ai, api-keys: ['${NO_SUCH_VARIABLE}']}\n"
    )
    done = run_to_end(PROXY_CONFIG=str(path))
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines), lines
    for part in ("port: ", "queue-timeout", "'openrouter.ai'", "NO_SUCH_VARIABLE"):
        assert sum(part in line for line in lines) == 1, (part, lines)
    assert len(lines) == 4
    assert done.stdout == ""


@pytest.mark.long
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(None, "PROXY_CONFIG", id="no-file"),
        pytest.param("host: 0.0.0.0\ndemo: [{name: demo}]\n", "api-keys", id="open-to-all"),
        pytest.param("api-keys: ['']\ndemo: [{name: demo}]\n", "api-keys[0]", id="empty-key"),
    ],
)
def test_what_must_not_be_served_is_not(tmp_path: Path, content: str | None, reason: str) -> None:
    """One message, status 2: above all an open proxy is never reachable from elsewhere."""
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    done = run_to_end(PROXY_CONFIG=os.fspath(path))
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.long
@pytest.mark.parametrize("command", [COMMAND, [sys.executable, "-m", "proxy", "serve"]])
def test_open_proxy_is_not_bound_beyond_this_machine_by_gunicorn(
    tmp_path: Path, command: list[str]
) -> None:
    """Whatever address gunicorn's own settings name; with a key any of them will do."""
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"demo": [{"name": "demo"}]}))
    env = {"PROXY_CONFIG": str(path), "GUNICORN_CMD_ARGS": "--bind 127.0.0.1:0 --bind 0.0.0.0:0"}
    done = run_to_end(command=command, **env)
    assert done.returncode == 2
    why, *_ = done.stderr.splitlines()
    assert "0.0.0.0" in why
    assert "api-keys" in why
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.long
def test_start_goes_on_though_nobody_reads_of_it(tmp_path: Path) -> None:
    """As behind `| head -0`."""
    path = tmp_path / "config.yaml"
    port = free_port()
    path.write_text(json.dumps({"port": port, "demo": [{"name": "demo"}]}))
    read_end, write_end = os.pipe()
    os.close(read_end)
    env = environment(PROXY_CONFIG=str(path))
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(COMMAND, cwd=ROOT, env=env, stdout=write_end, stderr=stderr)
    os.close(write_end)
    try:
        arguments = ("--retry", "20", "--retry-connrefused", "--retry-delay", "1")
        assert json.loads(curl(*arguments, f"http://127.0.0.1:{port}/healthz"))
    finally:
        process.terminate()
        process.wait()
    assert death_in(log.read_text()) is None


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a write to the pipe may block")
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_requests_go_on_though_nobody_reads_the_log(tmp_path: Path, kind: str) -> None:
    """Lines are lost, gunicorn's too; when there is room again the log says how many."""
    demo = {"name": "demo", "delay-ms": 0}
    (tmp_path / "config.yaml").write_text(json.dumps({"port": 0, "demo": [demo]}))
    env = environment(PROXY_CONFIG=str(tmp_path / "config.yaml"))
    if kind == "pipe":
        log, write_end = os.pipe()
        fcntl.fcntl(write_end, F_SETPIPE_SZ, 4096)
    else:
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        log, write_end = ours.detach(), theirs.detach()
    process = subprocess.Popen(COMMAND, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=write_end)
    try:
        assert os.get_blocking(write_end)
        assert process.stdout is not None
        url = process.stdout.readline().decode().split()[2]
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        for _ in range(100):
            with socket.create_connection(address, timeout=PATIENCE_S) as sock:
                sock.sendall(chat_request("demo"))
                answer = b""
                while not answer.endswith(b"}}"):
                    answer += sock.recv(4096)
                sock.sendall(b"NOT HTTP\r\n\r\n")
                assert b" 400 " in sock.recv(4096)
        said = b""
        while b"lines of the log were lost" not in said:
            said += os.read(log, 1 << 16)
            curl(f"{url}/v1/chat/completions", "-d", HI)  # leaves a line
    finally:
        process.terminate()
        os.close(log)
        process.wait(PATIENCE_S)
        os.close(write_end)
        assert process.stdout is not None
        process.stdout.close()
    assert b" proxy.request " in said


def test_workers_may_have_a_socket_each(capsys: pytest.CaptureFixture[str]) -> None:
    """gunicorn's `reuse_port`: others may listen there as well, and the address is still told."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = other.getsockname()
        bind = f"127.0.0.1:{address[1]}"
        cfg = SimpleNamespace(address=[address], reuse_port=True, bind=[bind], workers=1, threads=9)
        app = SimpleNamespace(app_uri="mine:app")
        server = SimpleNamespace(cfg=cfg, LISTENERS=[], app=app, handle_term=None)
        hooks = settings(load_config({"demo": [{"name": "demo"}]}))
        hooks["on_starting"](server)
        hooks["when_ready"](server)
        said = capsys.readouterr().out
        assert said.startswith(f"poolproxy on {bind} (open")
        assert "1 worker of 9 threads" in said
        cfg.reuse_port = False
        with pytest.raises(SystemExit):
            hooks["on_starting"](server)


ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
HELD = (signal.SIGHUP, signal.SIGUSR2)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Handlers of signals are as before, afterwards; what is held back is forgotten."""
    before = {number: signal.getsignal(number) for number in (*ENDINGS, *HELD)}
    yield
    for number in HELD:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", ENDINGS)
def test_signal_to_end_reaches_a_worker_that_has_only_just_begun(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """By the master's handler, that is into its queue, or a moment later."""
    monkeypatch.setattr(os, "_exit", sys.exit)
    post_fork = settings(load_config({"demo": [{"name": "demo"}]}))["post_fork"]
    server = SimpleNamespace(SIG_QUEUE=queue.SimpleQueue(), app=SimpleNamespace(app_uri="mine:app"))
    server.SIG_QUEUE.put(signal.SIGHUP)
    post_fork(server, None)
    with pytest.raises(SystemExit):
        signal.raise_signal(number)
    server.SIG_QUEUE.put(number)
    with pytest.raises(SystemExit):
        post_fork(server, None)


@pytest.mark.usefixtures("handlers")
def test_signals_wait_for_the_handlers_of_a_worker_that_has_only_just_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gunicorn sets all handlers to the default, to die, before it sets those of a worker."""
    monkeypatch.setattr("proxy.server.hooks.settle", lambda: None)
    pre_fork = settings(load_config({"demo": [{"name": "demo"}]}))["pre_fork"]
    cfg, app = SimpleNamespace(workers=1), SimpleNamespace(app_uri="mine:app")
    pre_fork(SimpleNamespace(WORKERS={}, cfg=cfg, app=app), SimpleNamespace())
    for number in HELD:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    assert signal.sigpending() == {*HELD}


@pytest.mark.long
@pytest.mark.parametrize(
    ("uri", "made"),
    [
        ("proxy.server.settings:application()", 1),
        ("proxy:create_app()", 1),
        ("mine:app", 0),
        (None, 1),
    ],
)
def test_only_our_application_is_made_before_the_fork(
    monkeypatch: pytest.MonkeyPatch, uri: str | None, made: int
) -> None:
    """Another's may hold what a fork does not survive; None: `poolproxy serve` has no URI."""
    monkeypatch.setattr("proxy.server.hooks.settle", lambda: None)
    calls: list[str] = []
    app = SimpleNamespace(wsgi=lambda: calls.append("made"))
    if uri is not None:
        app.app_uri = uri
    cfg = SimpleNamespace(workers=1, address=[])
    server = SimpleNamespace(app=app, WORKERS={}, cfg=cfg)
    hooks = settings(load_config({"demo": [{"name": "demo"}]}))
    hooks["pre_fork"](server, SimpleNamespace())
    assert len(calls) == made
