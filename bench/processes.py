"""Starting processes and ending them: each leads a session of its own and is ended by its id."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import trustme

from bench.load import Outcome, Scenario

ROOT = Path(__file__).resolve().parent.parent
_GRACE_S = 3.0
_START_S = 20.0
_HARNESS = (sys.executable, "-S", "-m")  # -S: the mock and the load need nothing installed


class BenchError(Exception):
    """The benchmark cannot go on; the message says what to do."""


def environment(extra: Mapping[str, str] = os.environ) -> dict[str, str]:
    """This process's environment and `extra`, less outbound proxies: all is on loopback."""
    merged = {**os.environ, **extra}
    return {key: value for key, value in merged.items() if not key.lower().endswith("_proxy")}


def end(process: subprocess.Popen[bytes], *, by: signal.Signals = signal.SIGTERM) -> None:
    """End the process and whatever is left of its session; waits `_GRACE_S` at most."""
    if process.poll() is None:
        process.send_signal(by)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()


@contextlib.contextmanager
def mock_upstream(*arguments: str) -> Iterator[tuple[int, int]]:
    """Run the mock; yields its process id and port."""
    process = subprocess.Popen(
        [*_HARNESS, "bench.mock", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        end(process)


@contextlib.contextmanager
def tls_upstream() -> Iterator[tuple[int, Path]]:
    """Run the mock with TLS; yields its port, and a file of the authority that vouches for it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        authority, certificate = Path(folder) / "authority.pem", Path(folder) / "server.pem"
        made = trustme.CA()
        made.cert_pem.write_to_path(str(authority))
        server = made.issue_cert("localhost", "127.0.0.1")
        server.private_key_and_cert_chain_pem.write_to_path(str(certificate))
        with mock_upstream(str(certificate)) as (_, port):
            yield port, authority


@contextlib.contextmanager
def generating(scenario: Scenario) -> Iterator[LoadRun]:
    """Run the load generator on a scenario; ends it if the block is left early."""
    process = subprocess.Popen(
        [*_HARNESS, "bench.load"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield LoadRun(process, scenario)
    finally:
        end(process)


class LoadRun:
    """A load generator at work."""

    def __init__(self, process: subprocess.Popen[bytes], scenario: Scenario) -> None:
        self._process = process
        self._limit_s = scenario.last_s + _START_S
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(scenario)).encode())
        process.stdin.close()
        process.stdin = None

    def outcome(self) -> Outcome:
        """Wait for the end of the run."""
        output, _ = self._process.communicate(timeout=self._limit_s)
        if self._process.returncode:
            raise BenchError("the load generator failed; see its message above")
        return Outcome(**json.loads(output))


def generate(scenario: Scenario) -> Outcome:
    """Run the load generator on a scenario to its end."""
    with generating(scenario) as run:
        return run.outcome()
