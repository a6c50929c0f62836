"""docs/stability.md against the code: names, headers, fields of the log and of signals."""

from __future__ import annotations

import ast
import dataclasses
import re

import proxy
from proxy.api.endpoints import DIALECTS
from proxy.net.watch import CLOCK
from proxy.record.record import Attempt, Record
from proxy.usage.limits import Limits
from proxy.wire.chat import Usage
from tests.support.gateway import ROOT
from tests.support.pages import first_column, quoted, table

PAGE = (ROOT / "docs" / "stability.md").read_text()


def test_python_names_are_those_of_the_package() -> None:
    """Each in one row."""
    assert sorted(first_column(PAGE, "| name | |")) == sorted(proxy.__all__)


def test_headers_are_those_of_the_code() -> None:
    """Those that it spells out, and what a dialect calls the request's id."""
    made = headers_of_limits()
    pattern = re.compile(r"x-proxy-[a-z-]+|x-request-id|x-should-retry|retry-after(-ms)?")
    made |= {dialect.id_header for dialect in DIALECTS.values()} - {""}
    for path in (ROOT / "proxy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                made |= {node.value} if pattern.fullmatch(node.value) else set()
    assert sorted(first_column(PAGE, "| header | what it tells |")) == sorted(made)


def headers_of_limits() -> set[str]:
    """Those of a caller who has all of them."""

    class Ledger:
        def spent_today(self, _: object) -> tuple[int, int]:
            return 0, 0

    ann = proxy.Caller("ann", rpm=1, tpm=1, requests_per_day=1, tokens_per_day=1)
    record = Record("req_1", endpoint="", arrived=0.0)
    return set(Limits(CLOCK, Ledger).headers(ann, record))  # type: ignore[arg-type]


def test_answers_have_no_other_headers() -> None:
    """Than those, HTTP's own, and what tells browsers and nginx what to do with them."""
    standard = {"allow", "cache-control", "content-length", "content-type"}
    standard |= {"x-accel-buffering", "x-content-type-options"}
    listed = standard | set(first_column(PAGE, "| header | what it tells |"))
    caller = proxy.create_app({"demo": [{"delay-ms": 0}]}).test_client()
    asked = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
    answers = [
        caller.post(path, json={**asked, **more}, buffered=True)
        for path in DIALECTS
        for more in ({}, {"stream": True}, {"model": "none"}, {"input": "Hi", "prompt": "Hi"})
    ]
    paths = ("/", "/v1/models", "/healthz", "/readyz", "/none", "/v1/messages")
    answers += [caller.get(path) for path in paths]
    assert {answer.status_code for answer in answers} >= {200, 400, 404, 405}
    seen = {name.lower() for answer in answers for name, _ in answer.headers}
    assert {"x-proxy-client", "request-id", "allow", "x-accel-buffering"} <= seen
    assert seen <= listed


def test_fields_of_the_log_are_those_of_its_line() -> None:
    """Of a request of which everything is known."""
    record = Record("req_1", endpoint="/v1/chat/completions", arrived=1.0)
    usage = Usage(1, 2, 3, 4, 5, partial=True)
    record.attempts.append(Attempt("a/sk-...b780", usage=usage))
    record.first_event, record.ended, record.dropped = 2.0, 3.0, ["seed"]
    record.fallback = "other"
    made = re.findall(r"(\w+)=", re.sub(r'"[^"]*"', '""', record.line()))
    assert sorted(first_column(PAGE, "| field | |")) == sorted(made)


def test_fields_of_what_signals_tell() -> None:
    """In their order."""
    for cell, told in table(PAGE, "| class | fields |"):
        (name,) = quoted(cell)
        fields = dataclasses.fields(getattr(proxy, name))
        assert quoted(told) == [field.name for field in fields]
