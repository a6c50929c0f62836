"""The messages of a chat as Gemini's `systemInstruction` and `contents`.

Gemini knows two roles, `user` and `model`; function results are a turn of the user's role. Besides
the order of turns (`wire/history.py`) it wants the last one to be the user's, and before Gemini 3
it matches results to calls by name and order.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..call_ids import plain_id
from ..chat import shapes as chat
from ..history import CONTINUE, NOT_RUN, Block, Call, History, function_of, result_without_call
from ..tool_calls import ToolCall, calls_of
from . import calls, media
from .family import Family, wire_name

Content = dict[str, Any]


class Turns(History[media.Result]):
    def __init__(self, family: Family) -> None:
        super().__init__()
        self._family = family
        self._wire_ids: set[str] = set()

    def build(self) -> tuple[list[Block], list[Content]]:
        """What the system says before all turns, and the turns; raises InvalidRequest."""
        if not self._turns:
            # A chat of system messages alone is possible at OpenAI, not at Gemini.
            if not self._system:
                raise chat.invalid("messages", "there is nothing to answer")
            return [], [{"role": "user", "parts": self._system}]
        if self._family.validates_signatures:
            self._sign()
        go_on = {"text": CONTINUE}
        contents: list[Content] = []
        for role, parts in self._woven(go_on):
            contents.append({"role": "model" if role == "assistant" else role, "parts": parts})
        if contents[-1]["role"] == "model":
            contents.append({"role": "user", "parts": [go_on]})
        return self._system, contents

    def _sign(self) -> None:
        """Signatures are validated from what the user said last on: the first call of each turn."""
        for turn in reversed(self._turns):
            if turn.role == "user":
                break
            for part in turn.content:
                if "functionCall" in part:
                    part.setdefault("thoughtSignature", calls.NO_SIGNATURE)
                    break

    def _blocks(self, message: chat.Message, path: str, *, text_only: bool = False) -> list[Block]:
        path = f"{path}.content"
        if text_only:
            return [{"text": text} for text in media.texts(message.content, path)]
        return media.parts(message.content, path, self._family)

    def _assistant(self, message: chat.Message, path: str) -> None:
        parts: list[Block] = [{"text": text} for text in chat.said(message.content)]
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
        turn = self._turn_of_model(speaks=bool(parts))
        turn.content += parts
        for place, call in enumerate(made):
            part, record = self._call(f"{path}.tool_calls[{place}]", call)
            turn.content.append(part)
            self._expect(turn, call.id or "", record)

    def _call(self, path: str, call: ToolCall) -> tuple[Block, Call[media.Result]]:
        function = function_of(call, path)
        bare, signature = calls.parse_id(call.id or "")
        made: Call[media.Result] = Call(
            wire_name(function.name), plain_id(bare, self._wire_ids, "call_")
        )
        told: Content = {"name": made.name, "args": msgspec.Raw(function.as_object())}
        if self._family.matches_call_ids:
            told["id"] = made.wire_id
        part: Block = {"functionCall": told}
        signature = calls.signature_in(call.extra_content) or signature
        if signature is not None:
            part["thoughtSignature"] = signature
        return part, made

    def _result(self, message: chat.Message, path: str) -> media.Result:
        return media.result(message.content, f"{path}.content", self._family)

    def _orphan(self, result: media.Result) -> list[Block]:
        return [{"text": result_without_call(result.text)}, *result.inside, *result.behind]

    def _answers(self, calls: list[Call[media.Result]]) -> tuple[list[Block], list[Block]]:
        behind: list[Block] = []
        for call in calls:
            if call.result is not None and call.result.behind:
                behind += [{"text": f"From the result of {call.name}:"}, *call.result.behind]
        return list(map(self._response, calls)), behind

    def _response(self, call: Call[media.Result]) -> Block:
        # As text under `output`, which is exact: a JSON object would travel as a protobuf Struct,
        # where every number is a double.
        found = call.result
        key = "error" if found is None or call.is_error else "output"
        said = {key: NOT_RUN if found is None else found.text}
        response: Content = {"name": call.name, "response": said}
        if self._family.matches_call_ids:
            response["id"] = call.wire_id
        if found is not None and found.inside:
            response["parts"] = found.inside
        return {"functionResponse": response}
