"""`poolproxy usage`: what is in a ledger, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from proxy import Caller, Usage
from proxy.cli import main
from proxy.net.watch import Clock
from proxy.record.record import Attempt, Record
from proxy.usage.ledger import FILE, GROUPS, SUMS, Ledger

DAY_S = 86_400


class Wall(Clock):
    """The days of a few requests."""

    def __init__(self) -> None:
        self.day = 20_000
        self.wall = lambda: float(self.day * DAY_S)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A configuration with a ledger of two days."""
    place = tmp_path_factory.mktemp("usage")
    path = place / "config.yaml"
    path.write_text(f"state-dir: {place}/state\nusage: true\ndemo: [{{}}]\n")
    clock = Wall()
    ledger = Ledger(f"{place}/state", 400, clock)
    for day, caller, end in (
        (0, "ann", "ok"),
        (1, "ann", "ok"),
        (1, 'b"e,n', "caller_gone"),
        (1, "e\x1bve", "ok"),
    ):
        clock.day = 20_000 + day
        usage = Usage(5, 3, cached_tokens=2)
        record = Record("r", endpoint="/", arrived=0.0, model="m", end=end)
        record.who = Caller(caller)
        record.attempts.append(Attempt("p/sk-...b780", usage=usage))
        ledger.add(record, ())
    ledger.close()
    return str(path)


def test_table_is_for_people(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each group, numbers at the right, nothing that would steer a terminal."""
    assert main(["usage", "--by", "caller,model", file]) == 0
    assert capsys.readouterr().out == (
        "caller  model  requests  partial  prompt  completion  cached  cache write  reasoning\n"
        "ann     m             2        0      10           6       4            0          0\n"
        'b"e,n   m             1        1       5           3       2            0          0\n'
        "e ve    m             1        0       5           3       2            0          0\n"
    )


def test_csv_is_for_spreadsheets(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the keys' full names; what is odd in a name is quoted."""
    assert main(["usage", "--csv", file]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == [*GROUPS[:4], *SUMS]
    assert [row[:2] for row in rows[1:]] == [
        ["2024-10-04", "ann"],
        ["2024-10-05", "ann"],
        ["2024-10-05", 'b"e,n'],
        ["2024-10-05", "e\x1bve"],
    ]
    assert rows[1][2:] == ["m", "p/sk-...b780", "1", "0", "5", "3", "2", "0", "0"]


def test_json_is_for_programs(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same, from a day on."""
    assert main(["usage", "--json", "--by", "end", "--since", "2024-10-05", file]) == 0
    sums = {"cache_write_tokens": 0, "reasoning_tokens": 0}
    assert json.loads(capsys.readouterr().out) == [
        {"end": "caller_gone", "requests": 1, "partial": 1, "prompt_tokens": 5,
         "completion_tokens": 3, "cached_tokens": 2, **sums},
        {"end": "ok", "requests": 2, "partial": 0, "prompt_tokens": 10,
         "completion_tokens": 6, "cached_tokens": 4, **sums},
    ]  # fmt: skip


def test_what_is_not_there_is_an_empty_table(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Not an error."""
    assert main(["usage", "--by", "day", "--since", "2030-01-01", file]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "hour"], "usage is by day, caller, model, client, end, not by hour"),
        (["--since", "monday"], "Invalid isoformat string: 'monday'"),
    ],
)
def test_what_cannot_be_asked(
    file: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is a wrong command line."""
    assert main(["usage", *arguments, file]) == 2
    assert capsys.readouterr().err == f"poolproxy: {said}\n"


def test_where_there_is_no_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said where it was looked for; none is made."""
    path = tmp_path / "config.yaml"
    path.write_text(f"state-dir: {tmp_path}/state\ndemo: [{{}}]\n")
    assert main(["usage", str(path)]) == 1
    said = capsys.readouterr().err
    assert said == f"poolproxy: there is no ledger in {tmp_path}/state: is `usage` on?\n"
    assert not (tmp_path / "state").exists()


def test_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SQLite says so."""
    path = tmp_path / "config.yaml"
    path.write_text(f"state-dir: {tmp_path}\ndemo: [{{}}]\n")
    (tmp_path / FILE).write_text("not a database, but something else that is as long as one" * 20)
    assert main(["usage", str(path)]) == 1
    assert capsys.readouterr().err == f"poolproxy: {tmp_path}/{FILE}: file is not a database\n"


def test_configuration_that_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is told where nothing is found by its path."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text("api-keys: ['${KEY_OF_THE_SERVER}']\n")
    assert main(["usage", str(path)]) == 2
    assert "KEY_OF_THE_SERVER" in capsys.readouterr().err
