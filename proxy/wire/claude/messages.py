"""The conversation of a request: OpenAI's messages to Claude's `system` and `messages`.

Besides the order of turns (`wire/history.py`) the API wants unique ids of calls of `[a-zA-Z0-9_-]`,
and no blank text.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ...errors import InvalidRequest, UnsupportedParameter
from ..call_ids import plain_id
from ..chat import shapes as chat
from ..chat.fields import misfit
from ..history import (
    CONTINUE,
    NOT_RUN,
    Block,
    Call,
    History,
    Turn,
    function_of,
    result_without_call,
)
from ..made_names import plain_name
from ..reasoning import BLOCKS, loop_thinks
from ..tool_calls import ToolCall, calls_of
from .parts import content_blocks, text_block
from .thinking import ThinkingBlock, unpack

_CONTINUE: Block = {"type": "text", "text": CONTINUE}
_NOT_RUN: Block = {"content": [{"type": "text", "text": NOT_RUN}], "is_error": True}


class Conversation(msgspec.Struct):
    """`system`: text blocks. `turns`: alternating, the user's first. `thinks`: blocks came back.

    `loop_thinks`: every turn of the assistant in the tool loop that is going on has its thinking.
    """

    system: list[Block]
    turns: list[Block]
    thinks: bool
    loop_thinks: bool

    def drop_thinking(self) -> None:
        """Leave out all thinking; something else is in every turn."""
        for turn in self.turns:
            turn["content"] = [b for b in turn["content"] if b["type"] not in BLOCKS]


class Turns(History[Block]):
    """A result is what is in a `tool_result` besides the call's id.

    `system_inside`: the model takes messages of the system among the others.
    """

    def __init__(self, *, system_inside: bool) -> None:
        super().__init__()
        self._system_inside = system_inside
        self._held: list[Block] = []  # the system's words that wait for a place among the turns
        self._used_ids: set[str] = set()

    def build(self, *, prefill: bool) -> Conversation:
        """The conversation. `prefill`: the model takes a last turn of the assistant."""
        if not self._turns and self._system:
            # OpenAI answers a lone system message; here it has to be what the user says.
            self._say_as_user([self._system.pop()])
        if not self._turns:
            raise InvalidRequest("messages: there is no text to answer", param="messages")
        self._place_held()
        woven = list(self._woven(_CONTINUE))
        turns: list[Block] = [{"role": role, "content": content} for role, content in woven]
        kinds = [(role == "user", [block["type"] for block in content]) for role, content in woven]
        thinks = any(not set(BLOCKS).isdisjoint(types) for _, types in kinds)
        last = turns[-1]["content"][-1]
        if turns[-1]["role"] == "assistant":
            if prefill and last["type"] == "text":
                last["text"] = last["text"].rstrip()  # the API refuses one that ends in space
            else:
                turns.append({"role": "user", "content": [_CONTINUE]})
        return Conversation(self._system, turns, thinks, loop_thinks(kinds))

    def _say_as_system(self, blocks: list[Block]) -> None:
        if self._turns and self._system_inside:
            self._held += blocks
        else:
            super()._say_as_system(blocks)

    def _place_held(self) -> None:
        """A turn of the system stands behind the user's, and before the assistant's or last
        (build-with-claude/mid-conversation-system-messages, 2026-11).
        """
        if self._held:
            if self._turns[-1].role != "user":
                self._turns.append(Turn("user", []))
            self._turns.append(Turn("system", self._held))
            self._held = []

    def _blocks(self, message: chat.Message, path: str, *, text_only: bool = False) -> list[Block]:
        return _marked(content_blocks(message.content, path, text_only=text_only), message)

    def _assistant(self, message: chat.Message, path: str) -> None:
        if message.audio:
            raise UnsupportedParameter(
                f"{path}.audio: Claude has no such thing", param=f"{path}.audio"
            )
        text = "".join(chat.said(message.content)) or message.refusal or ""
        made = calls_of(message.tool_calls, message.function_call)
        blocks: list[Block] = []
        carried: list[ThinkingBlock] = []
        for index, call in enumerate(made):
            block, thoughts = self._call(call, f"{path}.tool_calls[{index}]")
            blocks.append(block)
            carried += thoughts
        thinking = _thinking_blocks(message, f"{path}.thinking_blocks") or carried
        placed = _marked(_place(text, blocks, thinking), message)
        if not placed:
            return
        self._place_held()
        turn = self._turn_of_model(speaks=bool(text.strip()))
        turn.content += placed
        for call, block in zip(made, blocks, strict=True):
            self._expect(turn, call.id or "", Call(block["name"], block["id"]))

    def _call(self, call: ToolCall, path: str) -> tuple[Block, list[ThinkingBlock]]:
        function = function_of(call, path)
        bare, carried = unpack(call.id or "")
        block: Block = {
            "type": "tool_use",
            "id": plain_id(bare, self._used_ids, "call_"),
            "name": plain_name(function.name),
            "input": msgspec.Raw(function.as_object()),
        }
        return block, carried

    def _result(self, message: chat.Message, path: str) -> Block:
        blocks = content_blocks(message.content, path)
        mark = {"cache_control": message.cache_control} if message.cache_control else {}
        return {**({"content": blocks} if blocks else {}), **mark}

    def _orphan(self, result: Block) -> list[Block]:
        blocks = result.pop("content", [])
        text = "\n".join(block["text"] for block in blocks if block["type"] == "text")
        others = [block for block in blocks if block["type"] != "text"]
        return [{"type": "text", "text": result_without_call(text), **result}, *others]

    def _answers(self, calls: list[Call[Block]]) -> tuple[list[Block], list[Block]]:
        def answer(call: Call[Block]) -> Block:
            result = _NOT_RUN if call.result is None else call.result
            return {"type": "tool_result", "tool_use_id": call.wire_id, **result}

        return [], list(map(answer, calls))


def _thinking_blocks(message: chat.Message, path: str) -> list[ThinkingBlock]:
    try:
        return msgspec.convert(message.thinking_blocks or [], list[ThinkingBlock])
    except msgspec.ValidationError as error:
        raise misfit(error, path) from error


def _place(text: str, calls: list[Block], thinking: Iterable[ThinkingBlock]) -> list[Block]:
    """Text and calls with the thinking between them, where it was."""
    placed: list[Block] = []
    text_at = call_at = 0
    for block in thinking:
        wire = block.to_wire()
        if wire is None:
            continue
        text_to = min(max(block.content_offset, text_at), len(text))
        call_to = min(max(block.tool_call_offset, call_at), len(calls))
        placed += [*text_block(text[text_at:text_to]), *calls[call_at:call_to], wire]
        text_at, call_at = text_to, call_to
    placed += [*text_block(text[text_at:]), *calls[call_at:]]
    while placed and placed[-1]["type"] in BLOCKS:
        placed.pop()  # the API refuses a turn that ends in thinking
    return placed


def _marked(blocks: list[Block], message: chat.Message) -> list[Block]:
    """The blocks, with the message's own mark for the cache on the last of them."""
    if blocks and message.cache_control:
        blocks[-1] = {**blocks[-1], "cache_control": message.cache_control}
    return blocks
