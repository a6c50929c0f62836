"""The files that `request-log` asks for: each request and its whole answer, with keys masked.

The files are in `request-logs`, beside the configuration file or in the working directory. Their
sections are named as in CLIProxyAPI's. The request is written before an upstream is asked, and each
piece of a stream as it leaves, so that a crash leaves what there was; no file stays open between
writes. A request does not fail because its file cannot be written, and the next one tries again.

Every secret of the configuration is masked, unless a model spells it in pieces. So is every header
of the caller whose name says that it holds a secret.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from ..config import Config, is_secret_name, mask
from .record import Record

log = logging.getLogger("proxy")

DIRECTORY = "request-logs"

# While files cannot be written, the log says so this often, at most.
WARNING_PAUSE_S = 60.0

_UNSAFE_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


class RequestLog:
    """Makes the files of one gateway. Touches no disk before the first request."""

    def __init__(self, config: Config) -> None:
        place = os.path.join(os.path.dirname(config.path), DIRECTORY)
        self.directory = os.path.abspath(place)  # whatever directory the process goes to later
        self.secrets = config.secrets
        self._lock = threading.Lock()  # guards _warned_at
        self._warned_at = -math.inf

    def create(self, request_id: str, data: bytes) -> str:
        """Make a new file that holds `data`, and return its path. Raises OSError."""
        with suppress(FileExistsError):  # if it is no directory, to open a file in it fails
            os.mkdir(self.directory, 0o700)
        safe_id = _UNSAFE_IN_NAMES.sub("_", self.secrets.mask(request_id))
        stem = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%fZ}-{safe_id}"
        name, again = f"{stem}.log", 1
        while True:
            path = os.path.join(self.directory, name)
            try:
                _write(path, "xb", data)
            except FileExistsError:  # callers choose ids, and may repeat them
                again += 1
                name = f"{stem}-{again}.log"
            except OSError:  # the file may be there, and none of the data, or half of it
                with suppress(OSError):
                    os.unlink(path)
                raise
            else:
                return path

    def warn(self, error: OSError) -> None:
        """Warn that requests are not logged, once in a while."""
        now = time.monotonic()
        with self._lock:
            is_due = now - self._warned_at >= WARNING_PAUSE_S
            if is_due:
                self._warned_at = now
        if is_due:
            log.warning(
                "requests are not logged as request-log asks: cannot write in %s: %s",
                self.directory,
                error.strerror or error,
            )


class Transcript:
    """The file of one request, written by the thread that serves it. Making it writes nothing.

    A unary answer is written when the request is over and its lease is given back. An error is
    written at once, because its answer is made later than that.
    """

    def __init__(self, owner: RequestLog, record: Record, environ: Mapping[str, Any]) -> None:
        self.body = b""  # the request's, as far as it came
        self._owner = owner
        self._record = record
        self._environ = environ
        self._answer: bytes | None = None  # to be written at the end
        self._is_answered = False
        self._is_begun = False
        self._is_broken = False
        self._path = ""
        self._tail = b""  # of the stream: may be the beginning of a key

    def begin(self) -> None:
        """Write the request, with what is known of it. Idempotent."""
        if self._is_begun:
            return
        self._is_begun = True
        record = self._record
        facts = {
            "Request-Id": record.request_id,
            "Time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "Method": str(self._environ.get("REQUEST_METHOD", "")),
            "Endpoint": json.dumps(record.endpoint),
            "Caller": json.dumps(record.caller),
            "Model": json.dumps(record.model),
        }
        data = b"".join(
            [
                _section("REQUEST INFO", _lines(facts.items())),
                _section("HEADERS", _lines(_shown_headers(self._environ))),
                _section("REQUEST BODY", self.body + b"\n"),
            ]
        )
        self.body = b""
        self._put(self._owner.secrets.mask_bytes(data))

    def answer(
        self, status: int, headers: Sequence[tuple[str, str]], body: bytes | None = None
    ) -> None:
        """Keep the answer to write it at the end. The head of a stream (no body) is written now."""
        self.begin()
        attempts = "".join([f"{attempt}\n" for attempt in self._record.attempts])
        self._answer = b"".join(
            [
                _section("ATTEMPTS", attempts.encode("utf-8", "backslashreplace")),
                f"=== RESPONSE ===\nStatus: {status}\n".encode(),
                _lines(headers),
                b"\n",
                body or b"",
            ]
        )
        self._is_answered = True
        if body is None:
            self._put_answer()
        elif self._record.ended is not None:
            self.end()

    def write(self, data: bytes) -> None:
        """Write the next piece of a stream, which is going to the caller now."""
        ready, self._tail = self._owner.secrets.split(self._tail + data)
        if ready:
            self._put(ready)

    def end(self) -> None:
        """Write the end of the file. Does nothing while the answer is still to come."""
        if self._is_answered:
            self._put_answer()
            line = self._record.line().encode("utf-8", "backslashreplace")
            self._put(self._owner.secrets.mask_bytes(self._tail + b"\n\n" + _section("END", line)))

    def _put_answer(self) -> None:
        if self._answer is not None:
            self._put(self._owner.secrets.mask_bytes(self._answer))
            self._answer = None

    def _put(self, data: bytes) -> None:
        """Append data that is masked already. Does nothing after a failure."""
        if self._is_broken:
            return
        try:
            if self._path:
                _write(self._path, "ab", data)
            else:
                self._path = self._owner.create(self._record.request_id, data)
        except OSError as error:
            self._is_broken = True
            self._owner.warn(error)


def _shown_headers(environ: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The caller's headers with credentials masked, and names as they are usually spelled."""
    for key, value in environ.items():
        if key.startswith("HTTP_") or key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = key.removeprefix("HTTP_").replace("_", "-").title()
            # Latin-1 stands for bytes (PEP 3333).
            text = value.encode("latin-1", "replace").decode("utf-8", "backslashreplace")
            yield name, _masked(name, text) if is_secret_name(name) else text


def _masked(name: str, value: str) -> str:
    """A header's value, masked except the scheme of credentials (RFC 9110 section 11.4)."""
    scheme, space, credentials = value.partition(" ")
    if space and scheme.isalpha() and name.endswith("Authorization"):
        return f"{scheme} {mask(credentials.strip())}"
    return mask(value)


def _section(title: str, content: bytes) -> bytes:
    return f"=== {title} ===\n".encode() + content + b"\n"


def _lines(fields: Iterable[tuple[str, str]]) -> bytes:
    return "".join([f"{name}: {value}\n" for name, value in fields]).encode()


def _write(path: str, mode: str, data: bytes) -> None:
    """Open, write, close: no descriptor is held while a stream waits for its upstream."""
    with open(path, mode, opener=_open_private) as file:
        file.write(data)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
