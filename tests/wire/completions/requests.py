"""Completions requests, and any JSON that could be in one."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from proxy.wire.chat import read_request
from proxy.wire.completions import Completion, read_completion


def asked(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def completion_of(body: bytes, *, is_native: bool) -> Completion:
    return read_completion(read_request(body, needs_messages=False), is_native=is_native)


def read(body: bytes) -> Completion:
    return completion_of(body, is_native=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4) | st.sampled_from(["\ud83d", 10**30, -1, 1e308, 2**53]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def objects(*names: str, value: st.SearchStrategy[Any] = JSON) -> st.SearchStrategy[Any]:
    """Objects with some of these members."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, value))


REQUESTS = objects(
    "prompt", "n", "logprobs", "echo", "suffix", "best_of", "stream_options", "stop", "messages",
    value=JSON | st.lists(st.text(max_size=3), max_size=3),
)  # fmt: skip
