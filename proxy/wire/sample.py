"""Makes a value that a JSON Schema accepts: a small one, the same each time. Pure.

It keeps what vendors take of a schema (platform.openai.com/docs/guides/structured-outputs, read
2026-11): types, enums, unions, references, ranges, lengths, formats. Of an object it makes what is
required. Of patterns it knows nothing, nor of what stands beside a union or a reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any, Final, TypeVar

from .references import References

_T = TypeVar("_T")

TEXT: Final = "demo"

# A short schema may ask for a hundred lists in each of a hundred lists, or for lists in lists.
MAX_CHARS: Final = 20_000
MAX_DEPTH: Final = 60

# By `format` (JSON Schema validation, 7.3).
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


class Unmade(Exception):
    """No value was found: the schema contradicts itself, has no end, or wants too much."""


def sample(schema: Any) -> Any:
    """Make a value for the schema; raises Unmade."""
    try:
        return _Maker(as_dict(schema)).value(schema, ())
    except RecursionError as error:  # by a constant that is nested too deeply
        raise Unmade from error


class _Maker:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._references = References(root)
        self._left = MAX_CHARS  # of the value, and of what is looked at for it

    def value(self, schema: Any, way: tuple[int, ...]) -> Any:
        """A value. `way`: the schemas around this one, by identity."""
        if schema is False or id(schema) in way or len(way) > MAX_DEPTH:
            raise Unmade  # one within itself has no end, unless a union gives another way
        if not isinstance(schema, dict):
            return self._leaf(TEXT)
        parts = [part for part in schema.values() if isinstance(part, (dict, list))]
        self._spend(1 + sum(map(len, parts)))
        way = (*way, id(schema))
        if "$ref" in schema:
            target = self._references.target(schema["$ref"], self._root)
            return self.value(target is not None and target.schema, way)
        # `allOf` of one is how a reference is spelled that has a neighbour.
        unions = ("allOf", "anyOf", "oneOf")
        if either := [part for key in unions for part in as_list(schema.get(key))]:
            return _first(either, lambda part: self.value(part, way))
        if "const" in schema:
            return self._leaf(schema["const"])
        if "enum" in schema:
            return _first(as_list(schema["enum"]), self._leaf)
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
        kind = schema.get("type", kind)
        kinds = sorted(as_list(kind) or [kind], key=lambda kind: kind == "null")
        return _first(kinds, lambda kind: self._of_type(kind, schema, way))

    def _of_type(self, kind: object, schema: dict[str, Any], way: tuple[int, ...]) -> Any:
        if kind == "object":
            known = as_dict(schema.get("properties"))
            other = schema.get("additionalProperties", True)
            names = [name for name in as_list(schema.get("required")) if isinstance(name, str)]
            self._spend(len("".join(names)))
            return {name: self.value(known.get(name, other), way) for name in names}
        if kind == "array":
            least, most = _range(schema, "Items")
            item = schema.get("items", True)
            try:
                return [self.value(item, way) for _ in range(max(least, min(1, most)))]
            except Unmade:
                if least:
                    raise
                return []
        if kind in ("integer", "number"):
            return self._leaf(_number(schema, is_whole=kind == "integer"))
        if kind in ("boolean", "null"):
            return self._leaf(True if kind == "boolean" else None)
        least, most = _range(schema, "Length")
        text = (TEXT * (least // len(TEXT) + 1))[: max(least, min(len(TEXT), most))]
        return self._leaf(_FORMATS.get(str(schema.get("format")), text))

    def _leaf(self, value: _T) -> _T:
        self._spend(len(repr(value)))
        return value

    def _spend(self, chars: int) -> None:
        self._left -= chars
        if self._left < 0:
            raise Unmade


def _first(options: Iterable[_T], make: Callable[[_T], Any]) -> Any:
    """What can be made of the first option of which something can be."""
    for option in options:
        try:
            return make(option)
        except Unmade:
            pass
    raise Unmade


_BOUNDS: Final[dict[str, Callable[[Fraction, Fraction], bool]]] = {
    "minimum": Fraction.__ge__,
    "exclusiveMinimum": Fraction.__gt__,
    "maximum": Fraction.__le__,
    "exclusiveMaximum": Fraction.__lt__,
}


def _number(schema: dict[str, Any], *, is_whole: bool) -> float:
    """A multiple of the step next to a bound, else a bound itself, or what is in the middle."""
    bounds = {key: bound for key in _BOUNDS if (bound := _fraction(schema.get(key))) is not None}
    near = list(bounds.values())
    step = abs(_fraction(schema.get("multipleOf")) or Fraction(1))
    step = Fraction(step.numerator) if is_whole else step
    found = [step * (bound // step + more) for bound in near or [step] for more in (0, 1, -1)]
    if not is_whole and "multipleOf" not in schema:
        found += [(one + other) / 2 for one in near for other in near]
    for number in found:
        if all(_BOUNDS[key](number, bound) for key, bound in bounds.items()):
            is_short = number.denominator == 1 and abs(number) < 2**63
            return int(number) if is_short else float(number)
    raise Unmade


def _fraction(value: object) -> Fraction | None:
    """A number exactly as it is written; None: it is none, or too large to be meant."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        return None
    return Fraction(value if isinstance(value, int) else str(value))


def _range(schema: dict[str, Any], of: str) -> tuple[int, int]:
    """The least and the most items, or characters."""
    least = math.ceil(_fraction(schema.get(f"min{of}")) or 0)
    limit = _fraction(schema.get(f"max{of}"))
    most = MAX_CHARS if limit is None else math.floor(limit)
    if least > min(most, MAX_CHARS):
        raise Unmade
    return least, most


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
