"""The ways to upstreams, the idle connections on them, and what is sent on these.

requests prepares their URLs, and reads what a proxy is to be told. Here, in `opening` and in
`exchange` is the one boundary where errors of requests, urllib3, ssl and sockets become ours.
"""

from __future__ import annotations

import functools
import os
import select
import threading
import weakref
from collections.abc import Mapping
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from ..config import stamp
from ..errors import UpstreamTimeout
from ..wire.http.headers import merged
from .exchange import SocketReply
from .opening import Channel, Opening, Route, tls_context
from .watch import CLOCK, CallerConnection, Clock

# A body up to this size goes out in one write with its head; copying it is cheaper than a syscall.
MAX_JOINED_BYTES = 64 * 1024


class Transport:
    """The way to one upstream: its origin, the proxy in front of it, the CA that vouches for it.

    Shared by its clients and by threads. Opens nothing before the first exchange.
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
        context = functools.cache(functools.partial(tls_context, ca_bundle))
        self._route = Route(prepared.url or "", proxy_url, context)
        self._max_connections = max_connections
        self._proxy_url = proxy_url
        self._is_forwarded = proxy_url.lower().startswith("http") and url.scheme == "http"
        self._idle: list[Channel] = []
        self.forget()
        _transports.add(self)
        weakref.finalize(self, _close_all, self._idle).atexit = False

    def head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        """The request line and header lines that all requests to this path share, or begin with."""
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

    def take(self, *, caller: CallerConnection, deadline: float, fresh: bool) -> Channel | Opening:
        """An idle connection, else an opening one; raises UpstreamTimeout."""
        left_s = deadline - self.clock.monotonic()
        if left_s <= 0:
            raise UpstreamTimeout(f"no time was left to connect to {self.host}")
        if not fresh and (idle := self._take_idle()) is not None:
            return idle
        limit_s = min(self.connect_timeout_s, left_s)
        name = f"{self.host} by way of its proxy" if self._proxy_url else self.host
        return Opening(self._route, name=name, limit_s=limit_s, caller=caller, clock=self.clock)

    def _take_idle(self) -> Channel | None:
        """The connection that was used last, of those whose upstream has said nothing since."""
        while True:
            with self._lock:
                self._keeps = not self._is_left
                if not self._idle:
                    return None
                channel = self._idle.pop()
            poller = select.poll()
            poller.register(channel.fileno(), select.POLLIN)
            if not poller.poll(0):
                return channel
            channel.close()  # the upstream has ended it, or has said more than its answer

    def give_back(self, channel: Channel) -> None:
        """Keep the connection for the next exchange, if there still may be one."""
        with self._lock:
            keeps = self._keeps and len(self._idle) < self._max_connections
            if keeps:
                self._idle.append(channel)
        if not keeps:
            channel.close()

    def close(self) -> None:
        """Close idle connections; a later exchange opens new ones."""
        with self._lock:
            self._keeps = False
            idle = self._idle.copy()
            self._idle.clear()
        _close_all(idle)

    def leave(self) -> None:
        """Keep no connection any more: what is in use is closed when it is given back."""
        self._is_left = True
        self.close()

    def forget(self) -> None:
        """Begin without connections, as a forked child has to: they are its parent's."""
        self._lock = threading.Lock()  # guards _idle, _keeps
        self._keeps = False  # before the first exchange, and after `close`
        self.close()


def _close_all(idle: list[Channel]) -> None:
    for channel in idle:
        channel.close()


_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


def _forget_all() -> None:
    for transport in tuple(_transports):
        transport.forget()


os.register_at_fork(after_in_child=_forget_all)
