"""Tool-call ids that carry thought signatures."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.gemini import calls


@given(st.text(max_size=20).filter(lambda t: "__thought__" not in t), st.binary(min_size=1))
def test_id_carries_the_signature_exactly(bare: str, secret: bytes) -> None:
    """Whatever id and signature Gemini gave."""
    signature = base64.b64encode(secret).decode()
    assert calls.parse_id(calls.make_id(bare, signature)) == (bare, signature)


def test_id_stays_in_the_alphabet_that_other_vendors_take() -> None:
    """Claude takes letters, digits, `_` and `-` only, should the conversation move there."""
    signature = base64.b64encode(bytes(range(256))).decode()
    assert re.fullmatch(r"[A-Za-z0-9_-]+", calls.make_id("call_1", signature))


@given(st.text(max_size=40))
def test_foreign_ids_are_left_alone(call_id: str) -> None:
    """An id of another vendor's is itself, with or without our separator in it."""
    bare, signature = calls.parse_id(call_id)
    assert (bare == call_id) == (signature is None)
    assert calls.parse_id("call_abc__thought__!") == ("call_abc__thought__!", None)


@given(st.text(max_size=40))
def test_signature_that_would_not_come_back_is_not_carried(signature: str) -> None:
    """It stays in the extra field alone."""
    made = calls.make_id("a", signature)
    assert made == "a" or calls.parse_id(made) == ("a", signature)


def test_long_signature_is_not_carried() -> None:
    """The bound of the id is stated."""
    long = base64.b64encode(bytes(calls.MAX_SIGNATURE_IN_ID)).decode()
    assert calls.make_id("a", long) == "a"


def test_signature_that_just_fits_is_carried() -> None:
    """The bound is within."""
    fits = "A" * calls.MAX_SIGNATURE_IN_ID
    assert calls.parse_id(calls.make_id("a", fits)) == ("a", fits)
    assert calls.make_id("a", f"{fits}AAAA") == "a"


def test_invented_id_has_the_end_of_the_replys() -> None:
    """And its place, in the alphabet that others take."""
    assert calls.invented_id("chatcmpl-0123456789abcdef-0123456789ABCDEFGHIJKLMNOP", 1, 2) == (
        "call_23456789ABCDEFGHIJKLMNOP_1_2"
    )
    assert calls.invented_id("a.b/c", 0, 0) == "call_abc_0_0"


def test_invented_ids_are_unique_and_short() -> None:
    """At most the 40 characters that OpenAI takes."""
    made = {calls.invented_id("chatcmpl-" + "a" * 80, c, n) for c in range(3) for n in range(3)}
    assert len(made) == 9
    assert max(map(len, made)) <= 40


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ({"toolCall": {"a": 1}}, [{"toolCall": {"a": 1}}]),
        (
            {"toolResponse": {}, "thoughtSignature": "AAAA", "x": 1},
            [{"toolResponse": {}, "thoughtSignature": "AAAA"}],
        ),
        ({"toolCall": {}, "thoughtSignature": "!"}, [{"toolCall": {}}]),
        ({"toolCall": {}, "thoughtSignature": 7}, [{"toolCall": {}}]),
        ({"toolCall": {}, "toolResponse": {}}, []),
        ({"toolCall": 7}, []),
        ({"text": "x"}, []),
        ("toolCall", []),
    ],
)
def test_server_parts_of_an_extra_field(part: object, found: list[object]) -> None:
    """What Gemini's own tools did, as far as it has the shape."""
    assert calls.server_parts_in({"google": {"server_parts": [part]}}) == found
    assert calls.server_parts_in({"google": {"server_parts": part}}) == []
    assert calls.server_parts_in(None) == []


def test_signature_of_a_mangled_extra_field_is_none() -> None:
    """Callers may send anything there."""
    for extra in (None, 7, {}, {"google": 7}, {"google": {"thought_signature": ["x"]}}):
        assert calls.signature_in(extra) is None
