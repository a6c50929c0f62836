"""Clocks that jump, disks that are full, folders that are not ours: the gateway serves on."""

from __future__ import annotations

import ast
import http.client
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import proxy
from proxy.server.control.sockets import ask_all
from tests.support.commandline import wait_for
from tests.support.gateway import (
    CHAT,
    COMMAND,
    PATIENCE_S,
    ROOT,
    Gateway,
    Lots,
    asked,
    data_of,
    environment,
    run_python,
    text_of,
)
from tests.support.server import free_port
from tests.support.upstream import Gate, Hold, Upstream, chunk, error, events

# Clocks

# What may ask for the time of day: what tells it, or compares it with one that it was told.
WALL = {
    "api/endpoints.py",  # `created` of models
    "usage/ledger.py",  # the day
    "usage/limits.py",  # the same
    "clients/registry.py",  # `created` of models
    "clients/base.py",  # `created` of answers, and an upstream's Retry-After that is a date
    "net/watch.py",  # the clock itself
    "record/record.py",  # when a call came
    "record/transcript.py",  # names of files, and which of them are too old
    "reload.py",  # when the configuration was read
    "server/logs.py",  # the log
    "api/status.py",  # since when a client can't be used
}

ASKS = re.compile(r"^(time\.time|datetime\.(now|fromtimestamp))$|clock\.wall$")

JUMPING = """
import os, time
real = time.time
def jumping():
    try:
        with open({offset!r}) as file:
            return real() + float(file.read() or 0)
    except OSError:
        return real()
time.time = jumping
"""


@pytest.mark.long
def test_waits_do_not_ask_for_the_time_of_day() -> None:
    """It may be set, forwards and backwards; all that is waited for is counted monotonically."""
    package = Path(proxy.__file__).parent
    asking = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ASKS.search(ast.unparse(node))
    }
    assert asking == WALL


@pytest.mark.long
def test_clock_that_jumps(upstream: Upstream, tmp_path: Path) -> None:
    """By a year, there and back, while a stream goes on and a client cools down."""
    offset = tmp_path / "offset"
    (tmp_path / "sitecustomize.py").write_text(JUMPING.format(offset=str(offset)))
    lots = Lots(upstream.url, {1: 3})
    streamed, cooling, usual = lots.take(), lots.take(), lots.take()
    gate = Gate()
    end = events(chunk({"content": "b"}, finish="stop"), "[DONE]").body
    upstream.reply(streamed.key, events(chunk({"content": "a"}), Hold(gate), *end))
    upstream.reply(cooling.key, error(429, headers={"Retry-After": "60"}))
    config = {"openai-compatibility": lots.providers, "queue-timeout": 60}
    with Gateway(config, env={"PYTHONPATH": str(tmp_path)}) as gateway:
        with gateway.open("POST", CHAT, asked(streamed.model, stream=True)) as response:
            first = response.readline() + response.readline()
            assert gateway.chat(cooling.model).status == 429
            for years in (1, -1, 0):
                offset.write_text(str(years * 365 * 86_400))
                refused = gateway.chat(cooling.model)
                assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
                assert 0 < int(refused.headers["retry-after"]) <= 60
                assert gateway.chat(usual.model).status == 200
            gate.set()
            assert text_of(data_of(first + response.read())) == "ab"
        assert all(0 <= int(record["ms"]) < 60_000 for record in gateway.records())


# Disks


@pytest.mark.long
def test_log_on_a_full_disk(tmp_path: Path) -> None:
    """Its lines are lost, the summary too, and no request is."""
    port, path = free_port(), tmp_path / "config.yaml"
    path.write_text(json.dumps({"port": port, "demo": [{"name": "demo"}]}))
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            COMMAND, cwd=ROOT, env=environment(PROXY_CONFIG=str(path)), stdout=full, stderr=full
        )
    try:
        wait_for(lambda: is_answered(port) or process.poll() is not None)
        assert [is_answered(port) for _ in range(5)] == [True] * 5
    finally:
        process.terminate()
        status = process.wait(PATIENCE_S)
    assert status == 0


def is_answered(port: int) -> bool:
    """Whether a request is, which leaves a line in the log."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("POST", CHAT, json.dumps(asked("demo")))
        return connection.getresponse().status == 200
    except ConnectionRefusedError:
        return False
    finally:
        connection.close()


# Folders


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short name, as a socket's address is short."""
    with tempfile.TemporaryDirectory(prefix="pp-") as name:
        yield Path(name)


def read_only(folder: Path) -> None:
    if os.geteuid():
        folder.chmod(0o500)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk cannot be mounted here")


def anothers(folder: Path) -> None:
    if os.geteuid():
        pytest.skip("to give a folder away takes root")
    os.chown(folder, 12_345, 12_345)


def everybodys(folder: Path) -> None:
    folder.chmod(0o777)


@pytest.mark.long
@pytest.mark.parametrize("spoil", [read_only, anothers, everybodys])
def test_control_folder_that_is_none(
    place: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    """It is left alone; the sockets are in the next place, where `status` finds them."""
    folder, other = place / "control", place / "run"
    folder.mkdir()
    other.mkdir()
    spoil(folder)
    config = {"control-dir": str(folder), "demo": [{"name": "demo"}]}
    try:
        with Gateway(config, env={"XDG_RUNTIME_DIR": str(other)}) as gateway:
            assert gateway.chat("demo").status == 200
            assert not list(folder.iterdir())
            assert list(other.glob(f"poolproxy-*/{gateway.port}-*.sock"))
            path = place / "config.yaml"
            path.write_text(json.dumps({**config, "port": gateway.port}))
            monkeypatch.setenv("XDG_RUNTIME_DIR", str(other))
            out = run_python("-m", "proxy", "status", str(path))
            assert f"on port {gateway.port}: 1 worker" in out
    finally:
        if os.path.ismount(folder):
            subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.long
def test_two_instances_in_one_control_folder(place: Path) -> None:
    """Each has its own port there: orders to one don't concern the other, nor does its end."""
    folder = place / "control"
    folder.mkdir(0o700)
    config = {"control-dir": str(folder), "demo": [{"name": "demo"}]}

    def order(gateway: Gateway, what: str) -> list[dict[str, Any]]:
        return ask_all(gateway.port, {"do": what, "client": "demo"}, control_dir=str(folder))

    with Gateway(config) as one:
        with Gateway(config) as other:
            assert [set(answer) for answer in order(other, "disable")] == [
                {"pid", "instance", "version"}
            ]
            assert (one.chat("demo").status, other.chat("demo").status) == (200, 503)
        assert not order(other, "enable")
        assert order(one, "disable")
        assert one.chat("demo").status == 503
    assert not list(folder.iterdir())
