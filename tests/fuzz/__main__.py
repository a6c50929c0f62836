"""`make fuzz`: every property that takes bytes from outside, with many more inputs than in CI.

    python -m tests.fuzz [EXAMPLES [pytest's arguments ...]]

Runs the hypothesis tests of the decoders, of the configuration and of the seed corpus with so many
examples each (5,000 unless told: 20 minutes), from a new random seed, and says how many inputs were
tried. What is found is printed as hypothesis prints it; add it to `corpus/`.
"""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = 5_000
PLACES = ("wire", "config", "fuzz")


class _More:
    """A pytest plugin: only hypothesis tests, with more examples, counted."""

    def __init__(self, examples: int) -> None:
        self.tried = 0
        self._examples = examples
        self._seen: set[int] = set()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[Any]) -> None:
        others = [item for item in items if not _is_property(item)]
        items[:] = [item for item in items if _is_property(item)]
        config.hook.pytest_deselected(items=others)
        for item in items:
            if id(item.obj) not in self._seen:
                self._seen.add(id(item.obj))
                self._prepare(item.obj)

    def _prepare(self, test: Any) -> None:
        # Not before pytest, which has to rewrite its assertions.
        from hypothesis import HealthCheck, settings

        # Where `@settings` puts what it says: hypothesis offers no way to override it from outside.
        test._hypothesis_internal_use_settings = settings(
            max_examples=self._examples,
            deadline=None,
            derandomize=False,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )
        # hypothesis.readthedocs.io, "Custom function execution".
        inner = test.hypothesis.inner_test

        @functools.wraps(inner)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.tried += 1
            return inner(*args, **kwargs)

        test.hypothesis.inner_test = counted


def _is_property(item: Any) -> bool:
    return getattr(getattr(item, "obj", None), "is_hypothesis_test", False) is True


def main(arguments: list[str]) -> int:
    """Run them; pytest's exit status."""
    given = int(arguments.pop(0)) if arguments and arguments[0].isdecimal() else EXAMPLES
    more = _More(given)
    tests = Path(__file__).parents[1]
    places = [str(tests / place) for place in PLACES]
    began = time.monotonic()
    status = pytest.main(["-q", "-o", "timeout=0", *places, *arguments], plugins=[more])
    print(f"{more.tried} inputs tried in {time.monotonic() - began:.0f} s")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
