"""Writes the server's log to standard error, a line for each record, without a lock.

Nor does a request wait for a reader: where nobody reads standard error (a pipe, a terminal that is
stopped), lines are lost and counted, and requests go on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import stat
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from functools import cache, partial

import msgspec
from gunicorn.http.errors import NoMoreData  # type: ignore[import-untyped]

from ..record.record import Record

_STDOUT, _STDERR = 1, 2  # descriptors: gunicorn's `--capture-output` may have put a file there

# How long the first line that finds no room waits: a reader may be slow for a moment. Later lines
# do not wait, until there is room again.
_ROOM_WAIT_S = 0.1


class _Formatter(logging.Formatter):
    """`TIME LEVEL LOGGER MESSAGE`, or one JSON object with these, the call and the traceback."""

    as_json = False

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """In ISO 8601, with the zone."""
        moment = datetime.fromtimestamp(record.created).astimezone()
        return moment.isoformat(timespec="milliseconds")

    def format(self, record: logging.LogRecord) -> str:
        if not self.as_json:
            return super().format(record)
        told = {"time": self.formatTime(record), "level": record.levelname, "logger": record.name}
        told["message"] = record.getMessage()
        if (call := getattr(record, "call", None)) is not None:
            told["call"] = msgspec.to_builtins(call)
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


# That of all lines, gunicorn's included.
_FORMATTER = _Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")


def set_up_logs(*, debug: bool, as_json: bool = False) -> None:
    """Have this process write the log of `proxy`. An embedding application sets up its own."""
    _FORMATTER.as_json = Record.logs_call = as_json
    log = logging.getLogger("proxy")
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    # Our lines do not say where in the code, or by which thread, they were logged:
    # docs.python.org/3/howto/logging.html, "Optimization".
    logging._srcfile = None
    logging.logThreads = logging.logMultiprocessing = False
    if not log.handlers:
        handler = _LineHandler()
        handler.setFormatter(_FORMATTER)
        log.addHandler(handler)
        log.propagate = False
        logging.getLogger("gunicorn.error").addFilter(_is_ours_to_tell)


def unblock_gunicorns_logs() -> None:
    """Have gunicorn's loggers, when it has set them up, write to standard streams as ours does."""
    for name in ("gunicorn.error", "gunicorn.access"):
        log = logging.getLogger(name)
        for old in log.handlers[:]:
            if type(old) is logging.StreamHandler:
                handler = _LineHandler(_STDOUT if old.stream is sys.stdout else _STDERR)
                is_default = name == "gunicorn.error" and getattr(old, "_gunicorn", False)
                handler.setFormatter(_FORMATTER if is_default else old.formatter)
                handler._gunicorn = True  # type: ignore[attr-defined]  # by which it finds its own
                log.removeHandler(old)
                log.addHandler(handler)


class _LineHandler(logging.Handler):
    """Writes each record to a descriptor by itself, so that no thread waits for another's."""

    def __init__(self, fd: int = _STDERR) -> None:
        super().__init__()
        self._lines = _lines_to(fd)

    def handle(self, record: logging.LogRecord) -> bool:
        try:
            self._lines.write(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except Exception:  # as logging's own handlers: never the request's matter
            self.handleError(record)
        return True


class _Lines:
    """Writes lines to a descriptor without waiting for its reader; counts those that are lost.

    O_NONBLOCK would hold for whoever shares the open file, such as the shell that started us: so a
    pipe or a terminal is opened anew, and a socket is written to with MSG_DONTWAIT. Where that is
    not allowed writes may block as they always did.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._send: Callable[[bytes], int] | None = None
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Also in a child: gunicorn may have put a file in the descriptor's place."""
        self._lock = threading.Lock()  # held to count what is lost, and while _send is made
        self._lost = 0
        self._parents, self._send = self._send, None  # a child must not close its parent's

    def write(self, data: bytes) -> None:
        """Write a line, or count it; before the first one after a loss, say how many were lost."""
        lost = 0
        if self._lost:
            with self._lock:
                lost, self._lost = self._lost, 0
            note = f"\n{lost} lines of the log were lost: nobody read it\n".encode()
            if self._put(note, waits=False):
                lost = 0
        if lost or not self._put(data, waits=True):
            with self._lock:
                self._lost += lost + 1

    def _put(self, data: bytes, *, waits: bool) -> bool:
        send = self._send
        if send is None:
            with self._lock:  # Critical section: which thread's descriptor is kept
                send = self._send = self._send or self._opened()
        while data:
            try:
                data = data[send(data) :]
            except BlockingIOError:
                if not waits or self._lost:
                    return False
                waits = False
                poller = select.poll()
                poller.register(self._fd, select.POLLOUT)
                poller.poll(_ROOM_WAIT_S * 1000)
        return True

    def _opened(self) -> Callable[[bytes], int]:
        mode = os.fstat(self._fd).st_mode
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(mode):
                sock = socket.socket(fileno=os.dup(self._fd))
                return lambda data: sock.send(data, socket.MSG_DONTWAIT)
            if stat.S_ISFIFO(mode) or os.isatty(self._fd):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
                return partial(os.write, os.open(f"/proc/self/fd/{self._fd}", flags))
        return partial(os.write, self._fd)


_lines_to = cache(_Lines)  # one for each descriptor, which reloads keep


def _is_ours_to_tell(record: logging.LogRecord) -> bool:
    """Whether a record of gunicorn's is worth a line: not of callers that were idle, or left.

    The request's own line says how it ended, and without one there was no request. gunicorn would
    quote in full what came of it, with its key.
    """
    if record.exc_info and isinstance(record.exc_info[1], TimeoutError):
        return False
    return not (record.args and any(isinstance(each, NoMoreData) for each in record.args))
