"""The conversation of a request: OpenAI's messages to Claude's `system` and `messages`.

What the Messages API refuses (tests/wire/claude_rules.py has the sources) shapes it: the first turn
is the user's, turns alternate, the turn behind one with calls begins with a result for each of
them, ids of calls are unique and of `[a-zA-Z0-9_-]`, no text block is blank. So results go to their
calls wherever they stand, an unanswered call gets a result that says so, and what was said in
between comes behind the results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ...errors import InvalidRequest, UnsupportedParameter
from ..call_ids import THINKING, plain_id
from ..stand_ins import CONTINUE, NOT_RUN, result_without_call, said_by_system
from ..tool_calls import CallResults, ToolCall, calls_of
from . import chat
from .names import rename_keys, wire_name
from .parts import Block, assistant_text, content_blocks, text_block
from .thinking import ThinkingBlock, unpack

_THINKING = ("thinking", "redacted_thinking")
_CONTINUE: Block = {"type": "text", "text": CONTINUE}
_NOT_RUN: Block = {"type": "text", "text": NOT_RUN}


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


def translate(
    messages: Sequence[chat.Message],
    *,
    prefill: bool,
    system_inside: bool,
    properties: Mapping[str, dict[str, str]],
) -> Conversation:
    """The conversation for a model that takes a last turn of the assistant (`prefill`) or doesn't,
    and messages of the system among the others (`system_inside`) or doesn't.

    `properties`: by name of tool, its properties that Claude knows by other names. Raises
    InvalidRequest or UnsupportedParameter that names the message or part.
    """
    builder = _Builder(system_inside=system_inside, properties=properties)
    for index, message in enumerate(messages):
        builder.add(message, f"messages[{index}]")
    return builder.build(prefill=prefill)


class _Call(msgspec.Struct):
    """A call of an earlier message, and what came of it."""

    wire_id: str
    result: Block | None = None

    def block(self) -> Block:
        """Its `tool_result`."""
        head: Block = {"type": "tool_result", "tool_use_id": self.wire_id}
        if self.result is None:
            return {**head, "content": [_NOT_RUN], "is_error": True}
        return {**head, **self.result}


class _Turn(msgspec.Struct):
    """`closed`: a result of its calls was seen, so that what the model says next is another."""

    role: str
    content: list[Block]
    calls: list[_Call] = []
    closed: bool = False


class _Builder:
    """Grows turn by turn."""

    def __init__(self, *, system_inside: bool, properties: Mapping[str, dict[str, str]]) -> None:
        self._system_inside = system_inside
        self._properties = properties
        self._system: list[Block] = []
        self._held: list[Block] = []  # the system's words that wait for a place among the turns
        self._turns: list[_Turn] = []
        self._thinks = False
        self._results: CallResults[_Turn, _Call] = CallResults()
        self._used_ids: set[str] = set()

    def add(self, message: chat.Message, path: str) -> None:
        if isinstance(message, (chat.SystemMessage, chat.DeveloperMessage)):
            blocks = content_blocks(message.content, path, text_only=True)
            self._say_as_system(_marked(blocks, message))
        elif isinstance(message, chat.UserMessage):
            blocks = content_blocks(message.content, path)
            if not blocks:
                raise InvalidRequest(f"{path}: there is no text in it", param=path)
            self._say_as_user(_marked(blocks, message))
        elif isinstance(message, chat.AssistantMessage):
            self._assistant(message, path)
        else:
            self._result(message, path)

    def build(self, *, prefill: bool) -> Conversation:
        if not self._turns and self._system:
            # OpenAI answers a lone system message; here it has to be what the user says.
            self._say_as_user([self._system.pop()])
        if not self._turns:
            raise InvalidRequest("messages: there is no text to answer", param="messages")
        self._place_held()
        turns = self._wire_turns()
        loop_thinks = _loop_thinks(turns)
        if turns[-1]["role"] == "assistant":
            _end_with_assistant(turns, prefill=prefill)
        return Conversation(self._system, turns, self._thinks, loop_thinks)

    def _wire_turns(self) -> list[Block]:
        """The turns with the results of calls, and turns of the user where the API wants some."""
        turns: list[Block] = []
        results: list[Block] = []
        if self._turns[0].role == "assistant":
            turns.append({"role": "user", "content": [_CONTINUE]})
        for turn in self._turns:
            content = turn.content
            if results or turn.role == "user":
                if turn.role != "user":
                    turns.append({"role": "user", "content": results})
                else:
                    content = [*results, *content] or [_CONTINUE]
                results = []
            turns.append({"role": turn.role, "content": content})
            results = [call.block() for call in turn.calls]
        if results:
            turns.append({"role": "user", "content": results})
        return turns

    def _say_as_system(self, blocks: list[Block]) -> None:
        """In place, so that the beginning stays as it is in the cache."""
        if not self._turns:
            self._system += blocks
        elif self._system_inside:
            self._held += blocks
        elif blocks:
            said = [{**b, "text": said_by_system(b["text"])} for b in blocks]
            self._say_as_user(said)

    def _place_held(self) -> None:
        """A turn of the system stands behind the user's, and before the assistant's or last
        (build-with-claude/mid-conversation-system-messages, 2026-11).
        """
        if self._held:
            if self._turns[-1].role != "user":
                self._turns.append(_Turn("user", []))
            self._turns.append(_Turn("system", self._held))
            self._held = []

    def _say_as_user(self, blocks: list[Block]) -> None:
        if self._turns and self._turns[-1].role == "user":
            self._turns[-1].content += blocks
        else:
            self._turns.append(_Turn("user", blocks))

    def _assistant(self, message: chat.AssistantMessage, path: str) -> None:
        if message.audio:
            raise UnsupportedParameter(
                f"{path}.audio: Claude has no such thing", param=f"{path}.audio"
            )
        text = assistant_text(message.content) or message.refusal or ""
        blocks: list[Block] = []
        calls: list[tuple[str, _Call]] = []
        carried: list[ThinkingBlock] = []
        for index, call in enumerate(calls_of(message.tool_calls, message.function_call)):
            block, thoughts = self._call(call, f"{path}.tool_calls[{index}]")
            blocks.append(block)
            calls.append((call.id or "", _Call(block["id"])))
            carried += thoughts
        thinking = message.thinking_blocks if message.thinking_blocks else carried
        placed = _marked(_place(text, blocks, thinking), message)
        if not placed:
            return
        self._thinks = self._thinks or any(block["type"] in _THINKING for block in placed)
        last = self._turns[-1] if self._turns else None
        # Programs give each of several parallel calls a message of its own.
        if (
            last is None
            or last.role != "assistant"
            or last.closed
            or self._held
            or (last.calls and text.strip())
        ):
            self._place_held()
            last = _Turn("assistant", [])
            self._turns.append(last)
        last.content += placed
        for call_id, record in calls:
            last.calls.append(record)
            self._results.expect(record, last, call_id, _bare(call_id))

    def _call(self, call: ToolCall, path: str) -> tuple[Block, list[ThinkingBlock]]:
        function = call.as_function()
        if function is None:
            raise UnsupportedParameter(
                f"{path}.type: expected a call of a function or custom tool", param=f"{path}.type"
            )
        bare, carried = unpack(call.id or "")
        name = function.name
        arguments = function.as_object()
        if name in self._properties:
            arguments = rename_keys(arguments, self._properties[name])
        block: Block = {
            "type": "tool_use",
            "id": plain_id(bare, self._used_ids, "call_"),
            "name": wire_name(name),
            "input": msgspec.Raw(arguments),
        }
        return block, carried

    def _result(self, message: chat.ToolMessage | chat.FunctionMessage, path: str) -> None:
        call_id = message.tool_call_id or ""
        blocks = content_blocks(message.content, path)
        mark = {"cache_control": message.cache_control} if message.cache_control else {}
        found = self._results.take(call_id, _bare(call_id))
        if found is None:
            text = "\n".join(block["text"] for block in blocks if block["type"] == "text")
            others = [block for block in blocks if block["type"] != "text"]
            said = {"type": "text", "text": result_without_call(text), **mark}
            self._say_as_user([said, *others])
            return
        turn, call = found
        call.result = {**({"content": blocks} if blocks else {}), **mark}
        turn.closed = True


def _bare(call_id: str) -> str:
    """The id without what it carries."""
    return call_id.partition(THINKING)[0]


def _loop_thinks(turns: list[Block]) -> bool:
    """With a budget, thinking may go on only if each turn of the loop begins with it."""
    for turn in reversed(turns):
        kinds = {block["type"] for block in turn["content"]}
        if turn["role"] == "user":
            if "tool_result" not in kinds:
                break
        elif turn["content"][0]["type"] not in _THINKING and "tool_use" in kinds:
            return False
    return True


def _end_with_assistant(turns: list[Block], *, prefill: bool) -> None:
    last = turns[-1]["content"][-1]
    if not prefill or last["type"] != "text":
        turns.append({"role": "user", "content": [_CONTINUE]})
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
        placed += [*text_block(text[text_at:text_to]), *calls[call_at:call_to], wire]
        text_at, call_at = text_to, call_to
    placed += [*text_block(text[text_at:]), *calls[call_at:]]
    while placed and placed[-1]["type"] in _THINKING:
        placed.pop()  # the API refuses a turn that ends in thinking
    return placed


def _marked(blocks: list[Block], message: chat.Message) -> list[Block]:
    """The blocks, with the message's own mark for the cache on the last of them."""
    if blocks and message.cache_control:
        blocks[-1] = {**blocks[-1], "cache_control": message.cache_control}
    return blocks
