"""A gateway for all callers, and each caller's program, running as long as its module's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.gateway import Gateway, Lot, Lots
from tests.support.upstream import Upstream


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """Behind all lots."""
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def lots(upstream: Upstream) -> Lots:
    """One for each test."""
    return Lots(upstream.url, {1: 80})


@pytest.fixture(scope="module")
def gateway(lots: Lots) -> Iterator[Gateway]:
    """Open, without a retry of its own."""
    with Gateway({"request-retry": 0, "openai-compatibility": lots.providers}) as running:
        yield running


@pytest.fixture
def lot(lots: Lots) -> Lot:
    """A model of one client."""
    return lots.take()
