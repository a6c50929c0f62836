"""What holds for every test: nothing that it prints or logs, or has printed, shows a key.

Gateways and commands in processes of their own are looked at where they end
(`tests.support.gateway`, `tests.support.commandline`).
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.support.leaks import key_in


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that passed, but in whose output there is a key."""
    report = yield
    if report.passed:
        for title, text in report.sections:
            if (key := key_in(text)) is not None:
                report.outcome = "failed"
                report.longrepr = f"{title}: a key is shown: {key}"
    return report
