"""A real nginx in front of the gateway, from its construction to `close()`; in no need of root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from tests.support.gateway import PATIENCE_S
from tests.support.server import free_port

# Debian's is in a directory that only root has on its PATH.
PROGRAM = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

_MAIN = """
{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr notice;
events {{}}
http {{
    access_log off;
    client_body_temp_path bodies;
    proxy_temp_path answers;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include servers.conf;
}}
"""


def require_nginx() -> None:
    """Skip the calling test module where there is no nginx; fail in CI, which installs it."""
    if PROGRAM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("nginx is not installed")
        pytest.skip("nginx is not installed", allow_module_level=True)


class Nginx:
    """A running nginx with the servers of `servers`, in which `{port}` is where to listen."""

    def __init__(self, servers: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="nginx-")
        self._servers = servers
        self.log = ""
        try:
            self._process = self._start()
        except BaseException:
            self._directory.cleanup()
            raise

    def __enter__(self) -> Nginx:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop it; fails if it complained of more than callers and upstreams."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE_S)
            finally:
                self._process.kill()
                self._reader.join()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._directory.cleanup()
        for bad in ("[crit]", "[alert]", "[emerg]"):
            assert bad not in self.log, self.log

    def _start(self) -> subprocess.Popen[str]:
        self.port = free_port()
        self._write_files()
        check = subprocess.run(
            self._command("-t"), capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert check.returncode == 0, check.stderr
        process = subprocess.Popen(self._command(), stderr=subprocess.PIPE, text=True)
        if not self._wait_ready(process):
            _, rest = process.communicate(timeout=PATIENCE_S)
            raise RuntimeError(self.log + rest)
        self._reader = threading.Thread(target=self._read_log, args=(process,))
        self._reader.start()
        return process

    def _wait_ready(self, process: subprocess.Popen[str]) -> bool:
        """Whether it came to serve: its socket is bound before its worker starts."""
        assert process.stderr is not None
        for line in process.stderr:
            self.log += line
            if "start worker process " in line:
                return True
        return False

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        """All the time, or nginx would wait for it when it has a lot to say."""
        assert process.stderr is not None
        for line in process.stderr:
            self.log += line

    def _command(self, *more: str) -> list[str]:
        assert PROGRAM is not None
        at = self._directory.name
        return [PROGRAM, "-p", at, "-c", f"{at}/nginx.conf", "-e", "stderr", *more]

    def _write_files(self) -> None:
        at = Path(self._directory.name)
        # Started by root, its workers would be of another user, who cannot write here.
        user = "user root;" if os.geteuid() == 0 else ""
        (at / "nginx.conf").write_text(_MAIN.format(user=user))
        (at / "servers.conf").write_text(self._servers.replace("{port}", str(self.port)))
