"""Which tests run a line, and how long they take: measured once for a tree, kept in a file.

The quick suite runs once under coverage with a context for each test. A line that only other
processes run (gateways under test) has no test's context: for it stand the test modules that are
named after its module, and the end-to-end tests.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from coverage import CoverageData

QUICK = ("-m", "not slow")
SUITE_LIMIT_S = 3600


class Selection(NamedTuple):
    """`by_line`: by module and line, the tests that run it (without parameters); `took_s`: each."""

    by_line: Mapping[str, Mapping[int, list[str]]]
    took_s: Mapping[str, float]

    def tests_of(self, path: str, line: int) -> list[str]:
        """The tests to run for a line, those first that are likely and quick to notice.

        What runs at import only, as constants do, has the tests of the whole module.
        """
        lines = self.by_line.get(path, {})
        near = re.compile(rf"test_(\w+_)?{re.escape(Path(path).stem)}")
        found: Iterable[str] = lines.get(line, ())
        if not found:
            others = {test for test in self.took_s if "/e2e/" in test or near.search(test)}
            found = others.union(*lines.values())
        return sorted(found, key=lambda test: (not near.search(test), self.took_s.get(test, 1.0)))


def digest(root: Path, folders: Iterable[str], suite: Iterable[str]) -> str:
    """Of all Python files in these folders, and of the suite."""
    hasher = hashlib.sha256("\0".join(suite).encode())
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            hasher.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return hasher.hexdigest()[:16]


def kept(cache: Path) -> Selection | None:
    """What an earlier run has measured."""
    if not cache.exists():
        return None
    by_line, took_s = json.loads(cache.read_text())
    return Selection(
        {path: {int(line): tests for line, tests in of.items()} for path, of in by_line.items()},
        took_s,
    )


def measure(
    tree: Path, cache: Path, suite: Iterable[str], *, jobs: int, env: Mapping[str, str]
) -> Selection:
    """Run the quick tests of a suite in a tree; raises RuntimeError if they do not pass there."""
    report = tree / "junit.xml"
    parallel = ("-n", str(jobs), "--dist", "loadfile") if jobs > 1 else ()
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *parallel, *QUICK),
        *(
            "--cov",
            "--cov-context=test",
            "--cov-report=",
            "--cov-fail-under=0",
            f"--junitxml={report}",
        ),
        *suite,
    ]
    done = subprocess.run(
        command,
        cwd=tree,
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=SUITE_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the tests do not pass without mutants:\n{done.stdout[-4000:]}")
    found = read(tree, report)
    cache.parent.mkdir(exist_ok=True)
    cache.write_text(json.dumps([found.by_line, found.took_s]))
    return found


def read(tree: Path, report: Path) -> Selection:
    """What a run has left: coverage's data, and pytest's report."""
    data = CoverageData(str(tree / ".coverage"))
    data.read()
    by_line: dict[str, dict[int, list[str]]] = {}
    for path in data.measured_files():
        lines: dict[int, list[str]] = {}
        for line, contexts in data.contexts_by_lineno(path).items():
            tests = {_function(context.partition("|")[0]) for context in contexts if context}
            if tests:
                lines[line] = sorted(tests)
        by_line[str(Path(path).resolve().relative_to(tree.resolve()))] = lines
    took_s: dict[str, float] = defaultdict(float)
    for case in ET.parse(report).iter("testcase"):
        module = case.attrib["classname"].replace(".", "/") + ".py"
        took_s[f"{module}::{_function(case.attrib['name'])}"] += float(case.attrib["time"])
    return Selection(by_line, dict(took_s))


def _function(test: str) -> str:
    """A test's id without its parameters: some are different each time."""
    return test.partition("[")[0]
