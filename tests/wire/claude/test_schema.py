"""Schemas of tools: they mean to Claude what they meant to the caller."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.wire.claude.names import changed_properties, rename_keys, rename_schema
from proxy.wire.claude.request import to_request
from proxy.wire.claude.schema import close_schema
from proxy.wire.made_names import plain_name
from tests.support.claude_rules import UNIONS, violations
from tests.support.claude_upstream import read_request
from tests.wire.json_schema import accepts
from tests.wire.schemas import NAMES, schemas, values

Json = dict[str, Any]


def sent(parameters: Json, model: str = "claude-opus-5") -> Json:
    """The tool as it goes out."""
    function = {"name": "f", "description": "Does f.", "parameters": parameters}
    chat = {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": function}],
    }
    wire = read_request(to_request(json.dumps(chat).encode(), model=model, stream=False))
    assert violations(wire) == []
    tool: Json = wire["tools"][0]
    return tool


_INPUTS = st.dictionaries(st.sampled_from(NAMES), values, max_size=3)


@pytest.mark.long
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=schemas(), inputs=st.lists(_INPUTS, min_size=1, max_size=5))
def test_schema_accepts_what_it_accepted(schema: Json, inputs: list[Json]) -> None:
    """Of objects, by Claude's names of their members; a union at the top is told instead."""
    tool = sent(schema)
    found = tool["input_schema"]
    unions = [key for key in UNIONS if key in schema]
    for key in unions:
        assert f'"{key}":' in tool["description"]
    if unions or schema.get("type", "object") != "object":
        return
    changed = changed_properties(schema)
    for value in inputs:
        if _holds_data(schema):
            continue
        renamed = json.loads(rename_keys(json.dumps(value).encode(), changed))
        assert accepts(found, renamed) == accepts(schema, value)


def _holds_data(schema: Any) -> bool:
    """Whether objects are compared as a whole: what is inside keeps the caller's names."""
    if isinstance(schema, dict):
        return any(
            key in ("const", "enum", "patternProperties") or _holds_data(inner)
            for key, inner in schema.items()
        )
    return isinstance(schema, list) and any(map(_holds_data, schema))


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=schemas(), value=_INPUTS)
def test_names_come_back(schema: Json, value: Json) -> None:
    """What was renamed there is renamed back."""
    changed = changed_properties(schema)
    there = rename_keys(json.dumps(value).encode(), changed)
    back = rename_keys(there, {wire: own for own, wire in changed.items()})
    assert json.loads(back) == value
    assert changed_properties(rename_schema(schema, changed)) == {}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"enum": ["$a", 1], "x-list": ["$a", 1]}, {"enum": ["$a", 1], "x-list": ["$a", 1]}),
        ({"required": ["$a", 7, "b"]}, {"required": ["A", "b"]}),
        ({"required": True}, {"required": True}),
        (
            {"properties": {"$a": {"type": "string"}, "$b": {}}},
            {"properties": {"A": {"type": "string", "description": "This is '$a'."}, "$b": {}}},
        ),
        (
            {"properties": {"$a": {"description": "An a."}}},
            {"properties": {"A": {"description": "An a.\n\nThis is '$a'."}}},
        ),
        ({"properties": {"$a": True}}, {"properties": {"A": True}}),
        ({"anyOf": [{"required": ["$a"]}]}, {"anyOf": [{"required": ["A"]}]}),
        *[
            ({key: {"properties": {"$a": 1}}},) * 2
            for key in ("const", "default", "enum", "example", "examples")
        ],
        ({"$ref": "#/properties/$a/properties/$a"}, {"$ref": "#/properties/A/properties/A"}),
        ({"$ref": "#/$defs/properties/$a"}, {"$ref": "#/$defs/properties/A"}),
        ({"$ref": "#/$defs/$a"}, {"$ref": "#/$defs/$a"}),
        ({"$ref": "$a"}, {"$ref": "$a"}),
    ],
)
def test_schema_with_other_names(schema: Json, expected: Json) -> None:
    """Properties, what is required, and references; values keep the caller's words."""
    assert rename_schema(schema, {"$a": "A"}) == expected


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


@pytest.mark.parametrize(
    ("name", "tool", "property"),
    [
        ("a-b_1", "a-b_1", "a-b_1"),
        ("files.read", f"files_read_{digest('files.read')}", "files.read"),
        ("x" * 64, "x" * 64, "x" * 64),
        ("x" * 65, *[f"{'x' * 55}_{digest('x' * 65)}"] * 2),
        ("$ü y", *[f"___y_{digest('$ü y')}"] * 2),
        ("", *[f"__{digest('')}"] * 2),
    ],
)
def test_names_that_are_made(name: str, tool: str, property: str) -> None:
    """As much of the name as is taken, and what tells it from others; the same every time."""
    assert plain_name(name) == tool
    assert changed_properties({"properties": {name: {}}}).get(name, name) == property


STRICT: list[tuple[Json, Json]] = [
    *(({"format": name}, {"format": name}) for name in
      ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6",
       "uuid")),
    ({"format": "idn-email"}, {"description": '{"format":"idn-email"}'}),
    ({"minItems": 0}, {"minItems": 0}),
    ({"minItems": 1}, {"minItems": 1}),
    ({"minItems": 2}, {"description": '{"minItems":2}'}),
    ({"title": "t", "description": "d", "type": "string", "enum": ["a"], "const": "a",
      "default": "a", "required": ["b"], "$ref": "#"},) * 2,
    ({"$schema": "x"}, {}),
    ({"$defs": {"a": {"minimum": 1}}}, {"$defs": {"a": {"description": '{"minimum":1}'}}}),
    ({"definitions": {"a": {"minimum": 1}}},
     {"definitions": {"a": {"description": '{"minimum":1}'}}}),
    ({"$defs": 7}, {"description": '{"$defs":7}'}),
    ({"properties": {"a": True}}, {"properties": {"a": True}, "additionalProperties": False}),
    ({"type": "object", "additionalProperties": {}},
     {"type": "object", "additionalProperties": False}),
    ({"additionalProperties": True}, {"description": '{"additionalProperties":true}'}),
    ({"items": {"minimum": 1}}, {"items": {"description": '{"minimum":1}'}}),
    ({"items": True}, {"description": '{"items":true}'}),
    *(({key: [{"minimum": 1}]}, {to: [{"description": '{"minimum":1}'}]})
      for key, to in (("anyOf", "anyOf"), ("oneOf", "anyOf"), ("allOf", "allOf"))),
    ({"anyOf": [{}], "oneOf": [True]}, {"anyOf": [{}], "description": '{"oneOf":[true]}'}),
    ({"anyOf": 7}, {"description": '{"anyOf":7}'}),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "expected"), STRICT)
def test_schema_of_structured_outputs(schema: Json, expected: Json) -> None:
    """What cannot be enforced is told in the description."""
    assert close_schema(schema) == expected


@pytest.mark.parametrize("depth", [100, 101])
def test_schema_may_nest_so_deep(depth: int) -> None:
    """The bound is within."""
    schema: Json = {}
    for _ in range(depth):
        schema = {"items": schema}
    if depth == 100:
        assert close_schema(schema) == schema
    else:
        with pytest.raises(ValueError, match="deeper than 100"):
            close_schema(schema)


@pytest.mark.parametrize(
    "ref",
    [
        "#/properties/$filter",
        "#/properties/%24filter",
        "#/properties/a/properties/b~1c",
        "#/properties/a/properties/b~0c",
        "#/properties/a/properties/~01",
        "#/$defs/x",
    ],
)
def test_reference_through_a_property_finds_it_by_its_other_name(ref: str) -> None:
    """Plain, percent-encoded, escaped."""
    names = {key: {"type": "integer"} for key in ("b/c", "b~c", "~1")}
    inner = {"type": "object", "properties": names}
    properties = {"$filter": {"type": "integer"}, "a": inner, "here": {"$ref": ref}}
    found = sent({"properties": properties, "$defs": {"x": {"type": "integer"}}})["input_schema"]
    assert accepts(found, {"here": 1})
    assert not accepts(found, {"here": "x"})
