"""The server's log: a line for each record, and what of gunicorn's words is left out."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
from datetime import datetime

import pytest
from gunicorn.http.errors import InvalidRequestLine, NoMoreData  # type: ignore[import-untyped]

from proxy.server import logs as module
from proxy.server.logs import _FORMATTER, _is_ours_to_tell, _Lines
from tests.support.gateway import ROOT, START_S, environment


@pytest.mark.parametrize("debug", [False, True])
def test_log_has_one_line_for_a_record(debug: bool) -> None:
    """With its time to the millisecond, though another handler is at the root; by its level."""
    script = (
        "import logging, sys; from proxy.server.logs import set_up_logs\n"
        "logging.basicConfig(stream=sys.stdout)\n"
        f"set_up_logs(debug={debug}); set_up_logs(debug={debug})\n"
        "log = logging.getLogger('proxy.x')\n"
        "log.debug('fine'); log.info('a %s', 'b'); log.warning('half \\ud83d')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    found = [re.fullmatch(rf"{moment} (\w+ proxy\.x .*)", line) for line in lines]
    said = [line and line[1] for line in found]
    assert said == ["DEBUG proxy.x fine"] * debug + [
        "INFO proxy.x a b",
        r"WARNING proxy.x half \ud83d",
    ]


def record_of(message: str, *args: object, error: Exception | None = None) -> logging.LogRecord:
    facts = None if error is None else (type(error), error, None)
    made = logging.LogRecord("proxy.x", logging.WARNING, "x", 1, message, args, facts)
    made.created = 1_760_000_000.0625
    return made


def test_record_is_a_line_or_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of JSON, with the call that it tells of and what was raised."""
    moment = datetime.fromtimestamp(1_760_000_000).astimezone().strftime("%Y-%m-%dT%H:%M:%S.062%z")
    moment = f"{moment[:-2]}:{moment[-2:]}"
    shown = _FORMATTER.format(record_of("a %s", "b"))
    assert shown == f"{moment} WARNING proxy.x a b"
    monkeypatch.setattr(_FORMATTER, "as_json", True)
    head = {"time": moment, "level": "WARNING", "logger": "proxy.x", "message": "a b"}
    assert json.loads(_FORMATTER.format(record_of("a %s", "b"))) == head
    told = record_of("a %s", "b", error=LookupError("c"))
    told.call = {"id": "d"}
    whole = json.loads(_FORMATTER.format(told))
    assert whole == {**head, "call": {"id": "d"}, "traceback": "LookupError: c"}


def test_lines_that_nobody_reads_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for longer than a moment; when there is room again, the log says how many."""
    monkeypatch.setattr(module, "_ROOM_WAIT_S", 0.001)
    near, far = os.pipe()
    try:
        fcntl.fcntl(far, fcntl.F_SETPIPE_SZ, 4096)
        lines = _Lines(far)
        size = fcntl.fcntl(far, fcntl.F_GETPIPE_SZ)
        line = b"x" * (size // 4 - 1) + b"\n"
        for _ in range(4 + 3):
            lines.write(line)
        assert os.read(near, 2 * size) == line * 4
        lines.write(b"next\n")
        lines.write(b"last\n")
        said = b"\n3 lines of the log were lost: nobody read it\nnext\nlast\n"
        assert os.read(near, 2 * size) == said
    finally:
        os.close(near)
        os.close(far)


def test_socket_in_place_of_standard_error_does_not_block() -> None:
    """As systemd gives to a service; a file takes all."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        lines = _Lines(ours.fileno())
        lines.write(b"first\n")
        assert theirs.recv(100) == b"first\n"
        assert os.get_blocking(ours.fileno())  # whoever shares it is none the wiser
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for _ in range(1000):
            lines.write(b"x" * 1000)
        assert lines._lost
    with tempfile.TemporaryFile() as file:
        _Lines(file.fileno()).write(b"first\n")
        assert os.pread(file.fileno(), 100, 0) == b"first\n"


def test_no_line_is_lost_before_one_was() -> None:
    """What is said of lost lines is no part of a log that is read."""
    near, far = os.pipe()
    lines = _Lines(far)
    lines.write(b"first\n")
    lines.write(b"second\n")
    assert os.read(near, 1000) == b"first\nsecond\n"
    for each in (near, far):
        os.close(each)


def test_loggers_are_documented() -> None:
    """Each of them: operators set their levels by name."""
    page = (ROOT / "docs" / "operations.md").read_text()
    texts = [path.read_text() for path in (ROOT / "proxy").rglob("*.py")]
    names = {name for text in texts for name in re.findall(r'getLogger\("(proxy[\w.]*)"\)', text)}
    assert {"proxy", "proxy.request", "proxy.pool"} <= names
    assert not [name for name in names if f"`{name}`" not in page]


@pytest.mark.parametrize(
    ("raised", "args", "is_told"),
    [
        (None, (), True),
        (None, ("a", 1), True),
        (None, (NoMoreData(),), False),
        (None, ("a", NoMoreData()), False),
        (None, (InvalidRequestLine("x"),), True),
        (TimeoutError(), (), False),
        (TimeoutError(), ("a",), False),
        (ValueError(), ("a",), True),
        (ValueError(), (NoMoreData(),), False),
    ],
)
def test_what_gunicorn_says_of_callers_that_went(
    raised: Exception | None, args: tuple[object, ...], is_told: bool
) -> None:
    """The request's own line says how it ended; all other words are passed on."""
    facts = None if raised is None else (type(raised), raised, None)
    record = logging.LogRecord("gunicorn.error", logging.ERROR, "x", 1, "m", args, facts)
    assert _is_ours_to_tell(record) is is_told


def test_gunicorns_logs_go_where_they_went() -> None:
    """To standard output or standard error, and a file's handler stays."""
    script = (
        "import logging, sys; from proxy.server.logs import unblock_gunicorns_logs\n"
        "for name, stream in (('error', sys.stderr), ('access', sys.stdout)):\n"
        "    log = logging.getLogger(f'gunicorn.{name}')\n"
        "    log.addHandler(logging.StreamHandler(stream))\n"
        "    log.addHandler(logging.NullHandler())\n"
        "unblock_gunicorns_logs()\n"
        "for name in ('error', 'access'):\n"
        "    log = logging.getLogger(f'gunicorn.{name}')\n"
        "    assert type(log.handlers[0]) is logging.NullHandler, log.handlers\n"
        "    log.warning(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("access\n", "error\n")
