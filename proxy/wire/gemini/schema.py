"""JSON Schema as callers write it, cleaned to the part that Gemini reads.

Gemini has two fields each for the parameters of a function and for structured output: `parameters`
and `responseSchema` take an OpenAPI 3.0 `Schema` message, in which an unknown keyword is a 400 and
type unions don't exist; `parametersJsonSchema` and `responseJsonSchema` take JSON Schema. We send
the latter: types of several kinds, `additionalProperties` and number enums survive, and nothing is
refused for a keyword. What it reads (GenerationConfig.responseJsonSchema in the API reference,
2026-11): `$id $defs $ref $anchor type format title description enum items prefixItems minItems
maxItems minimum maximum anyOf oneOf properties additionalProperties required propertyOrdering`.

What is done to the rest:

- `$ref` is replaced by what it points to, though Gemini reads it: it allows nothing beside a
  `$ref`, and a cycle only within optional properties. A cycle is unrolled MAX_UNROLLED times.
- `const` becomes an `enum` of one, `nullable` a type "null", `oneOf` `anyOf`, `allOf` is merged.
- Other constraints (`pattern`, `minLength`, `default`, ...) are told to the model in `description`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ...errors import InvalidRequest

# How often one $ref may occur on the way from the root to a leaf.
MAX_UNROLLED: Final = 2
# Inlining can grow a schema exponentially; far above what a model can use.
MAX_NODES: Final = 10_000

_KEPT: Final = ("type", "format", "title", "description", "minimum", "maximum")
_KEPT_ITEMS: Final = ("minItems", "maxItems")
_TOLD: Final = (
    "pattern",
    "minLength",
    "maxLength",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "default",
)
_TYPES: Final = {"string", "number", "integer", "boolean", "array", "object", "null"}

Schema = dict[str, Any]


def clean(schema: Mapping[str, Any], *, param: str) -> Schema:
    """The schema for a `...JsonSchema` field; `param` names it in errors.

    Raises InvalidRequest for a `$ref` that leads nowhere or a schema that is too large.
    """
    return _Cleaner(schema, param).clean(schema, {})


def function_parameters(schema: Mapping[str, Any] | None, *, param: str) -> Schema | None:
    """`parametersJsonSchema`, or None for a function without parameters, which has no field."""
    if not schema:
        return None
    cleaned = clean(schema, param=param)
    if cleaned.setdefault("type", "object") != "object":
        raise InvalidRequest(f"{param} must describe an object", param=param)
    return cleaned if len(cleaned.keys() - {"title", "description"}) > 1 else None


class _Cleaner:
    def __init__(self, root: Mapping[str, Any], param: str) -> None:
        self._root = root
        self._param = param
        self._nodes = 0

    def clean(self, schema: object, seen: Mapping[str, int]) -> Schema:
        """`seen`: how often each $ref occurs on the way here."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise InvalidRequest(
                f"{self._param} has more than {MAX_NODES} parts once its $refs are inlined",
                param=self._param,
            )
        if not isinstance(schema, Mapping):  # true, false: anything, nothing
            return {}
        if "$ref" in schema:
            return self._referred(schema, seen)
        if isinstance(schema.get("allOf"), list):
            return self._merged(schema, seen)
        cleaned = {key: schema[key] for key in _KEPT if _fits(key, schema.get(key))}
        self._tell(schema, cleaned)
        self._objects(schema, cleaned, seen)
        self._arrays(schema, cleaned, seen)
        self._choices(schema, cleaned, seen)
        _enums(schema, cleaned)
        if schema.get("nullable") is True:
            _allow_null(cleaned)
        return cleaned

    def _referred(self, schema: Mapping[str, Any], seen: Mapping[str, int]) -> Schema:
        ref = schema["$ref"]
        target = self._look_up(ref)
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        unrolled = seen.get(ref, 0)
        if unrolled >= MAX_UNROLLED:
            # The cycle is cut here: what kind of value stands here, not what is in it.
            return {
                key: target[key] for key in ("type", "description") if _fits(key, target.get(key))
            }
        return self.clean({**target, **beside}, {**seen, ref: unrolled + 1})

    def _look_up(self, ref: object) -> Mapping[str, Any]:
        found: object = self._root
        steps = ref.split("/") if isinstance(ref, str) else [""]
        if steps[0] != "#":
            found = None
        for step in steps[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            raise InvalidRequest(
                f"{self._param}: $ref {ref!r} points to nothing in this schema; "
                "only references within it (#/$defs/...) can be followed",
                param=self._param,
            )
        return found

    def _merged(self, schema: Mapping[str, Any], seen: Mapping[str, int]) -> Schema:
        rest = {key: value for key, value in schema.items() if key != "allOf"}
        merged: Schema = {}
        for part in [self.clean(one, seen) for one in schema["allOf"]] + [self.clean(rest, seen)]:
            properties = {**merged.get("properties", {}), **part.get("properties", {})}
            required = list(dict.fromkeys([*merged.get("required", []), *part.get("required", [])]))
            merged.update(part)
            if properties:
                merged["properties"] = properties
            if required:
                merged["required"] = required
        return merged

    def _tell(self, schema: Mapping[str, Any], cleaned: Schema) -> None:
        told = [
            f"{key}: {msgspec.json.encode(schema[key]).decode()}"
            for key in _TOLD
            if schema.get(key) is not None
        ]
        if told:
            parts = [cleaned.get("description", ""), f"({', '.join(told)})"]
            cleaned["description"] = " ".join(filter(None, parts))

    def _objects(self, schema: Mapping[str, Any], cleaned: Schema, seen: Mapping[str, int]) -> None:
        properties = schema.get("properties")
        if isinstance(properties, Mapping):
            cleaned["properties"] = {
                name: self.clean(value, seen) for name, value in properties.items()
            }
            for key in ("required", "propertyOrdering"):
                names = schema.get(key)
                if isinstance(names, list):
                    # A name that is not among the properties is a 400 of Gemini's.
                    cleaned[key] = [n for n in names if isinstance(n, str) and n in properties]
        others = schema.get("additionalProperties")
        if isinstance(others, bool):
            cleaned["additionalProperties"] = others
        elif isinstance(others, Mapping):
            cleaned["additionalProperties"] = self.clean(others, seen)

    def _arrays(self, schema: Mapping[str, Any], cleaned: Schema, seen: Mapping[str, int]) -> None:
        items = schema.get("items")
        if isinstance(items, list):  # the tuples of drafts before 2020-12
            cleaned["prefixItems"] = [self.clean(item, seen) for item in items]
        elif isinstance(items, Mapping):
            cleaned["items"] = self.clean(items, seen)
        if isinstance(schema.get("prefixItems"), list):
            cleaned["prefixItems"] = [self.clean(item, seen) for item in schema["prefixItems"]]
        for key in _KEPT_ITEMS:
            if _fits(key, schema.get(key)):
                cleaned[key] = schema[key]

    def _choices(self, schema: Mapping[str, Any], cleaned: Schema, seen: Mapping[str, int]) -> None:
        for key in ("anyOf", "oneOf"):
            options = schema.get(key)
            if isinstance(options, list) and options:
                cleaned["anyOf"] = [self.clean(option, seen) for option in options]


def _fits(key: str, value: object) -> bool:
    if key == "type":
        names = value if isinstance(value, list) else [value]
        return bool(names) and all(isinstance(name, str) and name in _TYPES for name in names)
    if key in ("minimum", "maximum", *_KEPT_ITEMS):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)


def _enums(schema: Mapping[str, Any], cleaned: Schema) -> None:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list):
        return
    # Gemini reads enums of strings and numbers; a bool or null is told by its type alone.
    usable = [v for v in values if isinstance(v, str | int | float) and not isinstance(v, bool)]
    if usable:
        cleaned["enum"] = usable
    elif values and all(isinstance(value, bool) for value in values):
        cleaned.setdefault("type", "boolean")
    if None in values:
        if usable:
            _allow_null(cleaned)
        else:
            cleaned.setdefault("type", "null")


def _allow_null(cleaned: Schema) -> None:
    if "enum" in cleaned:  # which would go on to forbid null
        outer: Schema = {
            key: cleaned.pop(key) for key in ("title", "description") if key in cleaned
        }
        value = dict(cleaned)
        cleaned.clear()
        cleaned.update(outer, anyOf=[value, {"type": "null"}])
        return
    kind = cleaned.get("type")
    if kind is not None:
        kinds = kind if isinstance(kind, list) else [kind]
        cleaned["type"] = kinds if "null" in kinds else [*kinds, "null"]
    elif "anyOf" in cleaned and {"type": "null"} not in cleaned["anyOf"]:
        cleaned["anyOf"] = [*cleaned["anyOf"], {"type": "null"}]
