"""Upstreams on loopback, plain and TLS 1.3, and ways to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxy.net.transport import Transport
from tests.support import calls
from tests.support.certificates import Authority
from tests.support.upstream import Upstream


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def ca_bundle(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority.write(tmp_path_factory.mktemp("ca") / "ca.pem")


@pytest.fixture(params=["plain", "tls"])
def upstream(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Upstream]:
    with Upstream(tls=authority.server() if request.param == "tls" else None) as running:
        yield running


@pytest.fixture
def plain() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def secure(authority: Authority) -> Iterator[Upstream]:
    with Upstream(tls=authority.server()) as running:
        yield running


@pytest.fixture
def make_way(ca_bundle: Path) -> Iterator[Callable[..., Transport]]:
    """Transports, closed at the end; the upstreams' authority vouches for them."""
    with ExitStack() as held:

        def make(url: str, **options: object) -> Transport:
            made = calls.transport(url, **{"ca_bundle": str(ca_bundle), **options})  # type: ignore[arg-type]
            return held.enter_context(calls.opened(made))

        yield make


@pytest.fixture
def way(upstream: Upstream, make_way: Callable[..., Transport]) -> Transport:
    return make_way(upstream.url)
