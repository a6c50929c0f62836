"""Answers of the Messages API as chat completions, events of its streams as their chunks.

Beyond OpenAI's fields the message has `reasoning_content` (the thinking that may be shown) and
`thinking_blocks` (thinking.py), each only if there is something in it.

Blocks, deltas and events are read leniently, each as one struct for all types: the API adds types
within a version, and clients have to read over those that they don't know (docs/en/api/versioning,
2026-11).

Of a stream (docs/en/build-with-claude/streaming, 2026-11) nothing goes out for `message_start`
without content: until there is some, a failure can still move to another client. The chunk with
`finish_reason` waits for the end, `message_stop` or, if a `stop_reason` was told, the end of the
stream: so an answer that was cut off never looks whole, and one whose last event is missing (seen
at Anthropic, tombii/better-ccflare#307) is not lost.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...errors import UpstreamInvalid, UpstreamTruncated
from ..chat import Usage, usage_object
from ..chat.made import Asked, ChunkMaker, completion
from ..made_names import plain_name
from ..reasoning import BLOCKS
from ..sse import DONE
from .api import NO_ERROR, UNREADABLE, hidden_refusal, refusal_of_event
from .thinking import ThinkingBlock, carry


class Block(msgspec.Struct):
    """A content block, or the delta of one; look-alikes send null for what it does not have."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")
    partial_json: str | None = None

    def arguments(self) -> bytes:
        """The input of a call, whole."""
        raw = bytes(self.input)
        return b"{}" if raw == b"null" else raw


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class Counts(msgspec.Struct):
    """Claude's counts: `input_tokens` leaves out what was read from or written to the cache."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None

    def update(self, later: Counts) -> None:
        """Take over what `later` says: counts are cumulative, what is left out stays."""
        for name in self.__struct_fields__:
            if (value := getattr(later, name)) not in (None, _OutputDetails()):
                setattr(self, name, value)

    def told(self) -> Usage:
        """As OpenAI counts: the prompt holds what was cached."""
        read, written = self.cache_read_input_tokens, self.cache_creation_input_tokens
        details = self.output_tokens_details or _OutputDetails()
        prompt = (self.input_tokens or 0) + (read or 0) + (written or 0)
        return Usage(prompt, self.output_tokens or 0, read, written, details.thinking_tokens)

    def to_chat(self) -> dict[str, Any]:
        """The object `usage` of a chat completion."""
        told = self.told()
        return usage_object(told, cache_write_tokens=told.cache_write_tokens or 0)


class StopDetails(msgspec.Struct):
    """Of a refusal: platform.claude.com/docs/en/api/messages, `stop_details`."""

    category: str | None = None
    explanation: str | None = None


# What is not here (end_turn, stop_sequence, pause_turn and those to come) is a plain end.
_FINISH_REASONS = {
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


class Ending(msgspec.Struct):
    """How an answer ended: the fields of a message and of the delta at a stream's end."""

    stop_reason: str | None = None
    stop_details: StopDetails | None = None

    def finish_reason(self, *, has_calls: bool) -> str:
        """OpenAI's word for it."""
        finish = _FINISH_REASONS.get(self.stop_reason or "", "stop")
        return "tool_calls" if finish == "stop" and has_calls else finish

    def refusal(self) -> str | None:
        """What to tell the caller if the safety classifiers stopped the answer."""
        if self.stop_reason != "refusal":
            return None
        details = self.stop_details or StopDetails()
        category = f" ({details.category})" if details.category else ""
        return details.explanation or f"The model's safety system stopped this answer{category}."


class Said:
    """What an answer said up to now, as far as what follows depends on it."""

    def __init__(self, request: bytes) -> None:
        self._asked = Asked(request, plain_name)
        self.text_chars = 0
        self.calls = 0
        self._thinking: list[ThinkingBlock] = []
        self._carried = 0  # so many of _thinking are in the id of a call

    def think(self, block: Block) -> ThinkingBlock:
        """The block, whole, as it goes to the caller."""
        fields = ("data",) if block.type == "redacted_thinking" else ("thinking", "signature")
        shown = ThinkingBlock(
            type=block.type or "",
            index=len(self._thinking),
            content_offset=self.text_chars,
            tool_call_offset=self.calls,
            **{name: getattr(block, name) or "" for name in fields},
        )
        self._thinking.append(shown)
        return shown

    def call(self, block: Block) -> dict[str, Any]:
        """The call of a tool, without its arguments."""
        carried = self._thinking[self._carried :]
        self._carried = len(self._thinking)
        self.calls += 1
        function = {"name": self._asked.name(block.name or ""), "arguments": ""}
        return {"id": carry(block.id or "", carried), "type": "function", "function": function}


class _Whole(Ending, kw_only=True):
    type: str
    content: list[Block] | None
    id: str | None = None
    usage: Counts | None = None


_decode_whole = msgspec.json.Decoder(_Whole).decode


def to_chat(body: bytes, *, model: str, created: int, request: bytes = b"{}") -> bytes:
    """The chat.completion for `body`, to a chat request; `created` is in Unix seconds. Look-alikes
    send null for content and usage. Raises UpstreamInvalid, UpstreamRefusal for an error object.
    """
    try:
        message = _decode_whole(body)
        if message.type != "message":
            raise UpstreamInvalid(f"the upstream answered with a {message.type[:80]!r}")
        said = Said(request)
        choice = {"index": 0, "message": _chat_message(message, said), "logprobs": None}
        choice["finish_reason"] = message.finish_reason(has_calls=said.calls > 0)
        usage, answer_id = (message.usage or Counts()).to_chat(), f"chatcmpl-{message.id or ''}"
        return completion(answer_id, [choice], usage, model=model, created=created)
    except UNREADABLE as error:
        if (refusal := hidden_refusal(body)) is not None:
            raise refusal from error
        raise UpstreamInvalid(f"the upstream's answer is no message: {error}") from error


def _chat_message(message: _Whole, said: Said) -> dict[str, Any]:
    """The assistant's message, without the blocks of server tools and others unknown to OpenAI."""
    text = reasoning = ""
    calls: list[dict[str, Any]] = []
    thinking: list[ThinkingBlock] = []
    for block in message.content or ():
        if block.type == "text":
            text += block.text or ""
            said.text_chars = len(text)
        elif block.type in BLOCKS:
            reasoning += block.thinking or ""
            thinking.append(said.think(block))
        elif block.type == "tool_use":
            call = said.call(block)
            call["function"]["arguments"] = block.arguments().decode()
            calls.append(call)
    refusal = message.refusal()
    extras = {"tool_calls": calls, "reasoning_content": reasoning, "thinking_blocks": thinking}
    return {
        "role": "assistant",
        "content": text or (None if calls or refusal else ""),
        "refusal": refusal,
        **{name: value for name, value in extras.items() if value},
    }


class _Start(Ending):
    id: str | None = None
    usage: Counts | None = None
    content: list[Block] | None = None


class _Delta(Block):
    """A block's delta or, in `message_delta`, the message's."""

    stop_reason: str | None = None
    stop_details: StopDetails | None = None


class _Event(msgspec.Struct):
    type: str | None = None
    index: int | None = None
    delta: _Delta | None = None
    content_block: Block | None = None
    message: _Start | None = None
    usage: Counts | None = None
    error: msgspec.Raw = NO_ERROR


class _Open(msgspec.Struct):
    """A block that has started. `call`: the index of its call."""

    block: Block
    call: int
    thoughts: list[str]
    has_arguments: bool = False


_decode = msgspec.json.Decoder(_Event).decode
_encode = msgspec.json.Encoder().encode


class ChatStream(ChunkMaker):
    """`request`: the body of the chat request that it answers."""

    def __init__(
        self, *, model: str, created: int, include_usage: bool, request: bytes = b"{}"
    ) -> None:
        super().__init__(model=model, created=created, include_usage=include_usage)
        self._said = Said(request)
        self._message_id: str | None = None
        self._counts = Counts()
        self.usage: Usage | None = None  # the tokens, as far as the answer told them by now
        self._open: dict[int, _Open] = {}
        self._ending = Ending()
        self._has_role = False
        self._set_id("chatcmpl-")

    def feed(self, data: bytes, chunks: list[bytes]) -> None:
        try:
            event = _decode(data)
            if event.type == "content_block_delta":
                if event.delta is not None:
                    self._take_delta(event.index or 0, event.delta, chunks)
            elif event.type == "content_block_start":
                if event.content_block is not None:
                    self._start_block(event.index or 0, event.content_block, chunks)
            elif event.type == "content_block_stop":
                self._stop_block(event.index or 0, chunks)
            elif event.type == "message_start":
                if event.message is not None:
                    self._start(event.message, chunks)
            elif event.type == "message_delta":
                self._count(event.usage)
                if event.delta is not None:
                    self._note_end(event.delta)
            elif event.type == "message_stop":
                self._stop(chunks)
            elif event.type == "error" or event.error != NO_ERROR:  # look-alikes have no type
                raise refusal_of_event(event.error)
        except UNREADABLE as error:
            # Some look-alikes send OpenAI's end mark.
            if data.strip() != DONE or self._ending.stop_reason is None:
                what = f"the upstream sent an unreadable event: {error}"
                raise UpstreamInvalid(what) from error
            self._stop(chunks)

    def _start(self, message: _Start, chunks: list[bytes]) -> None:
        """Take over what the message has already: usage, and with look-alikes content too."""
        message_id = message.id or ""
        if self._message_id is not None:
            if message_id not in ("", self._message_id):
                raise UpstreamTruncated("the upstream's message was cut off by another one")
            return
        self._message_id = message_id
        self._set_id(f"chatcmpl-{message_id}")
        self._count(message.usage)
        for block in message.content or ():
            self._start_block(-1, block, chunks)
        self._stop_block(-1, chunks)
        self._note_end(message)

    def _note_end(self, told: _Start | _Delta) -> None:
        """Keep why the answer ended; a later event that does not say it changes nothing."""
        if told.stop_reason is not None:
            self._ending = Ending(told.stop_reason, told.stop_details)

    def _count(self, usage: Counts | None) -> None:
        self._counts.update(usage or Counts())
        self.usage = self._counts.told()

    def _take_delta(self, index: int, delta: _Delta, chunks: list[bytes]) -> None:
        opened = self._open.get(index)
        if delta.type == "text_delta" and delta.text:
            self._add_text(delta.text, chunks)
        elif opened is None:
            return
        elif delta.type == "input_json_delta" and delta.partial_json:
            # Of a call on the server's side (`server_tool_use`, `mcp_tool_use`) nothing is shown.
            if opened.block.type == "tool_use":
                self._add_arguments(opened, delta.partial_json, chunks)
        elif delta.type == "thinking_delta" and delta.thinking:
            opened.thoughts.append(delta.thinking)
            self._add({"reasoning_content": delta.thinking}, chunks)
        elif delta.type == "signature_delta":
            opened.block.signature = (opened.block.signature or "") + (delta.signature or "")

    def _start_block(self, index: int, block: Block, chunks: list[bytes]) -> None:
        self._stop_block(index, chunks)
        opened = self._open[index] = _Open(block, self._said.calls, [block.thinking or ""])
        if block.type == "text" and block.text:
            self._add_text(block.text, chunks)
        elif block.type == "thinking" and block.thinking:
            self._add({"reasoning_content": block.thinking}, chunks)
        elif block.type == "tool_use":
            call = {"index": opened.call, **self._said.call(block)}
            self._add({"tool_calls": [call]}, chunks)

    def _stop_block(self, index: int, chunks: list[bytes]) -> None:
        opened = self._open.pop(index, None)
        if opened is None:
            return
        block = opened.block
        if block.type in BLOCKS:
            block.thinking = "".join(opened.thoughts)
            self._add({"thinking_blocks": [self._said.think(block)]}, chunks)
        elif block.type == "tool_use" and not opened.has_arguments:
            self._add_arguments(opened, block.arguments().decode(), chunks)

    def _add_arguments(self, opened: _Open, text: str, chunks: list[bytes]) -> None:
        opened.has_arguments = True
        self._add({"tool_calls": [{"index": opened.call, "function": {"arguments": text}}]}, chunks)

    def _add_text(self, text: str, chunks: list[bytes]) -> None:
        self._said.text_chars += len(text)
        if self._has_role:
            chunks.append(self._before + b'{"content":' + _encode(text) + self._behind)
        else:
            self._add({"content": text}, chunks)

    def _add(self, delta: dict[str, Any], chunks: list[bytes]) -> None:
        if not self._has_role:
            self._has_role = True
            # Null, not "": the content of an answer that is only a call is null in OpenAI's too.
            delta = {"role": "assistant", "content": None, **delta}
        chunks.append(self._before + _encode(delta)[:-1] + self._behind)

    def finish(self, chunks: list[bytes]) -> None:
        if self._ending.stop_reason is None:
            raise UpstreamTruncated("the upstream's stream ended before message_stop")
        self._stop(chunks)

    def _stop(self, chunks: list[bytes]) -> None:
        for index in list(self._open):
            self._stop_block(index, chunks)
        self.is_over = True
        refusal = self._ending.refusal()
        delta: dict[str, Any] = {} if refusal is None else {"refusal": refusal}
        if not self._has_role:
            delta = {"role": "assistant", "content": None if refusal else "", **delta}
        finish_reason = self._ending.finish_reason(has_calls=self._said.calls > 0)
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunks.append(self._chunk(choice))
        if self._include_usage:
            chunks.append(self._usage_chunk(self._counts.to_chat()))

    def _set_id(self, chunk_id: str) -> None:
        """Prepare what is the same in all chunks around the members of the delta, too."""
        super()._set_id(chunk_id)
        self._before = self._head + b'{"index":0,"delta":'
        self._behind = b'},"logprobs":null,"finish_reason":null}' + self._tail
