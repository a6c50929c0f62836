"""The ways to upstreams, the idle connections on them, and what is sent on these.

requests' adapter and urllib3's pool keep idle connections; they open none and send nothing. Here,
in `opening` and in `exchange` is the one boundary where errors of requests, urllib3, ssl and
sockets become ours.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
import weakref
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from ..config import stamp
from ..errors import UpstreamTimeout
from ..wire.http.headers import merged
from .exchange import SocketReply
from .opening import CONNECT_FAILURES, Opening, Route, Tls, connect_error, route_to
from .watch import CLOCK, CallerConnection, Clock

# A body up to this size goes out in one write with its head; copying it is cheaper than a syscall.
MAX_JOINED_BYTES = 64 * 1024


class _Stack:
    """A stack in place of `queue.LifoQueue`, for urllib3's pools where nobody waits.

    It needs no lock, because a list's `pop` and `append` are one step each.
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


class IdlePool(HTTPConnectionPool):
    """A pool that lends its connections without sending anything on them.

    Mixed into urllib3's pool classes, whose protected methods are meant for subclasses.
    """

    QueueCls: Any = _Stack

    def take(self) -> HTTPConnection:
        """The connection that was used last, or one without a socket."""
        # urllib3 closes a connection that has anything to be read: the upstream has ended it, or
        # has said more than its answer.
        return cast("HTTPConnection", self._get_conn())

    def give_back(self, connection: HTTPConnection) -> None:
        """Keep a connection for the next taker."""
        self._put_conn(connection)


def idle_pool(request: requests.PreparedRequest, max_connections: int) -> IdlePool:
    """A pool of at most so many idle connections to where the request goes."""
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=max_connections)
    manager = adapter.poolmanager
    manager.pool_classes_by_scheme = {
        scheme: type(pool_class.__name__, (IdlePool, pool_class), {})
        for scheme, pool_class in manager.pool_classes_by_scheme.items()
    }
    return cast("IdlePool", adapter.get_connection_with_tls_context(request, verify=True))


class Transport:
    """The way to one upstream: its origin, the proxy in front of it, the CA that vouches for it.

    Shared by its clients and by threads. Opens nothing before the first exchange, and a forked
    child starts with no connection of its parent's.
    """

    def __init__(
        self,
        base_url: str,
        *,
        proxy_url: str = "",
        ca_bundle: str = "",
        connect_timeout_s: float,
        max_connections: int,
        clock: Clock = CLOCK,
    ) -> None:
        # Preparing encodes a host name or a path that is not ASCII.
        prepared = requests.Request("POST", base_url).prepare()
        url = urlsplit(prepared.url or "")
        self.host = url.netloc.rpartition("@")[2]
        self.base_path = url.path.rstrip("/")
        self.clock = clock
        self.connect_timeout_s = connect_timeout_s
        # Another with the same facts, the CA bundle as it is now, may take the place of this one.
        ca = stamp(ca_bundle) if ca_bundle else None
        self.facts = (base_url, proxy_url, ca_bundle, ca, connect_timeout_s)
        self._is_left = False
        self._request = prepared
        self._max_connections = max_connections
        self._proxy_url = proxy_url
        self._is_forwarded = proxy_url.lower().startswith("http") and url.scheme == "http"
        self._tls = Tls(ca_bundle)
        self._making = threading.Lock()  # guards that one pool is made
        self._pool: IdlePool | None = None
        _transports.add(self)

    def head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        """The request line and header lines that all requests to this path share.

        Without the blank line, so that more lines can follow.
        """
        target = self.base_path + path
        lines = {"Host": self.host}
        if self._is_forwarded:  # RFC 9112 section 3.2.2: a proxy takes the whole URL
            target = f"http://{self.host}{target}"
            lines |= HTTPAdapter().proxy_headers(self._proxy_url)
        lines["Accept-Encoding"] = "identity"
        lines = merged(lines, headers)
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{method} {target} HTTP/1.1\r\n{text}".encode("latin-1")

    def send(
        self, head: bytes, body: bytes, *, caller: CallerConnection, deadline: float
    ) -> SocketReply:
        """Send a request. Does not block, as the reply does all waiting; raises UpstreamTimeout.

        `head` ends with a line end; the length and the blank line are added here.
        """
        head += b"Content-Length: %d\r\n\r\n" % len(body) if body else b"\r\n"
        parts = [head + body] if len(body) <= MAX_JOINED_BYTES else [head, body]
        return SocketReply(self, parts, caller=caller, deadline=deadline)

    def take(
        self, *, caller: CallerConnection, deadline: float, fresh: bool
    ) -> HTTPConnection | Opening:
        """An idle connection, or, where there is none or it has to be `fresh`, an opening one.

        Raises UpstreamUnreachable, UpstreamTimeout.
        """
        left_s = deadline - self.clock.monotonic()
        if left_s <= 0:
            raise UpstreamTimeout(f"no time was left to connect to {self.host}")
        limit_s = min(self.connect_timeout_s, left_s)
        name = f"{self.host} by way of its proxy" if self._proxy_url else self.host
        try:
            connection = self._connections().take()
            if fresh:
                connection.close()
            if connection.sock is not None:
                return connection
            route = self._route
        except CONNECT_FAILURES as error:
            raise connect_error(error, name, limit_s) from error
        return Opening(
            route, connection, name=name, limit_s=limit_s, caller=caller, clock=self.clock
        )

    @functools.cached_property
    def _route(self) -> Route:
        return route_to(self._request.url or "", self._proxy_url, self._tls)

    def give_back(self, connection: HTTPConnection) -> None:
        """Keep the connection for the next exchange; a closed one is forgotten."""
        pool = self._pool
        if pool is None or self._is_left:
            connection.close()
        elif connection.sock is not None:
            pool.give_back(connection)

    def _connections(self) -> IdlePool:
        pool = self._pool
        if pool is None:
            with self._making:
                pool = self._pool = self._pool or idle_pool(self._request, self._max_connections)
        return pool

    def close(self) -> None:
        """Close idle connections; a later exchange opens new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def leave(self) -> None:
        """Keep no connection any more: what is in use is closed when it is given back."""
        self._is_left = True
        self.close()

    def forget(self) -> None:
        """Forget the connections in a forked child, as they are its parent's."""
        self._making = threading.Lock()  # the parent's may be held
        self._pool = None


_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


def _forget_all() -> None:
    for transport in tuple(_transports):
        transport.forget()


os.register_at_fork(after_in_child=_forget_all)
