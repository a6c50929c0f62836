"""TLS within TLS over an outer connection that takes and gives as each case wants it."""

from __future__ import annotations

import ssl
from typing import Any, cast

import pytest

from proxy.net.nested_tls import READ_BYTES, NestedTls
from tests.support.certificates import Authority


class Outer:
    """The outer connection, whose other end is a server's session in this process."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.given, self.taken = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = context.wrap_bio(self.taken, self.given, server_side=True)
        self.is_full = False
        self.held = 0

    def send(self, data: bytes) -> int:
        if self.is_full:
            raise ssl.SSLWantWriteError
        return self.taken.write(data)

    def recv(self, size: int) -> bytes:
        assert size == READ_BYTES
        if not self.given.pending:
            raise ssl.SSLWantReadError
        return self.given.read(size)

    def pending(self) -> int:
        return self.held


@pytest.fixture
def outer(authority: Authority) -> Outer:
    return Outer(authority.server())


@pytest.fixture
def inner(outer: Outer, authority: Authority) -> NestedTls:
    return NestedTls(cast(Any, outer), authority.client(), "localhost")


def taken(inner: NestedTls, size: int) -> bytes:
    buffer = memoryview(bytearray(size))
    return bytes(buffer[: inner.recv_into(buffer, size)])


def greeted(outer: Outer, inner: NestedTls) -> None:
    """The handshake but for what the client sends last."""
    with pytest.raises(ssl.SSLWantReadError):
        inner.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        outer.server.do_handshake()


def shake_hands(outer: Outer, inner: NestedTls) -> None:
    greeted(outer, inner)
    inner.do_handshake()
    outer.server.do_handshake()


def test_handshake_is_over_when_its_end_was_sent(outer: Outer, inner: NestedTls) -> None:
    """The outer connection says when to go on."""
    greeted(outer, inner)
    outer.is_full = True
    for _ in range(2):
        with pytest.raises(ssl.SSLWantWriteError):
            inner.do_handshake()
    outer.is_full = False
    inner.do_handshake()
    outer.server.do_handshake()


def test_what_is_not_taken_goes_first(outer: Outer, inner: NestedTls) -> None:
    """It is pending until then, and nothing more is taken meanwhile."""
    shake_hands(outer, inner)
    before = inner.pending()
    outer.is_full = True
    assert inner.send(b"first") == 5
    assert inner.pending() - before > 5  # a record's frame is about it
    with pytest.raises(ssl.SSLWantWriteError):
        inner.send(b"second")
    outer.is_full = False
    assert inner.send(b"third") == 5
    assert inner.pending() == before
    assert outer.server.read(100) + outer.server.read(100) == b"firstthird"


def test_all_that_no_poll_of_the_descriptor_sees_is_pending(outer: Outer, inner: NestedTls) -> None:
    """Read and not asked for, received and not read, and what the outer connection holds."""
    shake_hands(outer, inner)
    with pytest.raises(ssl.SSLWantReadError):
        taken(inner, 1)  # what the server sends of itself
    assert inner.pending() == 0
    outer.server.write(b"abc")
    outer.server.write(b"d" * 100)
    assert taken(inner, 1) == b"a"
    one_record = inner.pending()
    assert one_record > 102  # of the first record two, and the second one as it came
    outer.held = 1000
    assert inner.pending() == one_record + 1000
    assert taken(inner, 10) == b"bc"
    assert inner.pending() == one_record - 2 + 1000
    assert taken(inner, 100) == b"d" * 100
    assert inner.pending() == 1000
