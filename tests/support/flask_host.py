"""The example application in a process of its own, on a server that its documentation names."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import shop

from tests.support.gateway import PATIENCE_S, ROOT, START_S, environment, first_status
from tests.support.printed import Printed

FOLDER = ROOT / "examples" / "flask_host"
USER, PASSWORD = "ann", "secret"

# As they stand in the documentation, and where they take an address.
COMMANDS = [
    shlex.split(line)
    for line in (shop.__doc__ or "").splitlines()
    if line.startswith("    ") and "add-user" not in line
]
ADD_USER = next(line for line in (shop.__doc__ or "").splitlines() if "add-user" in line)
_ADDRESS = {
    "flask": ["--port", "0"],
    "gunicorn": ["--bind", "127.0.0.1:0"],
    "waitress-serve": ["--listen", "127.0.0.1:0"],
}


class FlaskHost:
    """The shop on one of its servers. `folder` has its database, and what servers leave at home."""

    def __init__(self, command: list[str], folder: Path, settings: Mapping[str, Any]) -> None:
        self._env = environment(
            HOME=str(folder),
            SHOP_SQLALCHEMY_DATABASE_URI=f"sqlite:///{folder}/shop.db",
            **{f"SHOP_{name}": json.dumps(value) for name, value in settings.items()},
        )
        if not (folder / "shop.db").exists():
            self._run(shlex.split(ADD_USER))
        program, *arguments = command
        address = _ADDRESS[program]
        where = [*arguments, *address] if program == "flask" else [*address, *arguments]
        self._process = subprocess.Popen(
            [_path(program), *where],
            cwd=FOLDER,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._printed = Printed(self._process.stdout)
        try:
            said = re.compile(r"(?:Running|Serving) on http|Listening at: http")
            line = self._printed.wait_for(said.search, START_S)
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            assert found, line
            self.port = int(found[1])
            assert first_status("127.0.0.1", self.port, "/nowhere") == 404
        except BaseException:
            self.close()
            raise
        self.origin = f"http://127.0.0.1:{self.port}"
        self.cookie = ""

    def __enter__(self) -> FlaskHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop it. Idempotent."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(PATIENCE_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._printed.close()

    @property
    def log(self) -> str:
        return self._printed.text

    def wait_for_line(self, pattern: str) -> str:
        """Block until it prints a line with this in it; raises TimeoutError."""
        return self._printed.wait_for(partial(re.search, pattern), PATIENCE_S)

    def log_in(self) -> None:
        """Have the session's cookie sent from now on."""
        form = urlencode({"name": USER, "password": PASSWORD}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        with self.open("POST", "/login", form, headers) as response:
            assert response.status == 302, response.read()
            self.cookie = response.headers["Set-Cookie"].partition(";")[0]

    @contextmanager
    def open(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer to be read as it comes. A body of bytes goes as it is, else as JSON."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        if self.cookie:
            sent.setdefault("Cookie", self.cookie)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, sent)
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """The status and the JSON of a whole answer."""
        with self.open(method, path, body, headers) as response:
            return response.status, json.loads(response.read())

    def _run(self, command: list[str]) -> None:
        program, *arguments = command
        subprocess.run(
            [_path(program), *arguments],
            cwd=FOLDER,
            env=self._env,
            check=True,
            capture_output=True,
            timeout=START_S,
        )


def _path(program: str) -> str:
    """Of the environment that runs the tests."""
    return str(Path(sys.executable).parent / program)
