"""A Responses request as a chat request: its parameters. Items are in `items`, tools in `tools`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat import ChatRequest, Speech, without_reasoning
from ..chat.deltas import Translation
from ..chat.request import Outer
from ..lenient_json import decoder, encode
from .answer import Events
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
_READ: Final = {"effort", "summary"}  # of `reasoning`
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


decode = decoder(_Request)

# Those that are read, or change no answer that is made of chat; others are dropped and noted.
_KNOWN = {*_Request.__struct_fields__, *_AS_THEY_ARE, *_KEPT, "client_metadata", "max_tool_calls"}
_KNOWN |= {"metadata", "model", "store", "stream", "stream_options", "truncation"}


def kept_by_the_vendor(fields: Mapping[str, Raw]) -> InvalidRequest | None:
    """The error for a request that needs what only its vendor keeps, if it does."""
    for name in _KEPT:
        if _is_set(fields, name):
            why = "no conversations are kept here; send the whole input"
            return UnsupportedParameter.at(name, why)
    return None


def _is_set(fields: Mapping[str, Raw], name: str) -> bool:
    return name in fields and bytes(fields[name]) not in _NOTHING


def to_chat(asked: _Request, outer: Outer, kind: str, *, plain: bool) -> Translation:
    """The request as chat, for a client of this `kind`.

    `plain`: without what it says of reasoning, asked for or had. Raises RecursionError, and
    InvalidRequest, whose `param` is a path in the caller's body.
    """
    fields = outer.fields
    tools = Tools(kind)
    tools.add(asked.tools, "tools")
    talk = Conversation(tools)
    if asked.instructions:
        talk.add([{"role": "system", "content": asked.instructions}])
    talk.add(asked.input)
    reasoning, text = asked.reasoning or {}, asked.text or {}
    effort = reasoning.get("effort")
    has_logprobs = asked.top_logprobs or _LOGPROBS in (asked.include or ())
    choice = tools.choice(asked.tool_choice)
    chat: Json = {
        "model": outer.model,
        "messages": talk.messages(),
        **{name: fields[name] for name in _AS_THEY_ARE if _is_set(fields, name)},
        "max_tokens": asked.max_output_tokens,
        "reasoning_effort": None if plain else effort,
        "verbosity": text.get("verbosity"),
        "response_format": _format(text.get("format")),
        "logprobs": True if has_logprobs else None,
        "top_logprobs": asked.top_logprobs or 0 if has_logprobs else None,
        "tools": tools.declared or None,
        "tool_choice": choice if tools.declared else None,
        "parallel_tool_calls": asked.parallel_tool_calls if tools.declared else None,
        "web_search_options": {"optional": True} if tools.searches else None,
        "stream": outer.stream or None,
        "stream_options": {"include_usage": True} if outer.stream else None,
    }
    made = encode({name: value for name, value in chat.items() if value is not None})
    made = (plain and without_reasoning(made)) or made
    unknown = [name for name in fields if name not in _KNOWN]
    lost = sorted(name for name in reasoning.keys() - _READ if reasoning[name] is not None)
    unknown += [f"reasoning.{name}" for name in lost]
    unasked = ["reasoning.effort"] if plain and effort is not None else []
    dropped = dict.fromkeys([*unknown, *tools.dropped, *talk.dropped, *unasked])
    request = ChatRequest(made, outer.model, outer.stream, is_made=True)
    return Translation(request, [*dropped], lambda model: Events(model, fields, tools))


def _format(form: Any) -> Json | None:
    """`text.format` as chat's `response_format`."""
    kind = form.get("type") if isinstance(form, dict) else form
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return {"type": kind}
    if kind != "json_schema" or not isinstance(form, dict):
        raise InvalidRequest.at("text.format.type", "expected text, json_schema or json_object")
    names = ("name", "description", "schema", "strict")
    return {"type": kind, kind: {name: form[name] for name in names if form.get(name) is not None}}
