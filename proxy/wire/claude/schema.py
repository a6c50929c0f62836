"""JSON Schema as Claude's structured outputs take it.

They compile the schema to a grammar: every object closed, no bounds on values, few string formats
(build-with-claude/structured-outputs, 2026-11). As Anthropic's own SDKs do, what can't be enforced
moves to the description, where the model still reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")
)
_KEPT = ("$ref", "title", "description", "type", "enum", "const", "default", "required")
_MAX_DEPTH = 100


def close_schema(schema: dict[str, Any], *, depth: int = 0) -> dict[str, Any]:
    """A copy of `schema` that structured outputs accept. Raises ValueError if it nests too deep."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"the schema nests deeper than {_MAX_DEPTH}")

    def inner(value: Any) -> Any:
        return close_schema(value, depth=depth + 1) if isinstance(value, dict) else value

    rest = dict(schema)
    closed = {key: rest.pop(key) for key in _KEPT if key in rest}
    rest.pop("$schema", None)
    for key in ("$defs", "definitions", "properties"):
        if isinstance(rest.get(key), dict):
            closed[key] = {name: inner(value) for name, value in rest.pop(key).items()}
    if isinstance(rest.get("items"), dict):
        closed["items"] = inner(rest.pop("items"))
    _close_unions(rest, closed, inner)
    if closed.get("type") == "object" or "properties" in closed:
        rest.pop("additionalProperties", None)
        closed["additionalProperties"] = False
    if rest.get("format") in _FORMATS:
        closed["format"] = rest.pop("format")
    if rest.get("minItems") in (0, 1):
        closed["minItems"] = rest.pop("minItems")
    if rest:
        hint = msgspec.json.encode(rest).decode()
        closed["description"] = f"{closed.get('description') or ''}\n\n{hint}".strip()
    return closed


def _close_unions(
    rest: dict[str, Any], closed: dict[str, Any], inner: Callable[[Any], Any]
) -> None:
    """Move the unions over; `oneOf` becomes `anyOf`, the only choice there is."""
    for key, target in (("anyOf", "anyOf"), ("oneOf", "anyOf"), ("allOf", "allOf")):
        if isinstance(rest.get(key), list) and target not in closed:
            closed[target] = [inner(variant) for variant in rest.pop(key)]
