"""Idle connections, TLS settings, and what an error in opening a connection is called.

requests' adapter and urllib3's pool keep idle connections; they open none and send nothing.
"""

from __future__ import annotations

import functools
import os
import queue
import socket
import ssl
from typing import Protocol, cast

import certifi
import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util.ssl_ import create_urllib3_context

from ..errors import OutOfResources, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from ..wire.tunnels import TunnelRefused
from . import shortage


class IdlePool(Protocol):
    """A urllib3 connection pool that lends its connections without sending anything on them."""

    def take(self) -> HTTPConnection:
        """The connection that was used last, or one without a socket."""

    def give_back(self, connection: HTTPConnection) -> None:
        """Keep a connection for the next taker."""

    def close(self) -> None:
        """Close what is idle."""


class _Stack:
    """What urllib3's pools use of `queue.LifoQueue`, for those that never wait for a connection.

    A list's `pop` and `append` are one step each: there is nothing to lock.
    """

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: list[HTTPConnection | None] = []

    def qsize(self) -> int:
        return len(self._items)

    def get(self, block: bool = False, timeout: float | None = None) -> HTTPConnection | None:
        """What was put last; raises queue.Empty."""
        try:
            return self._items.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, item: HTTPConnection | None, block: bool = False) -> None:
        """Raises queue.Full."""
        if len(self._items) >= self._maxsize:
            raise queue.Full
        self._items.append(item)


class _Lending:
    """Mixed into urllib3's pool classes, whose protected methods are meant for subclasses."""

    QueueCls = _Stack

    def take(self) -> HTTPConnection:
        # One that has anything to be read is closed there: its upstream ended it, or said more than
        # its answer.
        return cast("HTTPConnection", cast("HTTPConnectionPool", self)._get_conn())

    def give_back(self, connection: HTTPConnection) -> None:
        cast("HTTPConnectionPool", self)._put_conn(connection)


@functools.cache
def _lending(pool_class: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
    return type(f"Lending{pool_class.__name__}", (_Lending, pool_class), {})


def idle_pool(request: requests.PreparedRequest, max_connections: int) -> IdlePool:
    """Keeps so many idle connections to where a request goes, however they were opened."""
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=max_connections)
    manager = adapter.poolmanager
    manager.pool_classes_by_scheme = {
        scheme: _lending(pool_class)
        for scheme, pool_class in manager.pool_classes_by_scheme.items()
    }
    return cast("IdlePool", adapter.get_connection_with_tls_context(request, verify=True))


class Tls:
    """What connections through one transport have in common: the authorities they trust.

    They are read at first need: it takes about 20 ms.
    """

    def __init__(self, ca_bundle: str) -> None:
        self._ca_bundle = ca_bundle or certifi.where()
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Checks certificates and the names in them; raises OSError."""
        if self._context is None:
            context = create_urllib3_context()
            context.check_hostname = True
            context.verify_mode = ssl.CERT_REQUIRED
            context.set_alpn_protocols(["http/1.1"])
            if os.path.isdir(self._ca_bundle):
                context.load_verify_locations(capath=self._ca_bundle)
            else:
                context.load_verify_locations(cafile=self._ca_bundle)
            self._context = context
        return self._context


# Whatever can go wrong before a connection is open: in sockets, TLS, proxies and names (OSError,
# UnicodeError), in URLs (ValueError and what libraries make of it), for want of threads.
CONNECT_FAILURES = (OSError, RuntimeError, ValueError, HTTPError)


def connect_error(error: Exception, host: str, timeout_s: float) -> UpstreamError | OutOfResources:
    """What kept us from connecting, in our terms and plain words; raises a fault of our own."""
    if want := shortage.recognised(error):
        return want
    if isinstance(error, RuntimeError):
        raise error
    if isinstance(error, TimeoutError):
        detail = f": {error}" if str(error) and error.errno is None else ""
        return UpstreamTimeout(f"connecting to {host} took longer than {timeout_s:.3g} s{detail}")
    if isinstance(error, socket.gaierror):
        reason = "its name cannot be resolved"
    elif isinstance(error, ssl.SSLError):
        # Why a certificate is refused, OpenSSL says best.
        why = getattr(error, "verify_message", None) or getattr(error, "reason", None)
        reason = f"TLS failed: {why or 'handshake'}"
    elif isinstance(error, TunnelRefused):
        reason = str(error)
    else:
        reason = getattr(error, "strerror", None) or type(error).__name__
    return UpstreamUnreachable(f"cannot connect to {host}: {reason}")
