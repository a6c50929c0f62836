"""Schemas of tools: they mean to Claude what they meant to the caller."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.wire.claude.request import to_request
from proxy.wire.claude.schema import close_schema, taken_properties
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
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(schema=schemas(), inputs=st.lists(_INPUTS, min_size=1, max_size=5))
def test_schema_accepts_what_it_accepted(schema: Json, inputs: list[Json]) -> None:
    """Of objects; a union at the top, and names that Claude does not take, are told instead."""
    tool = sent(schema)
    found = tool["input_schema"]
    unions = [key for key in UNIONS if key in schema]
    for key in unions:
        assert f'"{key}":' in tool["description"]
    if unions or schema.get("type", "object") != "object":
        return
    for value in inputs:
        assert accepts(found, value) or not accepts(schema, value)
        if "It also has" not in json.dumps(found):
            assert accepts(found, value) == accepts(schema, value)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"enum": ["$a", 1], "x-list": ["$a", 1]}, {"enum": ["$a", 1], "x-list": ["$a", 1]}),
        (
            {"properties": {"enum": {"type": "string"}}},
            {"properties": {"enum": {"type": "string"}}},
        ),
        (
            {"properties": {"$a": {"type": "string"}, "b": {}}, "required": ["$a", 7, "b"]},
            {
                "properties": {"b": {}},
                "required": ["b"],
                "description": 'It also has the properties {"$a":{"type":"string"}}',
            },
        ),
        (
            {
                "items": [
                    {"properties": {"$a": 1}, "additionalProperties": False, "description": "d"}
                ]
            },
            {
                "items": [
                    {
                        "properties": {},
                        "required": [],
                        "description": 'd\n\nIt also has the properties {"$a":1}',
                    }
                ]
            },
        ),
        *[
            ({key: {"properties": {"$a": 1}}},) * 2
            for key in ("const", "default", "enum", "example", "examples")
        ],
    ],
)
def test_properties_that_claude_does_not_take_are_told(schema: Json, expected: Json) -> None:
    """Where they are, and all others stay; values keep the caller's words."""
    assert taken_properties(schema) == expected


def test_deep_schema_costs_what_it_holds() -> None:
    """Each level is read once: a schema may be as deep as a body may."""
    leaf: Json = {"type": "object", "properties": {"$a": {}}}
    schema = leaf
    for _ in range(60):
        schema = {"type": "object", "properties": {"a": schema, "properties": {}}}
    found = taken_properties(schema)
    for _ in range(60):
        found = found["properties"]["a"]
    assert found == {
        "type": "object",
        "properties": {},
        "required": [],
        "description": 'It also has the properties {"$a":{}}',
    }


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("a-b_1", "a-b_1"),
        ("files.read", f"files_read_{digest('files.read')}"),
        ("x" * 64, "x" * 64),
        ("x" * 65, f"{'x' * 55}_{digest('x' * 65)}"),
        ("$ü y", f"___y_{digest('$ü y')}"),
        ("", f"__{digest('')}"),
    ],
)
def test_names_that_are_made(name: str, tool: str) -> None:
    """As much of the name as is taken, and what tells it from others; the same every time."""
    assert plain_name(name) == tool


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
    assert close_schema(schema, "s") == expected


@pytest.mark.parametrize("depth", [100, 101])
def test_schema_may_nest_so_deep(depth: int) -> None:
    """The bound is within."""
    schema: Json = {}
    for _ in range(depth):
        schema = {"items": schema}
    if depth == 100:
        assert close_schema(schema, "s") == schema
    else:
        with pytest.raises(InvalidRequest, match="s: the schema nests deeper than 100"):
            close_schema(schema, "s")
