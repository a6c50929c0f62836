"""Connections to upstreams: requests' adapter makes and keeps them, but sends nothing on them.

`requests.adapters.HTTPAdapter` and urllib3 do DNS, connect, TLS, proxies and the keeping of idle
connections. What can go wrong up to there becomes ours in `connect_error`.
"""

from __future__ import annotations

import errno
import functools
import os
import queue
import select
import socket
import ssl
from typing import Any, Protocol, cast

import certifi
import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import NameResolutionError, NewConnectionError, ProxyError, SSLError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError
from urllib3.poolmanager import PoolManager
from urllib3.util.ssl_ import create_urllib3_context
from urllib3.util.ssltransport import SSLTransport

from .. import shortage
from ..errors import OutOfResources, UpstreamError, UpstreamTimeout, UpstreamUnreachable

# RFC 8446 section 5.1.
TLS_RECORD_BYTES = 16 * 1024
# A socket that reported room takes a record at once; this is for one that then does not.
NESTED_SEND_S = 10.0


class WatchedPool(Protocol):
    """A urllib3 connection pool that lends its connections without sending anything on them."""

    def take(
        self, *, connect_timeout_s: float, fresh: bool, tunnels: bool
    ) -> tuple[HTTPConnection, bool]:
        """A connected connection, and whether it has served before. Blocks to connect.

        `tunnels`: through a proxy's CONNECT.
        """

    def give_back(self, connection: HTTPConnection) -> None:
        """Keep a connection for the next taker; a closed one keeps its place only."""

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

    def take(
        self, *, connect_timeout_s: float, fresh: bool, tunnels: bool
    ) -> tuple[HTTPConnection, bool]:
        pool = cast("HTTPConnectionPool", self)
        # One that has anything to be read is closed there: its upstream ended it, or said more than
        # its answer.
        connection = cast("HTTPConnection", pool._get_conn())
        if connection.sock is not None and not fresh:
            return connection, True
        try:
            connection.close()
            connection.timeout = connect_timeout_s
            if tunnels:
                pool._prepare_proxy(connection)
            else:
                connection.connect()
            connection.sock.settimeout(0)
            if isinstance(connection.sock, SSLTransport):
                connection.sock = cast("Any", TlsInTls(connection.sock))
        except BaseException:
            connection.close()
            pool._put_conn(connection)
            raise
        return connection, False

    def give_back(self, connection: HTTPConnection) -> None:
        cast("HTTPConnectionPool", self)._put_conn(connection)


class TlsInTls:
    """urllib3's TLS within TLS, which loses what a non-blocking socket does not take at once.

    So a write blocks, for what one TLS record holds and when the socket has room: briefly.
    """

    def __init__(self, transport: SSLTransport) -> None:
        self._transport = transport
        self.socket: socket.socket = transport.socket
        self._poll = select.poll()
        self._poll.register(transport.fileno(), select.POLLOUT)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def send(self, data: bytes | memoryview) -> int:
        """How much went out; raises BlockingIOError if there is no room."""
        if not self._poll.poll(0):
            raise BlockingIOError(errno.EAGAIN, "the socket has no room")
        self.socket.settimeout(NESTED_SEND_S)
        try:
            return self._transport.send(cast("bytes", data[:TLS_RECORD_BYTES]))
        finally:
            self.socket.settimeout(0)


@functools.cache
def _lending(pool_class: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
    return type(f"Lending{pool_class.__name__}", (_Lending, pool_class), {})


class WatchedAdapter(HTTPAdapter):
    """requests' adapter with lending pools and one TLS context for all of its connections.

    requests would read the CA bundle again for each new connection (about 20 ms).
    """

    def __init__(self, ca_bundle: str, max_connections: int) -> None:
        self._context: ssl.SSLContext | None = None
        self._ca_bundle = ca_bundle or certifi.where()
        super().__init__(pool_connections=1, pool_maxsize=max_connections)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._lend(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if proxy.lower().startswith("https:"):
            kwargs["proxy_ssl_context"] = self._tls_context()
        manager = super().proxy_manager_for(proxy, **kwargs)
        self._lend(manager)
        return manager

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> Any:
        host, pool_key = super().build_connection_pool_key_attributes(request, verify, cert)
        if host["scheme"] == "https":
            pool_key["ssl_context"] = self._tls_context()
        return host, pool_key

    def _tls_context(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = create_urllib3_context()
            self._context.check_hostname = True
            self._context.verify_mode = ssl.CERT_REQUIRED
            if os.path.isdir(self._ca_bundle):
                self._context.load_verify_locations(capath=self._ca_bundle)
            else:
                self._context.load_verify_locations(cafile=self._ca_bundle)
        return self._context

    @staticmethod
    def _lend(manager: PoolManager) -> None:
        manager.pool_classes_by_scheme = {
            scheme: _lending(pool_class)
            for scheme, pool_class in manager.pool_classes_by_scheme.items()
        }


_TIMEOUTS = (Urllib3TimeoutError, requests.Timeout, TimeoutError)


def connect_error(error: Exception, host: str, timeout_s: float) -> UpstreamError | OutOfResources:
    """What kept us from connecting, in our terms and plain words."""
    if want := shortage.recognised(error):
        return want
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and len(causes) < 8:
        causes.append(cast("Exception", cause))
    # A refused connection is a time-out by urllib3's tree.
    if isinstance(error, _TIMEOUTS) and not isinstance(error, NewConnectionError):
        return UpstreamTimeout(f"connecting to {host} took longer than {timeout_s:.3g} s")
    if isinstance(error, NameResolutionError):
        reason = "its name cannot be resolved"
    elif isinstance(error, (SSLError, ssl.SSLError, ssl.CertificateError)):
        reasons = [getattr(cause, "verify_message", None) for cause in causes]
        reasons += [getattr(cause, "reason", None) for cause in causes]
        reason = f"TLS failed: {next(filter(None, reasons), 'handshake')}"
    else:
        texts = [getattr(cause, "strerror", None) or _proxy_failure(cause) for cause in causes]
        reason = str(next(filter(None, texts), type(error).__name__))
        if isinstance(error, ProxyError):
            reason = f"the outbound proxy failed: {reason}"
    return UpstreamUnreachable(f"cannot connect to {host}: {reason}")


def _proxy_failure(error: Exception) -> str:
    """What a proxy answered to CONNECT (http.client), or said in a SOCKS handshake (PySocks)."""
    text = str(getattr(error, "msg", error)) if isinstance(error, OSError) else ""
    return text if text.startswith(("Tunnel connection failed", "SOCKS")) else ""
