"""Tools as functions of chat.

Anthropic defines tools that the caller runs (bash, text editor, memory), whose schemas its models
know: other models are told them. Tools that only a vendor can run are left out, unless they are
asked for by name (platform.claude.com/docs/en/agents-and-tools/tool-use, 2026-11).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from ...errors import UnsupportedParameter

Json = dict[str, Any]


class Tool(msgspec.Struct):
    """A tool of any type; one without a type is the caller's own."""

    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: Raw = Raw(b'{"type":"object"}')
    strict: bool | None = None


class Choice(msgspec.Struct):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


_STRING: Final = {"type": "string"}
_INTEGER: Final = {"type": "integer"}
_EDITING: Final[Json] = {
    **dict.fromkeys(("path", "file_text", "old_str", "new_str"), _STRING),
    "insert_line": _INTEGER,
    "insert_text": _STRING,
    "view_range": {"type": "array", "items": _INTEGER},
}


def _caller(description: str, commands: Sequence[str] = (), **properties: Json) -> Json:
    """What a tool does, and its input, with the `commands` of which it needs one."""
    if commands:
        properties = {"command": {"type": "string", "enum": commands}, **properties}
    required = ["command"] if commands else []
    schema = {"type": "object", "properties": properties, "required": required}
    return {"description": description, "parameters": schema}


# By the beginning of the type, which ends in a date.
_CALLERS: Final = {
    "bash": _caller(
        "Runs a command in a bash shell that stays open; `restart` begins a new one.",
        command=_STRING,
        restart={"type": "boolean"},
    ),
    "text_editor": _caller(
        "Views, creates and edits text files.",
        ("view", "create", "str_replace", "insert", "undo_edit"),
        **_EDITING,
    ),
    "memory": _caller(
        "Keeps files with what is to be remembered, below /memories.",
        ("view", "create", "str_replace", "insert", "delete", "rename"),
        **_EDITING,
        old_path=_STRING,
        new_path=_STRING,
    ),
}
_DATED: Final = re.compile(r"(.+)_[0-9]{8}")


def _function(tool: Tool) -> Json | None:
    """The function for a tool; None: only a vendor can run it."""
    if tool.type in (None, "custom"):
        made: Json = {"name": tool.name, "parameters": tool.input_schema}
        if tool.description:
            made["description"] = tool.description
        return made if tool.strict is None else {**made, "strict": tool.strict}
    dated = _DATED.fullmatch(tool.type or "")
    known = _CALLERS.get(dated[1]) if dated else None
    return {"name": tool.name, **known} if known else None


def tools_of(
    tools: Sequence[Tool], choice: Choice | None, *, kind: str, dropped: list[str]
) -> Json:
    """The members of a chat request that say which tools there are, and which to use.

    What is left out is added to `dropped`; raises UnsupportedParameter if it was asked for.
    """
    choice = choice or Choice("auto")
    chosen = choice.name if choice.type == "tool" else None
    made: Json = {}
    functions: list[Json] = []
    lost: set[str] = set()
    for tool in tools:
        if function := _function(tool):
            functions.append({"type": "function", "function": function})
        elif kind == "gemini" and (tool.type or "").startswith("web_search_"):
            if tool.name == chosen:
                return {"web_search_options": {}}
            # Gemini's own; where it cannot search beside functions, it does not.
            made["web_search_options"] = {"optional": True}
        else:
            dropped.append(tool.type or "")
            lost.add(tool.name)
    if chosen in lost or (choice.type == "any" and not (functions or made)):
        why = "no client for this model can run that tool"
        raise UnsupportedParameter.at("tool_choice", why)
    if functions:
        made["tools"] = functions
        if choice.type != "auto":
            named = {"type": "function", "function": {"name": choice.name or ""}}
            words: Json = {"any": "required", "tool": named}
            made["tool_choice"] = words.get(choice.type, choice.type)
        if choice.disable_parallel_tool_use:
            made["parallel_tool_calls"] = False
    return made
