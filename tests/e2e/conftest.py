"""One gateway that most end-to-end tests share: open, its waits as shipped, one upstream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support.gateway import Gateway, Lot, Lots
from tests.support.upstream import Upstream

MAX_BODY_BYTES = 1_500_000


class _Shared(NamedTuple):
    gateway: Gateway
    lots: Lots
    renamed: Lots


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    """Behind all lots of the shared gateway."""
    with Upstream() as running:
        yield running


@pytest.fixture(scope="session")
def _shared(upstream: Upstream) -> Iterator[_Shared]:
    lots = Lots(upstream.url, {1: 400, 3: 160})
    renamed = Lots(upstream.url, {1: 20}, renamed=True)
    config = {
        "max-body-size": MAX_BODY_BYTES,
        "request-retry": 2,
        "openai-compatibility": [*lots.providers, *renamed.providers],
    }
    with Gateway(config) as running:
        yield _Shared(running, lots, renamed)


@pytest.fixture(scope="session")
def gateway(_shared: _Shared) -> Gateway:
    """The shared gateway."""
    return _shared.gateway


@pytest.fixture
def lot(_shared: _Shared) -> Lot:
    """A model of one client."""
    return _shared.lots.take()


@pytest.fixture
def trio(_shared: _Shared) -> Lot:
    """A model of three clients."""
    return _shared.lots.take(3)


@pytest.fixture
def renamed(_shared: _Shared) -> Lot:
    """A model of one client, under an alias with a slash."""
    return _shared.renamed.take()
