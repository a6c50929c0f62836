"""One keyed gateway for hostile requests, as it is shipped, and the upstream behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.gateway import Gateway, Lots
from tests.support.upstream import Upstream

CALLER_KEY = "sk-caller-0123456789abcdef"
AUTHORIZED = {"Authorization": f"Bearer {CALLER_KEY}"}


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    """Behind all lots of the hostile requests' gateway."""
    with Upstream() as running:
        yield running


@pytest.fixture(scope="session")
def lots(upstream: Upstream) -> Lots:
    """Models to be used up, one a test."""
    return Lots(upstream.url, {1: 60, 2: 10})


@pytest.fixture(scope="session")
def gateway(lots: Lots) -> Iterator[Gateway]:
    """Asks for a key, so that a request that slips past its check is seen."""
    config = {
        "api-keys": [{"name": "hostile", "key": CALLER_KEY}],
        "request-retry": 1,
        "openai-compatibility": lots.providers,
    }
    with Gateway(config) as running:
        yield running
