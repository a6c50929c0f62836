"""One mutant, tried in a copy of the tree: its tests run until one falls."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .places import Mutant
from .selection import NO_TESTS, PASSED, Selection

# All that tests may take together, by what they took before: the rest is not run.
MOST_S = 120.0
# Beside that for a run, on a machine that does other things: then it hangs.
START_S = 60.0
# pytest-timeout's, for each test.
TEST_S = 60

# It runs no line, but reads them all.
SEES_LOCKS = "tests/test_locks.py::test_what_a_lock_guards_is_used_with_it_only"

MARK = "MUTANT_TREE"


class Outcome(NamedTuple):
    """`by`: the test that fell; "" if none did; `tests`: how many were to be run, of how many."""

    mutant: Mutant
    by: str
    tests: tuple[int, int]


class Bench:
    """A copy of the tree in which one mutant after another is tried. Used by one thread."""

    def __init__(self, source: Path, tree: Path, copied: Iterable[str]) -> None:
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".hypothesis")
        for name in copied:
            if (source / name).is_dir():
                shutil.copytree(source / name, tree / name, ignore=ignored)
            else:
                shutil.copy2(source / name, tree / name)
        self.tree = tree
        (tree / "tmp").mkdir()
        # Whatever a test has started and a mutant has kept from ending is found by this.
        self.env: Mapping[str, str] = {
            **os.environ,
            "PYTHONPATH": str(tree),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(tree / "tmp"),
            MARK: str(tree),
        }
        self._sound: set[str] = set()  # tests that are known to pass here

    def try_out(self, mutant: Mutant, selection: Selection) -> Outcome:
        """Whether a test falls that stands without the mutant."""
        tests = selection.tests_of(mutant.path, mutant.line)
        if mutant.kind == "lock removed" and SEES_LOCKS in selection.took_s:
            tests.insert(0, SEES_LOCKS)
        chosen = list(_affordable(tests, selection.took_s))
        left, by = chosen, ""
        while left:
            fell = self._broken(mutant, left)
            if not fell:
                break
            if self._stands(fell):
                by = fell
                break
            left = [test for test in left if not fell.startswith(test)]  # it falls by itself
        return Outcome(mutant, by, (len(chosen), len(tests)))

    def _broken(self, mutant: Mutant, tests: Sequence[str]) -> str:
        path = self.tree / mutant.path
        source = path.read_bytes()
        path.write_bytes(mutant.apply(source))
        try:
            return self._run(tests)
        finally:
            path.write_bytes(source)

    def _stands(self, test: str) -> bool:
        function = test.partition("[")[0]
        if function not in self._sound and not self._run([function]):
            self._sound.add(function)
        return function in self._sound

    def _run(self, tests: Sequence[str]) -> str:
        """The test that fell first, or what else went wrong; "" if all passed."""
        arguments = self.tree / "tests-to-run"
        arguments.write_text("".join(f"{test}\n" for test in tests))
        command = [
            *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header"),
            *("--tb=no", f"--timeout={TEST_S}", f"@{arguments}"),
        ]
        process = subprocess.Popen(
            command,
            cwd=self.tree,
            env=dict(self.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            output, _ = process.communicate(timeout=MOST_S + START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return tests[0]
        finally:
            self.sweep()
        if process.returncode in (PASSED, NO_TESTS):
            return ""
        for line in output.splitlines():
            if line.startswith(("FAILED ", "ERROR ")):
                return line.split(" ", 2)[1]
        return tests[0]

    def sweep(self) -> None:
        """End what tests have left running, where processes can be looked at."""
        for pid in _marked(str(self.tree)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.tree / "tmp", ignore_errors=True)
        (self.tree / "tmp").mkdir(exist_ok=True)


def _marked(tree: str) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={tree}".encode() in path.read_bytes().split(b"\0"):
                yield int(path.parent.name)


def _affordable(tests: Iterable[str], took_s: Mapping[str, float]) -> Iterator[str]:
    """Those that fit into the time that there is, at least one of them."""
    spent_s = 0.0
    for test in tests:
        if spent_s and spent_s + took_s.get(test, 1.0) > MOST_S:
            continue
        spent_s += took_s.get(test, 1.0)
        yield test
