"""A real Prometheus that scrapes, from its construction to `close()`, and promtool."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.commandline import wait_for
from tests.support.gateway import PATIENCE_S
from tests.support.server import free_port

PROGRAM, TOOL = shutil.which("prometheus"), shutil.which("promtool")


def require_prometheus() -> None:
    """Skip the calling test module where there is none; fail in CI, which installs it."""
    if PROGRAM is None or TOOL is None:
        if os.environ.get("CI") == "true":
            pytest.fail("prometheus is not installed")
        pytest.skip("prometheus is not installed", allow_module_level=True)


def faults_of(text: bytes) -> str:
    """What promtool has to say of a scrape; "": nothing."""
    assert TOOL is not None
    done = subprocess.run(
        [TOOL, "check", "metrics"], input=text, capture_output=True, timeout=PATIENCE_S, check=False
    )
    said = (done.stdout + done.stderr).decode()
    assert (done.returncode == 0) == (not said), said
    return said


class Prometheus:
    """A running Prometheus with this configuration, which scrapes each second."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="prometheus-")
        at, self._port, self._log = Path(self._directory.name), free_port(), b""
        often = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        (at / "prometheus.yml").write_text(json.dumps({"global": often, **config}))
        assert PROGRAM is not None
        command = [PROGRAM, f"--config.file={at}/prometheus.yml", f"--storage.tsdb.path={at}/data"]
        command.append(f"--web.listen-address=127.0.0.1:{self._port}")
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=at)
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._reader.join()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._directory.cleanup()

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._log += line

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer of its API; None while it does not answer."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def value(self, expression: str) -> float | None:
        """What an expression comes to now; None: there is nothing."""
        found = self.ask("query", query=expression)
        return float(found["result"][0]["value"][1]) if found and found["result"] else None

    def wait_for(self, expression: str, value: float) -> None:
        """Block until it comes to this; raises TimeoutError."""
        wait_for(
            lambda: self.value(expression) == value,
            lambda: f"{expression} is {self.value(expression)}\n{self._log.decode()}",
        )
