"""A running server goes on to another configuration: no worker is replaced, nothing is lost.

However it was started: by gunicorn with our settings, with the application named too, or by
`poolproxy serve`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commandline import wait_for
from tests.support.gateway import COMMAND, ROOT, Gateway, environment
from tests.support.server import free_port

WAYS = {
    "gunicorn": COMMAND,
    "create_app": [*COMMAND, "proxy:create_app()"],
    "serve": [sys.executable, "-m", "proxy", "serve"],
}
WORKERS = 2
KEPT = "the configuration stays as it was: "
READ = "configuration read again: "

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def demo(*models: str, **more: Any) -> dict[str, Any]:
    return {"demo": [{"delay-ms": 0, "models": list(models)}], **more}


@pytest.fixture(scope="module", params=WAYS)
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """Two workers; each test leaves them, and a good configuration."""
    command = WAYS[request.param]
    with Gateway(demo("first"), command=command, workers=WORKERS) as running:
        wait_for(lambda: len(running.workers()) == WORKERS)
        yield running


class Lines:
    """Counts lines of the log from here on."""

    def __init__(self, gateway: Gateway, part: str) -> None:
        self._gateway, self._part = gateway, part
        self._before = gateway.count_lines(part)

    def wait(self, many: int = WORKERS) -> None:
        wait_for(lambda: self.so_far >= many, lambda: self._gateway.log)

    @property
    def so_far(self) -> int:
        return self._gateway.count_lines(self._part) - self._before


def serve_only(gateway: Gateway, model: str) -> None:
    """All workers do: each of many requests finds one."""
    statuses = {gateway.chat(model).status for _ in range(4 * WORKERS)}
    assert statuses == {200}, gateway.log


@pytest.mark.long
def test_sighup_replaces_no_worker(gateway: Gateway) -> None:
    """Each says what changed; the new configuration is in force in all, the old one in none."""
    before = gateway.workers()
    lines = Lines(gateway, f"{READ}1 client changed, queue-timeout 30 -> 7")
    gateway.write(demo("by-signal", **{"queue-timeout": 7}))
    gateway.hang_up()
    lines.wait()
    serve_only(gateway, "by-signal")
    assert gateway.chat("first").status == 404
    assert gateway.workers() == before
    assert lines.so_far == WORKERS


def test_changed_file_comes_into_force_without_a_signal(gateway: Gateway) -> None:
    """Within 2 s: also where no request comes, and where a folder is swapped behind a link."""
    before, path = gateway.workers(), gateway.path
    for model in ("swapped-1", "swapped-2"):
        lines = Lines(gateway, f"{READ}1 client changed")
        folder = path.with_name(model)
        folder.mkdir()
        (folder / path.name).write_text(json.dumps({"port": 0, **demo(model)}))
        link = path.with_name("link")
        link.symlink_to(folder)
        link.replace(path.with_name("..data"))
        if not path.is_symlink():
            path.unlink()
            path.symlink_to(f"..data/{path.name}")
        began = time.monotonic()
        lines.wait()
        assert time.monotonic() - began < 10
        serve_only(gateway, model)
    assert gateway.workers() == before


def test_what_is_wrong_changes_nothing_in_any_worker(gateway: Gateway) -> None:
    """All its problems, once for each worker, those that start later too, until it is mended."""
    before = gateway.workers()
    good, lines = Lines(gateway, READ), Lines(gateway, KEPT)
    gateway.write(demo("good"))
    gateway.hang_up()
    good.wait()
    gateway.write("port: high\ndemo: 3\n")
    lines.wait()
    gateway.hang_up()
    os.kill(gateway.pid, signal.SIGTTIN)
    lines.wait(WORKERS + 1)
    assert "demo: expected a list" in gateway.log
    serve_only(gateway, "good")
    victim = min(before)
    gateway.kill(victim)
    lines.wait(WORKERS + 2)
    serve_only(gateway, "good")
    mended = Lines(gateway, READ)
    gateway.write(demo("mended"))
    mended.wait(WORKERS + 1)
    os.kill(gateway.pid, signal.SIGTTOU)
    wait_for(lambda: len(gateway.workers()) == WORKERS, lambda: gateway.log)
    serve_only(gateway, "mended")
    assert lines.so_far == WORKERS + 2


def test_worker_that_starts_later_has_the_new_configuration(gateway: Gateway) -> None:
    """Though no signal was sent to the server, and its own copy is older."""
    lines = Lines(gateway, READ)
    gateway.write(demo("later"))
    lines.wait()
    for victim in gateway.workers():
        gateway.kill(victim)
    wait_for(lambda: len(gateway.workers() - gateway.killed) == WORKERS)
    serve_only(gateway, "later")
    assert lines.so_far == WORKERS


def test_what_needs_a_restart_is_said(gateway: Gateway) -> None:
    """In one line of each worker; the rest is in force, and the restart goes on to all of it."""
    before = gateway.workers()
    port = free_port()
    changes = f"port 0 -> {port}, max-requests-in-flight 1024 -> 2000"
    lines = Lines(gateway, f"{changes}: needs a restart, or SIGUSR2")
    gateway.write({**demo("rest"), "port": port, "max-requests-in-flight": 2000})
    lines.wait()
    serve_only(gateway, "rest")
    assert gateway.workers() == before
    gateway.write(demo("rest"))
    gateway.hang_up()


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_keys_stay_while_others_can_connect(tmp_path: Path, way: str) -> None:
    """The server listens where it did until a restart, whatever `host` says meanwhile."""
    path = tmp_path / "config.yaml"
    key = "sk-caller-0123456789"
    path.write_text(json.dumps({"port": 0, "host": "0.0.0.0", "api-keys": [key], **demo("m")}))
    with Gateway(path, command=WAYS[way], secrets=[key]) as running:
        lines = Lines(running, f"{KEPT}{path}: host: without api-keys, whoever reaches 0.0.0.0")
        running.write(demo("m"))
        lines.wait(1)
        assert running.chat("m").status == 401


@pytest.mark.long
def test_logs_are_opened_again(tmp_path: Path) -> None:
    """gunicorn's own files, in the master and in the workers, as after `logrotate`."""
    log, moved = tmp_path / "log", tmp_path / "log.1"
    arguments = f"--error-logfile {log} --log-level info"
    with Gateway(demo("m"), env={"GUNICORN_CMD_ARGS": arguments}) as running:
        log.rename(moved)
        running.hang_up()
        wait_for(log.exists)
        before = running.workers()
        os.kill(running.pid, signal.SIGTTIN)
        wait_for(lambda: len(running.workers() - before) == 1)
        wait_for(lambda: "Booting worker" in log.read_text())


@pytest.mark.long
def test_upgrade_can_be_taken_back() -> None:
    """SIGWINCH ends the workers of a daemon, and SIGHUP brings them back, as gunicorn says."""
    with tempfile.TemporaryDirectory(prefix="pp-", dir="/tmp") as directory:
        folder = Path(directory)
        (folder / "config.yaml").write_text(json.dumps({"port": 0, **demo("m")}))
        env = environment(
            XDG_RUNTIME_DIR=directory,
            PROXY_CONFIG=str(folder / "config.yaml"),
            GUNICORN_CMD_ARGS=f"--daemon --pid {folder}/pid --error-logfile {folder}/log",
        )

        def workers() -> set[str]:
            return {path.stem for path in folder.glob("poolproxy-*/*.sock")}

        quiet = subprocess.DEVNULL
        subprocess.run(COMMAND, cwd=ROOT, env=env, check=True, stdout=quiet, stderr=quiet)
        wait_for(lambda: len(workers()) == 1)
        before, master = workers(), int((folder / "pid").read_text())
        try:
            os.kill(master, signal.SIGWINCH)
            wait_for(lambda: not workers())
            os.kill(master, signal.SIGHUP)
            wait_for(lambda: len(workers() - before) == 1)
        finally:
            os.kill(master, signal.SIGTERM)
            wait_for(lambda: not (folder / "pid").exists())


HOST = """\
import os
from flask import Flask
from proxy import Proxy

application = Flask(__name__)
with open(os.environ["MODEL_FILE"]) as file:
    Proxy({"demo": [{"models": [file.read()]}]}, application)
"""


@pytest.mark.long
def test_application_of_a_host_keeps_gunicorns_own_reload(tmp_path: Path) -> None:
    """It is how its code is loaded anew: other workers, after the new code."""
    (tmp_path / "hosting.py").write_text(HOST)
    model = tmp_path / "model"
    model.write_text("old")
    env = {"MODEL_FILE": str(model), "PYTHONPATH": str(tmp_path)}
    command = [*COMMAND, "hosting:application"]
    with Gateway(demo("unused"), command=command, env=env) as running:
        before = running.workers()
        assert running.chat("old").status == 200
        model.write_text("new")
        running.write("demo: [")  # the configuration of the server itself is not looked at
        running.hang_up()
        wait_for(lambda: running.chat("new").status == 200, lambda: running.log)
        wait_for(lambda: not running.workers() & before, lambda: running.log)
