"""Makes a value that a JSON Schema accepts: the least one, the same each time, for the demo.

It knows what SDKs make of types (platform.openai.com/docs/guides/structured-outputs, read 2026-11);
of patterns it knows nothing, nor of what stands beside a union or a reference.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import chain
from operator import ge, gt, le, lt
from typing import Any, Final

from .references import References

TEXT: Final = "demo"
_FORMATS: Final = {
    "date-time": "2000-01-01T00:00:00Z",
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "demo@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_BOUNDS: Final = {"minimum": ge, "exclusiveMinimum": gt, "maximum": le, "exclusiveMaximum": lt}

# Of characters and of schemas looked at: a short one may ask for lists of lists of lists.
MAX_COST: Final = 20_000


class Unmade(Exception):
    """No value was found: the schema is none, contradicts itself, has no end, or wants too much."""


def sample(schema: Any) -> Any:
    """Make a value for the schema; raises Unmade."""
    try:
        return _Maker(schema).value(schema, ())
    except (ArithmeticError, AttributeError, LookupError, TypeError, RecursionError) as error:
        raise Unmade from error


class _Maker:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._references = References(root)
        self._left = MAX_COST

    def value(self, schema: Any, way: tuple[int, ...]) -> Any:
        """A value. `way`: the schemas around this one, by identity."""
        self._pay(0)
        if schema is False or id(schema) in way:
            raise Unmade  # one within itself has no end, unless a union gives another way
        if schema is True:
            return self._pay(TEXT)
        way = (*way, id(schema))
        if "$ref" in schema:
            target = self._references.target(self._pay(schema["$ref"]), self._root)
            return self.value(target is not None and target.schema, way)
        # `allOf` of one is how a reference is spelled that has a neighbour.
        if unions := [schema[key] for key in ("allOf", "anyOf", "oneOf") if key in schema]:
            for option in chain.from_iterable(unions):
                with suppress(Unmade):
                    return self.value(option, way)
            raise Unmade
        if "enum" in schema or "const" in schema:
            return self._pay(schema["enum"][0] if "enum" in schema else schema["const"])
        kind = schema.get("type", "object" if "properties" in schema else "string")
        kinds = kind if isinstance(kind, list) else [kind]
        return self._of_type(kinds[0] if kinds[0] != "null" else kinds[-1], schema, way)

    def _of_type(self, kind: str, schema: dict[str, Any], way: tuple[int, ...]) -> Any:
        if kind == "object":
            known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
            names = map(str, self._pay(schema.get("required", [])))
            return {name: self.value(known.get(name, other), way) for name in names}
        if kind in ("integer", "number"):
            return _number(schema, is_whole=kind == "integer")
        if kind in ("boolean", "null"):
            return True if kind == "boolean" else None
        of = "Items" if kind == "array" else "Length"
        least, most = schema.get(f"min{of}", 0), schema.get(f"max{of}", MAX_COST)
        if least > min(most, MAX_COST):
            raise Unmade
        if kind == "array":
            return [self.value(schema.get("items", True), way) for _ in range(least)]
        text = (TEXT * (least // len(TEXT) + 1))[: max(least, min(len(TEXT), most))]
        return self._pay(_FORMATS.get(str(schema.get("format")), text))

    def _pay(self, value: Any) -> Any:
        self._left -= len(repr(value))
        if self._left < 0:
            raise Unmade
        return value


def _number(schema: dict[str, Any], *, is_whole: bool) -> float:
    """A multiple of the step next to a bound, or what is in the middle of the bounds."""
    bounds = {name: schema[name] for name in _BOUNDS if name in schema}
    step = schema.get("multipleOf", 1)
    near = list(bounds.values()) or [step]
    found = [step * (bound // step + more) for bound in near for more in (0, 1, -1)]
    if not is_whole and "multipleOf" not in schema:
        found.append(sum(near) / len(near))
    for number in found:
        is_fit = all(_BOUNDS[name](number, bound) for name, bound in bounds.items())
        if is_fit and (number == int(number) or not is_whole):
            return int(number) if number == int(number) else number
    raise Unmade
