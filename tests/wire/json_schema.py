"""Whether a JSON Schema (2020-12) accepts a value: small, slow, and written from the specification.

For tests that compare a schema before and after translation. Beside the standard it knows what
callers write: types in capitals, OpenAPI's `nullable`, the tuples of drafts before 2020-12.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

Schema = dict[str, Any] | bool


def accepts(schema: Schema, value: Any, root: Any = None) -> bool:
    """Whether `value` is valid; `root` is what `#` means."""
    if isinstance(schema, bool):
        return schema
    root = schema if root is None or "$id" in schema else root
    if schema.get("nullable") and value is None:
        return True
    return all(_assertions(schema, value, root))


def _assertions(schema: dict[str, Any], value: Any, root: Any) -> Iterator[bool]:
    if "$ref" in schema:
        found, base = resolve(schema["$ref"], root)
        yield accepts(found, value, base)
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        yield any(_is_a(kind.lower(), value) for kind in kinds)
    if "enum" in schema:
        yield any(_same(one, value) for one in schema["enum"])
    if "const" in schema:
        yield _same(schema["const"], value)
    for key, combine in (("allOf", all), ("anyOf", any)):
        if key in schema:
            yield combine([accepts(one, value, root) for one in schema[key]])
    if "oneOf" in schema:
        yield sum(accepts(one, value, root) for one in schema["oneOf"]) == 1
    if "not" in schema:
        yield not accepts(schema["not"], value, root)
    if "if" in schema:
        branch = "then" if accepts(schema["if"], value, root) else "else"
        yield accepts(schema.get(branch, True), value, root)
    if _is_a("number", value):
        yield from _of_number(schema, value)
    elif isinstance(value, str):
        yield len(value) >= schema.get("minLength", 0)
        yield len(value) <= schema.get("maxLength", len(value))
        yield re.search(schema.get("pattern", ""), value) is not None
    elif isinstance(value, list):
        yield from _of_array(schema, value, root)
    elif isinstance(value, dict):
        yield from _of_object(schema, value, root)


def _of_number(schema: dict[str, Any], value: float) -> Iterator[bool]:
    yield schema.get("minimum", value) <= value <= schema.get("maximum", value)
    yield (
        schema.get("exclusiveMinimum", value - 1)
        < value
        < schema.get("exclusiveMaximum", value + 1)
    )
    yield value % schema.get("multipleOf", 1) == 0 or "multipleOf" not in schema


def _of_array(schema: dict[str, Any], value: list[Any], root: Any) -> Iterator[bool]:
    yield schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
    first, rest = schema.get("prefixItems", []), schema.get("items", True)
    if isinstance(rest, list):
        first, rest = rest, schema.get("additionalItems", True)
    for place, item in enumerate(value):
        yield accepts(first[place] if place < len(first) else rest, item, root)
    if "contains" in schema:
        yield any(accepts(schema["contains"], item, root) for item in value)


def _of_object(schema: dict[str, Any], value: dict[str, Any], root: Any) -> Iterator[bool]:
    yield set(schema.get("required", ())) <= value.keys()
    yield schema.get("minProperties", 0) <= len(value)
    properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, item in value.items():
        found = [properties[name]] if name in properties else []
        found += [one for pattern, one in patterns.items() if re.search(pattern, name)]
        for one in found or [schema.get("additionalProperties", True)]:
            yield accepts(one, item, root)


def resolve(ref: str, root: Any) -> tuple[Any, Any]:
    """What a reference within the schema points to, and what `#` means there."""
    address, _, fragment = ref.partition("#")
    if address:
        root = next(one for one in _all_below(root) if one.get("$id") == address)
    if fragment and not fragment.startswith("/"):
        return next(one for one in _all_below(root) if one.get("$anchor") == fragment), root
    found = root
    for step in unquote(fragment).split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found, root


def _all_below(schema: Any) -> Iterator[dict[str, Any]]:
    inner = (
        schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    )
    if isinstance(schema, dict):
        yield schema
    for one in inner:
        yield from _all_below(one)


def _is_a(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    types: dict[str, Any] = {"number": (int, float), "string": str, "array": list, "object": dict}
    return value is None if kind == "null" else isinstance(value, types.get(kind, ()))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)
