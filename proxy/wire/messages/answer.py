"""Chunks of a chat completion as the events of a Message's stream, or as one Message; and errors.

One block is open at a time (build-with-claude/streaming). Anthropic's envelope of errors:
platform.claude.com/docs/en/api/errors. Both read 2026-11.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from ...errors import ProxyError, UpstreamRefusal
from ..chat import Usage, objects, read_object
from ..chat.deltas import Call, DeltaReader
from ..chat.errors import bounded
from ..chat.shapes import FunctionCall
from ..chat.usage import as_text
from ..lenient_json import encode
from ..made_names import plain_id
from ..reasoning import bare, pack
from ..sse import named

Json = dict[str, Any]

_NOT_IN_ID = re.compile(r"[^a-zA-Z0-9_]")

_STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal"}

# By status.
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

# By the type of a block: that of its deltas, and the member with the pieces.
_DELTAS: Final = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    "tool_use": (b"input_json_delta", b"partial_json"),
}


def usage_of(told: Usage | None) -> Json:
    """`usage` of a Message. Here the tokens of the prompt leave out what was cached."""
    told = told or Usage()
    read, written = told.cached_tokens or 0, told.cache_write_tokens or 0
    counts: Json = {
        "input_tokens": max(0, (told.prompt_tokens or 0) - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": told.completion_tokens or 0,
    }
    if told.reasoning_tokens:
        counts["output_tokens_details"] = {"thinking_tokens": told.reasoning_tokens}
    return counts


def events_of(body: bytes) -> list[bytes]:
    """A whole Message as the events of a stream."""
    message = read_object(body)
    told = {name: message.pop(name, None) for name in ("stop_reason", "stop_sequence")}
    empty = {**message, "content": [], **dict.fromkeys(told)}
    events: list[Json] = [{"type": "message_start", "message": empty}]
    for at, block in enumerate(objects(message.get("content"))):
        deltas: list[Json] = []
        for name in ("text", "thinking", "signature"):  # each comes in deltas of its own
            if isinstance(whole := block.get(name), str):
                deltas.append({"type": f"{name}_delta", name: whole})
                block[name] = ""
        if "input" in block:
            whole = encode(block["input"]).decode()
            deltas.append({"type": "input_json_delta", "partial_json": whole})
            block["input"] = {}
        events.append({"type": "content_block_start", "index": at, "content_block": block})
        events += ({"type": "content_block_delta", "index": at, "delta": one} for one in deltas)
        events.append({"type": "content_block_stop", "index": at})
    events.append({"type": "message_delta", "delta": told, "usage": message.get("usage") or {}})
    return [named(encode(one), one["type"].encode()) for one in [*events, {"type": "message_stop"}]]


def error_body(error: ProxyError, request_id: str = "", *, message: str = "") -> bytes:
    """An error's answer: of a refusal by Claude itself the bytes that it sent."""
    if isinstance(error, UpstreamRefusal) and error.as_sent is not None:
        return error.as_sent
    said = bounded(message or error.message)
    told = {"type": _ERROR_TYPES.get(error.status, "api_error"), "message": said}
    return msgspec.json.encode({"type": "error", "error": told, "request_id": request_id or None})


class MessageStream(DeltaReader):
    """The events of a Message, and the Message, which is there from the first chunk on.

    `stops`: the request's sequences. `thinks`: the caller wants thinking; `shows`: its text, too
    (`thinking.display`). `kind`: that of the client that answers.
    """

    _pieces: list[str]  # of the open block
    _delta: bytes  # what its deltas begin with

    def __init__(
        self, model: str, *, stops: Sequence[str], thinks: bool, shows: bool, kind: str
    ) -> None:
        super().__init__()
        self._model = model
        self._stops = stops
        self._thinks, self._shows = thinks, shows
        self._kind = kind
        self._block: Json | None = None  # the one that is open
        self._thoughts: list[str] = []  # that no block has
        self._used: set[str] = set()  # ids
        self._signed: object = None  # what signs the text

    def _finish(self) -> None:
        self._begin({})
        self._end_turns()
        self._close()
        if self._signed is not None and (self._calls or self._thinks):
            self._open_thoughts()
            self._close(self._signed)
        reason = _STOP_REASONS.get(as_text(self._ending.get("finish_reason")))
        reason = reason or ("tool_use" if self._calls else "end_turn")
        stopped_by = self._ending.get("stop_reason")  # some servers tell the sequence: vLLM
        if stopped_by in self._stops:
            reason = "stop_sequence"
        else:
            stopped_by = None
        usage = usage_of(self.usage)
        self.answer |= {"stop_reason": reason, "stop_sequence": stopped_by, "usage": usage}

    def _send_last(self) -> None:
        told = {name: self.answer[name] for name in ("stop_reason", "stop_sequence")}
        self._send("message_delta", delta=told, usage=self.answer["usage"])
        self._send("message_stop")

    def _start(self, chunk: Json) -> None:
        """Its id is the completion's, or made where that has none."""
        tail = str(chunk.get("id") or "").rpartition("-")[2]
        tail = _NOT_IN_ID.sub("", tail).removeprefix("msg_")[:64]
        self.answer = {
            "id": f"msg_{tail or uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_of(None),
        }
        self._send("message_start", message=self.answer)

    # Thoughts and text

    def _say(self, kind: str, text: str, choice: Json) -> None:
        if kind == "thought":
            self._thoughts.append(text)
            if not self._shows:
                return
            if not self._is_open("thinking"):
                self._open_thoughts()
        elif not self._is_open("text"):
            self._settle_thoughts(None)
            self._open({"type": "text", "text": ""})
        self._write(text)

    def _take_more(self, delta: Json) -> None:
        self._signed = delta.get("extra_content") or self._signed

    def _open_thoughts(self) -> None:
        self._open({"type": "thinking", "thinking": "", "signature": ""})

    def _settle_thoughts(self, signed: object, *, for_call: bool = False) -> None:
        """End the thoughts that came before a block, which they may sign. Where they are not shown,
        a block is due only if the caller knows thinking, or the upstream wants it with a call.
        """
        is_wanted = self._thinks or (for_call and self._kind != "gemini")
        is_due = signed is not None or (self._thoughts and is_wanted)
        if is_due and not self._is_open("thinking"):
            self._open_thoughts()
        self._close(signed)

    def _signature(self, signed: object) -> str:
        """A container with what signs the block behind the thoughts, without that if it is too
        large. Where nothing does, what an OpenAI-compatible server wants back is the text, if it is
        not shown.
        """
        payload = b""
        if signed is not None:
            payload = encode(signed)
        elif self._kind != "gemini" and not self._shows:
            payload = "".join(self._thoughts).encode()
        return pack(self._kind, payload) or pack(self._kind, b"") or ""

    # Calls

    def _open_call(self, call: Call) -> None:
        self._settle_thoughts(call.signed, for_call=True)
        call_id = plain_id(bare(call.id), self._used, "toolu_")
        self._open({"type": "tool_use", "id": call_id, "name": call.name, "input": {}})
        for piece in call.pieces:
            self._write(piece)

    def _close_call(self, call: Call) -> None:
        self._close()

    # Blocks

    def _is_open(self, kind: str) -> bool:
        return self._block is not None and self._block["type"] == kind

    def _open(self, block: Json) -> None:
        self._close()
        content = self.answer["content"]
        self._send("content_block_start", index=len(content), content_block=block)
        self._delta = (
            b"event: content_block_delta\n"
            b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (len(content), *_DELTAS[block["type"]])
        )
        content.append(block)
        self._block, self._pieces = block, []

    def _write(self, piece: str) -> None:
        """A delta: what an answer has most of."""
        self._pieces.append(piece)
        self._out.append(self._delta + encode(piece) + b"}}\n\n")

    def _close(self, signed: object = None) -> None:
        block, self._block = self._block, None
        if block is None:
            return
        index, text = len(self.answer["content"]) - 1, "".join(self._pieces)
        if block["type"] == "tool_use":
            block["input"] = Raw(FunctionCall("", Raw(msgspec.json.encode(text))).as_object())
        else:
            block[block["type"]] = text
        if block["type"] == "thinking":
            block["signature"] = made = self._signature(signed)
            self._thoughts.clear()
            delta = {"type": "signature_delta", "signature": made}
            self._send("content_block_delta", index=index, delta=delta)
        self._send("content_block_stop", index=index)
