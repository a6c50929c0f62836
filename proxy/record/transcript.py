"""The files that `request-log` asks for: each request and its whole answer, with keys masked.

Their sections are named as in CLIProxyAPI's. The request is written before an upstream is asked,
and each piece of a stream as it leaves, after its time, so that a crash leaves what there was; no
file stays open between writes. A request does not fail because its file cannot be written, and the
next one tries again.

The folder is kept within `request-log-max-bytes` and `request-log-days`: the oldest files go, as
requests come, in a thread of its own. All workers write there, and each of them removes.

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
from datetime import datetime, timedelta, timezone
from typing import Any

from ..config import Config, is_secret_name, mask
from ..net.helpers import HelperThreads, Task
from .record import Record

log = logging.getLogger("proxy")

DIRECTORY = "request-logs"
WARNING_PAUSE_S = 60.0  # so often the log says that files cannot be written, at most

# Of the bytes that may be kept an eighth is left free, and a worker looks at the folder each time
# that it has written an eighth of that: so many workers together stay within.
_FREE_SHARE = 8
_LOOKS_PER_FREE = 8
_LOOK_S = 3600.0  # and at least so often, for what is too old

_OURS = re.compile(r"\d{8}T\d{6}\.\d{6}Z-.*\.log")
_UNSAFE_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")

_threads = HelperThreads("request-log", 1)


class RequestLog:
    """Makes the files of one gateway. Touches no disk before the first request."""

    def __init__(self, config: Config) -> None:
        name = os.path.expanduser(config.request_log_dir or DIRECTORY)
        place = os.path.join(os.path.dirname(config.path), name)
        self.directory = os.path.abspath(place)  # whatever directory the process goes to later
        self.secrets = config.secrets
        self._max_bytes = config.request_log_max_bytes
        self._max_age = timedelta(days=config.request_log_days)
        self._warned_at = -math.inf  # without a lock: the worst is a second line
        self._lock = threading.Lock()  # guards _new_bytes, _looks_at
        self._new_bytes = 0  # since the last look at the folder
        self._looks_at = -math.inf

    def create(self, request_id: str, data: bytes) -> str:
        """Make a new file that holds `data`, and return its path. Raises OSError."""
        with suppress(FileExistsError):  # if it is no directory, to open a file in it fails
            os.makedirs(self.directory, 0o700)
        safe_id = _UNSAFE_IN_NAMES.sub("_", self.secrets.mask(request_id))
        while True:
            path = os.path.join(self.directory, f"{_stamp(timedelta())}-{safe_id}.log")
            try:
                _write(path, "xb", data)
            except FileExistsError:  # callers choose ids, and may repeat them at one moment
                continue
            except OSError:  # the file may be there, and none of the data, or half of it
                with suppress(OSError):
                    os.unlink(path)
                raise
            return path

    def wrote(self, number: int) -> None:
        """Note that so many bytes were written; if it is time, have the folder looked at."""
        now = time.monotonic()
        with self._lock:
            self._new_bytes += number
            is_much = self._new_bytes * _FREE_SHARE * _LOOKS_PER_FREE > self._max_bytes
            if is_due := is_much or now >= self._looks_at:
                self._new_bytes, self._looks_at = 0, now + _LOOK_S
        if is_due:
            with suppress(RuntimeError):  # no thread can be had; the next time it may be
                _threads.start(Task(self._remove_oldest))

    def _remove_oldest(self) -> None:
        """In a helper thread. Whatever else is in the folder is left alone."""
        with suppress(OSError), os.scandir(self.directory) as entries:
            found = sorted(  # no list of entries, as each keeps a KB that `stat` told
                (one.name, one.stat().st_size)
                for one in entries
                if _OURS.fullmatch(one.name) and one.is_file(follow_symlinks=False)
            )
            too_old = _stamp(self._max_age)
            surplus = sum(size for _, size in found) - self._max_bytes * (1 - 1 / _FREE_SHARE)
            for name, size in found:
                if name >= too_old and surplus <= 0:
                    break
                try:
                    os.unlink(os.path.join(self.directory, name))
                except FileNotFoundError:  # another worker was quicker
                    pass
                except OSError:  # another user's: a newer one has to go
                    continue
                surplus -= size

    def warn(self, error: OSError) -> None:
        """Warn that requests are not logged, once in a while."""
        now = time.monotonic()
        if now - self._warned_at >= WARNING_PAUSE_S:
            self._warned_at = now
            text = "requests are not logged as request-log asks: cannot write in %s: %s"
            log.warning(text, self.directory, error.strerror or error)


class Transcript:
    """The file of one request, written by the thread that serves it. Making it writes nothing."""

    def __init__(self, owner: RequestLog, record: Record, environ: Mapping[str, Any]) -> None:
        self.body = b""  # the request's, as far as it came
        self._owner = owner
        self._record = record
        self._environ = environ
        self._began = time.monotonic()
        self._answer: bytes | None = None  # what is not written yet of it, once it is known
        self._is_broken = False
        self._path = ""
        self._tail = b""  # of the stream: may be the beginning of a key

    def begin(self) -> None:
        """Write the request, with what is known of it. Idempotent."""
        if self._path or self._is_broken:
            return
        record = self._record
        facts = {
            "Request-Id": record.request_id,
            "Time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "Method": str(self._environ.get("REQUEST_METHOD", "")),
            "Endpoint": json.dumps(record.endpoint),
            "Caller": json.dumps(record.caller),
            "Model": json.dumps(record.model),
        }
        data = _section("REQUEST INFO", _lines(facts.items()))
        data += _section("HEADERS", _lines(_shown_headers(self._environ)))
        data += _section("REQUEST BODY", self.body + b"\n")
        self.body = b""
        self._put(self._owner.secrets.mask_bytes(data))

    def answer(self, status: int, headers: Sequence[tuple[str, str]], body: Any) -> None:
        """Keep bytes to write them at the end. A stream's `tap` writes as it goes, its head now."""
        self.begin()
        attempts = "".join([f"{attempt}\n" for attempt in self._record.attempts])
        head = _section("ATTEMPTS", attempts.encode("utf-8", "backslashreplace"))
        head += f"=== RESPONSE ===\nStatus: {status}\n".encode() + _lines(headers) + b"\n"
        if not isinstance(body, bytes):
            self._put(self._owner.secrets.mask_bytes(head))
            self._answer = b""
            body.tap = self.write
            return
        self._answer = head + body
        if self._record.ended is not None:
            self.end()

    def write(self, data: bytes) -> None:
        """Write the next piece of a stream, which is going to the caller now, after its time."""
        ready, self._tail = self._owner.secrets.split(self._tail + data)
        if ready:
            self._put(f"--- {time.monotonic() - self._began:.3f} s\n".encode() + ready)

    def end(self) -> None:
        """Write the end of the file. Does nothing while the answer is still to come."""
        if self._answer is not None:
            line = self._record.line().encode("utf-8", "backslashreplace")
            rest = self._answer + self._tail + b"\n\n" + _section("END", line)
            self._put(self._owner.secrets.mask_bytes(rest))
            self._record.transcript = None  # else both would live until a garbage collection

    def _put(self, data: bytes) -> None:
        """Append data that is masked already. Does nothing after a failure."""
        if self._is_broken:
            return
        try:
            if self._path:
                _write(self._path, "ab", data)
            else:
                self._path = self._owner.create(self._record.request_id, data)
            self._owner.wrote(len(data))
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


def _stamp(ago: timedelta) -> str:
    """What the name of a file begins with that was made so long ago."""
    return f"{datetime.now(timezone.utc) - ago:%Y%m%dT%H%M%S.%fZ}"


def _section(title: str, content: bytes) -> bytes:
    return f"=== {title} ===\n".encode() + content + b"\n"


def _lines(fields: Iterable[tuple[str, str]]) -> bytes:
    return "".join([f"{name}: {value}\n" for name, value in fields]).encode()


def _write(path: str, mode: str, data: bytes) -> None:
    """Open, write, close: no descriptor is held while a stream waits for its upstream."""
    with open(path, mode, opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(data)
