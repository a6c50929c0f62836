"""JSON Schema as callers write it, in the part of it that Gemini reads.

Gemini has two fields each for the parameters of a function and for structured output: `parameters`
and `responseSchema` take an OpenAPI 3.0 `Schema` message, in which an unknown keyword is a 400 and
type unions don't exist; `parametersJsonSchema` and `responseJsonSchema` take JSON Schema. We send
the latter: types of several kinds, `additionalProperties` and number enums survive, and nothing is
refused for a keyword. Google's own CLI sends it too (google-gemini/gemini-cli#4196); from Gemini 3
on a union in the former ends in MALFORMED_FUNCTION_CALL (UKGovernmentBEIS/inspect_ai#3097).
What it reads (GenerationConfig.responseJsonSchema in the API reference,
2026-11): `$id $defs $ref $anchor type format title description enum items prefixItems minItems
maxItems minimum maximum anyOf oneOf properties additionalProperties required propertyOrdering`.

The rest is put in these terms, so that what the schema accepts stays accepted:

- `$ref` is replaced by what it points to, though Gemini reads it: it allows nothing beside a
  `$ref`, and a cycle only within optional properties. A cycle is unrolled MAX_UNROLLED times.
- What has to hold at once (`allOf`, what stands beside `$ref` and `anyOf`) becomes one schema.
- `const` becomes an `enum` of one, `nullable` a type "null", `oneOf` `anyOf`; an enum holds strings
  or numbers, other values become their type; types in capitals are OpenAPI's.
- What cannot be said so (`pattern`, `not`, ...) is told to the model in `description`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from ...errors import InvalidRequest
from .flat_schema import TYPES, WORDS, Flat, Node, Reader, is_number, key_of, reach

_PLAIN: Final = frozenset({"type", "title", "description", "format"})
_SCALARS: Final = ("string", "integer", "number", "boolean")

Schema = dict[str, Any]


def clean(schema: Mapping[str, Any], *, param: str) -> Schema:
    """The schema for a `...JsonSchema` field; `param` names it in errors.

    Raises InvalidRequest for a `$ref` that leads nowhere, for a schema that is too large or that
    accepts nothing.
    """
    reader = Reader(schema, param)
    cleaned = _Writer(reader).clean([reader.root()])
    if cleaned is None:
        raise InvalidRequest(f"{param} accepts nothing", param=param)
    return cleaned


def function_parameters(schema: Mapping[str, Any] | None, *, param: str) -> Schema | None:
    """`parametersJsonSchema`, or None for a function without parameters, which has no field."""
    if not schema:
        return None
    cleaned = clean(schema, param=param)
    objects = [one for one in cleaned.get("anyOf", ()) if one.get("type", "object") == "object"]
    if objects:
        words: Schema = {key: cleaned[key] for key in WORDS if key in cleaned}
        cleaned = _one_object(objects, words)
    kind = "anyOf" if "anyOf" in cleaned else cleaned.setdefault("type", "object")
    if isinstance(kind, list) and "object" in kind:
        cleaned["type"] = kind = "object"
    if kind != "object":
        raise InvalidRequest(f"{param} must describe an object", param=param)
    return cleaned if len(cleaned.keys() - {"title", "description"}) > 1 else None


class _Writer:
    """Writes what was read in Gemini's terms."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def clean(self, node: Node) -> Schema | None:
        """The schema that accepts what all parts accept; None: there is nothing such."""
        if len(node) == 1:
            schema = node[0].schema
            if not isinstance(schema, dict):
                return None if schema is False else {}
            if schema.keys() <= _PLAIN and schema.get("type") in _SCALARS:  # most are
                self._reader.count()
                return {key: value for key, value in schema.items() if isinstance(value, str)}
        return self._written(self._reader.read(node))

    def _written(self, flat: Flat) -> Schema | None:
        if flat.is_never:
            return None
        if not flat.unions:
            made = self._without_union(flat)
        else:
            options: list[Schema] = []
            for option in flat.unions[0]:
                one = flat.without_words()
                one.unions = flat.unions[1:]
                self._reader.absorb(option, one)
                cleaned = self._written(one)
                if cleaned is not None:
                    options.append(cleaned)
            made = _any_of(options)
        if made is None:
            return None
        words: Schema = {key: flat.words[key] for key in WORDS if key in flat.words}
        return _told({**made, **words} if words else made, flat.told)

    def _without_union(self, flat: Flat) -> Schema | None:
        if flat.enum is not None:
            return _any_of(self._enumerated(flat.enum, flat))
        if flat.types is None:
            return self._typed(None, flat)
        kinds = [kind for kind in TYPES if kind in flat.types and kind != "null"]
        if "number" in kinds and "integer" in kinds:
            kinds.remove("integer")
        if len(kinds) > 1:
            options = [self._typed(kind, flat) for kind in kinds]
            options += [{"type": "null"}] if "null" in flat.types else []
            return _any_of([option for option in options if option is not None])
        made = self._typed(kinds[0], flat) if kinds else {"type": "null"}
        if "null" in flat.types and kinds:
            return {"type": "null"} if made is None else {**made, "type": [kinds[0], "null"]}
        return made

    def _typed(self, kind: str | None, flat: Flat) -> Schema | None:
        """The schema for one type, None: for any; only with what matters to it."""
        made: Schema = {} if kind is None else {"type": kind}
        if "format" in flat.words and kind in (None, "string", "number", "integer"):
            made["format"] = flat.words["format"]
        if kind in (None, "number", "integer"):
            made |= {k: flat.numbers[k] for k in ("minimum", "maximum") if k in flat.numbers}
        if kind in (None, "array"):
            made |= self._items(flat)
        if kind in (None, "object"):
            members = self._members(flat)
            if members is None:
                return None if kind else self._anything_but_an_object(flat)
            made |= members
        return made

    def _anything_but_an_object(self, flat: Flat) -> Schema | None:
        kinds = [kind for kind in TYPES if kind not in ("object", "integer")]
        return _any_of([found for kind in kinds if (found := self._typed(kind, flat)) is not None])

    def _enumerated(self, values: Sequence[Any], flat: Flat) -> list[Schema]:
        """Options that together are the enum: Gemini reads those of strings and of numbers."""
        by_kind: dict[str, list[Any]] = {}
        for value in {key_of(value): value for value in values}.values():
            kind = _kind_of(value)
            allowed = flat.types is None or reach(kind, flat.types) or _is_whole(value, flat.types)
            if allowed and _is_within(value, flat.numbers):
                by_kind.setdefault("number" if kind == "integer" else kind, []).append(value)
        options = []
        for kind, found in by_kind.items():
            option: Schema = {"type": kind}
            if kind == "number" and all(isinstance(value, int) for value in found):
                option["type"] = "integer"
            # "enum[0]: cannot be empty" is Gemini's answer to an empty string in one.
            if kind in ("string", "number") and "" not in found:
                option["enum"] = found
            elif kind != "null" and not (kind == "boolean" and len(found) > 1):
                option = _told(option, {"enum": msgspec.json.encode(found).decode()})
            options.append(option)
        return options

    def _items(self, flat: Flat) -> Schema:
        made: Schema = {k: flat.numbers[k] for k in ("minItems", "maxItems") if k in flat.numbers}
        most: int | None = None
        first: list[Schema] = []
        for place in range(max((len(array.first) for array in flat.arrays), default=0)):
            cleaned = self.clean([array.item(place) for array in flat.arrays])
            if cleaned is None:
                most = place
                break
            first.append(cleaned)
        if first:
            made["prefixItems"] = first
        if most is None and flat.arrays:
            rest = self.clean([array.part.at(array.rest) for array in flat.arrays])
            if rest is None:
                most = len(first)
            elif rest or not first:
                made["items"] = rest
        if most is not None:
            made["maxItems"] = min(made.get("maxItems", most), most)
        return made

    def _members(self, flat: Flat) -> Schema | None:
        made: Schema = {}
        if not flat.objects and not flat.required:
            return made
        names = dict.fromkeys(name for found in flat.objects for name in found.properties or ())
        others = self.clean([found.rest() for found in flat.objects])
        if others is None:
            made["additionalProperties"] = False
        else:
            if others or any(found.others is True for found in flat.objects):
                made["additionalProperties"] = others or True
            # What is required is described: Gemini wants it among the properties.
            names |= flat.required
        properties: Schema = {}
        for name in names:
            cleaned = self.clean([found.member(name) for found in flat.objects])
            if cleaned is not None:
                properties[name] = cleaned
            elif name in flat.required:
                return None
            elif others is not None:
                made = _told(made, {"without": msgspec.json.encode(name).decode()})
        if properties or any(found.properties is not None for found in flat.objects):
            made["properties"] = properties
        required = [name for name in flat.required if name in properties]
        if required:
            made["required"] = required
        if len(required) < len(flat.required):
            # Of no use to anybody, and taken by other vendors: a name that no property may have.
            made = _told(made, {"required": msgspec.json.encode(list(flat.required)).decode()})
        ordering = [name for name in flat.ordering if name in properties]
        if ordering:
            made["propertyOrdering"] = ordering
        return made


def _any_of(options: Sequence[Schema]) -> Schema | None:
    """The options as one schema, without repetition; None if there is none."""
    by_text: dict[bytes, Schema] = {}
    for option in options:
        for one in option["anyOf"] if option.keys() == {"anyOf"} else [option]:
            by_text.setdefault(msgspec.json.encode(one), one)
    found = list(by_text.values())
    if {} in found:
        return {}
    if len(found) > 1:
        return {"anyOf": found}
    return dict(found[0]) if found else None


def _one_object(objects: Sequence[Schema], words: Schema) -> Schema:
    """A union at the top as one object, for arguments: what sets the options apart is told."""
    merged: Schema = {"type": "object"}
    properties: dict[str, list[Schema]] = {}
    needed: Counter[str] = Counter()
    for one in objects:
        needed.update(one.get("required", ()))
        for name, found in one.get("properties", {}).items():
            properties.setdefault(name, []).append(found)
    if properties:
        merged["properties"] = {name: _any_of(found) for name, found in properties.items()}
    required = [name for name in properties if needed[name] == len(objects)]
    if required:
        merged["required"] = required
    if all(one.get("additionalProperties") is False for one in objects):
        merged["additionalProperties"] = False
    told = [{key: one[key] for key in one if one[key] != merged.get(key)} for one in objects]
    told_text = {"anyOf": msgspec.json.encode(told).decode()} if any(told) else {}
    return _told({**merged, **words}, told_text)


def _told(schema: Schema, told: Mapping[str, str]) -> Schema:
    if not told:
        return schema
    text = f"({', '.join(f'{key}: {value}' for key, value in told.items())})"
    return {**schema, "description": " ".join(filter(None, [schema.get("description"), text]))}


def _kind_of(value: object) -> str:
    if value is None:
        return "null"
    for kind, types in (("boolean", bool), ("integer", int), ("number", float), ("string", str)):
        if isinstance(value, types):
            return kind
    return "array" if isinstance(value, list) else "object"


def _is_whole(value: object, types: frozenset[str]) -> bool:
    return "integer" in types and isinstance(value, float) and value.is_integer()


def _is_within(value: Any, bounds: Mapping[str, int | float]) -> bool:
    if not is_number(value):
        return True
    return bool(bounds.get("minimum", value) <= value <= bounds.get("maximum", value))
