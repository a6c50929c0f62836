"""JSON Schema as Claude takes it: of tools, and of structured outputs.

A tool's schema is of type object and has no union at its top (`flat_schema`). Structured outputs
compile the schema to a grammar: every object closed, no bounds on values, few string formats
(build-with-claude/structured-outputs, 2026-11). As Anthropic's own SDKs do, what can't be enforced
moves to the description, where the model still reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import msgspec

from ...errors import InvalidRequest
from ..chat.usage import as_object
from ..references import pointed_at

_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")
)
_KEPT = ("$ref", "title", "description", "type", "enum", "const", "default", "required")
_MAX_DEPTH = 100
_MAX_VARIANTS = 200

_Json = dict[str, Any]
_UNIONS = ("allOf", "anyOf", "oneOf")

# The API's rule for names of properties: one bad name refuses the whole request
# (anthropics/claude-code#79418, home-assistant/core#147760).
_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
# Their values are no schemas; those of `properties` have names before them.
_OTHERS = frozenset(("const", "default", "enum", "example", "examples", "properties"))


def taken_properties(schema: Any) -> Any:
    """The schema; properties with names that the API refuses are told in words, at any depth."""
    if isinstance(schema, list):
        return list(map(taken_properties, schema))
    if not isinstance(schema, dict):
        return schema
    made = {key: one if key in _OTHERS else taken_properties(one) for key, one in schema.items()}
    if isinstance(properties := schema.get("properties"), dict):
        taken = {name: one for name, one in properties.items() if _PROPERTY.fullmatch(name)}
        made["properties"] = {name: taken_properties(one) for name, one in taken.items()}
        if untaken := {name: one for name, one in properties.items() if name not in taken}:
            made["required"] = [name for name in _required(schema) if name in taken]
            made.pop("additionalProperties", None)
            told = f"It also has the properties {msgspec.json.encode(untaken).decode()}"
            made["description"] = f"{made.get('description') or ''}\n\n{told}".strip()
    return made


def flat_schema(
    schema: _Json, root: _Json | None = None, looks: Iterator[int] | None = None
) -> tuple[_Json, _Json]:
    """A tool's schema without a union at its top, and the unions that were there.

    The API refuses "oneOf, allOf, or anyOf at the top level" (anthropics/claude-code#40075). The
    properties of all variants are the tool's; what any of them leaves out is not required.
    `root` and `looks` are given for a schema that is a variant itself.
    """
    flat: _Json = {**schema, "type": "object"}
    unions = {key: flat.pop(key) for key in _UNIONS if isinstance(flat.get(key), list)}
    if not unions:
        return flat, {}
    properties = dict(as_object(schema.get("properties")))
    required = _required(schema)
    for key, variants in unions.items():
        found = [
            _resolved(one, root or schema, looks or iter(range(_MAX_VARIANTS))) for one in variants
        ]
        for variant in found:
            own = as_object(variant.get("properties"))
            if own:
                flat.pop("additionalProperties", None)  # it was said of the schema's own properties
            for name, inner in own.items():
                other = properties.setdefault(name, inner)
                properties[name] = inner if other == inner else {"anyOf": [other, inner]}
        sets = [set(_required(variant)) for variant in found]
        if sets:
            needed = set.union(*sets) if key == "allOf" else set.intersection(*sets)
            required += sorted(needed - set(required))
    flat["properties"] = properties
    if required:
        flat["required"] = required
    return flat, unions


def _required(schema: _Json) -> list[str]:
    found = schema.get("required")
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _resolved(variant: Any, root: _Json, looks: Iterator[int]) -> _Json:
    """A variant, or what it refers to, with its own unions made flat; nothing for what is none.

    `looks`: one for each variant that may still be looked at, as they may refer to each other.
    """
    if next(looks, None) is None or not isinstance(variant, dict):
        return {}
    pointer = variant.get("$ref")
    if isinstance(pointer, str) and pointer.startswith("#/"):
        steps = map(unquote, pointer[2:].split("/"))
        return _resolved(pointed_at(root, steps), root, looks)
    return flat_schema(variant, root, looks)[0]


def close_schema(schema: Any, path: str, depth: int = 0) -> Any:
    """A copy that structured outputs accept; raises InvalidRequest if it nests too deep."""
    if not isinstance(schema, dict):
        return schema
    if depth > _MAX_DEPTH:
        raise InvalidRequest.at(path, f"the schema nests deeper than {_MAX_DEPTH}")
    below = depth + 1
    rest = dict(schema)
    closed = {key: rest.pop(key) for key in _KEPT if key in rest}
    rest.pop("$schema", None)
    for key in ("$defs", "definitions", "properties"):
        if isinstance(rest.get(key), dict):
            closed[key] = {
                name: close_schema(one, path, below) for name, one in rest.pop(key).items()
            }
    if isinstance(rest.get("items"), dict):
        closed["items"] = close_schema(rest.pop("items"), path, below)
    # `oneOf` becomes `anyOf`, the only choice there is.
    for key, target in (("anyOf", "anyOf"), ("oneOf", "anyOf"), ("allOf", "allOf")):
        if isinstance(rest.get(key), list) and target not in closed:
            closed[target] = [close_schema(one, path, below) for one in rest.pop(key)]
    if closed.get("type") == "object" or "properties" in closed:
        rest.pop("additionalProperties", None)
        closed["additionalProperties"] = False
    if rest.get("format") in _FORMATS:
        closed["format"] = rest.pop("format")
    if rest.get("minItems") in (0, 1):
        closed["minItems"] = rest.pop("minItems")
    if rest:
        hint = msgspec.json.encode(rest).decode()
        closed["description"] = f"{closed.get('description') or ''}\n\n{hint}".strip()
    return closed
