"""The tools of a request as functions of chat, and what their calls are to the caller.

Chat upstreams know functions alone. A custom tool becomes one with a single string, `input`; the
tools of a namespace become `namespace__name`; tools that the caller runs but the vendor defines
become functions with their documented parameters. Nothing is kept between a request and its
answer: which tool is meant by a name is found in the request.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

import msgspec

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat import objects
from ..chat.usage import as_object
from ..made_names import plain_name

Json = dict[str, Any]


# Those tools' parameters; a docstring is what a model is told of the tool.


class _LocalShell(msgspec.Struct):
    """Runs a command on the user's machine and returns its output."""

    command: list[str]
    type: Literal["exec"] = "exec"
    env: dict[str, str] = {}
    timeout_ms: int | None = None
    user: str | None = None
    working_directory: str | None = None


class _Shell(msgspec.Struct):
    """Runs commands on the user's machine, each in its own shell, and returns their output."""

    commands: list[str]
    timeout_ms: int | None = None
    max_output_length: int | None = None


class _ApplyPatch(msgspec.Struct):
    """Creates, updates or deletes a file. `diff` is in the V4A format: each changed place begins
    with a line @@ and some context, lines to remove begin with -, lines to add with +, all others
    with a space; of a new file each line begins with +.
    """

    type: Literal["create_file", "update_file", "delete_file"]
    path: str
    diff: str = ""


# By the tool's type: its parameters, and the member of a call's item that holds them.
CALLERS: Final[dict[str, tuple[type[msgspec.Struct], str]]] = {
    "local_shell": (_LocalShell, "action"),
    "shell": (_Shell, "action"),
    "apply_patch": (_ApplyPatch, "operation"),
}

_SEARCH: Final = "web_search"  # and with a date or `_preview` behind it

_INPUT: Final[Json] = {"properties": {"input": {"type": "string"}}, "required": ["input"]}
_CUSTOM: Final = {"type": "object", **_INPUT, "additionalProperties": False}


class Meant(NamedTuple):
    """The caller's tool that a name in chat stands for: its type, and how items name it."""

    kind: str
    named: Json


def chat_name(name: str, namespace: object = None) -> str:
    """The name in chat of a tool, or of one in a namespace."""
    return plain_name(f"{namespace}__{name}" if namespace else name)


class Tools:
    """`declared`: the tools as chat's, for a client of this `kind`.

    `dropped`: the types of those that it cannot run. `searches`: a search of the web is among them,
    which Gemini has too.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.declared: list[Json] = []
        self.dropped: dict[str, None] = {}
        self.searches = False
        self._meant: dict[str, Meant] = {}

    def add(self, tools: Any, path: str, namespace: str | None = None) -> None:
        """Take tools in; raises InvalidRequest. Of two with the same name the first one counts."""
        for at, tool in enumerate(tools if isinstance(tools, list) else ()):
            place = f"{path}[{at}]"
            if not isinstance(tool, dict):
                raise InvalidRequest.at(place, "expected an object")
            kind = str(tool.get("type") or "function")
            own = {"namespace": namespace} if namespace else {}
            runs_in = as_object(tool.get("environment")).get("type", "local")
            if kind == "namespace":
                self.add(tool.get("tools"), f"{place}.tools", name_of(tool, place))
            elif kind in ("function", "custom"):
                self._declare(Meant(kind, {"name": name_of(tool, place), **own}), tool)
            elif kind in CALLERS and runs_in == "local":  # else in a container of the vendor's
                self._declare(Meant(kind, {"name": kind}), tool)
            elif kind.startswith(_SEARCH) and self.kind == "gemini":
                self.searches = True
            else:
                self.dropped[kind] = None
            if tool.get("allowed_callers"):
                self.dropped["allowed_callers"] = None

    def _declare(self, meant: Meant, tool: Json) -> None:
        name = chat_name(**meant.named)
        if name in self._meant:
            return
        self._meant[name] = meant
        description, parameters = tool.get("description"), tool.get("parameters")
        if meant.kind == "custom":
            description, parameters = _described(tool), _CUSTOM
        elif meant.kind in CALLERS:
            _, shapes = msgspec.json.schema_components([CALLERS[meant.kind][0]])
            (parameters,) = shapes.values()
            description = " ".join(parameters.pop("description").split())
        said = {"description": description, "parameters": parameters, "strict": tool.get("strict")}
        said = {key: value for key, value in said.items() if value is not None}
        self.declared.append({"type": "function", "function": {"name": name, **said}})

    def meant(self, name: str) -> Meant:
        """The tool that a call means by this name; a function of that name if there is none."""
        return self._meant.get(name) or Meant("function", {"name": name})

    def choice(self, choice: Any) -> Any:
        """`tool_choice` as chat's, None: it goes without saying; raises UnsupportedParameter."""
        if not isinstance(choice, dict):
            if choice == "required" and not self.declared and self.dropped:
                raise _refusal(choice)
            return choice if self.declared else None
        kind = str(choice.get("type"))
        if self.searches and kind.startswith(_SEARCH):
            return None
        is_list = kind == "allowed_tools"
        asked = objects(choice.get("tools")) if is_list else [choice]
        tools = [found for tool in asked if (found := self._chosen(tool))]
        mode = "required" if choice.get("mode") == "required" or not is_list else "auto"
        if tools:
            return {"type": kind, kind: {"mode": mode, "tools": tools}} if is_list else tools[0]
        if mode == "required":
            raise _refusal(kind)
        return "none"

    def _chosen(self, tool: Json) -> Json | None:
        kind = tool.get("type")
        name = tool.get("name") if kind in ("function", "custom") else kind
        name = chat_name(name, tool.get("namespace")) if isinstance(name, str) else ""
        is_known = name in self._meant or (name and kind == "function")
        return {"type": "function", "function": {"name": name}} if is_known else None


def _refusal(wanted: str) -> InvalidRequest:
    why = f"{wanted!r} asks for a tool that no client of this model can run"
    return UnsupportedParameter.at("tool_choice", why)


def name_of(tool: Json, path: str) -> str:
    """The name of a tool or call; raises InvalidRequest if it has none."""
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest.at(f"{path}.name", "expected a name")
    return name


def _described(tool: Json) -> str | None:
    """The description of a custom tool, with the grammar that its input has to follow."""
    description, form = tool.get("description"), tool.get("format")
    if isinstance(form, dict) and form.get("definition"):
        rule = f"`input` must follow this {form.get('syntax') or ''} grammar:"
        return f"{description or ''}\n\n{rule}\n{form['definition']}".strip()
    return description if isinstance(description, str) else None
