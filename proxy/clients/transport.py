"""The ways to upstreams, and what is sent on them.

Here, in `reply` and in `connections` is the one boundary where errors of requests, urllib3, ssl and
sockets become ours.
"""

from __future__ import annotations

import http.client
import os
import weakref
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

from ..errors import UpstreamTimeout
from ..watch import CLOCK, Caller, Clock
from ..wire.headers import merged
from .connections import WatchedAdapter, WatchedPool, connect_error
from .reply import SocketReply

# A body up to this size goes out in one write with its head; copying it is cheaper than a syscall.
MAX_JOINED_BYTES = 64 * 1024


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
        # Prepared, so that a host name or a path beyond ASCII goes out as on the connection.
        prepared = requests.Request("POST", base_url).prepare()
        url = urlsplit(prepared.url or "")
        self.host = url.netloc.rpartition("@")[2]
        self.base_path = url.path.rstrip("/")
        self.clock = clock
        self.connect_timeout_s = connect_timeout_s
        self._request = prepared
        self._ca_bundle = ca_bundle
        self._max_connections = max_connections
        self._proxies = {"http": proxy_url, "https": proxy_url} if proxy_url else {}
        is_http_proxy = proxy_url.lower().startswith("http")
        self._is_forwarded = is_http_proxy and url.scheme == "http"
        self._is_tunnelled = is_http_proxy and url.scheme == "https"
        self._pool: WatchedPool | None = None
        _transports.add(self)

    def head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        """The request line and header lines that all requests to this path share.

        Without the blank line, so that more lines can follow.
        """
        target = self.base_path + path
        lines = {"Host": self.host}
        if self._is_forwarded:  # RFC 9112 section 3.2.2: a proxy takes the whole URL
            target = f"http://{self.host}{target}"
            lines |= HTTPAdapter().proxy_headers(self._proxies["http"])
        lines["Accept-Encoding"] = "identity"
        lines = merged(lines, headers)
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{method} {target} HTTP/1.1\r\n{text}".encode("latin-1")

    def send(self, head: bytes, body: bytes, *, caller: Caller, deadline: float) -> SocketReply:
        """Send a request; the reply does the waiting. Blocks for DNS and connect only.

        `head` ends with a line end; the length and the blank line are added here.
        """
        head += b"Content-Length: %d\r\n\r\n" % len(body) if body else b"\r\n"
        parts = [head + body] if len(body) <= MAX_JOINED_BYTES else [head, body]
        return SocketReply(self, parts, caller=caller, deadline=deadline)

    def take(self, *, deadline: float, fresh: bool) -> tuple[HTTPConnection, bool]:
        """A connection; raises UpstreamUnreachable, UpstreamTimeout."""
        left_s = deadline - self.clock.monotonic()
        if left_s <= 0:
            raise UpstreamTimeout(f"no time was left to connect to {self.host}")
        timeout_s = min(self.connect_timeout_s, left_s)
        try:
            return self._connections().take(
                connect_timeout_s=timeout_s, fresh=fresh, tunnels=self._is_tunnelled
            )
        except (OSError, HTTPError, http.client.HTTPException, ValueError) as error:
            way = f"{self.host} by way of its proxy" if self._proxies else self.host
            raise connect_error(error, way, timeout_s) from error

    def give_back(self, connection: HTTPConnection) -> None:
        """Keep the connection for the next exchange; a closed one is forgotten."""
        pool = self._pool
        if pool is None:
            connection.close()
        else:
            pool.give_back(connection)

    def _connections(self) -> WatchedPool:
        if self._pool is None:
            adapter = WatchedAdapter(self._ca_bundle, self._max_connections)
            self._pool = cast(
                "WatchedPool",
                adapter.get_connection_with_tls_context(
                    self._request, verify=True, proxies=self._proxies
                ),
            )
        return self._pool

    def close(self) -> None:
        """Close idle connections; a later exchange opens new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def forget(self) -> None:
        """In a forked child: the connections are the parent's, to be left alone."""
        self._pool = None


_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


def _forget_all() -> None:
    for transport in tuple(_transports):
        transport.forget()


os.register_at_fork(after_in_child=_forget_all)
