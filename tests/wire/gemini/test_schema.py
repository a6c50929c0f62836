"""JSON Schema cleaned to what Gemini reads."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.wire.gemini.schema import MAX_STEPS, Cleaner, clean, function_parameters
from tests.support.gemini_rules import schema_violations
from tests.wire.json_schema import accepts
from tests.wire.schemas import schemas, values

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
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
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
        (
            {"oneOf": [{"type": "string"}, {"type": "null"}]},
            {
                "anyOf": [{"type": "string"}, {"type": "null"}],
                "description": "(oneOf: exactly one of these)",
            },
        ),
        ({"anyOf": [{"type": "string"}, True]}, {}),
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
            {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"]},
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
            {"additionalProperties": {"type": "integer", "enum": [1]}},
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


@pytest.mark.parametrize("key", ["$ref", "$recursiveRef", "$dynamicRef"])
def test_all_words_for_a_reference(key: str) -> None:
    """Those of drafts before 2020-12, and of 2020-12."""
    inner = {"type": "object", "properties": {"x": {"type": "object"}}}
    made = clean({"type": "object", "properties": {"x": {key: "#"}}}, param="p")
    assert made["properties"]["x"] == {"type": "object", "properties": {"x": inner}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, {"properties": {"x": {}}}),
        (False, {"properties": {}, "description": '(without: "x")'}),
    ],
)
def test_ref_to_anything_and_to_nothing(value: bool, expected: dict[str, Any]) -> None:
    """Schemas may be true or false."""
    schema = {"properties": {"x": {"$ref": "#/$defs/a"}}, "$defs": {"a": value}}
    assert clean(schema, param="p") == expected


@pytest.mark.parametrize(
    "ref",
    [
        *("#/$defs/none", "#/$defs/a%", "https://a.test/schema", "#none", 7, ["a"]),
        *("#/anyOf/1", "#/anyOf/-1", "#/anyOf/0/0", "https://a.test/schema#/anyOf/0"),
    ],
)
def test_ref_to_nowhere_is_refused(ref: object) -> None:
    """A 400 naming the schema, not a silently weaker one."""
    with pytest.raises(InvalidRequest) as caught:
        clean(
            {"properties": {"a": {"$ref": ref}}, "anyOf": [True]},
            param="tools[0].function.parameters",
        )
    assert caught.value.param == "tools[0].function.parameters"


def test_exploding_refs_are_refused() -> None:
    """Twenty definitions of two references each would be a million nodes."""
    defs = {f"d{n}": {"prefixItems": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(20)} | {
        "d20": {}
    }
    with pytest.raises(InvalidRequest, match=str(MAX_STEPS)):
        clean({"$defs": defs, "$ref": "#/$defs/d0"}, param="p")


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"properties": {f"p{n}": {"const": n}}} for n in range(2000)]},
        {"allOf": [{"enum": list(range(50_000))}, {"enum": list(range(25_000, 75_000))}]},
        {
            "patternProperties": {"(a+)+$": {"type": "string"}},
            "properties": {"a" * 50 + "!": {}},
            "required": ["a" * 60 + "!"],
        },
        {"allOf": [{"anyOf": [{"minimum": n} for n in range(40)]}] * 3},
        {"enum": list(range(50_000)), "anyOf": [{"minimum": n} for n in range(9_000)]},
        {"required": [f"p{n}" for n in range(50_000)], "allOf": [{"required": ["a"]}] * 4_000},
        {"properties": {f"p{n}": {} for n in range(9_000)}, "anyOf": [{"required": ["a"]}] * 4_000},
    ],
)
def test_schema_cannot_keep_a_thread(schema: dict[str, Any]) -> None:
    """Linear in what is written out, and bounded; a caller's patterns are not tried."""
    began = time.process_time()
    for read in (clean, function_parameters):
        with suppress(InvalidRequest):
            read(schema, param="p")
    assert time.process_time() - began < 5


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


PARENT = {
    "anyOf": [
        {"type": "object", "properties": {"plain_text": {"type": "string"}}},
        {"type": "null"},
    ]
}
TEXT = {"type": "object", "properties": {"plain_text": {"type": "string"}}}


@pytest.mark.parametrize(
    ("ref", "more"),
    [
        ("#/properties/parent/anyOf/0", {}),
        ("#/properties/par%65nt/anyOf/0", {}),
        ("#/$defs/a~1b~0c/items", {"$defs": {"a/b~c": {"items": TEXT}}}),
        ("#/%24defs/a%20b", {"$defs": {"a b": TEXT}}),
        ("#/$defs/deep/$defs/deeper", {"$defs": {"deep": {"$defs": {"deeper": TEXT}}}}),
        ("#text", {"$defs": {"x": {**TEXT, "$anchor": "text"}}}),
        ("#te%78t", {"$defs": {"x": {**TEXT, "$anchor": "text"}}}),
        ("#text", {"$defs": {"x": {**TEXT, "$dynamicAnchor": "text"}}}),
        ("#/$defs/~01", {"$defs": {"~1": TEXT}}),
        ("#/$defs/0", {"$defs": {"0": TEXT}}),
        ("#/$defs/x/anyOf/1", {"$defs": {"x": {"anyOf": [{}, TEXT]}}}),
        ("#/$defs/x", {"$defs": {"x": {"$id": "x", "$ref": "#/$defs/y"}, "y": TEXT}}),
        ("https://a.test/text", {"$defs": {"x": {**TEXT, "$id": "https://a.test/text#"}}}),
        ("https://b.test/text", {"$defs": {"x": {**TEXT, "$id": "https://a.test/text"}}}),
        ("https://a.test/text", {"$defs": {"x": {**TEXT, "$id": "https://a.test/text"}}}),
        ("text", {"$defs": {"x": {**TEXT, "$id": "https://a.test/text"}}}),
        (
            "https://a.test/x#/$defs/y",
            {"$defs": {"x": {"$id": "https://a.test/x", "$defs": {"y": TEXT}}}},
        ),
        ("#/$defs/x", {"$defs": {"x": {"$id": "x", "$ref": "#/$defs/y", "$defs": {"y": TEXT}}}}),
        (
            "#/definitions/x",
            {"definitions": {"x": {"allOf": [{"$ref": "#/definitions/y"}], "x": 1}, "y": TEXT}},
        ),
    ],
)
def test_refs_to_any_place_are_followed(ref: str, more: dict[str, Any]) -> None:
    """Into lists, percent-encoded, escaped, by anchor, by `$id`, through other references."""
    properties = {"parent": PARENT, "child": {"$ref": ref}}
    schema = {"type": "object", "properties": properties, **more}
    made = function_parameters(schema, param="p")
    assert made is not None
    assert made["properties"] == {"parent": PARENT, "child": TEXT}


@pytest.mark.parametrize("key", ["parameters", "response"])
def test_types_in_capitals(key: str) -> None:
    """OpenAPI's and Gemini's own spelling, at any depth."""
    schema = {
        "type": "OBJECT",
        "properties": {
            "cmds": {"type": "ARRAY", "items": {"type": "STRING"}},
            "n": {"type": ["Integer", "NULL"]},
            "u": {"anyOf": [{"type": "NUMBER", "nullable": True}, {"type": "BOOLEAN"}]},
        },
    }
    made = clean(schema, param="p") if key == "response" else function_parameters(schema, param="p")
    assert made is not None
    assert made["properties"] == {
        "cmds": {"type": "array", "items": {"type": "string"}},
        "n": {"type": ["integer", "null"]},
        "u": {"anyOf": [{"type": ["number", "null"]}, {"type": "boolean"}]},
    }


UNION = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
    "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
}


def test_union_at_the_top_of_parameters_is_one_object() -> None:
    """The properties of all, and in words which go together."""
    made = function_parameters({**UNION, "description": "Either."}, param="p")
    assert made == {
        "type": "object",
        "properties": UNION["properties"],
        "description": 'Either. (anyOf: [{"required":["a"]},{"required":["b"]}])',
    }
    kinds = [
        {"type": "object", "properties": {"kind": {"const": kind}, kind: {}}, "required": ["kind"]}
        for kind in ("x", "y")
    ]
    for key in ("anyOf", "oneOf"):
        made = function_parameters({key: [*kinds, {"type": "null"}]}, param="p")
        assert made is not None
        assert made["type"] == "object"
        assert made["required"] == ["kind"]
        assert made["properties"]["kind"] == {
            "anyOf": [{"type": "string", "enum": ["x"]}, {"type": "string", "enum": ["y"]}]
        }
        assert made["properties"].keys() == {"kind", "x", "y"}
        assert '"enum":["y"]' in made["description"]
    with pytest.raises(InvalidRequest):
        function_parameters({"anyOf": [{"type": "array"}, {"type": "string"}]}, param="p")


def test_union_below_the_top_keeps_all_of_it() -> None:
    """What stands beside a union goes into its options: Gemini reads it alone."""
    made = clean({"properties": {"x": {**UNION, "description": "X."}}}, param="p")
    option = {"type": "object", "properties": UNION["properties"]}
    assert made["properties"]["x"] == {
        "description": "X.",
        "anyOf": [{**option, "required": ["a"]}, {**option, "required": ["b"]}],
    }


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (
            {"enum": [1, 2.5, "a"]},
            [{"type": "number", "enum": [1, 2.5]}, {"type": "string", "enum": ["a"]}],
        ),
        ({"enum": ["a", ""]}, {"type": "string", "description": '(enum: ["a",""])'}),
        ({"enum": [True]}, {"type": "boolean", "description": "(enum: [true])"}),
        ({"enum": [False, False]}, {"type": "boolean", "description": "(enum: [false])"}),
        (
            {"enum": [1, True, 1]},
            [
                {"type": "integer", "enum": [1]},
                {"type": "boolean", "description": "(enum: [true])"},
            ],
        ),
        ({"enum": ["a", 1], "type": "string"}, {"type": "string", "enum": ["a"]}),
        ({"enum": [1, 5, 9], "minimum": 3}, {"type": "integer", "enum": [5, 9]}),
        ({"const": {"a": 1}}, {"type": "object", "description": '(enum: [{"a":1}])'}),
        (
            {"type": ["string", "array"], "items": {"type": "string"}, "format": "date"},
            [{"type": "string", "format": "date"}, {"type": "array", "items": {"type": "string"}}],
        ),
        (
            {"type": "string", "format": "date", "anyOf": [{"enum": ["a"]}, {"pattern": "b"}]},
            [
                {"type": "string", "enum": ["a"]},
                {"type": "string", "format": "date", "description": '(pattern: "b")'},
            ],
        ),
        (
            {"allOf": [{"minimum": 1, "type": "number"}, {"minimum": 3, "type": "integer"}]},
            {"type": "integer", "minimum": 3},
        ),
        (
            {"allOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]},
            {"type": "string", "enum": ["b"]},
        ),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "integer", "minimum": 1}),
        (
            {"prefixItems": [{"type": "string"}], "items": False},
            {"prefixItems": [{"type": "string"}], "maxItems": 1},
        ),
        ({"anyOf": [{"type": "string"}, False]}, {"type": "string"}),
        (
            {"$ref": "#/$defs/a", "required": ["b"], "$defs": {"a": {"required": ["a"]}}},
            {"properties": {"b": {}, "a": {}}, "required": ["b", "a"]},
        ),
        (
            {"type": "object", "additionalProperties": True},
            {"type": "object", "additionalProperties": True},
        ),
        (
            {"properties": {"$filter": {"type": "string"}}},
            {"properties": {"$filter": {"type": "string"}}},
        ),
        ({"not": {"type": "string"}}, {"description": '(not: {"type":"string"})'}),
    ],
)
def test_more_keywords(schema: dict[str, Any], expected: Any) -> None:
    """What has to hold at once, values by their kinds, types of several kinds."""
    made = clean(schema, param="p")
    assert made == ({"anyOf": expected} if isinstance(expected, list) else expected)


S, N, NULL = {"type": "string"}, {"type": "number"}, {"type": "null"}
NO_A = {"properties": {"a": False}, "required": ["a"]}
BESIDE_NUMBERS: dict[str, Any] = {"format": "f", "minimum": 1, "maximum": 2}
BESIDE_ARRAYS: dict[str, Any] = {"items": S, "minItems": 1, "maxItems": 2}
BESIDE_OBJECTS: dict[str, Any] = {"properties": {"a": S}, "required": ["a"]}


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("string", {"format": "f"}),
        ("number", BESIDE_NUMBERS),
        ("integer", BESIDE_NUMBERS),
        ("boolean", {}),
        ("array", BESIDE_ARRAYS),
        ("object", BESIDE_OBJECTS),
        (None, {**BESIDE_NUMBERS, **BESIDE_ARRAYS, **BESIDE_OBJECTS}),
    ],
)
@pytest.mark.parametrize("null", [False, True])
def test_keywords_beside_a_type_are_those_that_matter_to_it(
    kind: str | None, kept: dict[str, Any], null: bool
) -> None:
    """The others say nothing of it; without a type all are kept."""
    types = [kind, "null"] if null else kind
    typed = {} if kind is None else {"type": types}
    schema = {**BESIDE_NUMBERS, **BESIDE_ARRAYS, **BESIDE_OBJECTS, **typed}
    assert clean(schema, param="p") == {**typed, **kept}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        # What has to hold at once
        ({"allOf": [{"anyOf": [S, N]}, {"anyOf": [N, NULL]}]}, N),
        (
            {"anyOf": [{**S, "description": "in"}], "description": "out"},
            {**S, "description": "out"},
        ),
        ({"anyOf": [S, N], "title": "T"}, {"anyOf": [S, N], "title": "T"}),
        ({"anyOf": [{"anyOf": [S, N]}, S]}, {"anyOf": [S, N]}),
        (
            {"anyOf": [{"anyOf": [S, N], "description": "d"}, NULL]},
            {"anyOf": [{"anyOf": [S, N], "description": "d"}, NULL]},
        ),
        ({"oneOf": [S]}, S),
        (
            {"description": "", "allOf": [{"description": "d"}, {"description": "e"}]},
            {"description": "d"},
        ),
        ({**S, "title": 7, "description": ["x"]}, S),
        (
            {"allOf": [{"format": "date"}, {"format": "time"}]},
            {"format": "date", "description": '(format: "time")'},
        ),
        # Types
        ({"type": ["number", "integer"]}, N),
        ({"type": ["string", "array", "null"]}, {"anyOf": [S, {"type": "array"}, NULL]}),
        ({"type": ["string", "object"], **NO_A}, S),
        ({"type": ["null", "object"], **NO_A}, NULL),
        (NO_A, {"anyOf": [S, N, {"type": "boolean"}, {"type": "array"}, NULL]}),
        ({"allOf": [N, {"type": ["integer", "string"]}]}, {"type": "integer"}),
        ({"nullable": True}, {}),
        ({**S, "nullable": False}, S),
        ({**S, "enum": ["a"], "nullable": True}, {"anyOf": [{**S, "enum": ["a"]}, NULL]}),
        ({"const": "a", "nullable": True}, {"anyOf": [{**S, "enum": ["a"]}, NULL]}),
        ({"allOf": [S], "nullable": True}, {"anyOf": [S, NULL]}),
        (
            {"oneOf": [S], "nullable": True, "title": "T", "description": "d"},
            {"anyOf": [S, NULL], "title": "T", "description": "d"},
        ),
        ({"$ref": "#/$defs/a", "nullable": True, "$defs": {"a": S}}, {"anyOf": [S, NULL]}),
        # Values
        ({**S, "enum": "a"}, S),
        ({"type": "integer", "enum": [1.0, 2.5]}, {**N, "enum": [1.0]}),
        ({**N, "enum": [1, "a"]}, {"type": "integer", "enum": [1]}),
        (
            {"enum": [4, 5, 9, 10, "a"], "minimum": 5, "maximum": 9},
            {"anyOf": [{"type": "integer", "enum": [5, 9]}, {**S, "enum": ["a"]}]},
        ),
        ({"enum": [1, 1.0]}, {**N, "enum": [1.0]}),
        (
            {"enum": [[1], "a", [2]]},
            {
                "anyOf": [
                    {"type": "array", "description": "(enum: [[1],[2]])"},
                    {**S, "enum": ["a"]},
                ]
            },
        ),
        # Bounds
        (
            {"allOf": [{"minItems": 2, "maxItems": 5}, {"minItems": 1, "maxItems": 4}]},
            {"minItems": 2, "maxItems": 4},
        ),
        ({"minimum": True, "maxItems": "2"}, {}),
        (
            {"type": "integer", "exclusiveMinimum": 1.5, "exclusiveMaximum": 4.5},
            {"type": "integer", "minimum": 2, "maximum": 4},
        ),
        ({"type": "integer", "exclusiveMaximum": 5}, {"type": "integer", "maximum": 4}),
        (
            {**N, "exclusiveMaximum": 5, "exclusiveMinimum": False},
            {**N, "maximum": 5, "description": "(exclusiveMaximum: 5)"},
        ),
        ({"type": "integer", "exclusiveMinimum": 2**53 - 1}, {"type": "integer", "minimum": 2**53}),
        (
            {"type": "integer", "exclusiveMinimum": -(2**53)},
            {
                "type": "integer",
                "minimum": -(2**53),
                "description": "(exclusiveMinimum: -9007199254740992)",
            },
        ),
        (
            {**N, "minimum": 1, "exclusiveMinimum": True},
            {**N, "minimum": 1, "description": "(exclusiveMinimum: true)"},
        ),
        # Arrays
        ({"items": {}}, {"items": {}}),
        ({"items": False}, {"maxItems": 0}),
        ({"items": S, "prefixItems": [N]}, {"prefixItems": [N], "items": S}),
        ({"items": {}, "prefixItems": [N]}, {"prefixItems": [N]}),
        ({"items": [S, N], "additionalItems": False}, {"prefixItems": [S, N], "maxItems": 2}),
        ({"items": [S], "additionalItems": N}, {"prefixItems": [S], "items": N}),
        ({"allOf": [{"prefixItems": [S]}, {"prefixItems": [{}, N]}]}, {"prefixItems": [S, N]}),
        (
            {"allOf": [{"prefixItems": [S], "items": N}, {"items": {"title": "T"}}]},
            {"prefixItems": [{**S, "title": "T"}], "items": {**N, "title": "T"}},
        ),
        (
            {"allOf": [{"prefixItems": [S, S]}, {"prefixItems": [S, N]}]},
            {"prefixItems": [S], "maxItems": 1},
        ),
        ({"prefixItems": [S, False], "maxItems": 0}, {"prefixItems": [S], "maxItems": 0}),
        # Objects
        ({"additionalProperties": False}, {"additionalProperties": False}),
        ({"additionalProperties": {}}, {}),
        (
            {"additionalProperties": False, "required": ["a"]},
            {"additionalProperties": False, "description": '(required: ["a"])'},
        ),
        (
            {"additionalProperties": False, "required": ["a", "b"], "properties": {"b": S}},
            {
                "additionalProperties": False,
                "properties": {"b": S},
                "required": ["b"],
                "description": '(required: ["a","b"])',
            },
        ),
        (
            {"additionalProperties": S, "required": ["a"]},
            {"additionalProperties": S, "properties": {"a": S}, "required": ["a"]},
        ),
        (
            {"allOf": [{"additionalProperties": True}, {"properties": {"a": S}}]},
            {"additionalProperties": True, "properties": {"a": S}},
        ),
        (
            {"additionalProperties": False, "properties": {"a": False, "b": S}},
            {"additionalProperties": False, "properties": {"b": S}},
        ),
        (
            {"properties": {"a": S, "b": S}, "propertyOrdering": ["b", "c", 7, "a"]},
            {"properties": {"a": S, "b": S}, "propertyOrdering": ["b", "a"]},
        ),
        (
            {
                "properties": {"a": S, "b": S},
                "propertyOrdering": ["b", "a"],
                "allOf": [{"propertyOrdering": ["a", "b"]}],
            },
            {"properties": {"a": S, "b": S}, "propertyOrdering": ["b", "a"]},
        ),
        (
            {"properties": [S], "required": True, "patternProperties": ["a"]},
            {"description": '(patternProperties: ["a"])'},
        ),
        ({"required": ["a", 7]}, {"properties": {"a": {}}, "required": ["a"]}),
        (
            {"patternProperties": {"^a": S}, "additionalProperties": N},
            {
                "additionalProperties": {"anyOf": [N, S]},
                "description": '(patternProperties: {"^a":{"type":"string"}})',
            },
        ),
        (
            {"patternProperties": {"^a": S}, "additionalProperties": False},
            {
                "additionalProperties": S,
                "description": '(patternProperties: {"^a":{"type":"string"}})',
            },
        ),
        (
            {"patternProperties": {"^a": S}},
            {"description": '(patternProperties: {"^a":{"type":"string"}})'},
        ),
        # Words
        (
            {"if": S, "else": N, "default": None},
            {"description": '(if: {"type":"string"}, else: {"type":"number"})'},
        ),
        ({"if": S, "then": N}, {"description": '(if: {"type":"string"}, then: {"type":"number"})'}),
    ],
)
def test_every_rule_by_itself(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    """The whole result, without a word too many."""
    made = clean({"properties": {"x": schema}, "$defs": schema.get("$defs")}, param="p")
    assert made["properties"]["x"] == expected


@pytest.mark.parametrize(
    "keyword",
    [
        *("pattern", "minLength", "maxLength", "multipleOf", "contentEncoding"),
        *("contentMediaType", "uniqueItems", "contains", "minContains", "maxContains"),
        *("unevaluatedItems", "minProperties", "maxProperties", "patternProperties"),
        *("propertyNames", "dependencies", "dependentRequired", "dependentSchemas"),
        *("unevaluatedProperties", "not", "then", "else", "default"),
    ],
)
def test_keyword_that_gemini_lacks_is_told(keyword: str) -> None:
    """In the description, as it was written."""
    assert clean({keyword: 7}, param="p") == {"description": f"({keyword}: 7)"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": ["object", "null"], "properties": {"a": S}}, {"properties": {"a": S}}),
        ({"type": "object", "title": "T", "description": "d"}, None),
        (
            {"description": "d", "properties": {"a": S}},
            {"description": "d", "properties": {"a": S}},
        ),
        ({"anyOf": [{"properties": {"a": S}}, {"type": "object"}]}, {"properties": {"a": S}}),
        (
            {"anyOf": [{"properties": {"a": S}}, {"properties": {"a": S}, "required": ["a"]}]},
            {"properties": {"a": S}, "description": '(anyOf: [{},{"required":["a"]}])'},
        ),
        (
            {"anyOf": [{"properties": {name: S}, "additionalProperties": False} for name in "ab"]},
            {
                "properties": {"a": S, "b": S},
                "additionalProperties": False,
                "description": '(anyOf: [{"properties":{"a":{"type":"string"}}},'
                '{"properties":{"b":{"type":"string"}}}])',
            },
        ),
        (
            {
                "anyOf": [
                    {"properties": {"a": S}, "additionalProperties": False},
                    {"properties": {"a": S}},
                ],
                "title": "T",
            },
            {
                "properties": {"a": S},
                "title": "T",
                "description": '(anyOf: [{"additionalProperties":false},{}])',
            },
        ),
    ],
)
def test_parameters_are_one_object(schema: dict[str, Any], expected: dict[str, Any] | None) -> None:
    """Whatever they may be beside; None says that there are none."""
    made = function_parameters(schema, param="p")
    assert made == (expected if expected is None else {"type": "object", **expected})


def test_number_of_steps_has_a_limit() -> None:
    """As many as that are taken."""
    reader = Cleaner({}, "p")
    for _ in range(MAX_STEPS):
        reader.step()
    with pytest.raises(InvalidRequest, match=f"more than {MAX_STEPS} steps"):
        reader.step()


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {}},
        {"not": True},
        {"enum": []},
        {"allOf": [{"type": "string"}, {"type": "null"}]},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
    ],
)
def test_schema_that_accepts_nothing_is_refused(schema: dict[str, Any]) -> None:
    """By name, not sent as one that accepts anything."""
    with pytest.raises(InvalidRequest, match="accepts nothing"):
        clean(schema, param="p")
    assert clean({"properties": {"x": schema}}, param="p") == {
        "properties": {},
        "description": '(without: "x")',
    }


@given(st.recursive(st.none(), lambda inner: st.builds(lambda n: {"value": "v", "next": n}, inner)))
def test_recursive_schema_accepts_what_it_did(value: Any) -> None:
    """However deep the value is."""
    assume(value is not None)
    node = {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
    properties = {"value": {"type": "string"}, "next": node}
    defined = {"type": "object", "properties": properties, "required": ["value"]}
    schema: dict[str, Any] = {"$ref": "#/$defs/node", "$defs": {"node": defined}}
    assert accepts(schema, value)
    assert accepts(clean(schema, param="p"), value)


# -- what is accepted, before and after -------------------------------------------------------


def is_told(schema: Any) -> bool:
    """Whether something of it is said in words only."""
    if isinstance(schema, dict):
        has_words = isinstance(schema.get("description"), str)
        return has_words or any(map(is_told, schema.values()))
    return isinstance(schema, list) and any(map(is_told, schema))


def compare(schema: dict[str, Any], found: list[Any]) -> None:
    made: Any = False
    with suppress(InvalidRequest):
        made = clean(schema, param="p")
        assert list(schema_violations(made, "p")) == []
    for value in found:
        if accepts(schema, value):
            assert accepts(made, value), (made, value)
        elif not is_told(made):
            assert not accepts(made, value), (made, value)


@pytest.mark.long
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(schemas(), st.lists(values, min_size=5, max_size=10))
def test_schema_keeps_its_meaning(schema: dict[str, Any], found: list[Any]) -> None:
    """What it accepted it accepts; what it refused it refuses, or words say so."""
    compare(schema, found)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=1500, suppress_health_check=list(HealthCheck))
@given(schemas(), st.lists(values, min_size=5, max_size=10))
def test_many_schemas_keep_their_meaning(schema: dict[str, Any], found: list[Any]) -> None:
    """The same, for longer; `make fuzz N=10000` is for long."""
    compare(schema, found)
