"""The event stream of the Messages API to chat.completion.chunk objects.

Events: platform.claude.com/docs/en/build-with-claude/streaming, read 2026-11. Unknown ones are read
over. Nothing goes out for `message_start` without content: until there is some, a failure can still
move to another client. The chunk with `finish_reason` waits for the end, `message_stop` or, if a
`stop_reason` was told, the end of the stream: so an answer that was cut off never looks whole, and
one whose last event is missing (seen at Anthropic, tombii/better-ccflare#307) is not lost.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...errors import UpstreamInvalid, UpstreamTruncated
from ..chat import Usage
from ..chat.made import ChunkMaker
from ..reasoning import BLOCKS
from ..sse import DONE
from .api import UNREADABLE, refusal_of_event
from .reply import Block, Counts, Ending, Said, StopDetails


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
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Open(msgspec.Struct):
    """A block that has started. `call`: the index of its call."""

    block: Block
    call: int
    thoughts: list[str]
    has_arguments: bool = False


_NULL = msgspec.Raw(b"null")
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
        self._counts: Counts | None = None
        self._open: dict[int, _Open] = {}
        self._ending = Ending()
        self._has_role = False
        self._set_id("chatcmpl-")

    @property
    def usage(self) -> Usage | None:
        """The tokens, as far as the answer told them by now."""
        return None if self._counts is None else self._counts.told()

    def _take(self, data: bytes, chunks: list[bytes]) -> None:
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
            elif event.type == "error":
                raise refusal_of_event(None if event.error is msgspec.UNSET else event.error)
            elif event.error is not msgspec.UNSET and event.error != _NULL:
                raise refusal_of_event(event.error)  # a look-alike's, in its own shape
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
        self._counts = self._counts or Counts()
        self._counts.update(usage or Counts())

    def _take_delta(self, index: int, delta: _Delta, chunks: list[bytes]) -> None:
        if delta.type == "text_delta":
            if delta.text:
                self._add_text(delta.text, chunks)
            return
        opened = self._open.get(index)
        if opened is None:
            return
        if delta.type == "input_json_delta":
            # Of a call on the server's side (`server_tool_use`, `mcp_tool_use`) nothing is shown.
            if delta.partial_json and opened.block.type == "tool_use":
                self._add_arguments(opened, delta.partial_json, chunks)
        elif delta.type == "thinking_delta":
            if delta.thinking:
                opened.thoughts.append(delta.thinking)
                self._add({"reasoning_content": delta.thinking}, chunks)
        elif delta.type == "signature_delta":
            opened.block.signature = (opened.block.signature or "") + (delta.signature or "")

    def _start_block(self, index: int, block: Block, chunks: list[bytes]) -> None:
        self._stop_block(index, chunks)
        said = self._said
        opened = _Open(block, said.calls, [block.thinking or ""])
        self._open[index] = opened
        if block.type == "text" and block.text:
            self._add_text(block.text, chunks)
        elif block.type == "thinking" and block.thinking:
            self._add({"reasoning_content": block.thinking}, chunks)
        elif block.type == "tool_use":
            call = {"index": opened.call, **said.call(block)}
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

    def _end(self, chunks: list[bytes]) -> None:
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
            chunks.append(self._usage_chunk((self._counts or Counts()).to_chat()))

    def _set_id(self, chunk_id: str) -> None:
        """Prepare what is the same in all chunks around the members of the delta, too."""
        super()._set_id(chunk_id)
        self._before = self._head + b'{"index":0,"delta":'
        self._behind = b'},"logprobs":null,"finish_reason":null}' + self._tail
