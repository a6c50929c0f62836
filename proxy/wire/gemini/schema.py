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

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ...errors import InvalidRequest
from .flat_schema import TYPES, WORDS, Reader, Schema, encoded, key_of

_BESIDE: Final = {
    "string": ("format",),
    "number": ("format", "minimum", "maximum"),
    "integer": ("format", "minimum", "maximum"),
    "array": ("minItems", "maxItems"),
    None: ("format", "minimum", "maximum", "minItems", "maxItems"),
}
_OBJECTS: Final = frozenset(("properties", "additionalProperties", "required"))
_KINDS: Final = {bool: "boolean", int: "number", float: "number", str: "string", list: "array"}


def clean(schema: Schema, *, param: str) -> Schema:
    """The schema for a `...JsonSchema` field; `param` names it in errors.

    Raises InvalidRequest for a `$ref` that leads nowhere, for a schema that is too large or that
    accepts nothing.
    """
    writer = _Writer(schema, param)
    cleaned = writer.clean(writer.read(schema, schema, {}))
    if cleaned is None:
        raise InvalidRequest(f"{param} accepts nothing", param=param)
    return cleaned


def function_parameters(schema: Schema | None, *, param: str) -> Schema | None:
    """`parametersJsonSchema`, or None for a function without parameters, which has no field."""
    if not schema:
        return None
    cleaned = clean(schema, param=param)
    objects = [one for one in cleaned.get("anyOf", ()) if one.get("type", "object") == "object"]
    if objects:
        cleaned = _one_object(objects, {key: cleaned[key] for key in WORDS if key in cleaned})
    kind = "anyOf" if "anyOf" in cleaned else cleaned.setdefault("type", "object")
    if isinstance(kind, list) and "object" in kind:
        cleaned["type"] = kind = "object"
    if kind != "object":
        raise InvalidRequest(f"{param} must describe an object", param=param)
    return cleaned if len(cleaned.keys() - {"title", "description"}) > 1 else None


class _Writer(Reader):
    """Writes flat schemas in Gemini's terms; None: nothing fits one."""

    def clean(self, flat: Schema) -> Schema | None:
        self.step()
        if "unions" in flat:
            first, *others = flat["unions"]
            # What is said in words stays with the one that has all options.
            beside = {key: flat[key] for key in flat if key not in ("told", "unions", *WORDS)}
            if others:
                beside["unions"] = others
            made = _any_of([self.clean(self.both(beside, option)) for option in first])
        elif "enum" in flat:
            made = _any_of(self._enumerated(flat))
        else:
            made = self._by_type(flat)
        if made is None:
            return None
        words: Schema = {key: flat[key] for key in WORDS if key in flat}
        return _told({**made, **words}, flat.get("told", {}))

    def _by_type(self, flat: Schema) -> Schema | None:
        if "type" not in flat:
            made = self._typed(None, flat)
            kinds = [kind for kind in TYPES if kind not in ("object", "integer")]
            return _any_of([self._typed(kind, flat) for kind in kinds]) if made is None else made
        types: frozenset[str] = flat["type"]
        if len(types) == 1:
            return self._typed(next(iter(types)), flat)
        kinds = [kind for kind in TYPES if kind in types]
        if "number" in types and "integer" in types:
            kinds.remove("integer")
        found = {kind: self._typed(kind, flat) for kind in kinds}
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
        types, by_kind = flat.get("type"), dict[str, list[Any]]()
        self.step(len(flat["enum"]) // 64)
        for value in {key_of(value): value for value in flat["enum"]}.values():
            kind = "null" if value is None else _KINDS.get(type(value), "object")
            kinds = {kind, "integer"} if kind == "number" and value % 1 == 0 else {kind}
            if (types is None or not types.isdisjoint(kinds)) and (
                kind != "number"
                or flat.get("minimum", value) <= value <= flat.get("maximum", value)
            ):
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
                option = _told(option, {"enum": encoded(found)})
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
        names = dict.fromkeys(named)
        if others is None:
            made["additionalProperties"] = False
        else:
            if "additionalProperties" in flat:
                made["additionalProperties"] = others or True
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
                made = _told(made, {"without": encoded(name)})
        if properties or "properties" in flat:
            made["properties"] = properties
        for key in ("required", "propertyOrdering"):
            if found := [name for name in flat.get(key, ()) if name in properties]:
                made[key] = found
        if any(name not in properties for name in required):
            # Of no use to anybody, and taken by other vendors: a name that no property may have.
            made = _told(made, {"required": encoded(list(required))})
        return made


def _any_of(options: Sequence[Schema | None]) -> Schema | None:
    """The options as one schema, without repetition; None if there is none."""
    by_text: dict[str, Schema] = {}
    for option in [option for option in options if option is not None]:
        for one in option["anyOf"] if option.keys() == {"anyOf"} else [option]:
            by_text.setdefault(encoded(one), one)
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
    return _told({**merged, **words}, {"anyOf": encoded(told)} if any(told) else {})


def _told(schema: Schema, told: Mapping[str, str]) -> Schema:
    if not told:
        return schema
    text = f"({', '.join(f'{key}: {value}' for key, value in told.items())})"
    return {**schema, "description": " ".join(filter(None, [schema.get("description"), text]))}
