"""Chat chunks as the events of a Responses stream, or as one Response.

Source: platform.openai.com/docs/api-reference/responses-streaming, read 2026-11. An item ends when
another one begins. Calls are the exception: chat upstreams may mix the arguments of parallel calls,
so one whose arguments are no whole JSON yet stays open beside the next.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from ...errors import ProxyError, UpstreamInvalid
from .. import call_ids
from ..chat import Usage, objects, read_object
from ..chat.usage import read_usage
from ..lenient_json import encode
from . import reasoning
from .answer import INCOMPLETE, citation_of, error_of, logprobs_of, opening, usage_of
from .tools import CALLERS, Json, Tools


class _Form(NamedTuple):
    """A text that comes in pieces: the item and its member that it stands in, and its events.

    `parts`: the member with the parts, one of which has it; "": the item itself does.
    """

    item: str
    parts: str
    event: str
    text: str


_FORMS: Final = {
    "output_text": _Form("message", "content", "output_text", "text"),
    "refusal": _Form("message", "content", "refusal", "refusal"),
    "summary_text": _Form("reasoning", "summary", "reasoning_summary_text", "text"),
    "arguments": _Form("function_call", "", "function_call_arguments", "arguments"),
    "input": _Form("custom_tool_call", "", "custom_tool_call_input", "input"),
}
_PART_EVENTS: Final = {"content": "content_part", "summary": "reasoning_summary_part"}
# How ids begin: OpenAI refuses others in an input.
_IDS: Final = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "local_shell_call": "lsh",
    "shell_call": "sh",
    "apply_patch_call": "apc",
    "image_generation_call": "ig",
}


class _Item(msgspec.Struct):
    """An item that is open. `kind`: that of its open text, whose `place` all its events tell."""

    item: Json
    at: int
    kind: str = ""
    part: Json = {}
    place: Json = {}
    texts: list[str] = []
    head: bytes = b""  # of a delta, up to its text
    tail: bytes = b""  # behind it, up to the number


class _Call(msgspec.Struct):
    """A call that is open. `pieces`: of its arguments, until its `item` is announced."""

    id: str = ""
    name: str = ""
    pieces: list[str] = []
    item: _Item | None = None

    @property
    def is_whole(self) -> bool:
        """Whether its arguments are JSON: as far as can be told, nothing more will come."""
        try:
            msgspec.json.decode("".join(self.item.texts if self.item else self.pieces))
        except (ValueError, RecursionError):
            return False
        return True


class Events:
    """One answer. What is written are whole events, numbered without a gap.

    `kind`: that of the client that answers.
    """

    def __init__(self, model: str, fields: dict[str, Raw], tools: Tools, kind: str = "") -> None:
        self._token = os.urandom(16).hex()
        self._response = opening(model, fields, self._token)
        self._output: list[Json] = self._response["output"]
        self._tools = tools
        self._kind = kind
        self._number = 0  # of the next event
        self._out: list[bytes] = []
        self._is_begun = False
        self._finish: object = None
        self._open: _Item | None = None
        self._calls: dict[int, _Call] = {}  # that are open, by their numbers in chat
        self._chars = 0  # of text, in all parts that are over

    def feed(self, chunks: Iterable[bytes]) -> bytes:
        """The events for some chunks; raises UpstreamInvalid."""
        try:
            for data in chunks:
                found = read_object(data)
                if not found and b'"' in data:
                    raise ValueError("it cannot be read")
                self._take(found)
        except (RecursionError, ValueError) as error:  # a number of thousands of digits
            raise UpstreamInvalid("the upstream's answer is beyond all bounds") from error
        return self._written()

    def end(self) -> bytes:
        """The end of an answer that is whole."""
        self._close()
        self._send(self._response["status"], response=self._response)
        return self._written()

    def fail(self, error: ProxyError, message: str) -> bytes:
        """The end of one that is not."""
        self._begin()
        self._response |= {"status": "failed", "error": error_of(error, message)}
        self._send("failed", response=self._response)
        return self._written()

    def whole(self, chunks: Iterable[bytes]) -> bytes:
        """A unary answer of all chunks; raises UpstreamInvalid."""
        self.feed(chunks)
        self._close()
        return encode(self._response)

    def _written(self) -> bytes:
        written = b"".join(self._out)
        self._out.clear()
        return written

    def _send(self, name: str, **members: Any) -> None:
        name = f"response.{name}"
        data = encode({"type": name, **members, "sequence_number": self._number})
        self._number += 1
        self._out.append(b"event: %b\ndata: %b\n\n" % (name.encode(), data))

    def _begin(self) -> None:
        if not self._is_begun:
            self._is_begun = True
            for name in ("created", "in_progress"):
                self._send(name, response=self._response)

    def _close(self) -> None:
        """End all that is open, and the Response."""
        self._begin()
        why = INCOMPLETE.get(str(self._finish))
        status = "incomplete" if why else "completed"
        self._end_item(status)
        for call in self._calls.values():
            self._end_call(call, status)
        if not self._output:  # an answer that says nothing is a message all the same
            self._part("output_text")
            self._end_item(status)
        told = self._response["usage"] or usage_of(Usage())  # SDKs do not do without
        details = {"reason": why} if why else None
        self._response |= {"status": status, "incomplete_details": details, "usage": told}

    # Chunks

    def _take(self, chunk: Json) -> None:
        if not self._is_begun:
            created = chunk.get("created")
            self._response["created_at"] = created if isinstance(created, (int, float)) else 0
            self._begin()
        if chunk.get("usage"):
            self._response["usage"] = usage_of(read_usage(chunk["usage"]) or Usage())
        for choice in objects(chunk.get("choices")):
            if not choice.get("index"):
                delta = choice.get("delta")
                if isinstance(delta, dict):
                    for each in _apart(delta) if "thinking_blocks" in delta else (delta,):
                        self._take_delta(each, choice)
                self._finish = choice.get("finish_reason") or self._finish

    def _take_delta(self, delta: Json, choice: Json) -> None:
        content = delta.get("content")
        if len(delta) == 1 and isinstance(content, str) and not choice.get("logprobs"):
            self._say("output_text", content)  # the usual
            return
        self._say("summary_text", delta.get("reasoning_content") or delta.get("reasoning"))
        for block in objects(delta.get("thinking_blocks")):
            self._keep(block=block)
        self._say("output_text", content, logprobs_of(choice))
        for part in objects(content):  # as Mistral's models answer
            self._say("summary_text", "".join(reasoning.texts_of(part.get("thinking"))))
            self._say("output_text", "".join(reasoning.texts_of([part])))
        self._say("refusal", delta.get("refusal"))
        for annotation in objects(delta.get("annotations")):
            self._cite(annotation)
        for image in objects(delta.get("images")):
            self._show(image)
        for place, call in enumerate(objects(delta.get("tool_calls"))):
            number = call.get("index")
            self._take_call(number if isinstance(number, int) else place, call)
        if extra := delta.get("extra_content"):
            self._keep(message=extra)

    # Items

    def _add(self, kind: str, **members: Any) -> _Item:
        """A new item, announced."""
        at = len(self._output)
        item_id = f"{_IDS[kind]}_{self._token}_{at}"
        item: Json = {"type": kind, "id": item_id, "status": "in_progress", **members}
        self._output.append(item)
        self._send("output_item.added", output_index=at, item=item)
        return _Item(item, at)

    def _done(self, opened: _Item, status: str) -> None:
        self._end_text(opened)
        if opened.item["type"] == "reasoning":
            opened.item.setdefault("encrypted_content", reasoning.packed(self._kind))
        opened.item["status"] = status
        self._send("output_item.done", output_index=opened.at, item=opened.item)

    def _end_item(self, status: str = "completed") -> None:
        if self._open is not None:
            self._done(self._open, status)
            self._open = None

    def _end_others(self) -> None:
        """Before an item begins: end those that are whole."""
        self._end_item()
        for number, call in list(self._calls.items()):
            if call.is_whole:
                self._end_call(self._calls.pop(number), "completed")

    # Texts

    def _begin_text(self, opened: _Item, kind: str) -> None:
        form = _FORMS[kind]
        opened.kind, opened.texts, opened.part = kind, [], opened.item
        opened.place = {"item_id": opened.item["id"], "output_index": opened.at}
        if form.parts:
            parts = opened.item[form.parts]
            lists: Json = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
            opened.part = {"type": kind, form.text: "", **lists}
            opened.place[f"{form.parts}_index"] = len(parts)
            parts.append(opened.part)
            self._send(f"{_PART_EVENTS[form.parts]}.added", **opened.place, part=opened.part)
        name = f"response.{form.event}.delta"
        data = encode({"type": name, **opened.place})[:-1]
        opened.head = b'event: %b\ndata: %b,"delta":' % (name.encode(), data)
        logprobs = b',"logprobs":[]' if kind == "output_text" else b""
        opened.tail = logprobs + b',"sequence_number":'

    def _tell(self, opened: _Item, text: str) -> None:
        """A delta: what an answer has most of."""
        opened.texts.append(text)
        number = b"%d}\n\n" % self._number
        self._number += 1
        self._out.append(opened.head + encode(text) + opened.tail + number)

    def _end_text(self, opened: _Item) -> None:
        if not opened.kind:
            return
        form, text = _FORMS[opened.kind], "".join(opened.texts)
        opened.part[form.text] = text
        more = {"logprobs": opened.part["logprobs"]} if opened.kind == "output_text" else {}
        self._send(f"{form.event}.done", **opened.place, **{form.text: text}, **more)
        if form.parts:
            self._send(f"{_PART_EVENTS[form.parts]}.done", **opened.place, part=opened.part)
        if opened.kind == "output_text":
            self._chars += len(text)
        opened.kind = ""

    # Messages and reasoning

    def _part(self, kind: str) -> _Item:
        """The message or reasoning with an open part of this kind."""
        opened, form = self._open, _FORMS[kind]
        if opened is None or opened.item["type"] != form.item:
            self._end_others()
            more: Json = {"role": "assistant"} if form.item == "message" else {}
            self._open = opened = self._add(form.item, **more, **{form.parts: []})
        if opened.kind != kind:
            self._end_text(opened)
            self._begin_text(opened, kind)
        return opened

    def _say(self, kind: str, text: object, logprobs: Sequence[Json] = ()) -> None:
        if not text or not isinstance(text, str):
            return
        opened = self._open
        if opened is None or opened.kind != kind:
            opened = self._part(kind)
        if logprobs:
            opened.texts.append(text)
            opened.part["logprobs"] += logprobs
            self._send("output_text.delta", **opened.place, delta=text, logprobs=logprobs)
        else:
            self._tell(opened, text)

    def _cite(self, annotation: Json) -> None:
        opened, cited = self._open, citation_of(annotation, before=self._chars)
        if opened is not None and opened.kind == "output_text" and cited is not None:
            found = opened.part["annotations"]
            more = {"annotation": cited, "annotation_index": len(found)}
            found.append(cited)
            self._send("output_text.annotation.added", **opened.place, **more)

    def _keep(self, **signed: Any) -> None:
        """Give out signed reasoning: in the item whose text went before, or in one of its own."""
        packed = reasoning.packed(self._kind, **signed)
        if packed is None:
            return
        if self._open is None or self._open.item["type"] != "reasoning":
            self._end_others()
            self._open = self._add("reasoning", summary=[])
        self._open.item["encrypted_content"] = packed
        self._end_item()

    def _show(self, image: Json) -> None:
        """An image that the model made, if it is here."""
        found = image.get("image_url")
        url = found.get("url") if isinstance(found, dict) else found
        _, mark, data = str(url).partition(";base64,")
        if mark:
            self._end_others()
            self._done(self._add("image_generation_call", result=data), "completed")

    # Calls

    def _take_call(self, number: int, told: Json) -> None:
        call, call_id = self._calls.get(number), str(told.get("id") or "")
        function = told.get("function")
        function = function if isinstance(function, dict) else {}
        name, arguments = function.get("name"), function.get("arguments")
        is_other = call_id and call is not None and call.id and call_id != call.id
        if call is not None and (is_other or (name and call.is_whole)):
            self._end_call(self._calls.pop(number), "completed")  # some number all of them 0
            call = None
        if call is None:
            if not (call_id or name):
                return  # more of one that is whole
            self._end_others()
            call = self._calls[number] = _Call(pieces=[])
        call.id = call.id or call_id
        if isinstance(name, str) and name != call.name:  # in pieces, or again each time
            call.name += name
        if extra := told.get("extra_content"):
            self._keep(call=extra)
        if arguments:
            text = arguments if isinstance(arguments, str) else encode(arguments).decode()
            if call.item is not None:
                self._tell(call.item, text)
                return
            call.pieces.append(text)
            if call.name and self._tools.meant(call.name).kind == "function":
                self._begin_call(call, "arguments", "".join(call.pieces))

    def _begin_call(self, call: _Call, kind: str, text: str) -> _Item:
        """Announce a call and its arguments, as far as they are there."""
        named = self._tools.meant(call.name).named
        members = {"call_id": self._call_id(call), **named, kind: ""}
        call.item = self._add(_FORMS[kind].item, **members)
        self._begin_text(call.item, kind)
        if text:
            self._tell(call.item, text)
        return call.item

    def _call_id(self, call: _Call) -> str:
        return call_ids.bare(call.id) or f"call_{self._token}_{len(self._output)}"

    def _end_call(self, call: _Call, status: str) -> None:
        opened, text = call.item, "".join(call.pieces)
        if opened is None:
            meant = self._tools.meant(call.name)
            if meant.kind == "custom":
                opened = self._begin_call(call, "input", _input(text))
            elif made := _made(meant.kind, text):
                opened = self._add(f"{meant.kind}_call", call_id=self._call_id(call), **made)
            else:
                opened = self._begin_call(call, "arguments", text or "{}")
        self._done(opened, status)


def _apart(delta: Json) -> Iterator[Json]:
    """The message of a unary answer in the order in which it was made; a mere delta as it is.

    Blocks of thinking say how much text and how many calls came before them.
    """
    blocks, content = objects(delta.get("thinking_blocks")), delta.get("content") or ""
    calls = objects(delta.get("tool_calls"))
    if not blocks or not (content or calls) or not isinstance(content, str):
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


def _input(arguments: str) -> str:
    """The free text that a custom tool gets; what is no call of one passes as it is."""
    found = read_object(arguments.encode()).get("input")
    return found if isinstance(found, str) else arguments


def _made(kind: str, arguments: str) -> Json | None:
    """What the caller is to run; None: it is none of those tools, or not as its item has it."""
    if kind not in CALLERS:
        return None
    shape, member = CALLERS[kind]
    try:
        found = msgspec.json.decode(arguments, type=shape)
    except (msgspec.DecodeError, RecursionError):
        return None
    return {member: msgspec.to_builtins(found)}
