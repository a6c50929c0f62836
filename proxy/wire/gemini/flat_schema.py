"""JSON Schema as callers write it, taken apart: what has to hold at once, as one.

What Gemini has no keyword for is kept in words; `schema` writes all of it in Gemini's terms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from ...errors import InvalidRequest
from ..references import References

# How often one $ref may occur on the way from the root to a leaf.
MAX_UNROLLED: Final = 2
# Inlining can grow a schema exponentially; far above what a model can use.
MAX_NODES: Final = 10_000

WORDS: Final = ("title", "description")
TYPES: Final = ("string", "number", "integer", "boolean", "array", "object", "null")

_REFS: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_TOLD: Final = (
    *("pattern", "minLength", "maxLength", "multipleOf", "contentEncoding", "contentMediaType"),
    *("uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems"),
    *("minProperties", "maxProperties", "patternProperties", "propertyNames", "dependencies"),
    *("dependentRequired", "dependentSchemas", "unevaluatedProperties"),
    *("not", "if", "then", "else", "default"),
)
_TOLD_KEYS: Final = frozenset(_TOLD)


class Part(NamedTuple):
    """A schema, how often each $ref occurs on the way to it, and what its `#` means."""

    schema: object
    seen: Mapping[int, int]
    base: Mapping[str, Any]

    def at(self, schema: object) -> Part:
        return Part(schema, self.seen, self.base)


Node = list[Part]  # all of them have to hold


class Object(NamedTuple):
    """What one schema says of an object's members."""

    properties: Mapping[str, object] | None
    others: object  # None: not said, so anything
    patterns: Mapping[str, object]
    part: Part

    def member(self, name: str) -> Part:
        """What has to hold for the member of this name.

        Patterns are not tried: they are the caller's, and may take for ever.
        """
        if self.properties is not None and name in self.properties:
            return self.part.at(self.properties[name])
        return self.rest()

    def rest(self) -> Part:
        """What has to hold for a member that no schema names."""
        if not self.patterns or self.others in (None, True):
            return self.part.at(self.others)
        return self.part.at({"anyOf": [self.others, *self.patterns.values()]})


class Array(NamedTuple):
    """What one schema says of an array's items: the first ones, and the rest."""

    first: Sequence[object]
    rest: object
    part: Part

    def item(self, place: int) -> Part:
        return self.part.at(self.first[place] if place < len(self.first) else self.rest)


class Flat(msgspec.Struct):
    """Schemas that have to hold at once, as one, without references."""

    is_never: bool = False
    types: frozenset[str] | None = None
    enum: list[Any] | None = None
    numbers: dict[str, int | float] = {}
    words: dict[str, str] = {}
    told: dict[str, str] = {}
    objects: list[Object] = []
    required: dict[str, None] = {}
    ordering: list[str] = []
    arrays: list[Array] = []
    unions: list[list[Part]] = []

    def without_words(self) -> Flat:
        """The same, to add to; `words` and `told` stay with the one that has all options."""
        made = Flat(self.is_never, self.types, self.enum)
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
            found = frozenset(name for name in both if reach(name, self.types, found))
        self.types = found
        self.is_never = self.is_never or not found

    def bound(self, key: str, value: int | float) -> None:
        """The narrower of two bounds."""
        narrower = max if key in ("minimum", "minItems") else min
        self.numbers[key] = narrower(self.numbers.get(key, value), value)


def reach(name: str, *sets: frozenset[str]) -> bool:
    """Whether all these sets of types allow this one."""
    return all(name in one or (name == "integer" and "number" in one) for one in sets)


class Reader:
    """Reads one schema, `root`; `param` names it in errors."""

    def __init__(self, root: Mapping[str, Any], param: str) -> None:
        self._root = root
        self._param = param
        self._nodes = 0
        self._references = References(root)

    def root(self) -> Part:
        """All of it."""
        return Part(self._root, {}, self._root)

    def read(self, node: Node) -> Flat:
        """What has to hold at once, as one. Raises InvalidRequest as `absorb` does."""
        flat = Flat()
        for part in node:
            self.absorb(part, flat)
        return flat

    def absorb(self, part: Part, flat: Flat) -> None:
        """Add what `part` says to `flat`.

        Raises InvalidRequest for a `$ref` that leads nowhere, and for a schema that is too large.
        """
        self.count()
        schema = part.schema
        if schema is False:
            flat.is_never = True
        if not isinstance(schema, dict) or not schema:
            return
        if "$id" in schema and schema is not self._root:
            part = part._replace(base=schema)
        for key in WORDS:
            if isinstance(schema.get(key), str) and schema[key]:
                flat.words.setdefault(key, schema[key])
        if schema.get("nullable") is True and not self._allows_null(schema, flat):
            rest = {k: v for k, v in schema.items() if k not in ("nullable", *WORDS)}
            flat.unions.append([part.at(rest), part.at({"type": "null"})])
            return
        self._absorb_own(schema, part, flat)
        for key in _REFS:
            if key in schema:
                self.absorb(self._target(schema[key], part), flat)
        for inner in _list(schema.get("allOf")):
            self.absorb(part.at(inner), flat)
        for key in ("anyOf", "oneOf"):
            options = _list(schema.get(key))
            if options:
                flat.unions.append([part.at(option) for option in options])
                if key == "oneOf" and len(options) > 1:
                    flat.told["oneOf"] = "exactly one of these"

    def count(self) -> None:
        """Raises InvalidRequest if there were too many parts."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise InvalidRequest(
                f"{self._param} has more than {MAX_NODES} parts once its $refs are inlined",
                param=self._param,
            )

    def _allows_null(self, schema: Mapping[str, Any], flat: Flat) -> bool:
        """Whether OpenAPI's `nullable` was done by the types alone."""
        if any(key in schema for key in (*_REFS, "anyOf", "oneOf", "allOf", "enum", "const")):
            return False
        types = _types_of(schema.get("type"))
        if types is not None:
            flat.allow({*types, "null"})
        return True

    def _absorb_own(self, schema: Mapping[str, Any], part: Part, flat: Flat) -> None:
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        types = _types_of(schema.get("type"))
        if types is not None and schema.get("nullable") is not True:
            # In OpenAPI's style an enum with null in it allows null, whatever the type says.
            has_null = isinstance(values, list) and None in values
            flat.allow({*types, "null"} if has_null else types)
        if isinstance(values, list):
            if flat.enum is not None:
                allowed = set(map(key_of, flat.enum))
                values = [value for value in values if key_of(value) in allowed]
            flat.enum = values
        for key in ("minimum", "maximum", "minItems", "maxItems"):
            if key in schema and is_number(schema[key]):
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

    def _absorb_exclusive(self, schema: Mapping[str, Any], flat: Flat, *, is_integer: bool) -> None:
        for key, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            value: Any = schema.get(key)
            if value is True:  # of drafts before 6: the bound itself is left out
                flat.told[key] = "true"
            elif is_number(value) and is_integer and abs(value) < 2**53:
                step = math.floor(value) + 1 if bound == "minimum" else math.ceil(value) - 1
                flat.bound(bound, step)
            elif is_number(value):
                flat.bound(bound, value)
                flat.told[key] = msgspec.json.encode(value).decode()

    def _absorb_members(self, schema: Mapping[str, Any], part: Part, flat: Flat) -> None:
        properties, patterns = schema.get("properties"), schema.get("patternProperties")
        others = schema.get("additionalProperties")
        if isinstance(properties, dict) or isinstance(patterns, dict) or others is not None:
            found = properties if isinstance(properties, dict) else None
            known = patterns if isinstance(patterns, dict) else {}
            flat.objects.append(Object(found, others, known, part))
        flat.required |= dict.fromkeys(filter(_is_text, _list(schema.get("required"))))
        if "propertyOrdering" in schema and not flat.ordering:
            flat.ordering = list(filter(_is_text, _list(schema["propertyOrdering"])))
        items, first = schema.get("items", True), _list(schema.get("prefixItems"))
        if isinstance(items, list):  # the tuples of drafts before 2020-12
            first, items = items, schema.get("additionalItems", True)
        if first or items is not True:
            flat.arrays.append(Array(first, items, part))

    def _target(self, ref: object, part: Part) -> Part:
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
            return Part({key: target[key] for key in kept if key in target}, {}, base)
        return Part(target, {**part.seen, id(target): unrolled + 1}, base)


def _types_of(value: object) -> frozenset[str] | None:
    """The types that are named, in JSON Schema's spelling; None if that says nothing."""
    names = value if isinstance(value, list) else [value]
    found = [name.lower() if isinstance(name, str) else "" for name in names]
    return frozenset(found) if found and all(name in TYPES for name in found) else None


def key_of(value: Any) -> object:
    """Equal for equal values: 1 is 1.0, and not true."""
    return value if is_number(value) else msgspec.json.encode(value, order="sorted")


def is_number(value: object) -> bool:
    """Whether it is a number in JSON."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
