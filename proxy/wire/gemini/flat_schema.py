"""JSON Schema as callers write it, with all that has to hold at once in one place.

A *flat* schema is a dict without references, `allOf` and `const`. Its `type` is a set, its `unions`
are lists of options (`anyOf`, `oneOf`), and `told` is, by keyword, what Gemini can only be told in
words. One that nothing fits has an empty `enum`. `schema` writes it in Gemini's terms.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from ...errors import InvalidRequest
from ..references import References

# How often one $ref may occur on the way from the root to a leaf.
MAX_UNROLLED: Final = 2
# Of schemas to read, join or write: inlining can grow one exponentially, and so can unions. Far
# above what a model can use.
MAX_STEPS: Final = 20_000

WORDS: Final = ("title", "description")
_PLAIN: Final = frozenset(("type", "format", *WORDS))
TYPES: Final = ("string", "number", "integer", "boolean", "array", "object", "null")

_REFS: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_UNIONS: Final = ("anyOf", "oneOf")
# Beside these OpenAPI's `nullable` is another option, and not one more type.
_NOT_NULL: Final = frozenset((*_REFS, *_UNIONS, "allOf", "enum", "const"))
_EXCLUSIVE: Final = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
_TOLD: Final = (
    *("pattern", "minLength", "maxLength", "multipleOf", "contentEncoding", "contentMediaType"),
    *("uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems"),
    *("minProperties", "maxProperties", "patternProperties", "propertyNames", "dependencies"),
    *("dependentRequired", "dependentSchemas", "unevaluatedProperties"),
    *("not", "if", "then", "else", "default"),
)

Schema = dict[str, Any]


class Reader:
    """Reads one schema, `root`; `param` names it in errors."""

    def __init__(self, root: Schema, param: str) -> None:
        self._root = root
        self._param = param
        self._steps = 0
        self._references = References(root)

    def step(self, steps: int = 1) -> None:
        """Raises InvalidRequest if there were too many."""
        self._steps += steps
        if self._steps > MAX_STEPS:
            why = f"more than {MAX_STEPS} steps to read it with its $refs inlined"
            raise InvalidRequest.at(self._param, f"the schema is too large: it takes {why}")

    def both(self, one: Schema, other: Schema) -> Schema:
        """One flat schema for two that have to hold at once."""
        if not one or not other:
            return one or other
        self.step()
        made = {**other, **one}
        for key in one.keys() & other.keys() & _JOINED.keys():
            if key not in _NARROWER:
                self.step((len(one[key]) + len(other[key])) // 64)
            made[key] = _JOINED[key](one[key], other[key])
        if (found := other.get("format")) and found != made["format"]:
            made["told"] = {**made.get("told", {}), "format": encoded(found)}
        for named, rest in (("properties", "additionalProperties"), ("prefixItems", "items")):
            if named in made:
                mine, others = one.get(named, {}), other.get(named, {})
                names = {**mine, **others}
                self.step(len(names))
                made[named] = {
                    name: self.both(
                        mine.get(name, one.get(rest, {})), others.get(name, other.get(rest, {}))
                    )
                    for name in names
                }
            if rest in made:
                made[rest] = self.both(one.get(rest, {}), other.get(rest, {}))
        return made

    def read(self, schema: object, base: Mapping[str, Any], seen: Mapping[int, int]) -> Schema:
        """The flat schema; `base`: what `#` means here; `seen`: how often each $ref led here.

        Raises InvalidRequest for a `$ref` to nowhere, and as `step` does.
        """
        self.step()
        if not isinstance(schema, dict):
            return {"enum": []} if schema is False else {}
        if schema.keys() <= _PLAIN and schema.get("type") in TYPES:  # most are
            texts = {key: value for key, value in schema.items() if isinstance(value, str)}
            return {**texts, "type": frozenset((schema["type"],))}
        if "$id" in schema and schema is not self._root:
            base = schema

        def inner(value: object) -> Schema:
            return self.read(value, base, seen)

        flat: Schema = {key: schema[key] for key in WORDS if _is_text(schema.get(key))}
        if schema.get("nullable") is True and not _NOT_NULL.isdisjoint(schema):
            rest = {key: schema[key] for key in schema if key not in ("nullable", *WORDS)}
            return {**flat, "unions": [[inner(rest), {"type": frozenset(("null",))}]]}
        flat |= _values_of(schema)
        properties, patterns = schema.get("properties"), schema.get("patternProperties")
        if isinstance(properties, dict):
            flat["properties"] = {name: inner(value) for name, value in properties.items()}
        others = schema.get("additionalProperties")
        if others is True:
            flat["additionalProperties"] = {}
        elif others is not None:
            # Patterns are not tried: they are the caller's, and may take for ever.
            matching = [*patterns.values()] if isinstance(patterns, dict) else []
            if found := inner({"anyOf": [others, *matching]} if matching else others):
                flat["additionalProperties"] = found
        items, first = schema.get("items", True), listed(schema, "prefixItems")
        if isinstance(items, list):  # the tuples of drafts before 2020-12
            first, items = items, schema.get("additionalItems", True)
        if first:
            flat["prefixItems"] = {place: inner(one) for place, one in enumerate(first)}
        if items is not True:
            flat["items"] = inner(items)
        if unions := list(filter(None, (listed(schema, key) for key in _UNIONS))):
            flat["unions"] = [list(map(inner, options)) for options in unions]
        for key in _REFS:
            if key in schema:
                flat = self.both(flat, self._target(schema[key], base, seen))
        for one in listed(schema, "allOf"):
            flat = self.both(flat, inner(one))
        return flat

    def _target(self, ref: object, base: Mapping[str, Any], seen: Mapping[int, int]) -> Schema:
        found = self._references.target(ref, base)
        if found is None:
            why = "only references within it (#/$defs/...) can be followed"
            told = f"$ref {ref!r} points to nothing in this schema"
            raise InvalidRequest.at(self._param, f"{told}; {why}")
        target, base = found
        unrolled = seen.get(id(target), 0)
        if unrolled >= MAX_UNROLLED:
            # The cycle is cut here: what kind of value stands here, not what is in it.
            kept = ("type", "description", "nullable")
            return self.read({key: target[key] for key in kept if key in target}, base, {})
        return self.read(target, base, {**seen, id(target): unrolled + 1})


def _values_of(schema: Schema) -> Schema:
    """What a schema says of values themselves, not of what is in them."""
    flat: Schema = {"format": schema["format"]} if _is_text(schema.get("format")) else {}
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    named = schema.get("type")
    names = named if isinstance(named, list) else [named]
    types = frozenset(name.lower() if isinstance(name, str) else "" for name in names)
    if types and types <= set(TYPES):
        # In OpenAPI's style an enum with null in it allows null, whatever the type says.
        has_null = schema.get("nullable") is True or (isinstance(values, list) and None in values)
        flat["type"] = types | {"null"} if has_null else types
    if schema.get("not") in ({}, True):
        values = []
    if isinstance(values, list):
        flat["enum"] = values
    flat |= {key: schema[key] for key in _NARROWER if is_number(schema.get(key))}
    told = {}
    for key, bound in _EXCLUSIVE.items():
        value: Any = schema.get(key)
        if value is True:  # of drafts before 6: the bound itself is left out
            told[key] = "true"
        elif is_number(value):
            if types == {"integer"} and abs(value) < 2**53:
                value = math.floor(value) + 1 if bound == "minimum" else math.ceil(value) - 1
            else:
                told[key] = encoded(value)
            flat[bound] = _NARROWER[bound](value, flat.get(bound, value))
    has_branch = "then" in schema or "else" in schema
    for key in filter(schema.__contains__, _TOLD):
        if schema.get(key) is not None and (key != "if" or has_branch):
            told[key] = encoded(schema[key])
    if len(listed(schema, "oneOf")) > 1:
        told["oneOf"] = "exactly one of these"
    if told:
        flat["told"] = told
    for key in ("required", "propertyOrdering"):
        if found := dict.fromkeys(filter(_is_text, listed(schema, key))):
            flat[key] = found
    return flat


def _common_types(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    """Integers are numbers."""
    both = [types | {"integer"} if "number" in types else types for types in (one, other)]
    return both[0] & both[1]


def _common_values(one: list[Any], other: list[Any]) -> list[Any]:
    allowed = set(map(key_of, one))
    return [value for value in other if key_of(value) in allowed]


# How two values of a keyword become one; where there is none the first is kept.
_NARROWER: Final = {"minimum": max, "maximum": min, "minItems": max, "maxItems": min}
_JOINED: Final[dict[str, Callable[[Any, Any], Any]]] = {
    **_NARROWER,
    "type": _common_types,
    "enum": _common_values,
    "told": operator.or_,
    "required": operator.or_,
    "unions": operator.add,
}


def listed(schema: Schema, key: str) -> list[Any]:
    """The list there, or an empty one."""
    value = schema.get(key)
    return value if isinstance(value, list) else []


def key_of(value: Any) -> object:
    """Equal for equal values: 1 is 1.0, and not true."""
    return value if is_number(value) else msgspec.json.encode(value, order="sorted")


def is_number(value: object) -> bool:
    """Whether it is a number in JSON."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def encoded(value: object) -> str:
    """The value as JSON."""
    return msgspec.json.encode(value).decode()


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""
