"""What the reading of another vendor's answer has to know of the chat request that it answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final

import msgspec

from ..lenient_json import without_lone
from ..made_names import may_be_made
from .fields import Message, Tool


class _Request(msgspec.Struct):
    messages: list[Message] = []
    tools: list[Tool] | None = None
    parallel_tool_calls: bool | None = None


_decode: Final = msgspec.json.Decoder(_Request).decode


class Asked:
    """A request's body, which is read when an answer needs it first: most never do.

    `wire_name`: the vendor's name for a function, by the caller's.
    """

    def __init__(self, body: bytes, wire_name: Callable[[str], str]) -> None:
        self._body = body
        self._wire_name = wire_name

    @property
    def one_call(self) -> bool:
        """Whether the caller takes one call at a time only (`parallel_tool_calls: false`)."""
        return self._request.parallel_tool_calls is False

    def name(self, wire: str) -> str:
        """The caller's name for the function that the vendor calls `wire`."""
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
        return {self._wire_name(name): name for name in reversed(names) if name is not None}
