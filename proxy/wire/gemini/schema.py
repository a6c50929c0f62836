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

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from ...errors import InvalidRequest
from ..references import References

# How often one $ref may occur on the way from the root to a leaf.
MAX_UNROLLED: Final = 2
# Inlining can grow a schema exponentially; far above what a model can use.
MAX_NODES: Final = 10_000

_REFS: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_TOLD: Final = (
    *("pattern", "minLength", "maxLength", "multipleOf", "contentEncoding", "contentMediaType"),
    *("uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems"),
    *("minProperties", "maxProperties", "patternProperties", "propertyNames", "dependencies"),
    *("dependentRequired", "dependentSchemas", "unevaluatedProperties"),
    *("not", "if", "then", "else", "default"),
)
_TOLD_KEYS: Final = frozenset(_TOLD)
_PLAIN: Final = frozenset({"type", "title", "description", "format"})
_SCALARS: Final = ("string", "integer", "number", "boolean")
_WORDS: Final = ("title", "description")
_TYPES: Final = ("string", "number", "integer", "boolean", "array", "object", "null")

Schema = dict[str, Any]


def clean(schema: Mapping[str, Any], *, param: str) -> Schema:
    """The schema for a `...JsonSchema` field; `param` names it in errors.

    Raises InvalidRequest for a `$ref` that leads nowhere, for a schema that is too large or that
    accepts nothing.
    """
    cleaned = _Cleaner(schema, param).clean([_Part(schema, {}, schema)])
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
        words: Schema = {key: cleaned[key] for key in _WORDS if key in cleaned}
        cleaned = _one_object(objects, words)
    kind = "anyOf" if "anyOf" in cleaned else cleaned.setdefault("type", "object")
    if isinstance(kind, list) and "object" in kind:
        cleaned["type"] = kind = "object"
    if kind != "object":
        raise InvalidRequest(f"{param} must describe an object", param=param)
    return cleaned if len(cleaned.keys() - {"title", "description"}) > 1 else None


class _Part(NamedTuple):
    """A schema, how often each $ref occurs on the way to it, and what its `#` means."""

    schema: object
    seen: Mapping[int, int]
    base: Mapping[str, Any]

    def at(self, schema: object) -> _Part:
        return _Part(schema, self.seen, self.base)


_Node = list[_Part]  # all of them have to hold


class _Object(NamedTuple):
    """What one schema says of an object's members."""

    properties: Mapping[str, object] | None
    others: object  # None: not said, so anything
    patterns: Mapping[str, object]
    part: _Part

    def member(self, name: str) -> _Part:
        """What has to hold for the member of this name.

        Patterns are not tried: they are the caller's, and may take for ever.
        """
        if self.properties is not None and name in self.properties:
            return self.part.at(self.properties[name])
        return self.rest()

    def rest(self) -> _Part:
        """What has to hold for a member that no schema names."""
        if not self.patterns or self.others in (None, True):
            return self.part.at(self.others)
        return self.part.at({"anyOf": [self.others, *self.patterns.values()]})


class _Array(NamedTuple):
    """What one schema says of an array's items: the first ones, and the rest."""

    first: Sequence[object]
    rest: object
    part: _Part

    def item(self, place: int) -> _Part:
        return self.part.at(self.first[place] if place < len(self.first) else self.rest)


class _Flat:
    """Schemas that have to hold at once, as one, without references."""

    __slots__ = (
        *("is_never", "types", "enum", "numbers", "words", "told"),
        *("objects", "required", "ordering", "arrays", "unions"),
    )

    def __init__(self) -> None:
        self.is_never = False
        self.types: frozenset[str] | None = None
        self.enum: list[Any] | None = None
        self.numbers: dict[str, int | float] = {}
        self.words: dict[str, str] = {}
        self.told: dict[str, str] = {}
        self.objects: list[_Object] = []
        self.required: dict[str, None] = {}
        self.ordering: list[str] = []
        self.arrays: list[_Array] = []
        self.unions: list[list[_Part]] = []

    def without_words(self) -> _Flat:
        """The same, to add to; `words` and `told` stay with the one that has all options."""
        made = _Flat()
        made.is_never, made.types, made.enum = self.is_never, self.types, self.enum
        made.numbers = dict(self.numbers)
        made.objects, made.arrays = list(self.objects), list(self.arrays)
        made.required, made.ordering = dict(self.required), self.ordering
        made.words = {key: word for key, word in self.words.items() if key == "format"}
        return made

    def allow(self, types: Iterable[str]) -> None:
        """Only these types, and only those allowed so far."""
        found = frozenset(types)
        if self.types is not None:
            both = self.types | found
            found = frozenset(name for name in both if _reach(name, self.types, found))
        self.types = found
        self.is_never = self.is_never or not found

    def bound(self, key: str, value: int | float) -> None:
        """The narrower of two bounds."""
        narrower = max if key in ("minimum", "minItems") else min
        self.numbers[key] = narrower(self.numbers.get(key, value), value)


def _reach(name: str, *sets: frozenset[str]) -> bool:
    return all(name in one or (name == "integer" and "number" in one) for one in sets)


class _Cleaner:
    def __init__(self, root: Mapping[str, Any], param: str) -> None:
        self._root = root
        self._param = param
        self._nodes = 0
        self._references = References(root)

    def clean(self, node: _Node) -> Schema | None:
        """The schema that accepts what all parts accept; None: there is nothing such."""
        if len(node) == 1:
            schema = node[0].schema
            if not isinstance(schema, dict):
                return None if schema is False else {}
            if schema.keys() <= _PLAIN and schema.get("type") in _SCALARS:  # most are
                self._count()
                return {key: value for key, value in schema.items() if isinstance(value, str)}
        flat = _Flat()
        for part in node:
            self._absorb(part, flat)
        return self._written(flat)

    # -- what holds at once, as one ---------------------------------------------------------------

    def _absorb(self, part: _Part, flat: _Flat) -> None:
        self._count()
        schema = part.schema
        if schema is False:
            flat.is_never = True
        if not isinstance(schema, dict) or not schema:
            return
        if "$id" in schema and schema is not self._root:
            part = part._replace(base=schema)
        for key in ("title", "description"):
            if isinstance(schema.get(key), str) and schema[key]:
                flat.words.setdefault(key, schema[key])
        if schema.get("nullable") is True and not self._allows_null(schema, flat):
            rest = {k: v for k, v in schema.items() if k not in ("nullable", *_WORDS)}
            flat.unions.append([part.at(rest), part.at({"type": "null"})])
            return
        self._absorb_own(schema, part, flat)
        for key in _REFS:
            if key in schema:
                self._absorb(self._target(schema[key], part, flat), flat)
        for inner in _list(schema.get("allOf")):
            self._absorb(part.at(inner), flat)
        for key in ("anyOf", "oneOf"):
            options = _list(schema.get(key))
            if options:
                flat.unions.append([part.at(option) for option in options])
                if key == "oneOf" and len(options) > 1:
                    flat.told["oneOf"] = "exactly one of these"

    def _count(self) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise InvalidRequest(
                f"{self._param} has more than {MAX_NODES} parts once its $refs are inlined",
                param=self._param,
            )

    def _allows_null(self, schema: Mapping[str, Any], flat: _Flat) -> bool:
        """Whether OpenAPI's `nullable` was done by the types alone."""
        if any(key in schema for key in (*_REFS, "anyOf", "oneOf", "allOf", "enum", "const")):
            return False
        types = _types_of(schema.get("type"))
        if types is not None:
            flat.allow({*types, "null"})
        return True

    def _absorb_own(self, schema: Mapping[str, Any], part: _Part, flat: _Flat) -> None:
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        types = _types_of(schema.get("type"))
        if types is not None and schema.get("nullable") is not True:
            # In OpenAPI's style an enum with null in it allows null, whatever the type says.
            has_null = isinstance(values, list) and None in values
            flat.allow({*types, "null"} if has_null else types)
        if isinstance(values, list):
            if flat.enum is not None:
                allowed = set(map(_key, flat.enum))
                values = [value for value in values if _key(value) in allowed]
            flat.enum = values
        for key in ("minimum", "maximum", "minItems", "maxItems"):
            if key in schema and _is_number(schema[key]):
                flat.bound(key, schema[key])
        if "exclusiveMinimum" in schema or "exclusiveMaximum" in schema:
            self._absorb_exclusive(schema, flat, is_integer=types == frozenset({"integer"}))
        found = schema.get("format")
        if isinstance(found, str) and flat.words.setdefault("format", found) != found:
            flat.told["format"] = msgspec.json.encode(found).decode()
        flat.is_never = flat.is_never or schema.get("not") in ({}, True)
        has_branch = "then" in schema or "else" in schema
        for key in _TOLD if not _TOLD_KEYS.isdisjoint(schema) else ():
            if schema.get(key) is not None and (key != "if" or has_branch):
                flat.told[key] = msgspec.json.encode(schema[key]).decode()
        self._absorb_members(schema, part, flat)

    def _absorb_exclusive(
        self, schema: Mapping[str, Any], flat: _Flat, *, is_integer: bool
    ) -> None:
        for key, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            value: Any = schema.get(key)
            if value is True:  # of drafts before 6: the bound itself is left out
                flat.told[key] = "true"
            elif _is_number(value) and is_integer and abs(value) < 2**53:
                step = math.floor(value) + 1 if bound == "minimum" else math.ceil(value) - 1
                flat.bound(bound, step)
            elif _is_number(value):
                flat.bound(bound, value)
                flat.told[key] = msgspec.json.encode(value).decode()

    def _absorb_members(self, schema: Mapping[str, Any], part: _Part, flat: _Flat) -> None:
        properties, patterns = schema.get("properties"), schema.get("patternProperties")
        others = schema.get("additionalProperties")
        if isinstance(properties, dict) or isinstance(patterns, dict) or others is not None:
            found = properties if isinstance(properties, dict) else None
            known = patterns if isinstance(patterns, dict) else {}
            flat.objects.append(_Object(found, others, known, part))
        flat.required |= dict.fromkeys(filter(_is_text, _list(schema.get("required"))))
        if "propertyOrdering" in schema and not flat.ordering:
            flat.ordering = list(filter(_is_text, _list(schema["propertyOrdering"])))
        items, first = schema.get("items", True), _list(schema.get("prefixItems"))
        if isinstance(items, list):  # the tuples of drafts before 2020-12
            first, items = items, schema.get("additionalItems", True)
        if first or items is not True:
            flat.arrays.append(_Array(first, items, part))

    def _target(self, ref: object, part: _Part, flat: _Flat) -> _Part:
        found = self._references.target(ref, part.base)
        if found is None:
            raise InvalidRequest(
                f"{self._param}: $ref {ref!r} points to nothing in this schema; "
                "only references within it (#/$defs/...) can be followed",
                param=self._param,
            )
        target, base = found
        unrolled = part.seen.get(id(target), 0)
        if unrolled >= MAX_UNROLLED:
            # The cycle is cut here: what kind of value stands here, not what is in it.
            kept = ("type", "description", "nullable")
            return _Part({key: target[key] for key in kept if key in target}, {}, base)
        return _Part(target, {**part.seen, id(target): unrolled + 1}, base)

    # -- and written in Gemini's terms ------------------------------------------------------------

    def _written(self, flat: _Flat) -> Schema | None:
        if flat.is_never:
            return None
        if not flat.unions:
            made = self._without_union(flat)
        else:
            options: list[Schema] = []
            for option in flat.unions[0]:
                one = flat.without_words()
                one.unions = flat.unions[1:]
                self._absorb(option, one)
                cleaned = self._written(one)
                if cleaned is not None:
                    options.append(cleaned)
            made = _any_of(options)
        if made is None:
            return None
        words: Schema = {key: flat.words[key] for key in _WORDS if key in flat.words}
        return _told({**made, **words} if words else made, flat.told)

    def _without_union(self, flat: _Flat) -> Schema | None:
        if flat.enum is not None:
            return _any_of(self._enumerated(flat.enum, flat))
        if flat.types is None:
            return self._typed(None, flat)
        kinds = [kind for kind in _TYPES if kind in flat.types and kind != "null"]
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

    def _typed(self, kind: str | None, flat: _Flat) -> Schema | None:
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

    def _anything_but_an_object(self, flat: _Flat) -> Schema | None:
        kinds = [kind for kind in _TYPES if kind not in ("object", "integer")]
        return _any_of([found for kind in kinds if (found := self._typed(kind, flat)) is not None])

    def _enumerated(self, values: Sequence[Any], flat: _Flat) -> list[Schema]:
        """Options that together are the enum: Gemini reads those of strings and of numbers."""
        by_kind: dict[str, list[Any]] = {}
        for value in {_key(value): value for value in values}.values():
            kind = _kind_of(value)
            allowed = flat.types is None or _reach(kind, flat.types) or _is_whole(value, flat.types)
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

    def _items(self, flat: _Flat) -> Schema:
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

    def _members(self, flat: _Flat) -> Schema | None:
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


def _types_of(value: object) -> frozenset[str] | None:
    """The types that are named, in JSON Schema's spelling; None if that says nothing."""
    names = value if isinstance(value, list) else [value]
    found = [name.lower() if isinstance(name, str) else "" for name in names]
    return frozenset(found) if found and all(name in _TYPES for name in found) else None


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
    if not _is_number(value):
        return True
    return bool(bounds.get("minimum", value) <= value <= bounds.get("maximum", value))


def _key(value: Any) -> object:
    """Equal for equal values: 1 is 1.0, and not true."""
    return value if _is_number(value) else msgspec.json.encode(value, order="sorted")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
