"""A Messages request as a chat request.

What chat has no word for and changes no answer is left out, and named. Thoughts go back to the kind
of client that had them (`reasoning`); those without a container are Claude's own.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Raw

from ...errors import InvalidRequest, UnsupportedParameter
from .. import reasoning
from ..chat import HUB, ChatRequest, Speech
from ..chat.fields import misfit
from ..chat.request import Outer
from ..effort import effort_of
from ..history import result_without_call
from ..lenient_json import decoder, encode
from ..made_names import are_plain, plain_name
from .answer import Asked
from .blocks import THINKING, Block, content_of, parts, parts_of, told
from .tools import Choice, Tool, tools_of

Json = dict[str, Any]

# OpenAI takes no longer id of a user; Claude Code's is a JSON object.
_MAX_USER_CHARS = 64


class _Turn(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]

    @property
    def blocks(self) -> list[Block]:
        return [Block("text", self.content)] if isinstance(self.content, str) else self.content

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
_decode = decoder(_Request)


class Made(NamedTuple):
    """A chat request, and what of the caller's it leaves out."""

    request: ChatRequest
    dropped: list[str]


class MessagesRequest:
    """A Messages request, read. `speech`: of what it is made."""

    def __init__(self, outer: Outer, speech: Speech = HUB) -> None:
        """Raises InvalidRequest."""
        try:
            self._asked = _decode(outer.text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise misfit(error) from error
        self._model = outer.model
        self._stream = outer.stream
        self._speech = speech
        unknown = outer.fields.keys() - _KNOWN
        self._unknown = sorted(name for name in unknown if outer.fields[name] != Raw(b"null"))

    def asked(self, kind: str) -> Asked:
        """What an answer of this kind of client has to know."""
        thinking = self._asked.thinking or _Thinking("disabled")
        thinks = thinking.type != "disabled"
        shows = thinks and thinking.display != "omitted"
        return Asked(self._model, self._asked.stop_sequences or (), thinks, shows, kind)

    def to_chat(self, kind: str, *, plain: bool = False) -> Made:
        """The chat request for a kind of client; `plain`: without reasoning.

        Raises InvalidRequest, UnsupportedParameter, RecursionError.
        """
        asked = self._asked
        if asked.mcp_servers:
            raise UnsupportedParameter(
                "mcp_servers: no client for this model can call them", param="mcp_servers"
            )
        dropped = [*self._unknown, *(["thinking"] if plain else [])]
        made: Json = {"model": self._model, "messages": _Messages(kind, plain).of(asked)}
        made |= tools_of(asked.tools or (), asked.tool_choice, kind=kind, dropped=dropped)
        if not plain:
            made |= _reasoning(asked, kind)
        made |= _parameters(asked)
        if self._stream:
            made |= {"stream": True, "stream_options": {"include_usage": True}}
        names = {tool.name for tool in asked.tools or ()}
        names |= {b.name or "" for t in asked.messages for b in t.blocks if b.type == "tool_use"}
        request = ChatRequest(
            encode(made),
            self._model,
            self._stream,
            {} if are_plain(names) else {name: plain_name(name) for name in names},
            speech=self._speech,
            is_made=True,
        )
        return Made(request, [*dict.fromkeys(dropped)])


def _parameters(asked: _Request) -> Json:
    output = asked.output_config or _Output()
    shape = asked.output_format or output.format
    made: Json = {
        "max_tokens": asked.max_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "stop": asked.stop_sequences or None,
    }
    if shape is not None and shape.type == "json_schema":
        schema = {"name": "answer", "schema": shape.schema}
        made["response_format"] = {"type": "json_schema", "json_schema": schema}
    user = asked.metadata.user_id if asked.metadata else None
    if user and len(user) > _MAX_USER_CHARS:
        user = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()
    made["user"] = user or None
    return {name: value for name, value in made.items() if value is not None}


def _reasoning(asked: _Request, kind: str) -> Json:
    """How hard the model is to think, in the words that the client's translator knows best."""
    effort = (asked.output_config or _Output()).effort
    thinking = asked.thinking
    if thinking is not None and thinking.type == "disabled":
        return {"reasoning_effort": "none"}
    if kind == "gemini" and thinking is not None:
        is_enabled = thinking.type == "enabled"
        made: Json = {"type": "enabled" if is_enabled else "adaptive"}
        if is_enabled and thinking.budget_tokens is not None:
            made["budget_tokens"] = thinking.budget_tokens
        return {"thinking": made, **({"reasoning_effort": effort} if effort else {})}
    if effort is None and thinking is not None and thinking.budget_tokens is not None:
        effort = effort_of(thinking.budget_tokens)
    if effort == "max" and kind != "gemini":
        effort = "xhigh"  # OpenAI's most
    return {"reasoning_effort": effort} if effort else {}


class _Messages:
    """The messages of a chat request, as they are made."""

    def __init__(self, kind: str, plain: bool) -> None:
        self._kind = kind
        self._plain = plain
        self._made: list[Json] = []
        self._names: dict[str, str] = {}  # by id, of calls so far

    def of(self, asked: _Request) -> list[Json]:
        system = asked.system
        blocks = [Block("text", system)] if isinstance(system, str) else system or []
        self._say("system", parts(blocks, "system", self._kind))
        loop_at = max((at for at, turn in enumerate(asked.messages) if turn.asks), default=-1)
        for at, turn in enumerate(asked.messages):
            path = f"messages[{at}].content"
            if turn.role == "assistant":
                self._assistant(turn, path, is_in_loop=at > loop_at)
            else:
                self._user(turn, path)
        if not self._made:
            raise InvalidRequest("messages: there is no text to answer", param="messages")
        return self._made

    def _say(self, role: str, said: list[Json]) -> None:
        if all(part["type"] == "text" for part in said):
            # One string: many servers take no list of a text alone.
            text = "\n\n".join(part["text"] for part in said)
            if text:
                self._made.append({"role": role, "content": text})
        else:
            self._made.append({"role": role, "content": said})

    def _user(self, turn: _Turn, path: str) -> None:
        behind: list[Json] = []
        said: list[Json] = []
        for at, block in enumerate(turn.blocks):
            if block.type == "tool_result":
                behind += self._result(block, f"{path}[{at}]")
            else:
                said += parts_of(block, f"{path}[{at}]", self._kind)
        self._say(turn.role, behind + said)

    def _result(self, block: Block, path: str) -> list[Json]:
        """Add the message of a tool; returns the media that have to come behind all results."""
        call_id = block.tool_use_id or ""
        found = parts(content_of(block, path), f"{path}.content", self._kind)
        texts = [part["text"] for part in found if part["type"] == "text"]
        media = [part for part in found if part["type"] != "text"]
        text, message = "\n\n".join(texts), {"role": "tool", "tool_call_id": call_id}
        if self._kind == "gemini":
            content: Any = [*({"type": "text", "text": one} for one in texts), *media]
            made = {**message, "content": content if media else text}
            self._made.append({**made, "is_error": True} if block.is_error else made)
            return []
        self._made.append({**message, "content": f"Error: {text}" if block.is_error else text})
        if not media:
            return []
        what = f"From the result of {self._names.get(call_id, 'a tool')}:"
        return [{"type": "text", "text": what}, *media]

    def _assistant(self, turn: _Turn, path: str, *, is_in_loop: bool) -> None:
        texts: list[str] = []
        calls: list[Json] = []
        thoughts: list[str] = []
        signed: Raw | None = None  # of what follows
        for block in turn.blocks:
            if block.type == "text":
                texts.append(block.text or "")
            elif block.type in THINKING:
                found = reasoning.unpack(block.signature or block.data or "")
                if found is None or found.kind != self._kind or self._plain:
                    continue
                if self._kind == "gemini":
                    signed = _object(found.payload) or signed
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
                self._say("user", parts_of(block, path, self._kind))
            elif block.type.endswith("_tool_result") and (output := told(block.content)):
                texts.append(f"\n{result_without_call(output)}\n")
        made: Json = {"role": "assistant", "content": "".join(texts) or None}
        if calls:
            made["tool_calls"] = calls
        if "".join(thoughts):
            made["reasoning_content"] = "".join(thoughts)
        if signed is not None:
            made["extra_content"] = signed
        if texts or calls:
            self._made.append(made)


def _object(payload: bytes) -> Raw | None:
    """The JSON object that a container holds, unless it was damaged."""
    try:
        msgspec.json.decode(payload, type=dict[str, Any])
    except (ValueError, RecursionError):
        return None
    return Raw(payload)
