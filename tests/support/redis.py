"""A real redis-server of a test's own: on a Unix socket and a free port, in a temporary folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.server import PATIENCE_S, free_port

# redis-py itself would try again for seconds.
ONCE = Retry(NoBackoff(), 0)

IN_CI = os.environ.get("CI") == "true"

PROGRAM = shutil.which("redis-server")


def require_redis() -> None:
    """Skip the calling module where there is no redis-server; fail in CI, which installs it."""
    if PROGRAM is None:
        if IN_CI:
            pytest.fail("redis-server is not installed")
        pytest.skip("redis-server is not installed", allow_module_level=True)


class RedisServer:
    """Runs from its construction to `close`. `options` are those of its command line.

    `url` is by TCP on `host`, `unix_url` by its socket. It keeps nothing over a restart unless
    `options` say so. `enter`: what its command begins with, to run on another network.
    """

    def __init__(
        self, *options: str, host: str = "127.0.0.1", port: int = 0, enter: Sequence[str] = ()
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="redis-")
        self._options = options
        self._enter = enter
        self.host = host
        self.port = port
        self.socket = f"{self._directory.name}/redis.sock"
        self._log = f"{self._directory.name}/log"
        try:
            self.start()
        except BaseException:
            self._directory.cleanup()
            raise

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it, again after `stop`: on the same port, and as a rule empty."""
        assert PROGRAM is not None
        for _ in range(20):
            port = self.port or free_port()
            command = [*self._enter, PROGRAM, "--port", str(port), "--bind", self.host]
            command += ["--save", ""]
            command += ["--unixsocket", self.socket, "--dir", self._directory.name]
            command += ["--logfile", self._log]
            self._process = subprocess.Popen([*command, *self._options], cwd=self._directory.name)
            if self._answers():
                self.port = port
                return
            said = Path(self._log).read_text()
            if self.port or "Address already in use" not in said:
                raise RuntimeError(said)

    def _answers(self) -> bool:
        """Whether it came to serve; False: it has ended."""
        until = time.monotonic() + PATIENCE_S
        while self._process.poll() is None:
            try:
                with self.client() as client:
                    client.ping()
            except redis.AuthenticationError:
                return True
            except redis.ConnectionError:
                assert time.monotonic() < until, "redis-server does not answer"
                time.sleep(0.01)
            else:
                return True
        return False

    def client(self, *, decode_responses: bool = True) -> redis.Redis:
        """A plain client, to look into it; a context manager."""
        return redis.Redis(
            unix_socket_path=self.socket, decode_responses=decode_responses, retry=ONCE
        )

    def stop(self, *, how: signal.Signals = signal.SIGKILL) -> None:
        """End it: callers are refused from then on."""
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(how)
        self._process.wait(PATIENCE_S)

    def restart(self, *, away_s: float = 0.0) -> None:
        """Kill it, and start it again so many seconds later."""
        self.stop()
        time.sleep(away_s)
        self.start()

    def flush(self) -> None:
        """Have it forget everything (FLUSHALL)."""
        with self.client() as client:
            client.flushall()

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Meanwhile it takes connections, and answers nothing (SIGSTOP)."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def cpu_s(self) -> float:
        """Seconds of CPU that it has used."""
        with self.client() as client:
            info = client.info("cpu")
        return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])

    def close(self) -> None:
        """End it and remove its folder. Idempotent."""
        if self._process.poll() is None:
            self.stop()
        self._directory.cleanup()
