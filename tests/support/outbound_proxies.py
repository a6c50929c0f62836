"""Outbound proxies on real sockets: HTTP (CONNECT and absolute-form), the same over TLS, SOCKS5."""

from __future__ import annotations

import base64
import select
import socket
import ssl
import struct
from abc import abstractmethod
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.support.server import Connection, FakeServer


class Target(NamedTuple):
    """Where a peer wants to go, and what it and the target are told when they are connected."""

    address: tuple[str, int]
    answer: bytes = b""
    request: bytes = b""


class _Proxy(FakeServer):
    """Relays each connection to where its first words say; `asked` keeps these, in order."""

    def __init__(
        self, *, login: str = "", tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.asked: list[str] = []
        self._login = login
        super().__init__(tls=tls, host=host)

    def url_for(self, login: str) -> str:
        """With `user:password` in it."""
        return self.url.replace("://", f"://{login}@")

    def serve(self, connection: Connection) -> None:
        """Until either side closes, or the other cannot be reached."""
        target = self._target(connection)
        if target is None:
            return
        with suppress(OSError), socket.create_connection(target.address) as sock:
            far = Connection(sock, self._stopped)
            connection.send(target.answer)
            far.send(target.request)
            _relay(connection, far)

    @abstractmethod
    def _target(self, near: Connection) -> Target | None:
        """Where the peer wants to go, or None if it may not."""


def _relay(near: Connection, far: Connection) -> None:
    while True:
        took = 0
        for here, there in ((near, far), (far, near)):
            if data := here.take():
                there.send(data)
                took += 1
        if not took:
            near.wait(None, select.POLLIN, also=far)


class HttpProxy(_Proxy):
    """CONNECT makes a tunnel; any other request goes to its URL's host as it is."""

    def _target(self, near: Connection) -> Target | None:
        lines = near.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        self.asked.append(f"{method} {target}")
        wanted = f"proxy-authorization: basic {base64.b64encode(self._login.encode()).decode()}"
        if self._login and wanted.lower() not in [line.lower() for line in lines]:
            near.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return None
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            return Target(
                (host.strip("[]"), int(port)), b"HTTP/1.1 200 Connection established\r\n\r\n"
            )
        url = urlsplit(target)
        kept = [line for line in lines[1:] if not line.lower().startswith("proxy-")]
        path = target.removeprefix(f"http://{url.netloc}")
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "", ""]).encode("latin-1")
        return Target((url.hostname or "", url.port or 80), request=head)


class SocksProxy(_Proxy):
    """SOCKS5, RFC 1928; with a login also RFC 1929."""

    scheme = "socks5"

    def _target(self, near: Connection) -> Target | None:
        near.read_exactly(1)
        method = 2 if self._login else 0
        if method not in _counted(near):
            near.send(b"\x05\xff")
            return None
        near.send(bytes([5, method]))
        if self._login:
            near.read_exactly(1)
            is_right = _counted(near) + b":" + _counted(near) == self._login.encode()
            near.send(b"\x01\x00" if is_right else b"\x01\x01")
            if not is_right:
                return None
        kind = near.read_exactly(4)[3]
        if kind == 3:
            host = _counted(near).decode()
        elif kind == 4:
            host = socket.inet_ntop(socket.AF_INET6, near.read_exactly(16))
        else:
            host = socket.inet_ntoa(near.read_exactly(4))
        (port,) = struct.unpack("!H", near.read_exactly(2))
        self.asked.append(f"{host}:{port}")
        return Target((host, port), b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")


def _counted(near: Connection) -> bytes:
    """As many bytes as the first of them says."""
    return near.read_exactly(near.read_exactly(1)[0])
