"""Handshakes with outbound proxies, whole and byte by byte."""

from __future__ import annotations

import pytest

from proxy.wire.http.answer import MAX_HEAD_BYTES
from proxy.wire.tunnels import Handshake, TunnelRefused, http_connect, socks5

NOBODY = ("", "")
LOGIN = ("user", "pa ss")
HELLO = b"\x05\x01\x00"
BOUND = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
ASKED = b"\x05\x01\x00\x03\x01h\x01\xbb"


def said(handshake: Handshake, *answers: bytes, step: int = 1 << 20) -> bytes:
    """What is sent while these answers come, up to `step` bytes at a time."""
    data, size = next(handshake)
    sent = data
    left = b"".join(answers)
    while True:
        came, left = left[: min(size, step)], left[min(size, step) :]
        assert came, "more is wanted than comes"
        try:
            data, size = handshake.send(came)
        except StopIteration:
            assert left == b"", "less is read than came"
            return sent
        sent += data


@pytest.fixture(params=[1, 3, 1 << 20])
def step(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


@pytest.mark.parametrize(
    ("host", "target"), [("h.example", "h.example:443"), ("2001:db8::1", "[2001:db8::1]:443")]
)
def test_connect_names_its_target(host: str, target: str, step: int) -> None:
    """RFC 9110 section 9.3.6: host and port; what the proxy is to know goes along."""
    handshake = http_connect(host, 443, {"Proxy-Authorization": "Basic eA=="})
    sent = said(handshake, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", step=step)
    assert sent == (
        f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic eA==\r\n\r\n"
    ).encode("ascii")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 Connection established\r\n\r\n",
        b"HTTP/1.1 204\r\nVia: 1.1 p\n\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_any_success_is_one(answer: bytes, step: int) -> None:
    """RFC 9110 section 9.3.6: any 2xx."""
    said(http_connect("h", 443, {}), answer, step=step)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 407 Secret\r\n\r\n", "407 Proxy Authentication Required"),
        (b"HTTP/1.1 599 Odd\r\n\r\n", "failed: 599$"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no valid HTTP answer"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "no valid HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES, "no valid HTTP answer"),
    ],
)
def test_refusal_to_connect_says_why(answer: bytes, says: str, step: int) -> None:
    """In the words of its status, not the proxy's; an endless head is none."""
    with pytest.raises(TunnelRefused, match=says):
        said(http_connect("h", 443, {}), answer, step=max(step, len(answer) // 1000))


def test_bytes_behind_the_answer_are_refused() -> None:
    """An upstream says nothing before TLS begins."""
    with pytest.raises(TunnelRefused, match="behind"):
        said(http_connect("h", 443, {}), b"HTTP/1.1 200 OK\r\n\r\nx")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("h", b"\x03\x01h"),
        ("h" * 255, b"\x03\xff" + b"h" * 255),
        ("10.0.0.1", b"\x01\x0a\x00\x00\x01"),
        ("::1", b"\x04" + bytes(15) + b"\x01"),
    ],
)
@pytest.mark.parametrize(
    "bound", [BOUND, b"\x05\x00\x00\x04" + bytes(18), b"\x05\x00\x00\x03\x03abc\x00\x50"]
)
def test_socks_without_login(host: str, address: bytes, bound: bytes, step: int) -> None:
    """RFC 1928 sections 3 to 6; the answer's address may be of any type, and ends it exactly."""
    sent = said(socks5(host, 443, NOBODY), b"\x05\x00", bound, step=step)
    assert sent == HELLO + b"\x05\x01\x00" + address + b"\x01\xbb"


def test_socks_with_login(step: int) -> None:
    """RFC 1929 section 2."""
    sent = said(socks5("h", 443, LOGIN), b"\x05\x02", b"\x01\x00", BOUND, step=step)
    assert sent == b"\x05\x02\x00\x02" + b"\x01\x04user\x05pa ss" + ASKED


def test_socks_login_is_given_only_if_asked_for(step: int) -> None:
    """The proxy chooses."""
    sent = said(socks5("h", 443, LOGIN), b"\x05\x00", BOUND, step=step)
    assert sent == b"\x05\x02\x00\x02" + ASKED


@pytest.mark.parametrize(
    ("login", "answers", "says"),
    [
        (NOBODY, [b"HT"], "not SOCKS"),
        (NOBODY, [b"\x05\xff"], "another way"),
        (NOBODY, [b"\x05\x02"], "another way"),
        (LOGIN, [b"\x05\x01"], "another way"),
        (LOGIN, [b"\x05\x02", b"\x01\x01"], "SOCKS5 authentication failed"),
        (NOBODY, [b"\x05\x00", b"\x05\x05\x00\x01"], r"connection refused \(5\)"),
        (NOBODY, [b"\x05\x00", b"\x05\x63\x00\x01"], r"unknown failure \(99\)"),
        (NOBODY, [b"\x05\x00", b"\x04\x00\x00\x01"], r"\(0\)"),
    ],
)
def test_socks_refusal_says_why(
    login: tuple[str, str], answers: list[bytes], says: str, step: int
) -> None:
    """By RFC 1928 section 6; no login in it."""
    with pytest.raises(TunnelRefused, match=says) as caught:
        said(socks5("h", 443, login), *answers, step=step)
    assert "pa ss" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "login"), [("h" * 256, NOBODY), ("h", ("u" * 256, "p")), ("h", ("u", "p" * 256))]
)
def test_what_socks_cannot_say_is_an_error(host: str, login: tuple[str, str]) -> None:
    """Lengths have one byte; the error quotes nothing."""
    with pytest.raises(ValueError, match="too long for SOCKS"):
        said(socks5(host, 443, login), b"\x05\x02" if all(login) else b"\x05\x00", b"\x01\x00")
