"""Chat chunks as the events of a Responses stream, or as one Response; and errors in its stead.

One item is open at a time. Source: platform.openai.com/docs/api-reference/responses-streaming, read
2026-11.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from ...errors import ProxyError
from .. import reasoning
from ..chat import Usage, objects, read_object
from ..chat.deltas import Call, DeltaReader
from ..chat.usage import as_object
from ..lenient_json import encode
from ..reasoning import pack
from .tools import CALLERS, Json, Tools

# A Response before anything is known of it.
_EMPTY: Final[Json] = {
    "id": "",
    "object": "response",
    "created_at": 0,
    "status": "in_progress",
    "background": False,
    "error": None,
    "incomplete_details": None,
    "model": "",
    "output": [],
    "previous_response_id": None,
    "store": False,
    "usage": None,
}
# The parameters that come back, and what they are if the caller left them out.
_GIVEN: Final[Json] = {
    **dict.fromkeys(("instructions", "max_output_tokens", "max_tool_calls", "prompt_cache_key")),
    **dict.fromkeys(("temperature", "safety_identifier", "top_p", "user")),
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "auto",
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "truncation": "disabled",
}
_NULL: Final = Raw(b"null")

# Why an answer is not complete, by chat's `finish_reason`.
INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


def usage_of(told: Usage) -> Json:
    """`usage` as this dialect has it; the input has what was cached in both."""
    prompt, completion = told.prompt_tokens or 0, told.completion_tokens or 0
    read, written = told.cached_tokens or 0, told.cache_write_tokens or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": told.reasoning_tokens or 0},
        "total_tokens": prompt + completion,
    }


def logprobs_of(choice: Json) -> list[Json]:
    """The tokens' probabilities in a choice."""
    return [
        {**_logprob(token), "top_logprobs": list(map(_logprob, objects(token.get("top_logprobs"))))}
        for token in objects(as_object(choice.get("logprobs")).get("content"))
    ]


def _logprob(token: Json) -> Json:
    defaults: Json = {"token": "", "bytes": [], "logprob": 0.0}
    return {name: token.get(name) or default for name, default in defaults.items()}


class _Cited(msgspec.Struct):
    """A page, and the characters of the whole text that it is cited for."""

    url: str
    title: str | None = None
    start_index: int | None = None
    end_index: int | None = None


def error_of(error: ProxyError, message: str) -> Json:
    """The error of a Response that failed; its codes are few (types/responses/response_error.py).

    `message`: what is said of the error where there is no status.
    """
    is_callers = 400 <= error.status < 500 and error.status != 408
    code = "invalid_prompt" if is_callers else "server_error"
    code = "rate_limit_exceeded" if error.status == 429 else code
    return {"code": code, "message": message, "type": error.type, "param": error.param}


class _Form(NamedTuple):
    """A text that comes in pieces: the type of its item, the member with the parts, one of which,
    of this `type`, has it ("": the item itself has), its events, and the member that it is.
    """

    item: str
    parts: str
    type: str
    event: str
    text: str


_FORMS: Final = {
    "text": _Form("message", "content", "output_text", "output_text", "text"),
    "refusal": _Form("message", "content", "refusal", "refusal", "refusal"),
    "thought": _Form("reasoning", "summary", "summary_text", "reasoning_summary_text", "text"),
    "function": _Form("function_call", "", "", "function_call_arguments", "arguments"),
    "custom": _Form("custom_tool_call", "", "", "custom_tool_call_input", "input"),
}
# Of a block of thinking: what else chat has in it is where it was.
_BLOCK: Final = ("type", "thinking", "signature", "data")
_PART_EVENTS: Final = {"content": "content_part", "summary": "reasoning_summary_part"}
# How ids begin: OpenAI refuses others in an input.
_IDS = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}
_IDS |= {"local_shell_call": "lsh", "shell_call": "sh", "apply_patch_call": "apc"}
_IDS |= {"image_generation_call": "ig"}


class Events(DeltaReader):
    """One answer to a request with these `fields`, in events that are numbered without a gap."""

    # Of the text that is open: what has it, what is told of it in all its events, and its pieces.
    _part: Json
    _place: Json
    _texts: list[str]
    _delta: tuple[bytes, bytes]  # what is before a piece, and behind it up to the number

    def __init__(self, model: str, fields: dict[str, Raw], tools: Tools) -> None:
        super().__init__()
        self._token = os.urandom(16).hex()  # all ids are made of it
        self._output: list[Json] = []
        own = {"id": f"resp_{self._token}", "model": model, "output": self._output}
        given = {name: value for name, value in fields.items() if name in _GIVEN and value != _NULL}
        self.answer = {**_EMPTY, **own, **_GIVEN, **given}
        self._tools = tools
        self._number = 0  # of the next event
        self._status = "completed"  # of items that end
        self._chars = 0  # of text, in all parts that are over
        self._item: Json | None = None  # that is open
        self._kind = ""  # of its text that is open

    def _finish(self) -> None:
        self._begin({})
        why = INCOMPLETE.get(str(self._ending.get("finish_reason")))
        self._status = "incomplete" if why else "completed"
        self._end_turns()
        if not self._output:  # an answer that says nothing is a message all the same
            self._open_text("text")
        self._close()
        usage = usage_of(self.usage or Usage())  # SDKs do not do without
        details = {"reason": why} if why else None
        self.answer |= {"status": self._status, "incomplete_details": details, "usage": usage}

    def _send_last(self) -> None:
        self._send(self._status, response=self.answer)

    def fail(self, error: ProxyError, message: str) -> bytes:
        """The end of one that is not whole."""
        self._begin({})
        usage = None if self.usage is None else usage_of(self.usage)
        self.answer |= {"status": "failed", "error": error_of(error, message), "usage": usage}
        self._send("failed", response=self.answer)
        return self._written()

    def _send(self, name: str, **members: Any) -> None:
        super()._send(f"response.{name}", **members, sequence_number=self._number)
        self._number += 1

    def _start(self, chunk: Json) -> None:
        created = chunk.get("created")
        self.answer["created_at"] = created if isinstance(created, (int, float)) else 0
        for name in ("created", "in_progress"):
            self._send(name, response=self.answer)

    # What chunks say

    def _take(self, delta: Json, choice: Json) -> None:
        for each in _apart(delta) if "thinking_blocks" in delta else (delta,):
            super()._take(each, choice)
        if extra := delta.get("extra_content"):
            self._once_free(self._keep, "message", extra)

    def _take_more(self, delta: Json) -> None:
        for block in objects(delta.get("thinking_blocks")):
            self._once_free(self._keep, "block", block)
        if self._kind == "text":
            for annotation in objects(delta.get("annotations")):
                with suppress(msgspec.ValidationError):
                    self._cite(msgspec.convert(annotation.get("url_citation"), _Cited))
        for image in objects(delta.get("images")):
            self._once_free(self._show, image)

    def _say(self, kind: str, text: str, choice: Json) -> None:
        if self._kind != kind:
            self._open_text(kind)
        if kind == "text" and choice.get("logprobs") and (logprobs := logprobs_of(choice)):
            self._texts.append(text)
            self._part["logprobs"] += logprobs
            self._send("output_text.delta", **self._place, delta=text, logprobs=logprobs)
        else:
            self._write(text)

    def _keep(self, what: str, signed: Any) -> None:
        """Give out signed reasoning: in the item whose text went before, or in one of its own."""
        sealed = packed(self._tools.kind, **{what: signed})
        if sealed is not None:
            if self._item is None or self._item["type"] != "reasoning":
                self._item = self._open("reasoning", summary=[])
            self._item["encrypted_content"] = sealed
            self._close()

    def _cite(self, cited: _Cited) -> None:
        found = self._part["annotations"]
        annotation = {
            "type": "url_citation",
            "start_index": max(0, (cited.start_index or 0) - self._chars),
            "end_index": max(0, (cited.end_index or 0) - self._chars),
            "title": cited.title or cited.url,
            "url": cited.url,
        }
        more = {"annotation": annotation, "annotation_index": len(found)}
        found.append(annotation)
        self._send("output_text.annotation.added", **self._place, **more)

    def _show(self, image: Json) -> None:
        """An image that the model made, if it is here."""
        found = image.get("image_url")
        _, mark, data = str(as_object(found).get("url", found)).partition(";base64,")
        if mark:
            self._open("image_generation_call", result=data)
            self._close()

    # Items

    def _open(self, kind: str, **members: Any) -> Json:
        """A new item, announced."""
        self._close()
        at = len(self._output)
        item_id = f"{_IDS[kind]}_{self._token}_{at}"
        self._item = item = {"type": kind, "id": item_id, "status": "in_progress", **members}
        self._output.append(item)
        self._send("output_item.added", output_index=at, item=item)
        return item

    def _close(self) -> None:
        item = self._item
        if item is not None:
            self._close_text()
            if item["type"] == "reasoning":
                item.setdefault("encrypted_content", packed(self._tools.kind))
            item["status"] = self._status
            self._send("output_item.done", output_index=len(self._output) - 1, item=item)
            self._item = None

    def _open_text(self, kind: str, **members: Any) -> None:
        """Begin a text, in the open item if it is of that kind."""
        form, item = _FORMS[kind], self._item
        if item is None or item["type"] != form.item:
            role = {"role": "assistant"} if form.item == "message" else {}
            text = [] if form.parts else ""
            item = self._open(form.item, **role, **members, **{form.parts or form.text: text})
        self._close_text()
        self._kind, self._part, self._texts = kind, item, []
        self._place = {"item_id": item["id"], "output_index": len(self._output) - 1}
        logprobs = b""
        if form.parts:
            self._part = {"type": form.type, form.text: ""}
            if kind == "text":
                self._part |= {"annotations": [], "logprobs": []}
                logprobs = b',"logprobs":[]'
            self._place[f"{form.parts}_index"] = len(item[form.parts])
            item[form.parts].append(self._part)
            self._send(f"{_PART_EVENTS[form.parts]}.added", **self._place, part=self._part)
        name = f"response.{form.event}.delta"
        data = encode({"type": name, **self._place})[:-1]
        head = b'event: %b\ndata: %b,"delta":' % (name.encode(), data)
        self._delta = (head, logprobs + b',"sequence_number":')

    def _write(self, text: str) -> None:
        """A delta: what an answer has most of. Calls that can only be told whole have none."""
        if self._kind:
            self._texts.append(text)
            head, tail = self._delta
            self._out.append(head + encode(text) + tail + b"%d}\n\n" % self._number)
            self._number += 1

    def _close_text(self) -> None:
        if not self._kind:
            return
        form, text = _FORMS[self._kind], "".join(self._texts)
        self._part[form.text] = text
        more = {}
        if self._kind == "text":
            self._chars += len(text)
            more = {"logprobs": self._part["logprobs"]}
        self._send(f"{form.event}.done", **self._place, **{form.text: text}, **more)
        if form.parts:
            self._send(f"{_PART_EVENTS[form.parts]}.done", **self._place, part=self._part)
        self._kind = ""

    # Calls

    def _open_call(self, call: Call) -> None:
        self._close()
        if call.signed:
            self._keep("call", call.signed)
        if self._tools.meant(call.name).kind == "function":
            self._open_arguments(call, "function", "".join(call.pieces) or "{}")

    def _close_call(self, call: Call) -> None:
        if self._item is None:  # what it is to the caller is known once it is whole
            meant, text = self._tools.meant(call.name), "".join(call.pieces)
            if meant.kind == "custom":
                free = read_object(text.encode()).get("input")  # else it is no call of that tool
                self._open_arguments(call, "custom", free if isinstance(free, str) else text)
            elif made := _made(meant.kind, text):
                self._open(f"{meant.kind}_call", call_id=self._call_id(call), **made)
            else:
                self._open_arguments(call, "function", text or "{}")
        self._close()

    def _open_arguments(self, call: Call, kind: str, text: str) -> None:
        named = self._tools.meant(call.name).named
        self._open_text(kind, call_id=self._call_id(call), **named)
        if text:
            self._write(text)

    def _call_id(self, call: Call) -> str:
        return reasoning.bare(call.id) or f"call_{self._token}_{len(self._output)}"


def _apart(delta: Json) -> Iterator[Json]:
    """The message of a unary answer in the order in which it was made; a mere delta as it is.

    Blocks of thinking say how much text and how many calls came before them.
    """
    blocks, calls = objects(delta.get("thinking_blocks")), objects(delta.get("tool_calls"))
    content = delta.get("content") or ""
    says_more = content or calls or delta.get("refusal")
    if not blocks or not says_more or not isinstance(content, str):
        yield delta
        return
    text_at = call_at = 0
    for block in blocks:
        text_to, call_to = (
            offset if isinstance(offset := block.get(name), int) else 0
            for name in ("content_offset", "tool_call_offset")
        )
        yield {"content": content[text_at:text_to], "tool_calls": calls[call_at:call_to]}
        yield {"reasoning_content": block.get("thinking"), "thinking_blocks": [block]}
        text_at, call_at = text_to, call_to
    rest = {**delta, "reasoning_content": None, "reasoning": None, "thinking_blocks": None}
    yield {**rest, "content": content[text_at:], "tool_calls": calls[call_at:]}


def packed(kind: str, **signed: Any) -> str | None:
    """The `encrypted_content` of what this kind of client signed, a container (`wire.reasoning`).

    Its payload is JSON with one member at most: a `block` of Claude's thinking, or Google's extra
    field of the `call` that follows or of the `message` before. Without any it is text, which some
    of OpenAI's look-alikes want back; that stands in the item's `summary`. None: it is too large,
    or nobody wants it back.
    """
    if isinstance(block := signed.get("block"), dict):
        signed = {"block": {name: block[name] for name in _BLOCK if block.get(name)}}
    return pack(kind, encode(signed)) if signed or kind == "openai" else None


def _made(kind: str, arguments: str) -> Json | None:
    """What the caller is to run; None: it is none of those tools, or not as its item has it."""
    with suppress(KeyError, msgspec.DecodeError, RecursionError):
        shape, member = CALLERS[kind]
        return {member: msgspec.to_builtins(msgspec.json.decode(arguments, type=shape))}
    return None
