"""docs/errors.md against the tree of errors: every code is there, and none too many."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from proxy import errors
from proxy.cli.terminal import Exit
from proxy.dialects.messages import MESSAGES
from proxy.errors import ProxyError
from proxy.wire.responses.answer import error_of
from tests.support.gateway import ROOT
from tests.support.pages import first_column, quoted, table

PAGE = (ROOT / "docs" / "errors.md").read_text()

# For `except` and `isinstance` only.
BASES = {errors.CallerError, errors.PoolError, errors.UpstreamError}

HEAD = "| code | status | exception | what it means | what to do |"


def kinds(below: type[ProxyError] = ProxyError) -> Iterator[type[ProxyError]]:
    """Every error of the tree that may be raised."""
    if below not in BASES:
        yield below
    for kind in below.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield from kinds(kind)


def test_every_error_is_listed() -> None:
    """With its code and its status; an upstream's own error has the upstream's."""
    expected = {
        (f"`{kind.code}`", str(kind.status), f"`{kind.__name__}`")
        for kind in kinds()
        if kind is not errors.UpstreamRefusal
    }
    expected.add(("the upstream's own", "the upstream's", "`UpstreamRefusal`"))
    listed = [tuple(row[:3]) for row in table(PAGE, HEAD)]
    assert set(listed) == expected
    assert len(listed) == len(expected)
    assert all(len(row) == 5 and all(row) for row in table(PAGE, HEAD))


@pytest.mark.parametrize(
    "section",
    [
        "The request has to change",
        "No account can serve now",
        "The upstream failed",
        "The gateway itself",
    ],
)
def test_types_are_those_of_all_errors_in_a_section(section: str) -> None:
    """As the words in front of its table say: one type, or one for 429 and one for the rest."""
    (text,) = re.findall(rf"^## {section}\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    told = re.findall(r"[Tt]he type is `(\w+)`(?: for 429, else `(\w+)`)?", text)
    ((first, rest),) = told
    for kind in (getattr(errors, name) for row in table(text, HEAD) for name in quoted(row[2])):
        assert kind.type == (rest if rest and kind.status != 429 else first), kind


def test_types_of_anthropics_envelope() -> None:
    """Of each status."""
    rest = ""
    listed = {}
    for statuses, told in table(PAGE, "| status | type |"):
        (type_,) = quoted(told)
        if statuses == "any other":
            rest = type_
        else:
            listed.update(dict.fromkeys(map(int, statuses.split(", ")), type_))
    for status in {*HTTPStatus, *listed} - set(range(400)):
        error = ProxyError("m")
        error.status = status
        told = json.loads(MESSAGES.error(error))["error"]["type"]
        assert told == listed.get(status, rest), status


def test_codes_of_a_failed_response() -> None:
    """Each error has one of those that are listed, and the one that the page says."""
    limit, caller, rest = first_column(PAGE, "| `error.code` | instead of |")
    for kind in kinds():
        if kind in (errors.ConfigError, errors.MethodNotAllowed, errors.BodyTooSlow):
            continue  # they come before there is a stream
        if kind in (errors.CallerGone, errors.UpstreamRefusal):
            continue  # nobody hears of the one, and the other has its own status
        expected = caller if issubclass(kind, errors.CallerError) else rest
        expected = limit if kind.status == 429 else expected
        assert error_of(kind("m"), "m")["code"] == expected, kind
    for status, expected in ((429, limit), (400, caller), (408, rest), (502, rest)):
        assert error_of(errors.UpstreamRefusal("m", status=status), "m")["code"] == expected


def test_exit_statuses() -> None:
    """Of the command."""
    listed = [int(row[0]) for row in table(PAGE, "| exit status | of `poolproxy` |")]
    assert listed == sorted(Exit)
