"""Containers for signed reasoning: what goes in comes out, for the same kind, and nothing else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.reasoning import MARK, MAX_CHARS, Container, pack, unpack


@given(kind=st.sampled_from(["claude", "gemini", "openai"]), payload=st.binary(max_size=2000))
def test_what_goes_in_comes_out(kind: str, payload: bytes) -> None:
    """It is base64, begins with the mark, and is bounded."""
    packed = pack(kind, payload)
    assert packed is not None
    assert packed.startswith(MARK)
    base64.b64decode(packed, validate=True)
    assert unpack(packed) == Container(kind, payload)


def test_what_is_too_large_is_left_out() -> None:
    """At the bound it is not."""
    most = MAX_CHARS // 4 * 3 - len(b"poolproxy1gemini\0")
    packed = pack("gemini", b"x" * most)
    assert packed is not None
    assert len(packed) <= MAX_CHARS
    assert pack("gemini", b"x" * (most + 3)) is None


@given(text=st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()))
def test_a_vendors_own_signature_is_no_container(text: str) -> None:
    """Only the mark makes one."""
    assert (unpack(text) is None) == (not text.startswith(MARK))


@pytest.mark.parametrize(
    "damaged",
    [
        MARK,
        f"{MARK}!!!",
        MARK + base64.b64encode(b"1gemini without its end").decode(),
        MARK + base64.b64encode(b"2gemini\0of another version").decode(),
        MARK + base64.b64encode(b"1\xff\0x").decode(),
        f"{pack('gemini', b'x')}x",
    ],
)
def test_damaged_container_is_for_nobody(damaged: str) -> None:
    """Nor is it taken for a vendor's own."""
    assert unpack(damaged) == Container("")
