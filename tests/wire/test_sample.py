"""A sample fits its schema, as far as vendors take schemas, and is the same each time."""

from __future__ import annotations

import datetime
import time
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]

from proxy.wire.sample import _FORMATS, MAX_COST, Unmade, sample
from tests.wire.schemas import schemas

CHECKER = FormatChecker()
CHECKER.checks("date-time", raises=ValueError)(datetime.datetime.fromisoformat)
CHECKER.checks("time", raises=ValueError)(datetime.time.fromisoformat)


def check(schema: Any, value: Any) -> None:
    """Raise an error unless it fits, formats included, and can be sent."""
    Draft202012Validator(schema, format_checker=CHECKER).validate(value)
    assert msgspec.json.decode(msgspec.json.encode(value)) == value


# As OpenAI's guide lists it ("Supported schemas"), and what Pydantic makes for SDKs.

NAMES = st.sampled_from(["city", "unit", "a/b", "ü", "$ref", "type"])
SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=5)
LOW = st.integers(-50, 50) | st.floats(-50, 50).map(lambda number: round(number, 2))
WIDTH = st.integers(1, 9) | st.floats(1, 9).map(lambda number: round(number, 2))


def numbers(kind: str) -> st.SearchStrategy[Any]:
    """With bounds on either side, each of which may be excluded, or a step."""
    lows = st.sampled_from(["minimum", "exclusiveMinimum"])
    highs = st.sampled_from(["maximum", "exclusiveMaximum"])
    room = 2 if kind == "integer" else 0.25
    both = st.builds(
        lambda low, high, least, width: {low: least, high: round(least + room * width, 3)},
        *(lows, highs, LOW, WIDTH),
    )
    one = st.dictionaries(lows | highs, LOW, max_size=1)
    step: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
        [{"multipleOf": 3}, {"multipleOf": 0.5}, {"multipleOf": 8, "minimum": 5}]
    )
    return (one | both | step).map(lambda bounds: {"type": kind, **bounds})


def ranges(of: str) -> st.SearchStrategy[dict[str, int]]:
    """At least, at most, or both."""
    return (
        st.tuples(st.integers(0, 4), st.integers(0, 9))
        .map(sorted)
        .flatmap(
            lambda ends: st.sampled_from(
                [
                    {},
                    {f"min{of}": ends[0]},
                    {f"max{of}": ends[1]},
                    {f"min{of}": ends[0], f"max{of}": ends[1]},
                ]
            )
        )
    )


LEAVES = st.one_of(
    ranges("Length").map(lambda lengths: {"type": "string", **lengths}),
    st.sampled_from(sorted(_FORMATS)).map(lambda name: {"type": "string", "format": name}),
    numbers("integer"),
    numbers("number"),
    st.sampled_from(
        [{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {}, True]
    ),
    st.lists(SCALARS, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    SCALARS.map(lambda value: {"const": value}),
    st.sampled_from([{"$ref": "#/$defs/node"}, {"$ref": "#/$defs/unit"}, {"$ref": "#"}]).map(
        lambda reference: {"anyOf": [reference, {"type": "null"}]}
    ),
    st.just({"$ref": "#/$defs/unit", "description": "beside it"}),
)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Strict ones, of which each property is required, and others."""
    shapes = st.dictionaries(NAMES, inner, max_size=4)
    return st.tuples(shapes, st.booleans()).map(
        lambda made: {
            "type": "object",
            "properties": made[0],
            "required": list(made[0])[:: 1 if made[1] else 2],
            "additionalProperties": not made[1],
        }
    )


TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        objects(inner),
        st.builds(
            lambda item, most: {"type": "array", "items": item, **most}, inner, ranges("Items")
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
    ),
    max_leaves=12,
)
NODE = {
    "type": "object",
    "properties": {
        "value": {"type": "number"},
        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
    },
    "required": ["value", "next", "children"],
    "additionalProperties": False,
}
DEFINITIONS = {"node": NODE, "unit": {"enum": ["C", "F"], "type": "string"}}


@pytest.mark.long
@settings(max_examples=300)
@given(objects(TREES))
def test_sample_fits_what_vendors_take(schema: dict[str, Any]) -> None:
    """Types, enums, constants, unions, references, lists, ranges, lengths, formats."""
    schema = {**schema, "$defs": DEFINITIONS}
    found = sample(schema)
    check(schema, found)
    assert sample(schema) == found


@pytest.mark.long
@settings(max_examples=200)
@given(schemas() | SCALARS | st.lists(SCALARS))
def test_any_schema_has_a_sample_or_none(schema: Any) -> None:
    """Whatever tools write, and what is no schema at all."""
    with suppress(Unmade):
        msgspec.json.encode(sample(schema))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object"}, {}),
        ({"type": ["null", "integer"]}, 1),
        ({"properties": {"a": {"minimum": 3, "type": "integer"}}, "required": ["a"]}, {"a": 3}),
        ({"oneOf": [{"type": "integer", "minimum": 7}, {"type": "null"}]}, 7),
        ({"type": "array", "items": {"const": 7}}, []),
        ({"type": "string", "minLength": 6}, "demode"),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "integer"}}}, 1),
        ({"type": "array", "items": {"$ref": "#"}}, []),
    ],
)
def test_sample_is_small(schema: dict[str, Any], value: Any) -> None:
    """What a reader would write: the first of each choice, the least that is allowed."""
    assert sample(schema) == value
    check(schema, value)


def nested(depth: int) -> Any:
    schema: Any = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "minItems": 1, "items": schema}
    return schema


LARGE = {"type": "array", "minItems": 900, "items": {"type": "array", "minItems": 900}}


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"enum": []},
        {"$ref": "#"},
        {"$ref": "#/$defs/none"},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
        {"type": "array", "minItems": 2, "maxItems": 1},
        {"type": "string", "minLength": MAX_COST + 1},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"required": ["a"], "properties": {"a": {"$ref": "#"}}},
        nested(400),
        LARGE,
        {**LARGE, "items": {**LARGE["items"], "items": {"type": "array", "maxItems": 0}}},  # type: ignore[dict-item]
        {"type": "array", "minItems": 2, "items": {"const": "x" * MAX_COST}},
        {
            "type": "array",
            "minItems": 99,
            "items": {"type": "object", "required": ["x" * MAX_COST]},
        },
        {"anyOf": [{"anyOf": [{"anyOf": [False] * 300}] * 300}] * 300},
    ],
)
def test_what_has_no_sample_costs_little(schema: Any) -> None:
    """It contradicts itself, has no end, or wants a hundred times what it has itself."""
    began = time.thread_time()
    with pytest.raises(Unmade):
        sample(schema)
    assert time.thread_time() - began < 10
