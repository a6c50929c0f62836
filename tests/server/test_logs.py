"""The server's log: a line for each record, and what of gunicorn's words is left out."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys

import pytest
from gunicorn.http.errors import InvalidRequestLine, NoMoreData  # type: ignore[import-untyped]

from proxy.server.logs import _is_ours_to_tell, _Lines
from tests.support.gateway import PATIENCE_S, ROOT, environment


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
        timeout=PATIENCE_S,
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
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("access\n", "error\n")
