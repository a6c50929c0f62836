"""Names of functions that Gemini does not take, and how they come back.

A name begins with a letter or `_`, goes on with letters, digits, `_`, `.` and `-`, and has 64
characters at most (ai.google.dev/gemini-api/docs/function-calling, 2026-11; some models take colons
too). For others one is made (`made_names`), in declarations, choices and histories.

Names of properties stay: the rule for them is that of `parameters`, not of `parametersJsonSchema`.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from ..chat.fields import Message, Tool
from ..lenient_json import without_lone
from ..made_names import made_name, may_be_made

_TAKEN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_UNTAKEN: Final = re.compile(r"[^A-Za-z0-9_.-]")


def wire_name(name: str) -> str:
    """The name that Gemini knows the function by."""
    if _TAKEN.fullmatch(name):
        return name
    legible = _UNTAKEN.sub("_", name)
    if not _TAKEN.match(legible):
        legible = f"_{legible}"
    return made_name(name, legible)


class _Request(msgspec.Struct):
    messages: list[Message] = []
    tools: list[Tool] | None = None
    parallel_tool_calls: bool | None = None


_decode: Final = msgspec.json.Decoder(_Request).decode


class Asked:
    """What the reading of an answer has to know of its request: a chat request's body.

    The body is read when an answer needs it first, which most never do.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._request: _Request | None = None
        self._names: dict[str, str] | None = None

    @property
    def one_call(self) -> bool:
        """Whether the caller takes one call at a time only (`parallel_tool_calls: false`)."""
        return self._read().parallel_tool_calls is False

    def name(self, wire: str) -> str:
        """The caller's name for the function that Gemini calls `wire`."""
        if not may_be_made(wire):
            return wire
        if self._names is None:
            request = self._read()
            used = [*(request.tools or ())]
            for message in request.messages:
                used += message.tool_calls or ()
            names = [tool.function.name for tool in used if tool.function is not None]
            self._names = {wire_name(n): n for n in reversed(names) if n is not None}
        return self._names.get(wire, wire)

    def _read(self) -> _Request:
        if self._request is None:
            self._request = _decode(without_lone(self._body))
        return self._request
