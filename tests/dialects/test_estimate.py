"""The estimate of tokens: its formula, pinned."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.translated import estimated_tokens as tokens


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ({}, 1),
        ("x" * 38, 10),
        ("x" * 39, 11),
        ("é" * 19, 10),
        ([{"role": "user", "content": "Hi"}], 8),
        ({"type": "base64", "media_type": "image/png", "data": "A" * 4000}, 1600 + 13),
        ({"url": "data:image/png;base64," + "A" * 4000}, 1600 + 3),
        ({"data": "x" * 29}, 10),
        ([{"a": [{"type": "base64", "data": "A"}]}] * 2, 3200 + 19),
    ],
)
def test_formula(prompt: Any, expected: int) -> None:
    """A quarter of the bytes of compact JSON, rounded up, and 1,600 for each medium."""
    assert tokens(prompt) == expected
