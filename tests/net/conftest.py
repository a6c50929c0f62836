"""Upstreams plain and over TLS 1.3, and the way to each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.net.transport import Transport
from tests.support.upstream import Upstream


@pytest.fixture(params=["plain", "secure"])
def upstream(request: pytest.FixtureRequest) -> Upstream:
    """Both kinds, one after the other."""
    found: Upstream = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def way(upstream: Upstream, make_way: Callable[..., Transport]) -> Transport:
    return make_way(upstream.url)
