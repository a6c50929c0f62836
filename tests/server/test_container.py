"""deploy/Containerfile: its steps are done, and its program runs as a container's would.

No container engine is needed: the base image's root is this machine's, with a layer above it that
takes what is written, and with this Python in /usr/local, where the image has its own.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.support.commandline import wait_for
from tests.support.gateway import PATIENCE_S, ROOT, curl, environment
from tests.support.server import free_port

KEY = "caller-0123456789"


class Step(NamedTuple):
    word: str
    rest: str


def steps() -> list[Step]:
    """The instructions of the Containerfile."""
    text = (ROOT / "deploy" / "Containerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    return [Step(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def last(word: str) -> str:
    """What the image's last instruction of this kind says."""
    return [step.rest for step in steps() if step.word == word][-1]


def test_image_has_the_shipped_configuration_for_callers_from_elsewhere() -> None:
    """Except that it listens everywhere, and wants a key of its callers."""
    shipped, image = (
        yaml.safe_load((ROOT / name).read_text())
        for name in ("config.yaml", "deploy/container.yaml")
    )
    assert image == {**shipped, "host": "0.0.0.0", "api-keys": ["${POOLPROXY_API_KEY}"]}


def test_image_runs_as_nobody_in_particular_and_tells_its_health() -> None:
    """And what it copies is there, and is all that there is to install."""
    assert last("USER") == "65532:65532"
    assert json.loads(last("HEALTHCHECK").partition("CMD ")[2]) == ["poolproxy", "health"]
    assert last("STOPSIGNAL") == "SIGTERM"
    copied: list[str] = []
    for step in steps():
        if step.word == "COPY" and not step.rest.startswith("--from"):
            *sources, _ = step.rest.split()
            assert [name for name in sources if not (ROOT / name).exists()] == []
            copied += sources
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    modules = setup["options"]["py_modules"].split()
    assert {"proxy", *(f"{name}.py" for name in modules)} <= set(copied)


def build() -> str:
    """A script that does the steps, and then leaves a root that nobody can write to."""
    lines = [
        "set -e",
        'CHROOT=$(PATH="$PATH:/usr/sbin" command -v chroot)',
        "mount --make-rprivate /",
        'mount -t tmpfs tmpfs "$WORK"',
        'mkdir -p "$WORK/up" "$WORK/work" "$WORK/root"',
        'R="$WORK/root"',
        'mount -t overlay -o "lowerdir=/,upperdir=$WORK/up,workdir=$WORK/work" overlay "$R"',
        'mount --bind /dev "$R/dev"',
        'mount -t proc proc "$R/proc"',
        'mount --bind "$PYTHON" "$R/usr/local"',
        'mount -t tmpfs tmpfs "$R/tmp"',
        'mount -t tmpfs tmpfs "$R/opt"',
        "export PATH=/usr/local/bin:/usr/bin:/bin LD_LIBRARY_PATH=/usr/local/lib",
    ]
    place = "/"
    for word, rest in steps():
        if word == "FROM":
            place = "/"
            lines.append("umask 022")
        elif word == "WORKDIR":
            place = rest
            lines.append(f'mkdir -p "$R{place}"')
        elif word == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            at = os.path.normpath(os.path.join(place, target))
            for source in sources:
                # A folder's content goes to the target, a file into it.
                if (ROOT / source).is_dir() or not target.endswith("/"):
                    lines.append(f'mkdir -p "$(dirname "$R{at}")"; cp -rT {ROOT}/{source} "$R{at}"')
                else:
                    lines.append(f'cp {ROOT}/{source} "$R{at}/"')
        elif word == "COPY":
            _, source, target = rest.split()
            assert source == target  # there is one root for both stages
        elif word == "ENV":
            lines.append(f"export {rest}")
        elif word == "RUN":
            lines.append(f'"$CHROOT" "$R" sh -ec {shlex.quote(f"cd {place} && {rest}")} >&2')
    return "\n".join(lines)


RUN = """
if [ -n "${MOUNTED-}" ]; then mount --bind "$MOUNTED" "$R$PROXY_CONFIG"; fi
mount -t tmpfs tmpfs "$R/dev/shm"
umount "$R/tmp"
mount -o remount,ro "$R"
mount -o remount,ro "$R/opt" 2>/dev/null || mount -o remount,ro,bind "$R/opt"
"""


@pytest.fixture(scope="module")
def script() -> Iterator[Path]:
    """Builds and runs the image, as process 1 of namespaces of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root, and unshare")
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("this machine lets nobody have namespaces")
    user = last("USER")
    words = json.loads(last("ENTRYPOINT")) + json.loads(last("CMD"))
    program = f'exec "$CHROOT" --userspec={user} "$R" {shlex.join(words)}\n'
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.sh")
        path.write_text(f"{build()}\n{RUN}{program}")
        yield path


class Container:
    """A running one; `pid`: of its process 1."""

    def __init__(self, process: subprocess.Popen[str], pid: int, port: int) -> None:
        self._process = process
        self._pid = pid
        self.url = f"http://127.0.0.1:{port}"

    def run(self, *command: str) -> tuple[int, str]:
        """In it, as its user: exit status and output."""
        settings = Path(f"/proc/{self._pid}/environ").read_bytes().rstrip(b"\0").split(b"\0")
        env = dict(each.decode().split("=", 1) for each in settings)
        enter = ["nsenter", "-t", str(self._pid), "-m", "-p", "-r", "-w"]
        user, _, group = last("USER").partition(":")
        who = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups"]
        done = subprocess.run(
            [*enter, *who, *command], env=env, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def stop(self) -> int:
        """The exit status of its process 1 after SIGTERM; whatever it started is gone with it."""
        os.kill(self._pid, signal.SIGTERM)
        return self._process.wait(PATIENCE_S)


@contextmanager
def container(script: Path, **env: str) -> Iterator[Container]:
    """One that serves."""
    port = free_port()
    log_path = script.with_name("log")
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]
    with tempfile.TemporaryDirectory() as work, log_path.open("w") as log:
        process = subprocess.Popen(
            [*own, "sh", str(script)],
            env=environment(WORK=work, PYTHON=sys.base_prefix, PORT=str(port), **env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            # The build downloads what it installs.
            for _ in range(6):
                try:
                    wait_for(
                        lambda: (
                            "poolproxy on" in log_path.read_text() or process.poll() is not None
                        ),
                        log_path.read_text,
                    )
                    break
                except TimeoutError:
                    continue
            assert process.poll() is None, log_path.read_text()
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            yield Container(process, int(children), port)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said = log_path.read_text()
    assert "Traceback" not in said, said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_container_serves_what_its_environment_says(script: Path) -> None:
    """As another user, with nothing to write to but memory, within its cpuset; ends at SIGTERM."""
    with container(script, POOLPROXY_API_KEY=KEY) as running:
        chat = f"{running.url}/v1/chat/completions"
        body = '{"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}'
        answer = json.loads(curl("-H", f"Authorization: Bearer {KEY}", "-d", body, chat))
        assert answer["choices"][0]["message"]["content"]
        assert json.loads(curl("-d", body, chat))["error"]["code"] == "invalid_api_key"
        assert running.run("poolproxy", "health") == (0, "ok\n")
        status, said = running.run("poolproxy", "status")
        assert (status, "demo" in said) == (0, True), said
        for path in ("/", "/etc/poolproxy", "/opt/poolproxy", "/tmp"):
            assert "Read-only" in running.run("touch", f"{path}/x")[1], path
        assert running.run("id", "-u") == (0, "65532\n")
        assert running.stop() == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_container_serves_a_file_that_is_mounted(script: Path, tmp_path: Path) -> None:
    """In place of the image's own; its health is asked where that file says."""
    file = tmp_path / "mounted.yaml"
    tree = {"host": "", "port": "${PORT}", "api-keys": [KEY], "demo": [{"models": ["mine"]}]}
    file.write_text(json.dumps(tree))
    file.chmod(0o644)
    with container(script, MOUNTED=str(file)) as running:
        models = curl("-H", f"Authorization: Bearer {KEY}", f"{running.url}/v1/models")
        assert [each["id"] for each in json.loads(models)["data"]] == ["mine"]
        assert running.run("poolproxy", "health") == (0, "ok\n")
        assert running.stop() == 0
