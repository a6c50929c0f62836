"""JSON Schema cleaned to what Gemini reads."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.wire.gemini.schema import MAX_NODES, clean, function_parameters

NODE = {
    "$defs": {
        "node": {
            "type": "object",
            "description": "A node.",
            "properties": {"value": {"type": "string"}, "next": {"$ref": "#/$defs/node"}},
            "required": ["value"],
        }
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": ["string", "null"]}, {"type": ["string", "null"]}),
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "text"}, {}),
        ({"const": "a"}, {"enum": ["a"]}),
        ({"const": None}, {"type": "null"}),
        ({"enum": [True, False]}, {"type": "boolean"}),
        (
            {"type": "string", "enum": ["a", None], "description": "d"},
            {"description": "d", "anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]},
        ),
        (
            {"anyOf": [{"type": "string"}], "nullable": True},
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
        ),
        ({"oneOf": [{"type": "string"}, True]}, {"anyOf": [{"type": "string"}, {}]}),
        (
            {
                "allOf": [
                    {"properties": {"a": {"type": "string"}}, "required": ["a"]},
                    {"properties": {"b": {}}, "required": ["b"]},
                ],
                "type": "object",
            },
            {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {}},
                "required": ["a", "b"],
            },
        ),
        (
            {"type": "string", "pattern": "^a$", "minLength": 1, "description": "An a."},
            {"type": "string", "description": 'An a. (pattern: "^a$", minLength: 1)'},
        ),
        (
            {"type": "object", "properties": {"a": {}}, "required": ["a", "b"], "$schema": "x"},
            {"type": "object", "properties": {"a": {}}, "required": ["a"]},
        ),
        (
            {"type": "array", "items": [{"type": "string"}], "maxItems": 1, "uniqueItems": True},
            {
                "type": "array",
                "prefixItems": [{"type": "string"}],
                "maxItems": 1,
                "description": "(uniqueItems: true)",
            },
        ),
        (
            {
                "additionalProperties": {"$ref": "#/definitions/a~1b"},
                "definitions": {"a/b": {"const": 1}},
            },
            {"additionalProperties": {"enum": [1]}},
        ),
        (
            {"properties": {"if": {"type": "string"}}, "if": {}},
            {"properties": {"if": {"type": "string"}}},
        ),
    ],
)
def test_keywords(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    """What Gemini reads stays, the rest is put in its terms or told in the description."""
    assert clean(schema, param="p") == expected


def test_ref_keeps_what_stands_beside_it() -> None:
    """Gemini allows nothing beside a $ref, so it is inlined."""
    schema = {
        "$defs": {"city": {"type": "string", "description": "A city."}},
        "properties": {"from": {"$ref": "#/$defs/city", "description": "From where."}},
    }
    assert clean(schema, param="p")["properties"]["from"] == {
        "type": "string",
        "description": "From where.",
    }


def test_cycle_is_unrolled_and_cut() -> None:
    """Twice on a way, then only the kind of value."""
    made = clean(NODE, param="p")
    second = made["properties"]["next"]
    assert second["required"] == ["value"]
    assert second["properties"]["next"] == {"type": "object", "description": "A node."}


def test_ref_to_itself_ends() -> None:
    """Even one that describes nothing."""
    assert clean({"$ref": "#"}, param="p") == {}


@pytest.mark.parametrize("ref", ["#/$defs/none", "https://a.test/schema", "", 7, ["a"]])
def test_ref_to_nowhere_is_refused(ref: object) -> None:
    """A 400 naming the schema, not a silently weaker one."""
    with pytest.raises(InvalidRequest) as caught:
        clean({"properties": {"a": {"$ref": ref}}}, param="tools[0].function.parameters")
    assert caught.value.param == "tools[0].function.parameters"


def test_exploding_refs_are_refused() -> None:
    """Twenty definitions of two references each would be a million nodes."""
    defs = {f"d{n}": {"prefixItems": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(20)} | {
        "d20": {}
    }
    with pytest.raises(InvalidRequest, match=str(MAX_NODES)):
        clean({"$defs": defs, "$ref": "#/$defs/d0"}, param="p")


def test_function_without_parameters_has_no_schema() -> None:
    """Left unset, as the reference says."""
    assert function_parameters(None, param="p") is None
    assert function_parameters({"type": "object", "properties": {}}, param="p") == {
        "type": "object",
        "properties": {},
    }
    assert function_parameters({"type": "object"}, param="p") is None
    with pytest.raises(InvalidRequest):
        function_parameters({"type": "array"}, param="p")
