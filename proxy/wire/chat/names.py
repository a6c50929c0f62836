"""Replaces names of functions that OpenAI does not take, and puts them back into the answer.

OpenAI takes `[a-zA-Z0-9_-]{1,64}` and refuses a whole request for one bad name, even in the
history. So do Azure, DeepSeek and Groq (platform.openai.com/docs/api-reference/chat/create, read
2026-11; openai/openai-dotnet#441, langgenius/dify#22867, xorbitsai/xagent#1340). llama.cpp, vLLM
and others take any: there nobody but the model sees the other name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Raw

from ..lenient_json import encode, is_shielded
from ..made_names import are_plain, plain_name
from .fields import Message, Named, Tool, read_text, rewritten
from .reply import objects, read_object
from .usage import as_object, as_text

_tools = msgspec.json.Decoder(list[Tool]).decode
_functions = msgspec.json.Decoder(list[Named]).decode

# Tools of other kinds are the upstream's own, by its own names: Kimi's `builtin_function` with the
# name `$web_search` (platform.kimi.ai/docs/guide/use-web-search, read 2026-11).
_CALLERS_KINDS = (None, "function", "custom")


def made_names(fields: Mapping[str, Raw], messages: Iterable[Message]) -> dict[str, str]:
    """The names that go out, by the caller's names of functions; none if no name changes."""
    tools: list[Tool] = []
    found: set[str | None] = set()
    with suppress(msgspec.DecodeError, RecursionError):  # the upstream answers for what is odd
        if (declared := fields.get("tools")) is not None:
            tools += _tools(declared)
        if (functions := fields.get("functions")) is not None:
            found.update(function.name for function in _functions(functions))
    for message in messages:
        if message.tool_calls:
            tools += message.tool_calls
        elif message.role == "tool" or message.role == "function":
            found.add(message.name)
        if message.function_call is not None:
            found.add(message.function_call.name)
    found.update(map(_called, tools))
    names = [name for name in found if name is not None]
    if are_plain(names):
        return {}
    own = {_called(tool) for tool in tools if tool.type not in _CALLERS_KINDS}
    made = {name: plain_name(name) for name in names if name not in own and not is_shielded(name)}
    return made if any(name != other for name, other in made.items()) else {}


def _called(tool: Tool) -> str | None:
    named = tool.function or tool.custom
    return None if named is None else named.name


def rename(body: bytes, names: Mapping[str, str]) -> bytes:
    """A request or an answer with these names of functions; all other values stay as they came."""

    def other(value: Raw) -> Raw:
        name = read_text(value) if bytes(value).startswith(b'"') else ""
        return Raw(encode(names[name])) if name in names else value

    named = {"name": other}
    tool = {"function": named, "custom": named}
    said = {"tool_calls": [tool], "function_call": named}
    places = {
        "tools": [tool],
        "tool_choice": {**tool, "allowed_tools": {"tools": [tool]}},
        "functions": [named],
        "function_call": named,
        "messages": [{**said, "name": other}],
        "choices": [{"message": said}],
    }
    return bytes(rewritten(Raw(body), places))


class CallersNames:
    """Puts the caller's names back into the answer to a request that went out with others.

    A streamed name may come in pieces, again in each delta, or late (continuedev/continue#5849,
    NousResearch/hermes-agent#11984, vercel/ai#14722): what may be the beginning of a made one waits
    for what follows.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._callers = {made: name for name, made in names.items()}
        self._held: dict[tuple[int, int], str] = {}  # by choice and call: the name up to now

    def answer(self, body: bytes) -> bytes:
        """A unary answer."""
        is_there = any(
            made != name and made.encode() in body for made, name in self._callers.items()
        )
        return rename(body, self._callers) if is_there else body

    def chunk(self, event: bytes) -> bytes:
        """A chunk of a stream."""
        if not self._held and b'"name"' not in event:
            return event
        chunk = read_object(event)
        is_changed = False
        for choice in objects(chunk.get("choices")):
            index, said = choice.get("index"), as_object(choice.get("delta"))
            number = index if isinstance(index, int) else 0
            for call, function in _calls(said):
                is_changed |= self._restore((number, call), function)
            if choice.get("finish_reason"):
                is_changed |= self._let_go(number, said)
            if said:
                choice["delta"] = said
        return encode(chunk) if is_changed else event

    def _restore(self, key: tuple[int, int], function: dict[str, Any]) -> bool:
        """Put the meant name into a call's delta. Tells whether that changed it."""
        piece = as_text(function.get("name"))
        name = self._held.pop(key, "") + piece
        meant = self._callers.get(name, name)
        is_last = not piece or function.get("arguments") or function.get("input")
        is_begun = any(made.startswith(name) for made in self._callers)
        if is_begun and not is_last and name not in self._callers:
            self._held[key], meant = name, ""
        if meant == piece:
            return False
        function["name"] = meant
        return True

    def _let_go(self, number: int, said: dict[str, Any]) -> bool:
        """Put what was held back for a choice into its last delta. Tells whether there was any."""
        keys = [key for key in self._held if key[0] == number]
        for key in keys:
            function = {"name": self._held.pop(key)}
            if key[1] < 0:
                said["function_call"] = function
            else:
                call = {"index": key[1], "function": function}
                said["tool_calls"] = [*objects(said.get("tool_calls")), call]
        return bool(keys)


def _calls(said: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """By number the functions, or custom tools, that a message or delta calls."""
    for place, call in enumerate(objects(said.get("tool_calls"))):
        index = call.get("index")
        for function in (call.get("function"), call.get("custom")):
            if isinstance(function, dict):
                yield (index if isinstance(index, int) else place), function
    if isinstance(said.get("function_call"), dict):
        yield -1, said["function_call"]
