"""Answers of chat made of another vendor's: what they need of the request, chunks of its events."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

import msgspec

from ..lenient_json import without_lone
from ..made_names import may_be_made
from .fields import Message, Tool

Json = dict[str, Any]


class _Request(msgspec.Struct):
    messages: list[Message] = []
    tools: list[Tool] | None = None
    parallel_tool_calls: bool | None = None


_encode = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Request).decode


class Asked:
    """A request's body, which is read when first needed. `wire_name`: a vendor's for a function."""

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


def completion(
    answer_id: str, choices: list[Json], usage: Json, *, model: str, created: int
) -> bytes:
    """A whole answer."""
    head = {"id": answer_id, "object": "chat.completion", "created": created, "model": model}
    return _encode({**head, "choices": choices, "usage": usage})


class ChunkMaker:
    """The base of a `ChunkTranslator`. `is_over`: the upstream's own end came, nothing follows."""

    _head: bytes  # of each chunk, up to its choices: once the answer's id is known

    def __init__(self, *, model: str, created: int, include_usage: bool) -> None:
        self.is_over = False
        self._common = {"object": "chat.completion.chunk", "created": created, "model": model}
        self._include_usage = include_usage
        self._tail = b'],"usage":null}' if include_usage else b"]}"

    def _set_id(self, chunk_id: str) -> None:
        self._head = _encode({"id": chunk_id, **self._common})[:-1] + b',"choices":['

    def _chunk(self, choice: Json) -> bytes:
        return self._head + _encode(choice) + self._tail

    def _usage_chunk(self, usage: Json) -> bytes:
        return self._head + b'],"usage":' + _encode(usage) + b"}"
