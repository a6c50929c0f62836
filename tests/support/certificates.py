"""Certificates for TLS on loopback: an authority that nobody trusts unless told to."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Authority:
    """One certificate authority; each has a key of its own, so that two never trust each other."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def server(
        self, *names: str, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> ssl.SSLContext:
        """A server's context that speaks `version` only, for `names` (none: loopback's)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = version
        self._ca.issue_cert(*(names or LOOPBACK)).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        """A client's context that trusts this authority and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._ca.configure_trust(context)
        return context

    def write(self, path: Path) -> Path:
        """Write the authority's certificate as PEM, for clients that want a file; return `path`."""
        self._ca.cert_pem.write_to_path(str(path))
        return path

    def write_server(self, path: Path) -> Path:
        """Write a certificate for loopback's names, and its key, as PEM; return `path`."""
        self._ca.issue_cert(*LOOPBACK).private_key_and_cert_chain_pem.write_to_path(str(path))
        return path
