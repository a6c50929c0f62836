"""The messages of a chat as Gemini's `systemInstruction` and `contents`.

Gemini knows two roles, `user` and `model`; function results are a turn of the user's role. What it
refuses (tests/wire/gemini_rules.py has the sources) shapes the translation: the first turn and the
last one are the user's, each turn with calls is followed at once by one with a result for each of
them, and before Gemini 3 results are matched to calls by name and order. So results go to their
calls wherever they stand, an unanswered call gets a result that says so, and what the user or the
system said in between comes behind the results.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from ..stand_ins import CONTINUE, NOT_RUN, result_without_call, said_by_system
from ..tool_calls import CallResults, ToolCall, calls_of
from . import calls, chat, media
from .family import Family
from .names import wire_name

Content = dict[str, Any]

_CONTINUE: Final[media.GeminiPart] = {"text": CONTINUE}


class _Call(msgspec.Struct):
    """A function call of an earlier assistant message, and what came of it."""

    name: str
    wire_id: str
    result: media.Result | None = None
    is_error: bool = False

    def response(self, family: Family) -> media.GeminiPart:
        # As text under `output`, which is exact: a JSON object would travel as a protobuf Struct,
        # where every number is a double.
        found = self.result
        key = "error" if found is None or self.is_error else "output"
        said = {key: NOT_RUN if found is None else found.text}
        response: Content = {"name": self.name, "response": said}
        if family.matches_call_ids:
            response["id"] = self.wire_id
        if found is not None and found.inside:
            response["parts"] = found.inside
        return {"functionResponse": response}

    def behind(self) -> list[media.GeminiPart]:
        """What has to come behind all results."""
        if self.result is None or not self.result.behind:
            return []
        return [{"text": f"From the result of {self.name}:"}, *self.result.behind]


class _Turn(msgspec.Struct):
    """`closed`: a result of its calls was seen, so that what the model says next is another."""

    kind: Literal["user", "model"]
    parts: list[media.GeminiPart]
    calls: list[_Call] = []
    closed: bool = False


def turns_of(
    messages: list[chat.Message], family: Family
) -> tuple[list[media.GeminiPart], list[Content]]:
    """The system instruction's parts, and the contents.

    Raises InvalidRequest naming the message or part that has no place at Gemini.
    """
    conversation = _Conversation(family)
    for number, message in enumerate(messages):
        conversation.add(f"messages[{number}]", message)
    if conversation.turns:
        return conversation.system, conversation.contents()
    if not conversation.system:
        raise chat.invalid("messages", "there is nothing to answer")
    # A chat of system messages alone is possible at OpenAI, not at Gemini.
    return [], [{"role": "user", "parts": conversation.system}]


class _Conversation:
    def __init__(self, family: Family) -> None:
        self.system: list[media.GeminiPart] = []
        self.turns: list[_Turn] = []
        self._family = family
        self._asked = -1  # the last turn in which the user said something
        self._results: CallResults[_Turn, _Call] = CallResults()
        self._ids: dict[str, str] = {}  # an id without what it carries -> the caller's
        self._wire_ids: set[str] = set()

    def add(self, at: str, message: chat.Message) -> None:
        if message.role in ("system", "developer"):
            found = media.texts(message.content, f"{at}.content")
            if self.turns:
                # In place, so that the beginning stays as it is in Gemini's cache.
                self._user([{"text": said_by_system(text)} for text in found])
            else:
                self.system += [{"text": text} for text in found]
        elif message.role == "user":
            parts = media.parts(message.content, f"{at}.content", self._family)
            if not parts:
                raise chat.invalid(f"{at}.content", "the message is empty")
            self._user(parts)
        elif message.role == "assistant":
            self._assistant(at, message)
        elif message.role in ("tool", "function"):  # the second is of before there were ids
            call_id = message.tool_call_id if message.role == "tool" else message.name
            self._result(at, message, call_id or "")
        else:
            roles = "system, developer, user, assistant, tool or function"
            raise chat.invalid(f"{at}.role", f"expected {roles}, got {message.role!r}")

    def _user(self, parts: list[media.GeminiPart]) -> None:
        if not parts:
            return
        if self.turns and self.turns[-1].kind == "user":
            self.turns[-1].parts += parts
        else:
            self.turns.append(_Turn("user", parts))
        self._asked = len(self.turns) - 1

    def _assistant(self, at: str, message: chat.Message) -> None:
        parts: list[media.GeminiPart] = [{"text": text} for text in media.said(message.content)]
        if not parts and message.refusal:
            parts.append({"text": message.refusal})
        signature = calls.signature_in(message.extra_content)
        if parts and signature is not None:
            parts[-1]["thoughtSignature"] = signature
        if self._family.combines_tools:
            parts = calls.server_parts_in(message.extra_content) + parts
        made = calls_of(message.tool_calls, message.function_call)
        if not parts and not made:
            return
        last = self.turns[-1] if self.turns else None
        # Programs give each of several parallel calls a message of its own.
        if last is None or last.kind != "model" or last.closed or (parts and last.calls):
            last = _Turn("model", [])
            self.turns.append(last)
        last.parts += parts
        for place, call in enumerate(made):
            self._call(f"{at}.tool_calls[{place}]", call, last)

    def _call(self, at: str, call: ToolCall, turn: _Turn) -> None:
        function_call = call.as_function()
        if function_call is None:
            what = "a call of a function or custom tool"
            raise chat.invalid(at, f"expected {what}, got type {call.type!r}")
        call_id = call.id or ""
        bare, signature = calls.parse_id(call_id)
        made = _Call(wire_name(function_call.name), self._unique(bare))
        turn.calls.append(made)
        self._results.expect(made, turn, call_id)
        self._ids[bare] = call_id
        function: Content = {"name": made.name, "args": msgspec.Raw(function_call.as_object())}
        if self._family.matches_call_ids:
            function["id"] = made.wire_id
        part: media.GeminiPart = {"functionCall": function}
        signature = calls.signature_in(call.extra_content) or signature
        if signature is not None:
            part["thoughtSignature"] = signature
        turn.parts.append(part)

    def _unique(self, bare: str) -> str:
        """An id that no other call of the request has, the same every time."""
        wire_id = bare = bare or "call"
        again = len(self._wire_ids)
        while wire_id in self._wire_ids:
            wire_id = f"{bare}_{again}"
            again += 1
        self._wire_ids.add(wire_id)
        return wire_id

    def _result(self, at: str, message: chat.Message, call_id: str) -> None:
        found = media.result(message.content, f"{at}.content", self._family)
        as_called = self._ids.get(calls.parse_id(call_id)[0], call_id)
        pair = self._results.take(call_id, as_called)
        if pair is None:
            text = result_without_call(found.text)
            self._user([{"text": text}, *found.inside, *found.behind])
            return
        turn, call = pair
        call.result = found
        call.is_error = message.is_error
        turn.closed = True

    def contents(self) -> list[Content]:
        contents: list[Content] = []
        behind: list[media.GeminiPart] = []  # of results, for the next turn of the user
        for number, turn in enumerate(self.turns):
            if turn.kind == "user":
                contents.append({"role": "user", "parts": behind + turn.parts})
                behind = []
                continue
            if behind or not contents:
                contents.append({"role": "user", "parts": behind or [_CONTINUE]})
            contents.append({"role": "model", "parts": turn.parts})
            behind = []
            if turn.calls:
                self._sign(number, turn)
                responses = [call.response(self._family) for call in turn.calls]
                contents.append({"role": "user", "parts": responses})
                behind = [part for call in turn.calls for part in call.behind()]
        if behind or contents[-1]["role"] == "model":
            contents.append({"role": "user", "parts": behind or [_CONTINUE]})
        return contents

    def _sign(self, number: int, turn: _Turn) -> None:
        """Signatures are validated from what the user said last on: the first call of each turn."""
        if self._family.validates_signatures and number > self._asked:
            first = next(part for part in turn.parts if "functionCall" in part)
            first.setdefault("thoughtSignature", calls.NO_SIGNATURE)
