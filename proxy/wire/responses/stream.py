"""Chat chunks as the events of a Responses stream, or as one Response.

Source: platform.openai.com/docs/api-reference/responses-streaming, read 2026-11. An item ends when
another one begins. Calls are the exception: chat upstreams may mix the arguments of parallel calls,
so one whose arguments are no whole JSON yet stays open beside the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from ...errors import ProxyError, UpstreamInvalid
from .. import call_ids
from ..chat import objects, read_object
from ..lenient_json import encode
from . import reasoning
from .answer import INCOMPLETE, Response, citation_of, count, error_of, logprobs_of, usage_of
from .tools import CALLERS, Json, Meant, Tools


class _Form(NamedTuple):
    """A kind of text: the item and its member that it stands in, and the events that tell of it."""

    item: str
    parts: str
    part_event: str
    text_event: str
    text: str


_FORMS: Final = {
    "output_text": _Form("message", "content", "content_part", "output_text", "text"),
    "refusal": _Form("message", "content", "content_part", "refusal", "refusal"),
    "summary_text": _Form(
        "reasoning", "summary", "reasoning_summary_part", "reasoning_summary_text", "text"
    ),
}
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
    """A message or a reasoning that is open. `place`: where its open part is, in events."""

    item: Json
    at: int
    kind: str = ""  # of the open part; "": none
    part: Json = {}
    place: Json = {}
    texts: list[str] = []
    head: bytes = b""  # of a delta, up to its text
    tail: bytes = b""  # behind it, up to the number


class _Call(msgspec.Struct):
    """A call that is open. `item`: once it was announced; `said`: so many pieces are out."""

    id: str = ""
    name: str = ""
    pieces: list[str] = []
    item: Json | None = None
    at: int = 0
    said: int = 0


class Events:
    """One answer. What is written are whole events, numbered without a gap.

    `kind`: that of the client that answers.
    """

    def __init__(self, response: Response, tools: Tools) -> None:
        self.kind = ""
        self._response = response
        self._tools = tools
        self._number = 0  # of the next event
        self._out: list[bytes] = []
        self._is_begun = False
        self._finish: str | None = None
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
        response = self._close()
        self._send(response["status"], response=response)
        return self._written()

    def fail(self, error: ProxyError, message: str) -> bytes:
        """The end of one that is not."""
        self._begin()
        response = self._response.shown("failed", error=error_of(error, message))
        self._send("failed", response=response)
        return self._written()

    def whole(self, chunks: Iterable[bytes]) -> bytes:
        """A unary answer of all chunks; raises UpstreamInvalid."""
        self.feed(chunks)
        return encode(self._close())

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
                self._send(name, response=self._response.shown("in_progress"))

    def _close(self) -> Json:
        """End all that is open; the whole Response."""
        self._begin()
        why = INCOMPLETE.get(self._finish or "")
        status = "incomplete" if why else "completed"
        self._end_item(status)
        for call in self._calls.values():
            self._end_call(call, status)
        if not self._response.output:  # an answer that says nothing is a message all the same
            self._open_part("output_text")
            self._end_item(status)
        if self._response.usage is None:
            self._response.usage = usage_of({})  # SDKs do not do without
        return self._response.shown(status, incomplete=why)

    # Chunks

    def _take(self, chunk: Json) -> None:
        response = self._response
        if not self._is_begun:
            created = chunk.get("created")
            response.created = created if isinstance(created, (int, float)) else 0
            self._begin()
        if (usage := _usage_in(chunk)) is not None:
            response.usage = usage_of(usage)
        response.tier = chunk.get("service_tier") or response.tier
        for choice in objects(chunk.get("choices")):
            if not choice.get("index"):
                delta = choice.get("delta")
                if isinstance(delta, dict):
                    for each in _apart(delta) if "thinking_blocks" in delta else (delta,):
                        self._take_delta(each, choice)
                finish = choice.get("finish_reason")
                self._finish = finish if finish and isinstance(finish, str) else self._finish

    def _take_delta(self, delta: Json, choice: Json) -> None:
        content = delta.get("content")
        if len(delta) == 1 and isinstance(content, str) and not choice.get("logprobs"):
            self._say("output_text", content)  # the usual
            return
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought and isinstance(thought, str):
            self._say("summary_text", thought)
        for block in objects(delta.get("thinking_blocks")):
            self._keep(block=block)
        if content and isinstance(content, str):
            self._say("output_text", content, logprobs_of(choice) if choice.get("logprobs") else ())
        for part in objects(content):  # as Mistral's models answer
            self._say("summary_text", "".join(reasoning.texts_of(part.get("thinking"))))
            self._say("output_text", "".join(reasoning.texts_of([part])))
        if (refusal := delta.get("refusal")) and isinstance(refusal, str):
            self._say("refusal", refusal)
        for annotation in objects(delta.get("annotations")):
            self._cite(annotation)
        for image in objects(delta.get("images")):
            self._show(image)
        for place, call in enumerate(objects(delta.get("tool_calls"))):
            number = call.get("index")
            self._take_call(number if isinstance(number, int) else place, call)
        if extra := delta.get("extra_content"):
            self._keep(message=extra)

    # Messages and reasoning

    def _say(self, kind: str, text: str, logprobs: Iterable[Json] = ()) -> None:
        if not text:
            return
        opened = self._open
        if opened is None or opened.kind != kind:
            opened = self._open_part(kind)
        opened.texts.append(text)
        if logprobs:
            opened.part["logprobs"] += logprobs
            self._send("output_text.delta", **opened.place, delta=text, logprobs=logprobs)
            return
        # The usual, many times in an answer.
        number = b"%d}\n\n" % self._number
        self._number += 1
        self._out.append(opened.head + encode(text) + opened.tail + number)

    def _open_part(self, kind: str) -> _Item:
        form, opened = _FORMS[kind], self._open
        if opened is None or opened.item["type"] != form.item:
            self._end_others()
            more: Json = {"role": "assistant"} if form.item == "message" else {}
            opened = self._open = _Item(*self._add(form.item, **more, **{form.parts: []}))
        else:
            self._end_part(opened)
        opened.kind, opened.texts = kind, []
        parts = opened.item[form.parts]
        place: Json = {"item_id": opened.item["id"], "output_index": opened.at}
        opened.place = {**place, f"{form.parts}_index": len(parts)}
        opened.part = {"type": kind, form.text: ""}
        if kind == "output_text":
            opened.part |= {"annotations": [], "logprobs": []}
        parts.append(opened.part)
        self._send(f"{form.part_event}.added", **opened.place, part=opened.part)
        name = f"response.{form.text_event}.delta"
        data = encode({"type": name, **opened.place})[:-1]
        opened.head = b'event: %b\ndata: %b,"delta":' % (name.encode(), data)
        logprobs = b',"logprobs":[]' if kind == "output_text" else b""
        opened.tail = logprobs + b',"sequence_number":'
        return opened

    def _cite(self, annotation: Json) -> None:
        opened = self._open
        if opened is not None and opened.kind == "output_text":
            cited = citation_of(annotation, before=self._chars)
            if cited is not None:
                found = opened.part["annotations"]
                at = len(found)
                found.append(cited)
                self._send(
                    "output_text.annotation.added",
                    **opened.place,
                    annotation=cited,
                    annotation_index=at,
                )

    def _end_part(self, opened: _Item) -> None:
        if not opened.kind:
            return
        form, text = _FORMS[opened.kind], "".join(opened.texts)
        opened.part[form.text] = text
        more = {"logprobs": opened.part["logprobs"]} if opened.kind == "output_text" else {}
        self._send(f"{form.text_event}.done", **opened.place, **{form.text: text}, **more)
        self._send(f"{form.part_event}.done", **opened.place, part=opened.part)
        if opened.kind == "output_text":
            self._chars += len(text)
        opened.kind = ""

    def _end_item(self, status: str = "completed") -> None:
        opened, self._open = self._open, None
        if opened is not None:
            self._end_part(opened)
            if opened.item["type"] == "reasoning":
                opened.item.setdefault("encrypted_content", reasoning.packed(self.kind))
            self._done(opened.item, opened.at, status)

    def _end_others(self) -> None:
        """Before an item begins: end those that are whole."""
        self._end_item()
        for number, call in list(self._calls.items()):
            if _is_json("".join(call.pieces)):
                del self._calls[number]
                self._end_call(call, "completed")

    def _keep(self, **signed: Any) -> None:
        """Give out signed reasoning: in the item whose text went before, or in one of its own."""
        packed = reasoning.packed(self.kind, **signed)
        if packed is None:
            return
        opened = self._open
        if opened is None or opened.item["type"] != "reasoning":
            self._end_others()
            opened = self._open = _Item(*self._add("reasoning", summary=[]))
        opened.item["encrypted_content"] = packed
        self._end_item()

    def _show(self, image: Json) -> None:
        """An image that the model made, if it is here."""
        found = image.get("image_url")
        url = found.get("url") if isinstance(found, dict) else found
        _, mark, data = url.partition(";base64,") if isinstance(url, str) else ("", "", "")
        if mark:
            self._end_others()
            item, at = self._add("image_generation_call", result=data)
            self._done(item, at, "completed")

    # Calls

    def _take_call(self, number: int, told: Json) -> None:
        call, call_id = self._calls.get(number), told.get("id") or ""
        if call is not None and call_id and call.id and call_id != call.id:
            self._end_call(self._calls.pop(number), "completed")  # some number all of them 0
            call = None
        function = told.get("function")
        function = function if isinstance(function, dict) else {}
        name, arguments = function.get("name"), function.get("arguments")
        if call is None:
            if not (call_id or name):
                return  # more of one that is whole
            self._end_others()
            call = self._calls[number] = _Call(pieces=[])
        call.id = call.id or str(call_id)
        if isinstance(name, str) and name != call.name:  # in pieces, or again each time
            call.name += name
        if extra := told.get("extra_content"):
            self._keep(call=extra)
        if arguments and not isinstance(arguments, str):
            arguments = encode(arguments).decode()
        if arguments:
            call.pieces.append(arguments)
            if call.name and self._tools.meant(call.name).kind == "function":
                self._tell(call)

    def _tell(self, call: _Call) -> None:
        """The call of a function, and its arguments as far as they are there."""
        if call.item is None:
            named = self._tools.meant(call.name).named
            self._announce(call, "function_call", **named, arguments="")
        assert call.item is not None
        place = {"item_id": call.item["id"], "output_index": call.at}
        for piece in call.pieces[call.said :]:
            self._send("function_call_arguments.delta", **place, delta=piece)
        call.said = len(call.pieces)

    def _announce(self, call: _Call, kind: str, **members: Any) -> None:
        at = len(self._response.output)
        call_id = call_ids.bare(call.id) or f"call_{self._response.token}_{at}"
        call.item, call.at = self._add(kind, call_id=call_id, **members)

    def _end_call(self, call: _Call, status: str) -> None:
        meant, arguments = self._tools.meant(call.name), "".join(call.pieces)
        if call.item is None and meant.kind == "custom":
            self._announce(call, "custom_tool_call", **meant.named, input="")
            self._end_text(call, "custom_tool_call_input", "input", _input(arguments), status)
        elif call.item is None and (made := _made(meant, arguments)) is not None:
            run = CALLERS[meant.kind]
            self._announce(call, run.item, **{run.member: made})
            assert call.item is not None
            self._done(call.item, call.at, status)
        else:
            call.pieces = call.pieces or ["{}"]
            self._tell(call)
            self._end_text(call, "function_call_arguments", "arguments", None, status)

    def _end_text(
        self, call: _Call, event: str, member: str, text: str | None, status: str
    ) -> None:
        """The end of a call with the text of its argument; a text that is still to be told."""
        assert call.item is not None
        place = {"item_id": call.item["id"], "output_index": call.at}
        if text:
            self._send(f"{event}.delta", **place, delta=text)
        call.item[member] = "".join(call.pieces) if text is None else text
        self._send(f"{event}.done", **place, **{member: call.item[member]})
        self._done(call.item, call.at, status)

    # Items

    def _add(self, kind: str, **members: Any) -> tuple[Json, int]:
        """A new item, announced, and its place."""
        at = len(self._response.output)
        item_id = f"{_IDS[kind]}_{self._response.token}_{at}"
        item: Json = {"type": kind, "id": item_id, "status": "in_progress", **members}
        self._response.output.append(item)
        self._send("output_item.added", output_index=at, item=item)
        return item, at

    def _done(self, item: Json, at: int, status: str) -> None:
        item["status"] = status
        self._send("output_item.done", output_index=at, item=item)


def _usage_in(chunk: Json) -> Json | None:
    usage = chunk.get("usage")
    if not usage and isinstance(groq := chunk.get("x_groq"), dict):
        usage = groq.get("usage")
    return usage if usage and isinstance(usage, dict) else None


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
        text_to = max(text_at, count(block, "content_offset"))
        call_to = max(call_at, count(block, "tool_call_offset"))
        yield {"content": content[text_at:text_to], "tool_calls": calls[call_at:call_to]}
        yield {"reasoning_content": block.get("thinking"), "thinking_blocks": [block]}
        text_at, call_at = text_to, call_to
    rest = {name: value for name, value in delta.items() if name not in _APART}
    yield {**rest, "content": content[text_at:], "tool_calls": calls[call_at:]}


_APART: Final = ("reasoning_content", "reasoning", "thinking_blocks")


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _input(arguments: str) -> str:
    """The free text that a custom tool gets; what is no call of one passes as it is."""
    found = read_object(arguments.encode()).get("input")
    return found if isinstance(found, str) else arguments


def _made(meant: Meant, arguments: str) -> Json | None:
    """What the caller is to run; None: it is none of those tools, or not as its item has it."""
    run = CALLERS.get(meant.kind)
    if run is None:
        return None
    try:
        found = msgspec.json.decode(arguments, type=run.shape)
    except (msgspec.DecodeError, RecursionError):
        return None
    return {**run.fixed, **msgspec.to_builtins(found)}
