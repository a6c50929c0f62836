"""A Messages request as a chat request.

What chat has no word for and changes no answer is left out, and named. Thoughts go back to the kind
of client that had them (`reasoning`); those without a container are Claude's own.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import partial
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw

from ...errors import InvalidRequest, UnsupportedParameter
from .. import reasoning
from ..chat import ChatRequest, read_object
from ..chat.deltas import Translation
from ..chat.fields import misfit
from ..chat.request import Outer
from ..effort import effort_of
from ..history import result_without_call
from ..lenient_json import decode_any, decoder, encode
from ..made_names import are_plain, plain_name
from .answer import MessageStream
from .tools import Choice, Tool, tools_of

Json = dict[str, Any]

# OpenAI takes no longer id of a user; Claude Code's is a JSON object.
_MAX_USER_CHARS = 64


class _Source(msgspec.Struct):
    type: str = ""
    media_type: str = ""
    data: str = ""
    url: str = ""
    content: Any = None


class Block(msgspec.Struct):
    """A block of any type, with the members that are read of one; the others' are left alone."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = Raw(b"{}")
    tool_use_id: str | None = None
    tool_name: str | None = None
    content: Raw = Raw(b"null")
    is_error: bool | None = None
    source: str | _Source | None = None
    title: str | None = None

    @property
    def medium(self) -> _Source:
        """The source of an image or a document."""
        return self.source if isinstance(self.source, _Source) else _Source()


_decode_content = decoder(str | list[Block] | None)  # type: ignore[arg-type]


def _blocks(content: str | list[Block] | None) -> list[Block]:
    """The blocks of a content, which may be null; text is one of them."""
    return [Block("text", content)] if isinstance(content, str) else content or []


def _content_of(block: Block, path: str) -> list[Block]:
    """The blocks within a block."""
    try:
        return _blocks(_decode_content(block.content))
    except (msgspec.DecodeError, RecursionError) as error:
        raise misfit(error, f"{path}.content") from error


def _parts(blocks: list[Block], path: str, kind: str) -> list[Json]:
    """What a user, the system or a tool says as parts of chat for a kind of client."""
    return [p for at, block in enumerate(blocks) for p in _parts_of(block, f"{path}[{at}]", kind)]


def _parts_of(block: Block, path: str, kind: str) -> list[Json]:
    """The same of one block; none if it says nothing."""
    if block.type == "text":
        return _text(block.text or "")
    if block.type == "image":
        return [{"type": "image_url", "image_url": {"url": _address(block.medium, path)}}]
    if block.type == "document":
        return _document(block, path, kind)
    if block.type == "search_result":
        return _text(_told(block))
    if block.type == "tool_reference":
        return _text(f"loaded: {block.tool_name or ''}")
    if block.type == "compaction":
        return _parts(_content_of(block, path), f"{path}.content", kind)
    if block.type in ("tool_addition", "tool_removal", "mcp_tool_listing"):
        return []  # they are about the request's tools, all of which count as declared
    why = f"only Claude itself takes a block of type {block.type[:80]!r}"
    raise UnsupportedParameter.at(path, why)


def _text(text: str) -> list[Json]:
    return [{"type": "text", "text": text}] if text else []


def _address(source: _Source, path: str) -> str:
    """The URL of a medium, or its data as one."""
    if source.type == "base64":
        return f"data:{source.media_type};base64,{source.data}"
    if source.type == "url":
        return source.url
    why = f"only Claude itself takes a source of type {source.type[:80]!r}"
    raise UnsupportedParameter.at(f"{path}.source", why)


def _document(block: Block, path: str, kind: str) -> list[Json]:
    source = block.medium
    if source.type in ("text", "content"):
        body = source.data if source.type == "text" else _told(source.content)
        return _text("\n".join(filter(None, [block.title, body])))
    if source.type == "url" and kind == "openai":  # platform.openai.com/docs/guides/pdf-files
        why = "OpenAI's chat takes no file by URL; send its data"
        raise UnsupportedParameter.at(f"{path}.source", why)
    name = block.title or "document.pdf"
    return [{"type": "file", "file": {"filename": name, "file_data": _address(source, path)}}]


# Where results of any kind have what can be read of them.
_READ: Final = ("title", "url", "source", "text", "data", "stdout", "stderr", "content")


def _told(found: Any) -> str:
    """What there is to read in a block or in the output of a vendor's own tool: all of its texts,
    titles and sources, a line each.
    """
    if isinstance(found, Block):
        found = [found.title, found.source, found.content]
    if isinstance(found, Raw):
        with suppress(msgspec.DecodeError):  # a number out of all range is nothing to read
            found = decode_any(found)
    if isinstance(found, str):
        return found
    if isinstance(found, dict):
        if found.get("type") == "base64":
            return ""
        found = [found[name] for name in _READ if name in found]
    return "\n".join(filter(None, map(_told, found))) if isinstance(found, list) else ""


class _Turn(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]

    @property
    def blocks(self) -> list[Block]:
        return _blocks(self.content)

    @property
    def asks(self) -> bool:
        """Whether it is the user who speaks, not only tools."""
        return self.role == "user" and any(b.type != "tool_result" for b in self.blocks)


class _Thinking(msgspec.Struct):
    type: str = ""
    budget_tokens: int | None = None
    display: str | None = None


class _Format(msgspec.Struct):
    type: str = ""
    schema: Raw = Raw(b"{}")


class _Output(msgspec.Struct):
    effort: str | None = None
    format: _Format | None = None


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Request(msgspec.Struct, kw_only=True):
    messages: list[_Turn]
    max_tokens: int | None = None
    mcp_servers: list[Any] | None = None
    metadata: _Metadata | None = None
    output_config: _Output | None = None
    output_format: _Format | None = None
    stop_sequences: list[str] | None = None
    system: str | list[Block] | None = None
    temperature: float | None = None
    thinking: _Thinking | None = None
    tool_choice: Choice | None = None
    tools: list[Tool] | None = None
    top_k: int | None = None
    top_p: float | None = None


_KNOWN = frozenset(("model", "stream", *_Request.__struct_fields__))
decode = decoder(_Request)


def to_chat(asked: _Request, outer: Outer, kind: str, *, plain: bool) -> Translation:
    """The request as chat for a kind of client. `plain`: without reasoning; raises InvalidRequest,
    RecursionError.
    """
    if asked.mcp_servers:
        why = "no client for this model can call them"
        raise UnsupportedParameter.at("mcp_servers", why)
    unknown = outer.fields.keys() - _KNOWN
    dropped = sorted(name for name in unknown if outer.fields[name] != Raw(b"null"))
    dropped += ["thinking"] if plain else []
    made: Json = {
        "model": outer.model,
        "messages": _Messages(kind, plain).of(asked),
        **tools_of(asked.tools or (), asked.tool_choice, kind=kind, dropped=dropped),
        **({} if plain else _reasoning(asked, kind)),
        **_parameters(asked),
    }
    if outer.stream:
        made |= {"stream": True, "stream_options": {"include_usage": True}}
    names = {tool.name for tool in asked.tools or ()}
    names |= {b.name or "" for t in asked.messages for b in t.blocks if b.type == "tool_use"}
    changed = {} if are_plain(names) else {name: plain_name(name) for name in names}
    request = ChatRequest(encode(made), outer.model, outer.stream, changed, is_made=True)
    thinking = asked.thinking or _Thinking("disabled")
    thinks = thinking.type != "disabled"
    shows = thinks and thinking.display != "omitted"
    stops = asked.stop_sequences or ()
    answer = partial(MessageStream, stops=stops, thinks=thinks, shows=shows, kind=kind)
    return Translation(request, [*dict.fromkeys(dropped)], answer)


def _parameters(asked: _Request) -> Json:
    as_they_are = ("max_tokens", "temperature", "top_p", "top_k")
    made: Json = {name: getattr(asked, name) for name in as_they_are}
    made["stop"] = asked.stop_sequences or None
    shape = asked.output_format or (asked.output_config or _Output()).format
    if shape is not None and shape.type == "json_schema":
        schema = {"name": "answer", "schema": shape.schema}
        made["response_format"] = {"type": "json_schema", "json_schema": schema}
    user = asked.metadata.user_id if asked.metadata else None
    if user and len(user) > _MAX_USER_CHARS:
        user = hashlib.sha256(user.encode()).hexdigest()
    made["user"] = user or None
    return {name: value for name, value in made.items() if value is not None}


def _reasoning(asked: _Request, kind: str) -> Json:
    """How hard the model is to think, in the words that the client's translator knows best."""
    effort, thinking = (asked.output_config or _Output()).effort, asked.thinking or _Thinking()
    made: Json = {}
    if thinking.type == "disabled":
        effort = "none"
    elif thinking.type and kind == "gemini":
        within = {"type": "enabled", "budget_tokens": thinking.budget_tokens}
        made["thinking"] = within if thinking.type == "enabled" else {"type": "adaptive"}
    elif effort is None and thinking.budget_tokens is not None:
        effort = effort_of(thinking.budget_tokens)
    if effort == "max" and kind != "gemini":
        effort = "xhigh"  # OpenAI's most
    return {**made, "reasoning_effort": effort} if effort else made


class _Messages:
    """The messages of a chat request, as they are made."""

    def __init__(self, kind: str, plain: bool) -> None:
        self._kind = kind
        self._plain = plain
        self._made: list[Json] = []
        self._names: dict[str, str] = {}  # by id, of calls so far

    def of(self, asked: _Request) -> list[Json]:
        self._say("system", _parts(_blocks(asked.system), "system", self._kind))
        loop_at = max((at for at, turn in enumerate(asked.messages) if turn.asks), default=-1)
        for at, turn in enumerate(asked.messages):
            path = f"messages[{at}].content"
            if turn.role == "assistant":
                self._assistant(turn, path, is_in_loop=at > loop_at)
            else:
                self._user(turn, path)
        if not self._made:
            raise InvalidRequest.at("messages", "there is no text to answer")
        return self._made

    def _say(self, role: str, said: list[Json]) -> None:
        content: Any = said
        if all(part["type"] == "text" for part in said):
            # One string: many servers take no list of a text alone.
            content = "\n\n".join(part["text"] for part in said)
        if content:
            self._made.append({"role": role, "content": content})

    def _user(self, turn: _Turn, path: str) -> None:
        behind: list[Json] = []
        said: list[Json] = []
        for at, block in enumerate(turn.blocks):
            if block.type == "tool_result":
                behind += self._result(block, f"{path}[{at}]")
            else:
                said += _parts_of(block, f"{path}[{at}]", self._kind)
        self._say(turn.role, behind + said)

    def _result(self, block: Block, path: str) -> list[Json]:
        """Add the message of a tool; returns the media that have to come behind all results."""
        call_id = block.tool_use_id or ""
        found = _parts(_content_of(block, path), f"{path}.content", self._kind)
        texts = [part["text"] for part in found if part["type"] == "text"]
        media = [part for part in found if part["type"] != "text"]
        text: Any = "\n\n".join(texts)
        message: Json = {"role": "tool", "tool_call_id": call_id, "content": text}
        self._made.append(message)
        if self._kind == "gemini":
            if media:
                message["content"] = [*({"type": "text", "text": one} for one in texts), *media]
            if block.is_error:
                message["is_error"] = True
            return []
        if block.is_error:
            message["content"] = f"Error: {text}"
        what = f"From the result of {self._names.get(call_id, 'a tool')}:"
        return [{"type": "text", "text": what}, *media] if media else []

    def _assistant(self, turn: _Turn, path: str, *, is_in_loop: bool) -> None:
        texts: list[str] = []
        calls: list[Json] = []
        thoughts: list[str] = []
        signed: Raw | None = None  # of what follows
        for block in turn.blocks:
            if block.type == "text":
                texts.append(block.text or "")
            elif block.type in reasoning.BLOCKS:
                found = reasoning.unpack(block.signature or block.data or "")
                if found is None or found.kind != self._kind or self._plain:
                    continue
                if self._kind == "gemini":
                    signed = Raw(found.payload) if read_object(found.payload) else signed
                elif is_in_loop:
                    thoughts.append(block.thinking or found.payload.decode("utf-8", "replace"))
            elif block.type == "tool_use":
                call_id, name = block.id or "", block.name or ""
                function = {"name": name, "arguments": bytes(block.input).decode()}
                extra = {} if signed is None else {"extra_content": signed}
                calls.append({"id": call_id, "type": "function", "function": function, **extra})
                signed = None
                self._names[call_id] = name
            elif block.type == "compaction":
                self._say("user", _parts_of(block, path, self._kind))
            elif block.type.endswith("_tool_result") and (output := _told(block.content)):
                texts.append(f"\n{result_without_call(output)}\n")
        if texts or calls:
            made: Json = {"role": "assistant", "content": "".join(texts) or None}
            thought = "".join(thoughts)
            more = {"tool_calls": calls, "reasoning_content": thought, "extra_content": signed}
            self._made.append(made | {name: value for name, value in more.items() if value})
