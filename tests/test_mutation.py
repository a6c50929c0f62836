"""The random mutator: what it breaks, what it leaves alone, and that it knows a test that falls."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.mutation.__main__ import ROOT, chosen, report, run
from tests.mutation.places import mutants
from tests.mutation.selection import Selection


def changed(source: str) -> set[str]:
    """The modules that its mutants make of a source, without parentheses of their own."""
    data = textwrap.dedent(source).encode()
    made = {mutant.apply(data).decode() for mutant in mutants("m.py", data)}
    return {text.strip() for text in made}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x.y(a < b)", {"pass", "x.y((a >= b))", "x.y((a <= b))"}),
        ("x.y(a in b)", {"pass", "x.y((a not in b))"}),
        ("x.y(a and b)", {"pass", "x.y((a or b))"}),
        ("x.y(not a)", {"pass", "x.y((a))"}),
        ("x.y(a if b else c)", {"pass", "x.y((c if b else a))"}),
        ("x.y(a, b, c)", {"pass", "(x.y(b, a, c))"}),
        ("x.y(max(a))", {"pass", "x.y(min(a))"}),
        ("x.y(a + 1)", {"pass", "x.y((a - 1))", "x.y(a + (2))", "x.y(a + (0))"}),
        ("x = True", {"x = False"}),
        ("x = b'a'", {"x = b'ax'"}),
        ("x.y = z", {"pass"}),
        ("x += y", {"pass"}),
        ("del x[y]", {"pass"}),
        ("raise x", {"pass"}),
        ("with self._lock:\n    x = y", {"if True:\n    x = y"}),
        ("if x:\n    y = z", {"if (not (x)):\n    y = z"}),
        ("while x:\n    break", {"while (not (x)):\n    break", "while x:\n    pass"}),
        ("try:\n    x = y\nexcept E:\n    x = z", {"try:\n    x = y\nexcept E:\n    pass"}),
        ("def f():\n    return x", {"def f():\n    return None"}),
        ("def f():\n    return False", {"def f():\n    return True"}),
    ],
)
def test_each_kind_of_mutant(source: str, expected: set[str]) -> None:
    """One small change each."""
    assert changed(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""A module."""',
        "from a import b",
        "log.warning('a', b)",
        "x = 'words for people'",
        "x = f'{a + 1}'",
        "x: int",
        "assert a < b",
        "__slots__ = ('a', 'b')",
        "def __repr__(self):\n    return a + 1",
        "class P(Protocol):\n    x = 1",
        "@abstractmethod\ndef f(self):\n    return 1",
        "if TYPE_CHECKING:\n    x = 1",
        "y = x\n# The usual is one of them.\nif x == 1:\n    z = x",
        "y = x\nif x == 1:\n    # The usual is two of them,\n    # which is quick.\n    z = x + 1",
        "try:\n    x = y\nexcept E:\n    pass",
        "try:\n    x = y\nexcept E:\n    log.warning('a')",
        "def f():\n    return None",
        "x = cast('T', y)",
        "x: TypeAlias = A[int]",
    ],
)
def test_what_only_people_and_type_checkers_read_is_left_alone(source: str) -> None:
    """And shortcuts that are named as such: they change the time only."""
    assert changed(source) == set()


@pytest.mark.long
def test_every_mutant_of_the_code_compiles() -> None:
    """Else it would show nothing when its tests fall."""
    for path in (ROOT / "proxy" / "wire").glob("*.py"):
        source = path.read_bytes()
        for mutant in mutants(str(path), source):
            compile(mutant.apply(source), str(path), "exec")
            assert source[mutant.begin : mutant.end].decode() != mutant.new


def test_places_are_chosen_by_the_seed() -> None:
    """The same again for the same one, in the room that was asked for."""
    picked = chosen(ROOT, 30, "7", ["proxy/wire/sse.py"])
    assert picked == chosen(ROOT, 30, "7", ["proxy/wire/sse.py"])
    assert picked != chosen(ROOT, 30, "8", ["proxy/wire/sse.py"])
    assert len({(mutant.begin, mutant.end) for mutant in picked}) == 30
    assert {mutant.path for mutant in picked} == {"proxy/wire/sse.py"}


CODE = """
def larger(a, b):
    return a if a > b else b


def forgotten(a):
    return a + 1
"""
TESTS = """
from proxy.code import forgotten, larger


def test_larger():
    assert larger(1, 2) == larger(2, 1) == 2
    forgotten(1)
"""
MORE_TESTS = """
import subprocess, sys


def test_forgotten():
    code = "from proxy.code import forgotten; print(forgotten(1))"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"2\\n"
"""
SETTINGS = """
[tool:pytest]
markers =
    slow: none is
[coverage:run]
source = proxy
"""


def test_lines_that_only_other_processes_run_have_the_tests_of_their_module() -> None:
    """Those named after it, then end to end; otherwise those that ran the line, near and quick."""
    took_s = {
        "tests/test_pool.py::a": 3.0,
        "tests/test_serving.py::b": 2.0,
        "tests/e2e/test_stop.py::c": 1.0,
        "tests/test_far.py::d": 0.1,
    }
    by_line = {
        "proxy/pool.py": {7: ["tests/test_far.py::d", "tests/test_pool.py::a"]},
        "proxy/end.py": {7: ["tests/test_far.py::d", "tests/test_serving.py::b *"], 8: ["b *"]},
    }
    found = Selection(by_line, took_s)
    of_module = ["tests/test_pool.py::a", "tests/test_far.py::d", "tests/e2e/test_stop.py::c"]
    assert found.tests_of("proxy/pool.py", 1) == of_module
    assert found.tests_of("proxy/pool.py", 7) == ["tests/test_pool.py::a", "tests/test_far.py::d"]
    by_both = ["tests/test_far.py::d", "tests/test_serving.py::b"]
    assert found.tests_of("proxy/end.py", 7) == by_both
    assert set(found.tests_of("proxy/end.py", 8)) == {"b", *by_both, "tests/e2e/test_stop.py::c"}
    found = found._replace(importers={"proxy/types.py": ["proxy/pool.py"]})
    assert found.tests_of("proxy/types.py", 1) == of_module[1:] + of_module[:1]
    found = found._replace(importers={"proxy/types.py": ["tests/test_far.py"]})
    assert found.tests_of("proxy/types.py", 1) == of_module[1:]
    only_e2e = ["tests/test_serving.py::b", "tests/e2e/test_stop.py::c"]
    assert found.tests_of("proxy/serving.py", 7) == only_e2e


@pytest.mark.long
@pytest.mark.timeout(300)
def test_known_mutants_of_a_small_project(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is noticed; where the line is run and nothing is asked, the other is not, until it is.

    Of tests that are added later only the new module is run to see what it runs, here in a process
    of its own.
    """
    for folder in ("proxy", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "proxy" / "__init__.py").touch()
    (tmp_path / "proxy" / "code.py").write_text(CODE)
    (tmp_path / "tests" / "test_code.py").write_text(TESTS)
    (tmp_path / "setup.cfg").write_text(SETTINGS)
    known = {}
    for mutant in mutants("proxy/code.py", CODE.encode()):
        if mutant.kind == "return value":
            known[CODE.split("\n")[mutant.line - 1].strip()] = mutant
    outcomes = run(tmp_path, list(known.values()), jobs=1)
    by = {outcome.mutant: outcome.by for outcome in outcomes}
    assert by[known["return a if a > b else b"]] == "tests/test_code.py::test_larger"
    assert by[known["return a + 1"]] == ""
    assert round(report(tmp_path, outcomes), 2) == 0.5
    out = capsys.readouterr().out
    assert "-    return a + 1\n+    return None" in out
    assert "1 of    2  proxy/code.py" in out
    assert {path.name for path in tmp_path.iterdir()} == {".mutants", "proxy", "tests", "setup.cfg"}
    survivor = [mutant for mutant, fallen in by.items() if not fallen]
    assert run(tmp_path, survivor, jobs=1)[0].by == ""
    assert "running" not in capsys.readouterr().out  # what was measured is kept
    (tmp_path / "tests" / "test_more.py").write_text(MORE_TESTS)
    assert run(tmp_path, survivor, jobs=1)[0].by == "tests/test_more.py::test_forgotten"
    assert "running 1 of 2 test modules" in capsys.readouterr().out
    (tmp_path / "tests" / "test_more.py").unlink()
    assert run(tmp_path, survivor, jobs=1)[0].by == ""
