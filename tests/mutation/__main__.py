"""`python -m tests.mutation [-n N] [--seed SEED] [--jobs JOBS] [--tests TESTS] [MODULE ...]`.

Breaks N random places, in modules whose path begins so, and shows how many were noticed, by the
quick suite or the part of it that `--tests` names; a run with the same seed breaks the same ones.
Exits with 1 if fewer than 96 % were.
"""

from __future__ import annotations

import argparse
import difflib
import queue
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path

from . import selection
from .places import Mutant, mutants
from .trial import Bench, Outcome

ROOT = Path(__file__).parents[2]
COPIED = (
    *("proxy", "tests", "bench", "docs", "deploy", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"),
    *("Makefile", "LICENSE", "config.yaml", "constraints.txt", "gunicorn.conf.py", "setup.cfg"),
    *("pyproject.toml", "poolproxy.py", "examples", "SECURITY.md", "MANIFEST.in"),
)
NOTICED_SHARE = 0.96


def chosen(root: Path, count: int, seed: str, modules: Sequence[str]) -> list[Mutant]:
    """So many places at random, and one mutant of each."""
    by_place: dict[tuple[str, int, int], list[Mutant]] = {}
    for path in sorted((root / "proxy").rglob("*.py")):
        name = str(path.relative_to(root))
        if not modules or name.startswith(tuple(modules)):
            for mutant in mutants(name, path.read_bytes()):
                by_place.setdefault((name, mutant.begin, mutant.end), []).append(mutant)
    generator = random.Random(seed)
    places = generator.sample(sorted(by_place), min(count, len(by_place)))
    return [generator.choice(by_place[place]) for place in places]


def run(
    root: Path, picked: Sequence[Mutant], *, jobs: int, suite: Sequence[str] = ()
) -> list[Outcome]:
    """Try them out, telling of each; nothing is left behind but the file of what was measured."""
    copied = [name for name in COPIED if (root / name).exists()]
    outcomes: list[Outcome] = []
    with ExitStack() as held:
        benches: queue.SimpleQueue[Bench] = queue.SimpleQueue()
        for _ in range(jobs):
            directory = held.enter_context(tempfile.TemporaryDirectory(prefix="mutants-"))
            Path(directory).chmod(0o711)  # some tests have other users look into their folders
            bench = Bench(root, Path(directory), copied)
            held.callback(bench.sweep)
            benches.put(bench)
        found = selection.measured(bench.tree, root / ".mutants", suite, jobs=jobs, env=bench.env)

        def try_out(mutant: Mutant) -> tuple[Outcome, float]:
            bench = benches.get()
            began = time.monotonic()
            try:
                return bench.try_out(mutant, found), time.monotonic() - began
            finally:
                benches.put(bench)

        with ThreadPoolExecutor(jobs) as pool:
            for done in as_completed([pool.submit(try_out, mutant) for mutant in picked]):
                outcome, took_s = done.result()
                outcomes.append(outcome)
                mutant = outcome.mutant
                verdict = "caught" if outcome.by else "SURVIVED"
                place = f"{mutant.path}:{mutant.line}"
                print(f"{verdict:8} {took_s:5.1f} s  {place:40} {mutant.kind}", flush=True)
    return outcomes


def report(root: Path, outcomes: Sequence[Outcome]) -> float:
    """Print survivors, figures for each module and in all; the share that was noticed."""
    survivors = [outcome for outcome in outcomes if not outcome.by]
    for mutant, _, (run_count, count) in sorted(survivors):
        print(f"\n{mutant.path}:{mutant.line} {mutant.kind}, {run_count} of {count} tests run")
        source = (root / mutant.path).read_bytes()
        before, after = (text.decode().splitlines() for text in (source, mutant.apply(source)))
        print("\n".join(list(difflib.unified_diff(before, after, n=1, lineterm=""))[2:]))
    print()
    tried = Counter(outcome.mutant.path for outcome in outcomes)
    lost = Counter(outcome.mutant.path for outcome in survivors)
    for path in sorted(tried):
        print(f"{tried[path] - lost[path]:4} of {tried[path]:4}  {path}")
    share = 1 - len(survivors) / len(outcomes) if outcomes else 1.0
    print(f"{len(outcomes) - len(survivors)} of {len(outcomes)} mutants noticed: {share:.1%}")
    return share


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser("tests.mutation")
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--seed", default=str(time.time_ns() % 10**6))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--tests", nargs="+", default=(), metavar="PATH")
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    asked = parser.parse_args(arguments)
    picked = chosen(root, asked.n, asked.seed, asked.modules)
    print(f"{len(picked)} mutants by seed {asked.seed}", flush=True)
    share = report(root, run(root, picked, jobs=asked.jobs, suite=asked.tests))
    return 0 if share >= NOTICED_SHARE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
