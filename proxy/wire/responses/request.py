"""A Responses request as a chat request: its parameters. Items are in `items`, tools in `tools`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat import ChatRequest, Speech, read_fields, without_reasoning
from ..chat.fields import too_deep
from ..lenient_json import decoder, encode
from .items import Conversation
from .tools import Json, Tools

SPEECH: Speech = ("chat", "responses")
COUNT: Speech = ("count", "responses")

# Parameters that have the same name and meaning in chat.
_AS_THEY_ARE = ["frequency_penalty", "moderation", "presence_penalty", "prompt_cache_key"]
_AS_THEY_ARE += ["prompt_cache_options", "prompt_cache_retention", "safety_identifier", "seed"]
_AS_THEY_ARE += ["service_tier", "stop", "temperature", "top_k", "top_p", "user"]

# Where an answer depends on what only its vendor keeps.
_KEPT: Final = ("previous_response_id", "conversation", "background", "prompt")

_NOTHING: Final = (b"null", b"false")
_LOGPROBS: Final = "message.output_text.logprobs"


class _Request(msgspec.Struct, kw_only=True):
    """What becomes another thing in chat."""

    input: Any = None
    include: list[Any] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Json | None = None
    text: Json | None = None
    tool_choice: Any = None
    tools: list[Any] | None = None
    top_logprobs: int | None = None


_decode = decoder(_Request)

# Those that are read, or change no answer that is made of chat; others are dropped and noted.
_KNOWN = {*_Request.__struct_fields__, *_AS_THEY_ARE, *_KEPT, "client_metadata", "max_tool_calls"}
_KNOWN |= {"metadata", "model", "store", "stream", "stream_options", "truncation"}


class Translation(NamedTuple):
    """A request as chat. `dropped`: what of it nobody will see."""

    request: ChatRequest
    tools: Tools
    dropped: tuple[str, ...]

    def plain(self) -> Translation | None:
        """The same without what it says of reasoning, asked for or had; None: that is nothing."""
        request, dropped = self.request, self.dropped
        fields = read_fields(request.body)
        if fields.pop("reasoning_effort", None):
            request = msgspec.structs.replace(request, body=encode(fields))
            dropped += ("reasoning.effort",)
        if body := without_reasoning(request.body):
            request = msgspec.structs.replace(request, body=body)
        return None if request is self.request else Translation(request, self.tools, dropped)


def kept_by_the_vendor(fields: Mapping[str, Raw]) -> UnsupportedParameter | None:
    """The error for a request that needs what only its vendor keeps, if it does."""
    for name in _KEPT:
        if _is_set(fields, name):
            said = f"{name}: no conversations are kept here; send the whole input"
            return UnsupportedParameter(said, param=name)
    return None


def _is_set(fields: Mapping[str, Raw], name: str) -> bool:
    return name in fields and bytes(fields[name]) not in _NOTHING


def to_chat(body: bytes, kind: str, *, model: str, stream: bool) -> Translation:
    """The request in a checked body as chat, for a client of this `kind`.

    Raises InvalidRequest, UnsupportedParameter, whose `param` is a path in the caller's body.
    """
    try:
        return _translated(body, kind, model, stream)
    except RecursionError as error:
        raise too_deep() from error


def _translated(body: bytes, kind: str, model: str, stream: bool) -> Translation:
    fields = read_fields(body)
    if refusal := kept_by_the_vendor(fields):
        raise refusal
    try:
        asked = _decode(body)
    except msgspec.DecodeError as error:
        problem, _, param = str(error).partition(" - at `$.")
        param = param.rstrip("`")
        raise InvalidRequest(f"{param or 'body'}: {problem}", param=param or None) from error
    tools = Tools(kind)
    tools.add(asked.tools, "tools")
    talk = Conversation(tools, kind)
    if asked.instructions:
        talk.add([{"role": "system", "content": asked.instructions}])
    talk.add(asked.input)
    dropped = dict.fromkeys(name for name in fields if name not in _KNOWN)
    chat: Json = {"model": model, "messages": talk.messages()}
    chat |= {name: fields[name] for name in _AS_THEY_ARE if _is_set(fields, name)}
    if asked.max_output_tokens is not None:
        chat["max_tokens"] = asked.max_output_tokens
    chat |= _reasoning(asked.reasoning or {}, dropped) | _text(asked.text or {})
    if _LOGPROBS in (asked.include or ()) or asked.top_logprobs:
        chat |= {"logprobs": True, "top_logprobs": asked.top_logprobs or 0}
    choice = tools.choice(asked.tool_choice)
    if tools.declared:
        chat["tools"] = tools.declared
        how = {"tool_choice": choice, "parallel_tool_calls": asked.parallel_tool_calls}
        chat |= {name: value for name, value in how.items() if value is not None}
    if tools.searches:
        chat["web_search_options"] = {"optional": True}
    if stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    request = ChatRequest(encode(chat), model, stream, is_made=True)
    return Translation(request, tools, tuple({**dropped, **tools.dropped, **talk.dropped}))


def _reasoning(asked: Json, dropped: dict[str, None]) -> Json:
    lost = asked.keys() - {"effort", "summary"}
    dropped |= {f"reasoning.{name}": None for name in sorted(lost) if asked[name] is not None}
    effort = asked.get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


def _text(asked: Json) -> Json:
    verbosity, form = asked.get("verbosity"), asked.get("format")
    chat: Json = {} if verbosity is None else {"verbosity": verbosity}
    if form is None:
        return chat
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "json_schema":
        names = ("name", "description", "schema", "strict")
        schema = {name: form[name] for name in names if form.get(name) is not None}
        chat["response_format"] = {"type": kind, "json_schema": schema}
    elif kind == "json_object":
        chat["response_format"] = {"type": kind}
    elif kind != "text":
        raise InvalidRequest(
            "text.format.type: expected text, json_schema or json_object", param="text.format.type"
        )
    return chat
