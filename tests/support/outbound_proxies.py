"""Outbound proxies on real sockets: HTTP (CONNECT and absolute-form), the same over TLS, SOCKS5."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import ssl
import struct
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from urllib.parse import urlsplit


class _Proxy(ABC):
    """Relays each connection to where its first words say; `asked` keeps these, in order."""

    scheme = ""

    def __init__(self, *, login: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[str] = []
        self._login = login
        self._tls = tls
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{self.scheme}{'s' if tls else ''}://127.0.0.1:{self.port}"
        self._stopped, self._stop = socket.socketpair()
        self._start(self._accept)

    def url_for(self, login: str) -> str:
        """With `user:password` in it."""
        return self.url.replace("://", f"://{login}@")

    def __enter__(self) -> _Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        self._stopped.close()
        self._listener.close()

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="outbound proxy")  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while self._listener in self._readable(self._listener):
            sock, _ = self._listener.accept()
            self._start(self._serve, sock)

    def _readable(self, *socks: socket.socket) -> list[socket.socket]:
        """Those with something to read; none at the end of the test."""
        ready, _, _ = select.select([*socks, self._stopped], [], [])
        return [] if self._stopped in ready else ready

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            held.enter_context(sock)
            if self._tls:
                sock = held.enter_context(self._tls.wrap_socket(sock, server_side=True))
            target = self._handshake(sock)
            if target is not None:
                self._relay(sock, held.enter_context(target))

    @abstractmethod
    def _handshake(self, sock: socket.socket) -> socket.socket | None:
        """The connection to where the peer wants to go, or None if it may not."""

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        if isinstance(near, ssl.SSLSocket) and near.pending():  # came with the head
            far.sendall(near.recv(65536))
        while ready := self._readable(near, far):
            for sock in ready:
                while True:
                    data = sock.recv(65536)
                    if not data:
                        return
                    other[sock].sendall(data)
                    if not (isinstance(sock, ssl.SSLSocket) and sock.pending()):
                        break


def _read_until(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        byte = sock.recv(1)
        if not byte:
            raise ConnectionError
        data += byte
    return data


class HttpProxy(_Proxy):
    """CONNECT makes a tunnel; any other request goes to its URL's host as it is."""

    scheme = "http"

    def _handshake(self, sock: socket.socket) -> socket.socket | None:
        head = _read_until(sock, b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        self.asked.append(f"{method} {target}")
        wanted = f"proxy-authorization: basic {base64.b64encode(self._login.encode()).decode()}"
        if self._login and wanted.lower() not in [line.lower() for line in lines]:
            sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return None
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            far = socket.create_connection((host, int(port)))
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            return far
        url = urlsplit(target)
        far = socket.create_connection((url.hostname or "", url.port or 80))
        kept = [line for line in lines[1:] if not line.lower().startswith("proxy-")]
        path = target.removeprefix(f"http://{url.netloc}")
        far.sendall("\r\n".join([f"{method} {path} HTTP/1.1", *kept]).encode("latin-1"))
        return far


class SocksProxy(_Proxy):
    """SOCKS5, RFC 1928; with a login also RFC 1929."""

    scheme = "socks5"

    def _handshake(self, sock: socket.socket) -> socket.socket | None:
        _, count = sock.recv(1), sock.recv(1)[0]
        offered = sock.recv(count)
        method = 2 if self._login else 0
        if method not in offered:
            sock.sendall(b"\x05\xff")
            return None
        sock.sendall(bytes([5, method]))
        if self._login:
            sock.recv(1)
            user = sock.recv(sock.recv(1)[0])
            password = sock.recv(sock.recv(1)[0])
            is_right = user + b":" + password == self._login.encode()
            sock.sendall(b"\x01\x00" if is_right else b"\x01\x01")
            if not is_right:
                return None
        kind = sock.recv(4)[3]
        host = socket.inet_ntoa(sock.recv(4)) if kind == 1 else sock.recv(sock.recv(1)[0]).decode()
        (port,) = struct.unpack("!H", sock.recv(2))
        self.asked.append(f"{host}:{port}")
        far = socket.create_connection((host, port))
        sock.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        return far
