"""Opening a connection to an upstream: its name, its addresses, the proxy before it, TLS.

All steps are non-blocking and run in the request's own thread. Each wait sees data, the clock and a
caller who left, and can be resumed after a pause. One limit holds for all steps together.
"""

from __future__ import annotations

import errno
import functools
import math
import os
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, TypeAlias, TypeVar, cast

import certifi
from requests.adapters import HTTPAdapter
from requests.utils import get_auth_from_url
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url
from urllib3.util.ssl_ import create_urllib3_context

from ..errors import OutOfResources, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from ..wire.tunnels import Handshake, TunnelRefused, http_connect, socks5
from . import shortage
from .helpers import Task
from .names import NAMES, Address, literal
from .nested_tls import NestedTls
from .received import received
from .watch import CallerConnection, Clock

# RFC 8305 section 5: the time that an address has before the next one is tried beside it.
HEAD_START_S = 0.25

# SOCKS: RFC 1928 section 3.
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}

Channel: TypeAlias = socket.socket | ssl.SSLSocket | NestedTls

_T = TypeVar("_T")

# Yields the moment at which to go on, even though nothing came.
_Steps: TypeAlias = Generator[float, None, _T]


def tls_context(ca_bundle: str) -> ssl.SSLContext:
    """Checks certificates and the names in them; raises OSError. Takes about 20 ms."""
    context = create_urllib3_context()
    context.check_hostname = True
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    kind = "capath" if os.path.isdir(ca_bundle) else "cafile"
    context.load_verify_locations(**{kind: ca_bundle or certifi.where()})
    return context


class Route(NamedTuple):
    """The way to an upstream: its URL, and that of the outbound proxy before it; "": there is none.

    Of proxies: http, https, socks5, or socks5h, which resolves names itself.
    """

    url: str
    proxy_url: str
    context: Callable[[], ssl.SSLContext]  # made at the first call

    def __repr__(self) -> str:  # a proxy's URL may have a password
        return f"Route({self.url!r})"


def _parts(url: str) -> tuple[str, str, int]:
    """Scheme, host (without the brackets of IPv6) and port of a URL; raises HTTPError."""
    parsed = parse_url(url)
    scheme = parsed.scheme or ""
    return scheme, (parsed.host or "").strip("[]"), parsed.port or _PORTS[scheme]


# All errors before a connection is open: of sockets, TLS, proxies and names (OSError,
# UnicodeError), of URLs (ValueError, and libraries' own), and for want of threads (RuntimeError).
CONNECT_FAILURES = (OSError, RuntimeError, ValueError, HTTPError)


def connect_error(error: Exception, host: str, timeout_s: float) -> UpstreamError | OutOfResources:
    """The caller's error for a failed connection; raises what is a fault of our own."""
    if want := shortage.recognised(error):
        return want
    if isinstance(error, RuntimeError):
        raise error
    if isinstance(error, TimeoutError):
        detail = f": {error}" if str(error) and error.errno is None else ""
        return UpstreamTimeout(f"connecting to {host} took longer than {timeout_s:.3g} s{detail}")
    reason = getattr(error, "strerror", None) or type(error).__name__
    if isinstance(error, socket.gaierror):
        reason = "its name cannot be resolved"
    elif isinstance(error, ssl.SSLError):  # why a certificate is refused, OpenSSL says best
        why = getattr(error, "verify_message", None) or getattr(error, "reason", None)
        reason = f"TLS failed: {why or 'handshake'}"
    elif isinstance(error, TunnelRefused):
        reason = str(error)
    return UpstreamUnreachable(f"cannot connect to {host}: {reason}")


class Opening:
    """A connection that is being opened. Owns it until `take`; used by one thread.

    `limit_s` counts from now, for all steps together; `name` says in errors where they lead.
    """

    def __init__(
        self, route: Route, *, name: str, limit_s: float, caller: CallerConnection, clock: Clock
    ) -> None:
        self._route = route
        self._name = name
        self._limit_s = limit_s
        self._caller = caller
        self._clock = clock
        self._deadline = clock.monotonic() + limit_s
        self._lookup: Task[list[Address]] | None = None  # what is waited for, if not a socket
        self._poll = select.poll()
        self._events: Sequence[tuple[int, int]] = ()  # that ended the last wait
        self._connecting: dict[int, socket.socket] = {}
        self._channel: Channel | None = None
        self._steps = self._open()

    def advance(self, until: float) -> bool:
        """Whether the connection is open by then; raises CallerGone, UpstreamError."""
        try:
            for due_at in self._steps:
                came = self._wait(min(until, due_at, self._deadline))
                now = self._clock.monotonic()
                if now >= self._deadline:
                    raise TimeoutError("its name was not resolved" if self._lookup else "")
                if now >= until and not came:
                    return False
        except CONNECT_FAILURES as error:
            raise connect_error(error, self._name, self._limit_s) from error
        return True

    def take(self) -> Channel:
        """The open connection, which is the taker's from now on."""
        channel, self._channel = self._channel, None
        assert channel is not None
        return channel

    def close(self) -> None:
        """Give up what is not taken. Idempotent."""
        self._steps.close()  # its frame refers to us: no cycle is left for the collector
        for sock in (*self._connecting.values(), self._channel):
            if sock is not None:
                sock.close()
        self._connecting.clear()
        self._channel = None

    def _wait(self, until: float) -> bool:
        """Whether something came before the monotonic moment `until`; raises CallerGone."""
        if self._lookup is not None:
            return self._lookup.wait(until, self._caller, self._clock)
        self._events = self._caller.wait(self._poll, until, self._clock)
        return bool(self._events)

    def _open(self) -> _Steps[None]:
        scheme, host, port = _parts(self._route.url)
        if self._route.proxy_url:
            yield from self._tunnel(host, port, is_tls=scheme == "https")
        else:
            yield from self._connect((yield from self._resolve(host)), port)
        if scheme == "https":
            yield from self._secure(host)

    def _tunnel(self, host: str, port: int, *, is_tls: bool) -> _Steps[None]:
        """Connects to the proxy, and tells it where to go on, unless each request does."""
        url = self._route.proxy_url
        scheme, proxy_host, proxy_port = _parts(url)
        if scheme == "socks5":
            addresses = yield from self._resolve(host)
            # Not every proxy has a way to IPv6, and there is one try only.
            first = min(addresses, key=lambda address: address.family != socket.AF_INET)
            host = str(first.sockaddr[0])
        yield from self._connect((yield from self._resolve(proxy_host)), proxy_port)
        if scheme == "https":
            yield from self._secure(proxy_host)
        if scheme.startswith("socks"):
            yield from self._pass(socks5(host, port, get_auth_from_url(url)))
        elif is_tls:
            yield from self._pass(http_connect(host, port, HTTPAdapter().proxy_headers(url)))

    def _resolve(self, host: str) -> _Steps[list[Address]]:
        if found := literal(host):
            return found
        lookup = NAMES.find(host)
        self._lookup = lookup.task
        while not lookup.is_over(self._clock.monotonic()):
            yield lookup.usable_at
        self._lookup = None
        return lookup.result()

    def _connect(self, addresses: list[Address], port: int) -> _Steps[None]:
        """Connects to the first address that answers."""
        self._caller.join(self._poll)
        left = deque(addresses)
        next_at = -math.inf
        failed = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        while left or self._connecting:
            now = self._clock.monotonic()
            if left and (now >= next_at or not self._connecting):
                next_at = now + HEAD_START_S
                try:
                    self._begin(left.popleft(), port)
                except OSError as error:
                    failed = error
                continue
            yield next_at if left else math.inf
            for fd, _ in self._events:
                sock = self._connecting[fd]
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not number:
                    self._channel = self._connecting.pop(fd)
                    for other in list(self._connecting.values()):
                        self._drop(other)
                    return
                failed = OSError(number, os.strerror(number))
                self._drop(sock)
                next_at = -math.inf
        try:
            raise failed
        finally:
            del failed  # its traceback refers to this frame

    def _begin(self, address: Address, port: int) -> None:
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        self._connecting[sock.fileno()] = sock
        self._poll.register(sock.fileno(), select.POLLOUT)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect(address.at(port))
        except BlockingIOError:
            pass
        except OSError:
            self._drop(sock)
            raise

    def _drop(self, sock: socket.socket) -> None:
        self._poll.unregister(sock.fileno())
        self._connecting.pop(sock.fileno()).close()

    def _pass(self, handshake: Handshake) -> _Steps[None]:
        """Holds a conversation with the proxy."""
        channel = self._channel
        assert channel is not None
        data, size = next(handshake)
        while True:
            while data:
                sent = yield from self._do(functools.partial(channel.send, data), select.POLLOUT)
                data = data[sent:]
            receive = functools.partial(received, channel.recv_into, size)
            came = yield from self._do(receive, select.POLLIN)
            if not came:
                raise TunnelRefused("the proxy closed the connection")
            try:
                data, size = handshake.send(came)
            except StopIteration:
                return

    def _secure(self, host: str) -> _Steps[None]:
        """Does a TLS handshake with `host`, which has to be in the certificate."""
        channel, context = self._channel, self._route.context()
        host = host.partition("%")[0].rstrip(".")  # certificates have neither zones nor roots
        if isinstance(channel, ssl.SSLSocket):
            secured: NestedTls | ssl.SSLSocket = NestedTls(channel, context, host)
        else:
            bare = cast("socket.socket", channel)
            secured = context.wrap_socket(bare, do_handshake_on_connect=False, server_hostname=host)
        self._channel = secured
        yield from self._do(secured.do_handshake, select.POLLIN)

    def _do(self, operation: Callable[[], _T], wanted: int) -> _Steps[_T]:
        """Tries an operation on the connection until it is done."""
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                events = select.POLLIN
            except ssl.SSLWantWriteError:
                events = select.POLLOUT
            except BlockingIOError:
                events = wanted
            assert self._channel is not None
            self._poll.modify(self._channel.fileno(), events)
            yield math.inf
