"""What holds for every test, and upstreams on loopback with ways to them for those that ask.

Nothing that a test prints or logs, or has printed, shows a key. Gateways and commands in processes
of their own are looked at where they end (`tests.support.gateway`, `tests.support.commandline`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from proxy.net.transport import Transport
from tests.support import calls
from tests.support.certificates import Authority
from tests.support.leaks import key_in
from tests.support.upstream import Upstream

# How long an example takes says how busy the machine is.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


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


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def ca_bundle(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority.write(tmp_path_factory.mktemp("ca") / "ca.pem")


@pytest.fixture
def plain() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def upstream(plain: Upstream) -> Upstream:
    """Plain, unless a folder or file has another."""
    return plain


@pytest.fixture
def secure(authority: Authority) -> Iterator[Upstream]:
    with Upstream(tls=authority.server()) as running:
        yield running


@pytest.fixture
def make_way(ca_bundle: Path) -> Iterator[Callable[..., Transport]]:
    """Makes transports, closed at the end, which trust the upstreams' authority."""
    with ExitStack() as held:

        def make(url: str, **options: object) -> Transport:
            made = calls.transport(url, **{"ca_bundle": str(ca_bundle), **options})  # type: ignore[arg-type]
            return held.enter_context(closing(made))

        yield make
