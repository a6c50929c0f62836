"""Schemas as tools write them, and values that they accept or not, for tests of translators."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]

NAMES = ["a", "b", "b/c", "$filter"]
# Every way to write where a definition stands: plain, percent-encoded, escaped, by anchor.
REFS = ["#/$defs/a", "#/%24defs/b", "#/$defs/x~1y~0z", "#/$defs/%C3%BC%25/anyOf/1", "#anchor"]

_scalars = st.sampled_from([None, True, False, -1, 0, 1, 2, 0.5, 1.0, "", "a", "b", "abc"])
values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    ),
    max_leaves=6,
)

_types = st.sampled_from(["string", "number", "integer", "boolean", "array", "object", "null"])
_leaves: st.SearchStrategy[Any] = st.one_of(
    st.booleans(),
    st.just({}),
    st.builds(lambda kind: {"type": kind}, _types),
    st.builds(lambda kind: {"type": kind.upper()}, _types),
    st.builds(lambda kind: {"type": kind, "nullable": True}, _types),
    st.builds(
        lambda kinds: {"type": kinds, "minimum": 0, "minItems": 1},
        st.lists(_types, min_size=1, max_size=3, unique=True),
    ),
    st.builds(lambda found: {"enum": found}, st.lists(_scalars, min_size=1, max_size=4)),
    st.builds(lambda one: {"const": one}, values),
    st.builds(
        lambda low, high: {"type": "integer", "exclusiveMinimum": low, "maximum": high},
        st.integers(-2, 1),
        st.integers(0, 3),
    ),
    st.sampled_from(
        [
            {"type": "string", "pattern": "^a"},
            {"type": "string", "minLength": 1, "maxLength": 2},
            {"type": "number", "exclusiveMaximum": 1.5},
            {"not": {"type": "string"}},
            {"if": {"type": "string"}, "then": {"const": "a"}, "else": {"type": "integer"}},
            {"type": "string", "format": "date"},
        ]
    ),
)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    names = st.sampled_from(NAMES)
    fields = {
        "type": st.just("object"),
        "properties": st.dictionaries(names, inner, max_size=3),
        "required": st.lists(names, max_size=2, unique=True),
        "additionalProperties": st.booleans() | inner,
        "patternProperties": st.fixed_dictionaries({"^b": inner}),
    }
    return st.fixed_dictionaries({}, optional=fields)


def _arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    fields = {
        "type": st.just("array"),
        "items": inner,
        "prefixItems": st.lists(inner, min_size=1, max_size=2),
        "minItems": st.integers(0, 1),
        "maxItems": st.integers(0, 3),
    }
    return st.fixed_dictionaries({}, optional=fields)


def _combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    some = st.lists(inner, min_size=1, max_size=3)
    unions = st.fixed_dictionaries({}, optional={"anyOf": some, "oneOf": some, "allOf": some})
    beside: st.SearchStrategy[Json] = (
        st.just({}) | _objects(inner) | st.builds(lambda kind: {"type": kind}, _types)
    )
    return st.builds(lambda union, more: {**union, **more}, unions, beside)


def _schemas(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: _objects(inner) | _arrays(inner) | _combined(inner),
        max_leaves=5,
    )


_referring = st.builds(lambda ref: {"$ref": ref}, st.sampled_from(REFS)) | st.builds(
    lambda ref, kind: {"$ref": ref, "type": kind}, st.sampled_from(REFS), _types
)
_inner, _outer = _schemas(_leaves), _schemas(_leaves | _referring)


@st.composite
def schemas(draw: st.DrawFn) -> Json:
    """A schema with references to its definitions, none of them in a circle."""
    found, anchored = draw(_outer), draw(_inner)
    definitions: Json = {
        "a": draw(_inner),
        "b": draw(_inner),
        "x/y~z": draw(_inner),
        "ü%": {"anyOf": [True, draw(_inner)]},
        "named": {**(anchored if isinstance(anchored, dict) else {}), "$anchor": "anchor"},
    }
    return {**(found if isinstance(found, dict) else {}), "$defs": definitions}
