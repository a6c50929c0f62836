"""JSON Schema as callers write it, in the part of it that Gemini reads.

It is sent as `parametersJsonSchema` and `responseJsonSchema`, which every present model takes. The
older `parameters` and `responseSchema` have no types of several kinds and refuse unknown keywords.
What is read (GenerationConfig.responseJsonSchema in the API reference, 2026-11): `$id $defs $ref
$anchor type format title description enum items prefixItems minItems maxItems minimum maximum anyOf
oneOf properties additionalProperties required propertyOrdering`. The rest is put in these terms, so
that what the schema accepts stays accepted:

- `$ref` is replaced by what it points to, though Gemini reads it: it allows nothing beside a
  `$ref`, and a cycle only within optional properties. A cycle is unrolled MAX_UNROLLED times.
- What has to hold at once (`allOf`, what stands beside `$ref` and `anyOf`) becomes one schema.
- `const` becomes an `enum` of one, `nullable` a type "null", `oneOf` `anyOf`; an enum holds strings
  or numbers, other values become their type; types in capitals are OpenAPI's.
- What cannot be said so (`pattern`, `not`, ...) is told to the model in `description`.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from ...errors import InvalidRequest
from ..chat.usage import as_text
from ..references import References

# How often one $ref may occur on the way from the root to a leaf.
MAX_UNROLLED: Final = 2
# Of schemas to read, join or write: inlining can grow one exponentially, and so can unions. Far
# above what a model can use.
MAX_STEPS: Final = 20_000

_WORDS: Final = ("title", "description")
_PLAIN: Final = frozenset(("type", "format", *_WORDS))
_TYPES: Final = ("string", "number", "integer", "boolean", "array", "object", "null")

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

_BESIDE: Final = {
    "string": ("format",),
    "number": ("format", "minimum", "maximum"),
    "integer": ("format", "minimum", "maximum"),
    "array": ("minItems", "maxItems"),
    None: ("format", "minimum", "maximum", "minItems", "maxItems"),
}
_OBJECTS: Final = frozenset(("properties", "additionalProperties", "required"))
_NO_OBJECT: Final = frozenset(_TYPES) - {"object"}
_KINDS: Final = {bool: "boolean", int: "number", float: "number", str: "string", list: "array"}


def clean(schema: Schema, *, param: str) -> Schema:
    """The schema for a `...JsonSchema` field; `param` names it in errors.

    Raises InvalidRequest for a `$ref` that leads nowhere, for a schema that is too large or that
    accepts nothing.
    """
    cleaner = Cleaner(schema, param)
    cleaned = cleaner.clean(cleaner.read(schema, schema, {}))
    if cleaned is None:
        raise InvalidRequest(f"{param} accepts nothing", param=param)
    return cleaned


def function_parameters(schema: Schema | None, *, param: str) -> Schema | None:
    """`parametersJsonSchema`, or None for a function without parameters, which has no field."""
    cleaned = clean(schema or {}, param=param)
    objects = [one for one in cleaned.get("anyOf", ()) if one.get("type", "object") == "object"]
    if objects:
        cleaned = _one_object(objects, {key: cleaned[key] for key in _WORDS if key in cleaned})
    kind = "anyOf" if "anyOf" in cleaned else cleaned.setdefault("type", "object")
    if isinstance(kind, list) and "object" in kind:
        cleaned["type"] = kind = "object"
    if kind != "object":
        raise InvalidRequest(f"{param} must describe an object", param=param)
    return cleaned if len(cleaned.keys() - set(_WORDS)) > 1 else None


class Cleaner:
    """Reads one schema, `root`, and writes it in Gemini's terms; `param` names it in errors.

    In between it is *flat*: a dict without references, `allOf` and `const`, with all that has to
    hold at once in one place. Its `type` is a set, its `unions` are lists of options (`anyOf`,
    `oneOf`), and `told` is, by keyword, what Gemini can only be told in words. One that nothing
    fits has an empty `enum`.
    """

    def __init__(self, root: Schema, param: str) -> None:
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
            made["told"] = {**made.get("told", {}), "format": _encoded(found)}
        for named, rest in (("properties", "additionalProperties"), ("prefixItems", "items")):
            my_rest, its_rest = one.get(rest, {}), other.get(rest, {})
            if named in made:
                mine, its = one.get(named, {}), other.get(named, {})
                names = {**mine, **its}
                self.step(len(names))
                made[named] = {
                    name: self.both(mine.get(name, my_rest), its.get(name, its_rest))
                    for name in names
                }
            if rest in made:
                made[rest] = self.both(my_rest, its_rest)
        return made

    def read(self, schema: object, base: Mapping[str, Any], seen: Mapping[int, int]) -> Schema:
        """The flat schema; `base`: what `#` means here; `seen`: how often each $ref led here.

        Raises InvalidRequest for a `$ref` to nowhere, and as `step` does.
        """
        self.step()
        if not isinstance(schema, dict):
            return {"enum": []} if schema is False else {}
        if schema.keys() <= _PLAIN and schema.get("type") in _TYPES:  # most are
            texts = {key: value for key, value in schema.items() if isinstance(value, str)}
            return {**texts, "type": frozenset((schema["type"],))}
        if "$id" in schema:
            base = schema

        def inner(value: object) -> Schema:
            return self.read(value, base, seen)

        flat: Schema = {key: schema[key] for key in _WORDS if as_text(schema.get(key))}
        if schema.get("nullable") is True and not _NOT_NULL.isdisjoint(schema):
            rest = {key: schema[key] for key in schema if key not in ("nullable", *_WORDS)}
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
        items, first = schema.get("items", True), _listed(schema, "prefixItems")
        if isinstance(items, list):  # the tuples of drafts before 2020-12
            first, items = items, schema.get("additionalItems", True)
        if first:
            flat["prefixItems"] = {place: inner(one) for place, one in enumerate(first)}
        if items is not True:
            flat["items"] = inner(items)
        if unions := list(filter(None, (_listed(schema, key) for key in _UNIONS))):
            flat["unions"] = [list(map(inner, options)) for options in unions]
        for key in _REFS:
            if key in schema:
                flat = self.both(flat, self._target(schema[key], base, seen))
        for one in _listed(schema, "allOf"):
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

    def clean(self, flat: Schema) -> Schema | None:
        """The flat schema in Gemini's terms; None: nothing fits it."""
        self.step()
        if "unions" in flat:
            first, *others = flat["unions"]
            # What is said in words stays with the one that has all options.
            beside = {key: flat[key] for key in flat if key not in ("told", "unions", *_WORDS)}
            if others:
                beside["unions"] = others
            made = _any_of([self.clean(self.both(beside, option)) for option in first])
        elif "enum" in flat:
            made = _any_of(self._enumerated(flat))
        else:
            made = self._by_type(flat)
        if made is None:
            return None
        words: Schema = {key: flat[key] for key in _WORDS if key in flat}
        return _told({**made, **words}, flat.get("told", {}))

    def _by_type(self, flat: Schema) -> Schema | None:
        # Without a type one schema says it all, unless no object fits.
        if "type" not in flat and (made := self._typed(None, flat)) is not None:
            return made
        types: frozenset[str] = flat.get("type", _NO_OBJECT)
        if "number" in types:
            types -= {"integer"}
        if len(types) == 1:
            return self._typed(next(iter(types)), flat)
        found = {kind: self._typed(kind, flat) for kind in _TYPES if kind in types}
        if len(found) == 2 and "null" in found:
            kind, made = next(iter(found.items()))
            return {"type": "null"} if made is None else {**made, "type": [kind, "null"]}
        return _any_of(list(found.values()))

    def _typed(self, kind: str | None, flat: Schema) -> Schema | None:
        """The schema for one type, None: for any; only with what matters to it."""
        made: Schema = {} if kind is None else {"type": kind}
        made |= {key: flat[key] for key in _BESIDE.get(kind, ()) if key in flat}
        if kind in (None, "array") and ("prefixItems" in flat or "items" in flat):
            made |= self._items(flat)
        if kind in (None, "object") and not _OBJECTS.isdisjoint(flat):
            members = self._members(flat)
            return None if members is None else made | members
        return made

    def _enumerated(self, flat: Schema) -> list[Schema]:
        """Options that together are the enum: Gemini reads those of strings and of numbers."""
        types, by_kind = flat.get("type", frozenset(_TYPES)), dict[str, list[Any]]()
        least, most = flat.get("minimum", -math.inf), flat.get("maximum", math.inf)
        self.step(len(flat["enum"]) // 64)
        for value in {_key_of(value): value for value in flat["enum"]}.values():
            kind = "null" if value is None else _KINDS.get(type(value), "object")
            kinds = {kind, "integer"} if kind == "number" and value % 1 == 0 else {kind}
            is_within = kind != "number" or least <= value <= most
            if is_within and not types.isdisjoint(kinds):
                by_kind.setdefault(kind, []).append(value)
        options = []
        for kind, found in by_kind.items():
            option: Schema = {"type": kind}
            if kind == "number" and all(isinstance(value, int) for value in found):
                option["type"] = "integer"
            # "enum[0]: cannot be empty" is Gemini's answer to an empty string in one.
            if kind in ("string", "number") and "" not in found:
                option["enum"] = found
            elif kind != "null" and not (kind == "boolean" and len(found) > 1):
                option = _told(option, {"enum": _encoded(found)})
            options.append(option)
        return options

    def _items(self, flat: Schema) -> Schema:
        first = [self.clean(one) for one in flat.get("prefixItems", {}).values()]
        most = first.index(None) if None in first else len(first)
        rest = self.clean(flat.get("items", {})) if most == len(first) else None
        made: Schema = {"prefixItems": first[:most]} if most else {}
        if rest is None:
            made["maxItems"] = min(most, flat.get("maxItems", most))
        elif rest or not first:
            made["items"] = rest
        return made

    def _members(self, flat: Schema) -> Schema | None:
        made: Schema = {}
        named, required = flat.get("properties", {}), flat.get("required", {})
        others = self.clean(flat.get("additionalProperties", {}))
        if "additionalProperties" in flat:
            made["additionalProperties"] = False if others is None else others or True
        names = dict.fromkeys(named)
        if others is not None:
            # What is required is described: Gemini wants it among the properties.
            names |= required
            self.step(len(required) // 64)
        properties: Schema = {}
        for name in names:
            cleaned = self.clean(named[name]) if name in named else others
            if cleaned is not None:
                properties[name] = cleaned
            elif name in required:
                return None
            elif others is not None:
                made = _told(made, {"without": _encoded(name)})
        if properties or "properties" in flat:
            made["properties"] = properties
        for key in ("required", "propertyOrdering"):
            if found := [name for name in flat.get(key, ()) if name in properties]:
                made[key] = found
        if any(name not in properties for name in required):
            # Of no use to anybody, and taken by other vendors: a name that no property may have.
            made = _told(made, {"required": _encoded(list(required))})
        return made


def _values_of(schema: Schema) -> Schema:
    """What a schema says of values themselves, not of what is in them."""
    flat: Schema = {"format": schema["format"]} if as_text(schema.get("format")) else {}
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    named = schema.get("type")
    names = named if isinstance(named, list) else [named]
    types = frozenset(name.lower() if isinstance(name, str) else "" for name in names)
    if types and types <= set(_TYPES):
        # In OpenAPI's style an enum with null in it allows null, whatever the type says.
        has_null = schema.get("nullable") is True or (isinstance(values, list) and None in values)
        flat["type"] = types | {"null"} if has_null else types
    if schema.get("not") in ({}, True):
        values = []
    if isinstance(values, list):
        flat["enum"] = values
    flat |= {key: schema[key] for key in _NARROWER if _is_number(schema.get(key))}
    told = {}
    for key, bound in _EXCLUSIVE.items():
        value: Any = schema.get(key)
        if value is True:  # of drafts before 6: the bound itself is left out
            told[key] = "true"
        elif _is_number(value):
            if types == {"integer"} and abs(value) < 2**53:
                value = math.floor(value) + 1 if bound == "minimum" else math.ceil(value) - 1
            else:
                told[key] = _encoded(value)
            flat[bound] = _NARROWER[bound](value, flat.get(bound, value))
    has_branch = "then" in schema or "else" in schema
    for key in filter(schema.__contains__, _TOLD):
        if schema.get(key) is not None and (key != "if" or has_branch):
            told[key] = _encoded(schema[key])
    if len(_listed(schema, "oneOf")) > 1:
        told["oneOf"] = "exactly one of these"
    if told:
        flat["told"] = told
    for key in ("required", "propertyOrdering"):
        if found := dict.fromkeys(filter(as_text, _listed(schema, key))):
            flat[key] = found
    return flat


def _common_types(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    """Integers are numbers."""
    both = [types | {"integer"} if "number" in types else types for types in (one, other)]
    return both[0] & both[1]


def _common_values(one: list[Any], other: list[Any]) -> list[Any]:
    allowed = set(map(_key_of, one))
    return [value for value in other if _key_of(value) in allowed]


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


def _listed(schema: Schema, key: str) -> list[Any]:
    """The list there, or an empty one."""
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _key_of(value: Any) -> object:
    """Equal for equal values: 1 is 1.0, and not true."""
    return value if _is_number(value) else msgspec.json.encode(value, order="sorted")


def _is_number(value: object) -> bool:
    """Whether it is a number in JSON."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _encoded(value: object) -> str:
    """The value as JSON."""
    return msgspec.json.encode(value).decode()


def _any_of(options: Sequence[Schema | None]) -> Schema | None:
    """The options as one schema, without repetition; None if there is none."""
    by_text: dict[str, Schema] = {}
    for option in [option for option in options if option is not None]:
        for one in option["anyOf"] if option.keys() == {"anyOf"} else [option]:
            by_text.setdefault(_encoded(one), one)
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
    needed = Counter(name for one in objects for name in one.get("required", ()))
    for one in objects:
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
    return _told({**merged, **words}, {"anyOf": _encoded(told)} if any(told) else {})


def _told(schema: Schema, told: Mapping[str, str]) -> Schema:
    if not told:
        return schema
    text = f"({', '.join(f'{key}: {value}' for key, value in told.items())})"
    return {**schema, "description": " ".join(filter(None, [schema.get("description"), text]))}
