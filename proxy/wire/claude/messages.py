"""The conversation of a request: OpenAI's messages to Claude's `system` and `messages`.

Rules of the Messages API that shape it (platform.claude.com/docs/en/api/messages and
build-with-claude/handle-tool-calls, 2026-11): the first turn is the user's, turns alternate, the
results of all calls stand first in the turn that follows them, ids of calls are unique and of
`[a-zA-Z0-9_-]`, no text block is blank.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ...errors import InvalidRequest, UnsupportedParameter
from . import chat
from .parts import Block, cache_control, part_to_block
from .thinking import ThinkingBlock, unpack

_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_THINKING = ("thinking", "redacted_thinking")
# What stands in where the API wants a turn of the user and the caller has none.
_CONTINUE: Block = {"type": "text", "text": "Continue."}


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
            turn["content"] = [b for b in turn["content"] if b["type"] not in _THINKING]
        self.thinks = False


def translate(messages: Sequence[chat.Message], *, prefill: bool) -> Conversation:
    """The conversation for a model that takes a last turn of the assistant (`prefill`) or doesn't.

    Raises InvalidRequest or UnsupportedParameter that names the message or part.
    """
    builder = _Builder()
    for index, message in enumerate(messages):
        builder.add(message, f"messages[{index}]")
    return builder.build(prefill=prefill)


class _Builder:
    """Grows turn by turn."""

    def __init__(self) -> None:
        self._system: list[Block] = []
        self._turns: list[Block] = []
        self._thinks = False
        self._wire_ids: dict[str, str] = {}  # the caller's id -> Claude's, of its latest call
        self._used_ids: set[str] = set()

    def add(self, message: chat.Message, path: str) -> None:
        if isinstance(message, (chat.SystemMessage, chat.DeveloperMessage)):
            self._system += _blocks(message.content, path, text_only=True)
        elif isinstance(message, chat.UserMessage):
            self._extend("user", _blocks(message.content, path))
        elif isinstance(message, chat.AssistantMessage):
            self._extend("assistant", self._assistant(message, path))
        elif isinstance(message, chat.ToolMessage):
            self._extend("user", [self._result(message, path)])
        else:
            raise UnsupportedParameter(
                f"{path}.role: 'function' is out of use: send 'tool' with a tool_call_id.",
                param=f"{path}.role",
            )

    def build(self, *, prefill: bool) -> Conversation:
        if not self._turns and self._system:
            # OpenAI answers a lone system message; here it has to be what the user says.
            self._extend("user", [self._system.pop()])
        if not self._turns:
            raise InvalidRequest("messages: there is no text to answer.", param="messages")
        loop_thinks = self._loop_thinks()
        if self._turns[0]["role"] == "assistant":
            self._turns.insert(0, {"role": "user", "content": [_CONTINUE]})
        if self._turns[-1]["role"] == "assistant":
            self._end_with_assistant(prefill=prefill)
        return Conversation(self._system, self._turns, self._thinks, loop_thinks)

    def _extend(self, role: str, blocks: list[Block]) -> None:
        """Add to the turn that is open, or open one; results of calls go to its front."""
        if not blocks:
            return
        if not self._turns or self._turns[-1]["role"] != role:
            self._turns.append({"role": role, "content": []})
        content = self._turns[-1]["content"]
        if blocks[0]["type"] == "tool_result":
            front = sum(block["type"] == "tool_result" for block in content)
            content[front:front] = blocks
        else:
            content += blocks

    def _assistant(self, message: chat.AssistantMessage, path: str) -> list[Block]:
        if message.function_call or message.audio:
            field = "function_call" if message.function_call else "audio"
            raise UnsupportedParameter(
                f"{path}.{field}: Claude has no such thing.", param=f"{path}.{field}"
            )
        text = "".join(_texts(message.content, path)) or message.refusal or ""
        calls: list[Block] = []
        carried: list[ThinkingBlock] = []
        for index, call in enumerate(message.tool_calls or ()):
            block, blocks = self._call(call, f"{path}.tool_calls[{index}]")
            calls.append(block)
            carried += blocks
        thinking = message.thinking_blocks if message.thinking_blocks else carried
        placed = _place(text, calls, thinking)
        self._thinks = self._thinks or any(block["type"] in _THINKING for block in placed)
        return placed

    def _call(self, call: chat.ToolCall, path: str) -> tuple[Block, list[ThinkingBlock]]:
        if call.function is None:
            raise UnsupportedParameter(
                f"{path}.type: Claude knows calls of functions only.", param=f"{path}.type"
            )
        bare, carried = unpack(call.id)
        wire_id = self._wire_ids[call.id] = self._unique(bare)
        arguments = call.function.arguments.strip() or "{}"
        try:
            msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            at = f"{path}.function.arguments"
            text = f"{at}: expected a JSON object as text: {error}"
            raise InvalidRequest(text, param=at) from error
        block: Block = {
            "type": "tool_use",
            "id": wire_id,
            "name": call.function.name,
            "input": msgspec.Raw(arguments.encode()),
        }
        return block, carried

    def _unique(self, bare: str) -> str:
        """An id that Claude takes: as it was if possible, the same every time."""
        if not _ID.fullmatch(bare):
            bare = "call_" + hashlib.sha256(bare.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        wire_id, again = bare, 1
        while wire_id in self._used_ids:
            again += 1
            wire_id = f"{bare[:56]}_{again}"
        self._used_ids.add(wire_id)
        return wire_id

    def _result(self, message: chat.ToolMessage, path: str) -> Block:
        wire_id = self._wire_ids.get(message.tool_call_id)
        if wire_id is None:
            at = f"{path}.tool_call_id"
            raise InvalidRequest(f"{at}: no call before it has this id.", param=at)
        blocks = _blocks(message.content, path)
        result: Block = {"type": "tool_result", "tool_use_id": wire_id}
        return {**result, "content": blocks} if blocks else result

    def _loop_thinks(self) -> bool:
        """With a budget, thinking may go on only if each turn of the loop begins with it."""
        for turn in reversed(self._turns):
            kinds = {block["type"] for block in turn["content"]}
            if turn["role"] == "user":
                if "tool_result" not in kinds:
                    break
            elif turn["content"][0]["type"] not in _THINKING and "tool_use" in kinds:
                return False
        return True

    def _end_with_assistant(self, *, prefill: bool) -> None:
        last = self._turns[-1]["content"][-1]
        if not prefill or last["type"] != "text":
            self._turns.append({"role": "user", "content": [_CONTINUE]})
        else:
            last["text"] = last["text"].rstrip()  # the API refuses a prefill that ends in space


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
        placed += [*_text_block(text[text_at:text_to]), *calls[call_at:call_to], wire]
        text_at, call_at = text_to, call_to
    placed += [*_text_block(text[text_at:]), *calls[call_at:]]
    while placed and placed[-1]["type"] in _THINKING:
        placed.pop()  # the API refuses a turn that ends in thinking
    return placed


def _text_block(text: str, **extra: Any) -> list[Block]:
    return [{"type": "text", "text": text, **extra}] if text.strip() else []


def _texts(content: chat.Content, path: str) -> list[str]:
    """The texts of a message that may hold nothing else."""
    if content is None or isinstance(content, str):
        return [content or ""]
    texts = []
    for index, part in enumerate(content):
        if isinstance(part, chat.TextPart):
            texts.append(part.text)
        elif isinstance(part, chat.RefusalPart):
            texts.append(part.refusal)
        else:
            at = f"{path}.content[{index}]"
            raise UnsupportedParameter(f"{at}: only text can stand here.", param=at)
    return texts


def _blocks(content: chat.Content, path: str, *, text_only: bool = False) -> list[Block]:
    if content is None or isinstance(content, str):
        return _text_block(content or "")
    if text_only:
        _texts(content, path)
    blocks: list[Block] = []
    for index, part in enumerate(content):
        if isinstance(part, chat.TextPart):
            blocks += _text_block(part.text, **cache_control(part))
        else:
            blocks.append(part_to_block(part, f"{path}.content[{index}]"))
    return blocks
