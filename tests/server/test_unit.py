"""deploy/poolproxy.service: what systemd says of it, and a real start of it by a systemd."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.commandline import wait_for
from tests.support.gateway import PATIENCE_S, ROOT

UNIT = ROOT / "deploy" / "poolproxy.service"
ANALYZE = shutil.which("systemd-analyze")
SYSTEMD = Path("/lib/systemd/systemd")

# Between "OK" and "medium" by `systemd-analyze security`, which goes to 10.
MOST_EXPOSURE = 3.0


def require(is_there: object, what: str) -> None:
    """Skip the calling test, or fail it in CI, which installs systemd."""
    if not is_there:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(what)


def analyze(*arguments: str) -> str:
    """What systemd-analyze says."""
    require(ANALYZE, "there is no systemd-analyze")
    done = subprocess.run(
        [str(ANALYZE), *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return done.stdout + done.stderr


def test_unit_is_understood_in_all_its_parts(tmp_path: Path) -> None:
    """With a program that is there in place of its own."""
    copy = tmp_path / UNIT.name
    text, count = re.subn(r"(?m)^(ExecStart=)\S+", rf"\1{sys.executable}", UNIT.read_text())
    assert count == 1
    copy.write_text(text)
    assert UNIT.name not in analyze("verify", "--man=no", str(copy))


def test_unit_exposes_little() -> None:
    """By systemd's own measure."""
    said = analyze("security", "--offline=true", str(UNIT))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found, said
    assert float(found[1]) < MOST_EXPOSURE


# A systemd of one's own, process 1 of namespaces of its own. It sees this machine's files, with a
# layer above them that takes what is written. `default.target` is the service alone.
BOOT = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /opt
for each in etc var; do
    mkdir -p /run/over/$each.up /run/over/$each.work
    mount -t overlay -o lowerdir=/$each,upperdir=/run/over/$each.up,workdir=/run/over/$each.work \
        overlay /$each
done
mount --make-rshared /
ip link set lo up
mkdir -p /opt/poolproxy/bin /etc/poolproxy/keys /run/systemd/system/poolproxy.service.d
cp -r {packages} /opt/poolproxy/lib
cp -r {root}/proxy /opt/poolproxy/lib/
printf '#!/bin/sh\\nPYTHONPATH=/opt/poolproxy/lib exec {python} -m proxy "$@"\\n' \
    >/opt/poolproxy/bin/poolproxy
chmod -R a+rX /opt/poolproxy
chmod a+x /opt/poolproxy/bin/poolproxy
cp {unit} /run/systemd/system/
cd /run/systemd/system
cat >poolproxy.service.d/test.conf <<'END'
[Unit]
DefaultDependencies=no
Wants=
After=
[Service]
Group=operator
Environment="GUNICORN_CMD_ARGS=--bind 127.0.0.1:8317 --bind unix:/run/poolproxy/http"
StandardOutput=file:/run/log
StandardError=file:/run/log
END
printf '[Unit]\\nDefaultDependencies=no\\nWants=poolproxy.service\\n' >test.target
printf %s 'caller-0123456789' >/etc/poolproxy/keys/caller
chmod 600 /etc/poolproxy/keys/caller
cat >/etc/poolproxy/config.yaml <<'END'
api-keys: ['${{file:$CREDENTIALS_DIRECTORY/keys_caller}}']
demo: [{{name: demo}}]
usage: true
END
exec env -i container=test PATH="$PATH" {systemd} --system --unit=test.target
"""


class Machine:
    """Where systemd runs. Nothing of it is left after `close()`."""

    def __init__(self, script: Path) -> None:
        own = ["--pid", "--fork", "--kill-child=KILL", "--mount", "--uts", "--ipc", "--cgroup"]
        with script.with_suffix(".log").open("w") as log:
            self._process = subprocess.Popen(
                ["unshare", *own, "--net", "sh", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._log = script.with_suffix(".log")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        wait_for(lambda: bool(children.read_text()), self._log.read_text)
        self._first = int(children.read_text())

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # its child goes with it, and takes all
        self._process.wait()

    def run(self, *command: str, user: str = "0", group: str = "0") -> tuple[int, str]:
        """The exit status of a command in there, and all that it prints."""
        enter = ["nsenter", "-t", str(self._first), "-m", "-p", "-n", "-C", "-r", "-w"]
        who = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups"]
        done = subprocess.run(
            [*enter, *who, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * PATIENCE_S,
            check=False,
        )
        return done.returncode, done.stdout

    def wait(self, holds: Callable[[], bool]) -> None:
        """Block until it does; raises AssertionError with what was logged."""
        wait_for(holds, lambda: self._log.read_text() + self.run("cat", "/run/log")[1])

    def property(self, name: str) -> str:
        """Of the service."""
        return self.run("systemctl", "show", "--value", "-p", name, "poolproxy")[1].strip()


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    require(os.geteuid() == 0, "needs root")
    require(SYSTEMD.exists() and shutil.which("nsenter"), "there is no systemd")
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("this machine lets nobody have namespaces")
    # One that the service's user may run: a virtual environment may be of a Python in some home.
    python = Path("/usr/bin/python3")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    said = subprocess.run([python, "--version"], capture_output=True, text=True, check=False)
    if f" {version}." not in said.stdout:
        pytest.skip(f"{python} is not Python {version}, for which the packages are")
    packages = Path(pytest.__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "boot.sh")
        script.write_text(
            BOOT.format(packages=packages, root=ROOT, python=python, unit=UNIT, systemd=SYSTEMD)
        )
        made = Machine(script)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.slow
def test_service_runs_as_it_is_shipped(machine: Machine) -> None:
    """READY, a key by LoadCredential, all restrictions, who may ask it, a reload, and its end."""
    machine.wait(lambda: machine.property("ActiveState") in ("active", "failed"))
    assert machine.property("ActiveState") == "active", machine.run("cat", "/run/log")
    models = "http://127.0.0.1:8317/v1/models"
    as_caller = "Authorization: Bearer caller-0123456789"
    status, said = machine.run("curl", "-sS", "--fail-with-body", "-H", as_caller, models)
    assert (status, '"demo"' in said) == (0, True), said
    over_unix = ["--unix-socket", "/run/poolproxy/http", "http://localhost/healthz"]
    assert machine.run("curl", "-sS", *over_unix) == (0, '{"status":"ok"}')
    assert machine.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", models)[1] == "401"

    ask = ["/opt/poolproxy/bin/poolproxy", "status", "--port", "8317"]
    status, said = machine.run(*ask)
    assert (status, "demo    ready" in said) == (0, True), said
    status, said = machine.run(*ask, user="65534", group="37")  # operator's number in Debian
    assert (status, "demo    ready" in said) == (0, True), said
    status, said = machine.run(*ask, user="65534", group="65534")
    assert status == 4, said

    # Root finds the ledger in the StateDirectory, without the service's environment.
    body = '{"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}'
    chat = models.replace("models", "chat/completions")
    assert machine.run("curl", "-sSf", "-H", as_caller, "-d", body, chat)[0] == 0
    usage = [ask[0], "usage", "/etc/poolproxy/config.yaml", "--by", "model,client", "--csv"]
    machine.wait(lambda: "\ndemo,demo,1,0," in machine.run(*usage)[1])

    main = machine.property("MainPID")
    assert machine.run("systemctl", "reload", "poolproxy") == (0, "")
    assert machine.run("curl", "-sS", "-H", as_caller, models)[0] == 0
    assert machine.property("MainPID") == main
    assert machine.run("systemctl", "stop", "poolproxy") == (0, "")
    assert (machine.property("ActiveState"), machine.property("Result")) == ("inactive", "success")
    log = machine.run("cat", "/run/log")[1]
    assert "Traceback" not in log
    assert "warning" not in log.lower()
    assert "unpinned" not in log


@pytest.mark.slow
def test_wrong_configuration_is_not_started_again(machine: Machine) -> None:
    """Exit status 2 is final."""
    machine.wait(lambda: machine.property("ActiveState") in ("active", "failed", "inactive"))
    machine.run("systemctl", "stop", "poolproxy")
    good = machine.run("cat", "/etc/poolproxy/config.yaml")[1]
    machine.run("sh", "-c", "echo 'hosts: x' >/etc/poolproxy/config.yaml")
    try:
        status, said = machine.run("systemctl", "start", "poolproxy")
        assert status != 0, said
        assert machine.property("ActiveState") == "failed"
        assert machine.property("ExecMainStatus") == "2"
        assert machine.property("NRestarts") == "0"
        assert "did you mean" in machine.run("cat", "/run/log")[1]
    finally:
        machine.run("sh", "-c", f"cat >/etc/poolproxy/config.yaml <<'END'\n{good}\nEND")
        machine.run("systemctl", "reset-failed", "poolproxy")
        machine.run("systemctl", "start", "poolproxy")
