"""Where the server's log goes: to standard error, a line for a record, none behind a lock."""

from __future__ import annotations

import logging
import os
import time

from gunicorn.http.errors import NoMoreData  # type: ignore[import-untyped]

_STDERR = 2  # the descriptor: gunicorn's `--capture-output` may have put a file there


def set_up_logs(*, debug: bool) -> None:
    """Have this process write what `proxy` logs; an embedding application does so itself."""
    log = logging.getLogger("proxy")
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    # No line tells where in the code it was logged: docs.python.org/3/howto/logging.html,
    # "Optimization".
    logging._srcfile = None
    if not log.handlers:
        handler = _LineHandler()
        handler.setFormatter(_LineFormatter("%(asctime)s %(levelname).1s %(name)s %(message)s"))
        log.addHandler(handler)
        log.propagate = False
        logging.getLogger("gunicorn.error").addFilter(_is_ours_to_tell)


class _LineFormatter(logging.Formatter):
    """logging's own lines; the text of the time is made once a second."""

    _second: tuple[int, str] = (-1, "")

    def formatTime(  # noqa: N802, logging's own name
        self, record: logging.LogRecord, datefmt: str | None = None
    ) -> str:
        second, text = self._second
        if second != int(record.created):
            second = int(record.created)
            text = time.strftime(self.default_time_format, time.localtime(second))
            self._second = (second, text)
        return f"{text},{int(record.msecs):03}"


class _LineHandler(logging.Handler):
    """Writes each record to standard error by itself, so that no thread waits for another's."""

    def handle(self, record: logging.LogRecord) -> bool:
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
            while data:
                data = data[os.write(_STDERR, data) :]
        except Exception:  # as logging's own handlers: never the request's matter
            self.handleError(record)


def _is_ours_to_tell(record: logging.LogRecord) -> bool:
    """False for gunicorn's words on callers that sent, or took, nothing for too long, or went.

    The request's own line says how it ended; where there is none, there was no request. What came
    of it is quoted in full, with its key.
    """
    if record.exc_info and isinstance(record.exc_info[1], TimeoutError):
        return False
    return not (record.args and any(isinstance(each, NoMoreData) for each in record.args))
