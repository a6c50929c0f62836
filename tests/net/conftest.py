"""Upstreams on loopback and ways to them: the fixtures of `tests.support.ways`."""

from tests.support.ways import authority, ca_bundle, make_way, plain, secure, upstream, way

__all__ = ["authority", "ca_bundle", "make_way", "plain", "secure", "upstream", "way"]
