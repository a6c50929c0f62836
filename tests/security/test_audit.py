"""The audit of dependencies reads the index rightly; that it is clean is for `.ci/run` to see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.security.audit import INDEX, Finding, judge, look_up, needed

KNOWN = {"id": "PYSEC-1", "summary": "reads too far", "withdrawn": None}


def page(version: str = "1.0", *known: Mapping[str, Any], yanked: bool = False) -> dict[str, Any]:
    info = {"version": version, "yanked": yanked, "yanked_reason": "broken"}
    return {"info": info, "vulnerabilities": list(known)}


def test_all_that_the_gateway_runs_on_is_looked_up() -> None:
    """What it names, and what that needs in turn; no tool of the tests."""
    found = needed()
    assert {"flask", "gunicorn", "urllib3", "werkzeug", "certifi", "idna"} <= set(found)
    assert not {"pytest", "hypothesis", "poolproxy"} & set(found)


@pytest.mark.parametrize(
    ("pages", "problems"),
    [
        ({"a/1.0/json": page()}, []),
        ({"a/1.0/json": page("1.0", KNOWN)}, ["PYSEC-1: reads too far"]),
        ({"a/1.0/json": page("1.0", {**KNOWN, "withdrawn": "2026-01-01"})}, []),
        ({"a/1.0/json": page(yanked=True)}, ["withdrawn: broken"]),
        ({"a/json": page("1.0", KNOWN)}, ["PYSEC-1: reads too far"]),
        ({"a/json": page("2.0", KNOWN)}, None),
        ({}, None),
    ],
)
def test_release_is_looked_up(pages: Mapping[str, Any], problems: list[str] | None) -> None:
    """By its own page, else by the newest one's if that is it; else nothing is known."""
    found = look_up("a", "1.0", lambda url: pages.get(url.removeprefix(f"{INDEX}/")))
    assert found == Finding("a", "1.0", problems)


@pytest.mark.parametrize(
    ("problems", "status"),
    [([[], []], 0), ([[], None], 0), ([[], ["PYSEC-1"]], 1), ([None, ["x"]], 1), ([None], 2)],
)
def test_verdict(problems: list[list[str] | None], status: int) -> None:
    """A vulnerability fails; so does an audit that learnt nothing."""
    assert judge([Finding("a", "1.0", each) for each in problems]) == status
