"""Names of functions that Gemini does not take, and how they come back.

A name begins with a letter or `_`, goes on with letters, digits, `_`, `.` and `-`, and has 64
characters at most (ai.google.dev/gemini-api/docs/function-calling, 2026-11; some models take colons
too). For others one is made (`made_names`), in declarations, choices and histories.

Names of properties stay: the rule for them is that of `parameters`, not of `parametersJsonSchema`.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Final

import msgspec

from ..chat.fields import Message, Tool
from ..lenient_json import without_lone
from ..made_names import fitting, may_be_made

_TAKEN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_UNTAKEN: Final = re.compile(r"[^A-Za-z0-9_.-]|^(?![A-Za-z_])")


def wire_name(name: str) -> str:
    """The name that Gemini knows the function by."""
    return fitting(name, _TAKEN, _UNTAKEN)


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

    @property
    def one_call(self) -> bool:
        """Whether the caller takes one call at a time only (`parallel_tool_calls: false`)."""
        return self._request.parallel_tool_calls is False

    def name(self, wire: str) -> str:
        """The caller's name for the function that Gemini calls `wire`."""
        return self._names.get(wire, wire) if may_be_made(wire) else wire

    @cached_property
    def _request(self) -> _Request:
        return _decode(without_lone(self._body))

    @cached_property
    def _names(self) -> dict[str, str]:
        used = [*(self._request.tools or ())]
        for message in self._request.messages:
            used += message.tool_calls or ()
        names = [tool.function.name for tool in used if tool.function is not None]
        return {wire_name(name): name for name in reversed(names) if name is not None}
