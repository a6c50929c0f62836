"""One record per request, one line in the log: readable, bounded, not to be forged."""

from __future__ import annotations

import json
import logging
import re

import pytest

from proxy.record.record import MAX_NAME_CHARS, Attempt, Record
from proxy.wire.chat import Usage

# A line as its readers split it: bare values, or JSON strings.
FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s"=\\]+)(?: |$)')


def parsed(line: str) -> dict[str, str]:
    """The fields of a line; fails on whatever is no field."""
    fields: dict[str, str] = {}
    position = 0
    while position < len(line):
        match = FIELD.match(line, position)
        assert match is not None, line[position:]
        name, value = match.groups()
        assert name not in fields, f"{name} twice"
        fields[name] = json.loads(value) if value.startswith('"') else value
        position = match.end()
    return fields


def make_record(model: str = "m") -> Record:
    record = Record("req-1", endpoint="chat", arrived=100.0)
    record.model = model
    record.status = 200
    record.end = "ok"
    return record


def test_a_request_of_which_nothing_is_known() -> None:
    """It went wrong before anything was read."""
    record = Record("req-1", endpoint="models", arrived=100.0)
    assert record.line() == (
        "id=req-1 caller=- addr=- endpoint=models model=- stream=0 status=0 end=- attempts=0 "
        "waited_ms=0 in=0 out=0"
    )
    record.close(100.5)
    record.close(200.0)
    assert " end=error " in record.line()
    assert " ms=500 " in record.line()


def test_a_line_tells_the_whole_request() -> None:
    """Id, caller, model, attempts with reason and wait, status, bytes, times, how it ended."""
    record = make_record("gpt-4o")
    record.caller, record.address = "team a", "192.0.2.7"
    record.stream = True
    refused, answered = Attempt("p sk-...b780"), Attempt("q", waited_s=1.5)
    refused.status, refused.reason = 429, "rate_limit_exceeded"
    answered.status, answered.reason = 200, "ok"
    record.attempts += [refused, answered]
    record.waited_s = 1.5
    record.bytes_in, record.bytes_out = 120, 4567
    record.first_event = 100.25
    answered.usage = Usage(prompt_tokens=9, completion_tokens=12)
    record.dropped = ("web_search", "odd name")
    record.close(102.0)
    assert parsed(record.line()) == {
        "id": "req-1",
        "caller": "team a",
        "addr": "192.0.2.7",
        "endpoint": "chat",
        "model": "gpt-4o",
        "stream": "1",
        "status": "200",
        "end": "ok",
        "attempts": "2",
        "waited_ms": "1500",
        "clients": "p sk-...b780 (429 rate_limit_exceeded, waited 0.000 s); "
        "q (200 ok, waited 1.500 s)",
        "first_ms": "250",
        "ms": "2000",
        "in": "120",
        "out": "4567",
        "prompt_tokens": "9",
        "completion_tokens": "12",
        "dropped": "web_search, odd?name",
    }


def test_the_lines_record_has_the_call(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of it as plain data, for an application's own formatter."""
    monkeypatch.setattr(Record, "logs_call", True)  # whoever has set up our own log in this process
    record = make_record()
    record.address = "192.0.2.7"
    caplog.set_level(logging.INFO, "proxy.request")
    record.close(102.0)
    [logged] = caplog.records
    assert logged.call == record.call()  # type: ignore[attr-defined]
    assert (record.call().address, record.call().times.total_s) == ("192.0.2.7", 2.0)


def test_a_request_of_which_nothing_is_known_has_a_line_too() -> None:
    """One that was refused before its body was read."""
    record = Record("req-1", endpoint="chat", arrived=0.0)
    fields = parsed(record.line())
    assert (fields["caller"], fields["model"], fields["attempts"]) == ("-", "-", "0")
    assert "first_ms" not in fields


@pytest.mark.parametrize(
    "model",
    [
        "m status=500",
        'm" status="500',
        "m\nid=forged caller=root",
        "m\r\n\x1b[31m",
        "m\x00",
        "m\\",
        '\\" end=forged',
        "m=n",
        "\u2028id=forged",
        "ümläut 模型",
        "\ud800",
        " ",
        '"',
        "\x7f",
        "\x85id=forged",
    ],
)
def test_a_model_name_cannot_forge_a_field_or_a_line(model: str) -> None:
    """Quoted as in JSON: what was said can be read back, on one ASCII line."""
    line = make_record(model).line()
    assert line.isascii()
    assert line.isprintable()
    fields = parsed(line)
    assert fields["model"] == model
    assert (fields["id"], fields["status"], fields["end"]) == ("req-1", "200", "ok")


def test_names_that_others_chose_are_cut() -> None:
    """A caller's model and an upstream's error code have no bound of their own."""
    record = make_record("m" * 10**6)
    attempt = Attempt("a")
    attempt.reason = record.end = "x" * 10**6
    record.attempts.append(attempt)
    fields = parsed(record.line())
    assert fields["model"] == "m" * MAX_NAME_CHARS
    assert fields["end"] == "x" * MAX_NAME_CHARS
    assert len(record.line()) < 1000


def test_a_record_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """At its end; a second close changes nothing."""
    record = make_record()
    with caplog.at_level(logging.INFO, "proxy.request"):
        record.close(101.0)
        record.close(200.0)
    assert [found.getMessage() for found in caplog.records] == [record.line()]
    assert record.ended == 101.0


def test_a_record_that_ended_no_way_that_was_told_is_an_error() -> None:
    """An exception past all that names its end."""
    record = Record("req-1", endpoint="chat", arrived=0.0)
    record.close(1.0)
    assert record.end == "error"


def test_nothing_is_formatted_for_a_log_that_is_off(caplog: pytest.LogCaptureFixture) -> None:
    """The level is asked first."""
    with caplog.at_level(logging.WARNING, "proxy.request"):
        make_record().close(1.0)
    assert not caplog.records
