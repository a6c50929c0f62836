"""What is said to an outbound proxy before it lets us through: CONNECT, and SOCKS version 5.

Sans-IO. A handshake is a generator: it yields what to send and the most bytes to read next, and is
sent the bytes that came. No more may be read than it asks for: what follows is the upstream's.
"""

from __future__ import annotations

import http.client
import ipaddress
from collections.abc import Generator, Mapping

from ..errors import UpstreamInvalid
from .http.answer import AnswerReader

Handshake = Generator[tuple[bytes, int], bytes, None]

# A proxy's whole answer to CONNECT comes at once as a rule.
READ_BYTES = 4096

# RFC 1928 sections 3 and 6, RFC 1929 section 2.
NO_LOGIN, WITH_LOGIN = 0, 2
_ADDRESS_BYTES = {1: 4, 4: 16}  # by type of address; type 3, a name, has its length before it
_FAILURES = (
    *("", "general failure", "connection not allowed by ruleset", "network unreachable"),
    *("host unreachable", "connection refused", "TTL expired", "command not supported"),
    "address type not supported",
)


class TunnelRefused(ConnectionError):
    """The proxy does not let us through, or does not speak its protocol; the text says why."""


def http_connect(host: str, port: int, headers: Mapping[str, str]) -> Handshake:
    """RFC 9110 section 9.3.6. `headers`: for the proxy only; raises TunnelRefused."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = {"Host": target, **headers}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    data = f"CONNECT {target} HTTP/1.1\r\n{text}\r\n".encode("latin-1")
    reader = AnswerReader()
    rest = b""
    while not reader.status:
        came = yield data, READ_BYTES
        data = b""
        try:
            rest = reader.feed(came)
        except UpstreamInvalid:
            raise TunnelRefused("Tunnel connection failed: no valid HTTP answer") from None
    if not 200 <= reader.status < 300:
        phrase = http.client.responses.get(reader.status, "")
        raise TunnelRefused(f"Tunnel connection failed: {reader.status} {phrase}".rstrip())
    if rest or reader.excess or reader.fault:
        raise TunnelRefused("Tunnel connection failed: bytes behind the proxy's answer")


def socks5(host: str, port: int, login: tuple[str, str]) -> Handshake:
    """RFC 1928 and 1929; raises TunnelRefused, ValueError for what is longer than they can say."""
    offered = bytes([NO_LOGIN, WITH_LOGIN] if all(login) else [NO_LOGIN])
    version, method = yield from _ask(b"\x05" + _counted(offered), 2)
    if version != 5:
        raise TunnelRefused("SOCKS5: the proxy's answer is not SOCKS version 5")
    if method not in offered:
        raise TunnelRefused("SOCKS5: the proxy wants another way to log in")
    if method == WITH_LOGIN:
        user, password = login
        said = b"\x01" + _counted(user.encode()) + _counted(password.encode())
        _, status = yield from _ask(said, 2)
        if status != 0:
            raise TunnelRefused("SOCKS5 authentication failed")
    asked = b"\x05\x01\x00" + _address(host) + port.to_bytes(2, "big")
    version, status, _, kind = yield from _ask(asked, 4)
    if version != 5 or status != 0:
        known = _FAILURES[status] if status < len(_FAILURES) else ""
        raise TunnelRefused(f"SOCKS5: {known or 'unknown failure'} ({status})")
    size = _ADDRESS_BYTES.get(kind)
    if size is None:
        (size,) = yield from _ask(b"", 1)
    yield from _ask(b"", size + 2)  # the address and port that it connects from: of no use


def _ask(data: bytes, size: int) -> Generator[tuple[bytes, int], bytes, bytes]:
    """Sends `data`; the next `size` bytes."""
    answer = b""
    while len(answer) < size:
        answer += yield data, size - len(answer)
        data = b""
    return answer


def _address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return b"\x03" + _counted(host.encode("ascii"))
    return (b"\x01" if address.version == 4 else b"\x04") + address.packed


def _counted(data: bytes) -> bytes:
    if len(data) > 255:
        raise ValueError("a name or a login is too long for SOCKS")
    return bytes([len(data)]) + data
