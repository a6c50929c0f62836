"""The JSON Schema of the file, for editors, made of `schema`."""

from __future__ import annotations

from typing import Any

import msgspec

from . import schema

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SECRET = {"type": "string"}  # the only type of our own
_REFERENCE = {"type": "string", "pattern": r"\$\{"}
_FILLED_IN = ("integer", "number", "boolean")  # types whose place a `${NAME}` may take


def json_schema() -> dict[str, Any]:
    """Make the JSON Schema of `config.yaml`, of JSON values only."""
    made = msgspec.json.schema(schema.File, schema_hook=lambda _: _SECRET)
    definitions = made["$defs"]
    for name, definition in definitions.items():
        if getattr(schema, name).shorthand:
            definitions[name] = {"anyOf": [{"type": "string"}, definition]}
    made = {"$schema": _DIALECT, **_with_references(made)}
    return dict(msgspec.json.decode(msgspec.json.encode(made)))


def _with_references(node: Any) -> Any:
    """`node` with `${NAME}` allowed wherever a number or a boolean is, and units in their help."""
    if isinstance(node, list):
        return [_with_references(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") not in _FILLED_IN:
        return {key: _with_references(value) for key, value in node.items()}
    bare = dict(node)
    kept = {key: bare.pop(key) for key in ("description", "default") if key in bare}
    if unit := bare.pop("unit", ""):
        kept["description"] = f"{unit} {kept['description']}"
    return {**kept, "anyOf": [bare, _REFERENCE]}
