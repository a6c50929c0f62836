"""Names that Anthropic does not take, and how they come back.

Names of tools are `[a-zA-Z0-9_-]`, 64 characters at most everywhere that Claude is sold (128 at
Anthropic itself), names of properties `[a-zA-Z0-9_.-]{1,64}`: its 400s say so, and one bad name
refuses the whole request (anthropics/claude-code#79418, #96152, home-assistant/core#147760). For
others one is made (`made_names`), in declarations, choices and histories.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from msgspec import Raw

from ..chat.shapes import Tool
from ..lenient_json import without_lone
from ..made_names import fitting, may_be_made, plain_name

_PROPERTY: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_NOT_IN_PROPERTY: Final = re.compile(r"[^a-zA-Z0-9_.-]")
# Their values are no schemas.
_DATA: Final = frozenset(("const", "default", "enum", "example", "examples"))

_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_array: Final = msgspec.json.Decoder(list[Raw]).decode
_encode: Final = msgspec.json.Encoder().encode

_Json = dict[str, Any]


def changed_properties(schema: Any) -> dict[str, str]:
    """By the caller's name, those of all properties in it that Claude does not take."""
    names = {name: fitting(name, _PROPERTY, _NOT_IN_PROPERTY) for name in _properties(schema)}
    return {name: wire for name, wire in names.items() if wire != name}


def _properties(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "properties" and isinstance(value, dict):
                yield from value
                for inner in value.values():
                    yield from _properties(inner)
            elif key not in _DATA:
                yield from _properties(value)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _properties(inner)


def rename_schema(schema: Any, changed: dict[str, str]) -> Any:
    """The schema with other names for these properties; their descriptions tell the caller's."""
    if isinstance(schema, list):
        return [rename_schema(inner, changed) for inner in schema]
    if not isinstance(schema, dict) or not changed:
        return schema
    renamed: _Json = {}
    for key, value in schema.items():
        if key == "properties" and isinstance(value, dict):
            inside = {name: rename_schema(inner, changed) for name, inner in value.items()}
            for name, inner in inside.items():
                if name in changed and isinstance(inner, dict):
                    told = f"{inner.get('description') or ''}\n\nThis is {name!r}.".strip()
                    inside[name] = {**inner, "description": told}
            renamed[key] = {changed.get(name, name): inner for name, inner in inside.items()}
        elif key == "$ref" and isinstance(value, str) and value.startswith("#/"):
            renamed[key] = _rename_pointer(value, changed)
        elif key == "required" and isinstance(value, list):
            renamed[key] = [changed.get(name, name) for name in value if isinstance(name, str)]
        else:
            renamed[key] = value if key in _DATA else rename_schema(value, changed)
    return renamed


def _rename_pointer(pointer: str, changed: dict[str, str]) -> str:
    """A reference that leads through a property, by the property's other name."""
    steps = pointer.split("/")
    for place in range(2, len(steps)):
        name = unquote(steps[place]).replace("~1", "/").replace("~0", "~")
        if steps[place - 1] == "properties" and name in changed:
            steps[place] = changed[name]
    return "/".join(steps)


def rename_keys(arguments: bytes, changed: dict[str, str]) -> bytes:
    """The arguments of a call with other names for these members, every other value as it came."""
    return bytes(_renamed(Raw(arguments), changed)) if changed else arguments


def _renamed(value: Raw, changed: dict[str, str]) -> Raw:
    first = bytes(value).lstrip()[:1]
    if first == b"{":
        members = _object(value).items()
        found: Any = {changed.get(name, name): _renamed(inner, changed) for name, inner in members}
    elif first == b"[":
        found = [_renamed(inner, changed) for inner in _array(value)]
    else:
        return value
    return Raw(_encode(found))


class _Request(msgspec.Struct):
    tools: list[Tool] | None = None


_decode: Final = msgspec.json.Decoder(_Request).decode


class CallersNames:
    """The caller's names for what an answer calls by Claude's.

    `read_body` gives the chat request, which is read when an answer has a call.
    """

    def __init__(self, read_body: Callable[[], bytes] = lambda: b"{}") -> None:
        self._read_body = read_body

    def tool(self, wire: str) -> str:
        """The caller's name of the tool."""
        return self._names[0].get(wire, wire) if may_be_made(wire) else wire

    def properties(self, wire_tool: str) -> dict[str, str]:
        """By Claude's names the caller's, of this tool's properties whose names were changed."""
        return self._names[1].get(wire_tool, {})

    @cached_property
    def _names(self) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        tools: dict[str, str] = {}
        properties: dict[str, dict[str, str]] = {}
        for tool in _decode(without_lone(self._read_body())).tools or ():
            if tool.function is not None:
                wire = plain_name(tool.function.name)
                tools.setdefault(wire, tool.function.name)
                changed = changed_properties(tool.function.parameters)
                properties.setdefault(wire, {new: old for old, new in changed.items()})
        return tools, properties
