"""Which tests run a line, and how long they take: measured once for a tree, kept in a file.

The quick suite runs once under coverage with a context for each test. A line that only other
processes run (gateways under test) has no test's context: for it stand the test modules that are
named after its module, and the end-to-end tests.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from coverage import CoverageData

QUICK = ("-m", "not slow")
SUITE_LIMIT_S = 3600
ELSEWHERE = " *"
TEST_LIMIT_S = 600  # that of `make test-slow`, as these take longer for being measured

# A process that a test starts tells which one it was.
SETTINGS = """[run]
branch = True
source = proxy
parallel = True
data_file = {data}
context = ${{PYTEST_CURRENT_TEST-}}
"""

PASSED, FAILED, NO_TESTS = 0, 1, 5  # of pytest's exit codes


class Selection(NamedTuple):
    """`by_line`: by module and line, the tests that run it (without parameters); `took_s`: each.

    A test that runs it in a process of its own has ELSEWHERE behind its name. `importers`: by
    module, those of the code and of tests that use what it defines.
    """

    by_line: Mapping[str, Mapping[int, list[str]]]
    took_s: Mapping[str, float]
    importers: Mapping[str, Iterable[str]] = MappingProxyType({})

    def tests_at(self, path: str, line: int) -> list[str]:
        """Those that run a line."""
        return self.by_line.get(path, {}).get(line, [])

    def tests_of(self, path: str, line: int) -> list[str]:
        """The tests to run for a line, those first that are likely and quick to notice.

        What a test itself runs at import only, as constants, has the tests of the whole module, and
        of those that import it.
        """
        near = re.compile(rf"test_(\w+_)?{re.escape(Path(path).stem)}")
        tests = self.tests_at(path, line)
        elsewhere = {test.removesuffix(ELSEWHERE) for test in tests if test.endswith(ELSEWHERE)}
        found = {test for test in tests if not test.endswith(ELSEWHERE)}
        if not found:
            others = {test for test in self.took_s if "/e2e/" in test or near.search(test)}
            for module in (path, *self.importers.get(path, ())):
                for run in self.by_line.get(module, {}).values():
                    others |= {test.removesuffix(ELSEWHERE) for test in run}
                others |= {test for test in self.took_s if test.startswith(f"{module}::")}
            found = others
        return sorted(
            found | elsewhere, key=lambda test: (not near.search(test), self.took_s.get(test, 1.0))
        )


def measured(
    tree: Path, kept_in: Path, suite: Sequence[str], *, jobs: int, env: Mapping[str, str]
) -> Selection:
    """What runs where in this tree, by the quick tests of a suite; also kept in a directory.

    If nothing but test modules is new since then, those alone are run. A test that fails by itself
    shows nothing: it is named and left out. Raises RuntimeError if they can't be run.
    """
    digests = {
        str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("proxy", "tests")
        for path in sorted((tree / folder).rglob("*.py"))
    }
    modules = {
        path: digests.pop(path)
        for path in list(digests)
        if path.startswith("tests/") and Path(path).name.startswith("test_")
    }
    name = hashlib.sha256(json.dumps([suite, digests]).encode()).hexdigest()[:16]
    cache = kept_in / f"{name}.json"
    by_line, took_s, known = json.loads(cache.read_text()) if cache.exists() else ({}, {}, {})
    same = {path for path, digest in modules.items() if known.get(path) == digest}
    found = Selection(
        {
            path: {int(line): list(filter(_in(same), tests)) for line, tests in lines.items()}
            for path, lines in by_line.items()
        },
        {test: each_s for test, each_s in took_s.items() if _in(same)(test)},
        _importers(tree),
    )
    new = [
        path for path in modules if path not in same and path.startswith(tuple(suite) or "tests")
    ]
    if new:
        print(
            f"running {len(new)} of {len(modules)} test modules, to see what runs where ...",
            flush=True,
        )
        found = _joined(found, _measure(tree, new, jobs=jobs, env=env))
        cache.parent.mkdir(exist_ok=True)
        cache.write_text(json.dumps([found.by_line, found.took_s, modules]))
    return found


def _in(modules: Container[str]) -> Callable[[str], bool]:
    return lambda test: test.partition("::")[0] in modules


def _joined(one: Selection, other: Selection) -> Selection:
    by_line = {
        path: {
            line: sorted({*one.tests_at(path, line), *other.tests_at(path, line)})
            for line in one.by_line.get(path, {}).keys() | other.by_line.get(path, {}).keys()
        }
        for path in one.by_line.keys() | other.by_line.keys()
    }
    return Selection(by_line, {**one.took_s, **other.took_s}, one.importers)


def _importers(tree: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for path in [path for folder in ("proxy", "tests") for path in (tree / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom):
                home = path.parents[node.level - 1] if node.level else tree
                base = home / (node.module or "").replace(".", "/")
                for target in (base, *(base / alias.name for alias in node.names)):
                    name = f"{target.relative_to(tree)}.py"
                    found[name].append(str(path.relative_to(tree)))
    return found


def _measure(tree: Path, modules: Sequence[str], *, jobs: int, env: Mapping[str, str]) -> Selection:
    report = tree / "junit.xml"
    parallel = ("-n", str(jobs), "--dist", "loadfile") if jobs > 1 else ()
    settings = tree / "coverage.cfg"
    settings.write_text(SETTINGS.format(data=tree / ".coverage"))
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *parallel, *QUICK),
        *(
            "--cov",
            f"--cov-config={settings}",
            "--cov-context=test",
            "--cov-report=",
            "--cov-fail-under=0",
            f"--junitxml={report}",
            f"--timeout={TEST_LIMIT_S}",
        ),
        *modules,
    ]
    done = subprocess.run(
        command,
        cwd=tree,
        env={**env, "COVERAGE_PROCESS_START": str(settings), "PYTEST_CURRENT_TEST": ""},
        capture_output=True,
        text=True,
        timeout=SUITE_LIMIT_S,
        check=False,
    )
    if done.returncode not in (PASSED, FAILED, NO_TESTS):
        raise RuntimeError(f"the tests do not run without mutants:\n{done.stdout[-4000:]}")
    return _read(tree, report)


def _read(tree: Path, report: Path) -> Selection:
    """What a run has left: coverage's data, and pytest's report."""
    took_s: dict[str, float] = defaultdict(float)
    failed: set[str] = set()
    for case in ET.parse(report).iter("testcase"):
        module = case.attrib["classname"].replace(".", "/") + ".py"
        test = f"{module}::{_function(case.attrib['name'])}"
        took_s[test] += float(case.attrib["time"])
        if case.find("failure") is not None or case.find("error") is not None:
            failed.add(test)
    for test in sorted(failed):
        del took_s[test]
        print(f"left out, as it fails by itself: {test}", flush=True)
    data = CoverageData(str(tree / ".coverage"))
    data.read()
    by_line: dict[str, dict[int, list[str]]] = {}
    for path in data.measured_files():
        lines: dict[int, list[str]] = {}
        for line, contexts in data.contexts_by_lineno(path).items():
            tests = {test for context in contexts for test in _told(context, took_s)}
            if left := {test for test in tests if test.removesuffix(ELSEWHERE) not in failed}:
                lines[line] = sorted(left)
        by_line[str(Path(path).resolve().relative_to(tree.resolve()))] = lines
    return Selection(by_line, dict(took_s))


def _told(context: str, tests: Iterable[str]) -> Iterator[str]:
    """Whose doing it was, by a context of coverage."""
    test, _, phase = context.partition("|")[0].partition(" (")
    module, _, name = _function(test).partition("::")
    if not phase:  # in the tests' own process
        yield from [f"{module}::{name}"] if name else ()
    elif phase == "call)":
        yield f"{module}::{name}{ELSEWHERE}"
    else:  # what a fixture starts serves the tests behind, too
        yield from (f"{one}{ELSEWHERE}" for one in tests if one.startswith(f"{module}::"))


def _function(test: str) -> str:
    """A test's id without its parameters: some are different each time."""
    return test.partition("[")[0]
