"""The messages of a chat as Gemini's `systemInstruction` and `contents`.

Gemini knows two roles, `user` and `model`; system messages stand outside, function results are
user turns. Consecutive messages of the same kind become one turn, because Gemini wants the results
of parallel calls together in the turn after the calls.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from ...errors import InvalidRequest
from ..surrogates import without_lone
from . import calls, chat, media
from .family import Family

Content = dict[str, Any]
_Kind = Literal["user", "model", "results"]


class Turns(NamedTuple):
    system: Content | None
    contents: list[Content]


class _Made(NamedTuple):
    """A function call of an earlier assistant message."""

    name: str
    bare_id: str


def turns_of(messages: list[chat.Message], *, family: Family) -> Turns:
    """Raises InvalidRequest naming the message or part that has no place at Gemini."""
    return _Builder(messages, family).build()


class _Builder:
    def __init__(self, messages: list[chat.Message], family: Family) -> None:
        self._messages = messages
        self._family = family
        self._system: list[media.GeminiPart] = []
        self._contents: list[Content] = []
        self._last_kind: _Kind | None = None
        self._calls: dict[str, _Made] = {}
        # Signatures are validated from the last real user message on: the present turn.
        self._turn_start = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)

    def build(self) -> Turns:
        for number, message in enumerate(self._messages):
            self._add(number, message)
        if not self._contents:
            # A chat of system messages alone is possible at OpenAI, not at Gemini.
            if not self._system:
                raise InvalidRequest("messages: there is nothing to answer", param="messages")
            return Turns(None, [{"role": "user", "parts": self._system}])
        return Turns({"parts": self._system} if self._system else None, self._contents)

    def _add(self, number: int, message: chat.Message) -> None:
        at = f"messages[{number}]"
        if message.role in ("system", "developer"):
            found = media.texts(message.content, param=f"{at}.content")
            self._system += [{"text": text} for text in found]
        elif message.role == "user":
            parts = media.parts(message.content, param=f"{at}.content", family=self._family)
            if not parts:
                raise InvalidRequest(f"{at}.content: the message is empty", param=f"{at}.content")
            self._turn("user", parts)
        elif message.role == "assistant":
            self._turn("model", self._assistant(number, message))
        elif message.role == "tool":
            self._turn("results", [self._result(at, message)])
        else:
            raise InvalidRequest(
                f"{at}.role: expected system, developer, user, assistant or tool, "
                f"got {message.role!r}",
                param=f"{at}.role",
            )

    def _turn(self, kind: _Kind, parts: list[media.GeminiPart]) -> None:
        if not parts:
            return
        if kind == self._last_kind:
            self._contents[-1]["parts"] += parts
            return
        self._last_kind = kind
        role = "model" if kind == "model" else "user"
        self._contents.append({"role": role, "parts": parts})

    def _assistant(self, number: int, message: chat.Message) -> list[media.GeminiPart]:
        at = f"messages[{number}]"
        found = media.texts(message.content, param=f"{at}.content")
        parts: list[media.GeminiPart] = [{"text": text} for text in found]
        if not parts and message.refusal:
            parts.append({"text": message.refusal})
        signature = calls.signature_in(message.extra_content)
        if parts and signature is not None:
            parts[-1]["thoughtSignature"] = signature
        called = [
            self._call(f"{at}.tool_calls[{place}]", call)
            for place, call in enumerate(message.tool_calls or ())
        ]
        if (
            called
            and self._family.validates_signatures
            and number > self._turn_start
            and not any("thoughtSignature" in part for part in called)
        ):
            called[0]["thoughtSignature"] = calls.NO_SIGNATURE
        return parts + called

    def _call(self, at: str, call: chat.ToolCall) -> media.GeminiPart:
        if call.function is None:
            raise InvalidRequest(
                f"{at}: only function calls are possible with Gemini, got type {call.type!r}",
                param=at,
            )
        bare_id, signature = calls.parse_id(call.id)
        self._calls[call.id] = _Made(call.function.name, bare_id)
        function: Content = {"name": call.function.name, "args": _arguments(call.function)}
        if self._family.matches_call_ids:
            function["id"] = bare_id
        part: media.GeminiPart = {"functionCall": function}
        signature = calls.signature_in(call.extra_content) or signature
        if signature is not None:
            part["thoughtSignature"] = signature
        return part

    def _result(self, at: str, message: chat.Message) -> media.GeminiPart:
        made = self._calls.get(message.tool_call_id or "")
        if made is None:
            raise InvalidRequest(
                f"{at}.tool_call_id: no assistant message before this one made the tool call "
                f"{message.tool_call_id!r}",
                param=f"{at}.tool_call_id",
            )
        # As text under `output`, which is exact: a JSON object would travel as a protobuf Struct,
        # where every number is a double.
        output = "".join(media.texts(message.content, param=f"{at}.content"))
        response: Content = {"name": made.name, "response": {"output": output}}
        if self._family.matches_call_ids:
            response["id"] = made.bare_id
        return {"functionResponse": response}


def _arguments(function: chat.FunctionCall) -> msgspec.Raw:
    """The arguments as they came if they are a JSON object, else an object that tells them.

    What a model began and did not end, or another vendor's model left empty, stays in the history
    for ever: it must not refuse every later request.
    """
    raw = bytes(function.arguments)
    if raw[:1] == b'"':
        raw = without_lone(msgspec.json.decode(raw, type=str).encode())
    try:
        found = msgspec.json.decode(raw) if raw.strip() else None
    except (ValueError, RecursionError):
        found = raw
    if found is None:
        return msgspec.Raw(b"{}")
    if isinstance(found, dict):
        return msgspec.Raw(raw)
    return msgspec.Raw(msgspec.json.encode({"arguments": raw.decode()}))
