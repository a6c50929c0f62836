"""What holds for every configuration and every key, whatever they are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import Secret, json_schema, load_config
from proxy.errors import ConfigError

KEY = "sk-or-v1-0123456789b780"
URL = "https://openrouter.ai/api/v1"

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["${A}", "${A:-1}", "${file:/nowhere}", "${", "$${x}", KEY, URL, "direct", "0", "chat"]
    )
)
NAMES = st.sampled_from(
    sorted({name for section in json_schema()["$defs"].values()
            for shape in section.get("anyOf", [section])
            for name in shape.get("properties", ())})
) | st.text(max_size=5)  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=25,
)


@pytest.mark.long
@settings(max_examples=150)
@given(st.dictionaries(NAMES, TREES, max_size=8), st.dictionaries(st.just("A"), st.text()))
def test_any_tree_loads_or_raises_config_error(tree: Any, environ: dict[str, str]) -> None:
    """Nothing that a file can hold ends in a traceback, nor shows a key."""
    seen = ""
    try:
        config = load_config(tree, environ=environ)
    except ConfigError as error:
        seen = str(error)
    else:
        seen = repr(config)
        assert len({client.label for client in config.clients}) == len(config.clients)
    assert seen
    assert KEY not in seen


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=5))
def test_secret_shows_only_its_mask(key: str) -> None:
    """repr, str and format give the mask; the key itself has to be asked for."""
    secret = Secret(key)
    for text in (repr(secret), str(secret), f"{secret}", f"{secret:>30}", repr([secret])):
        assert key not in text
    assert secret.reveal() == key
    assert secret == Secret(key)
    assert secret != key
    assert hash(secret) == hash(Secret(key))
