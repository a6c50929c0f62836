"""A Responses request as a chat request: its parameters. Items are in `items`, tools in `tools`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from msgspec import Raw

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat import ChatRequest, Speech, read_any, read_fields
from ..chat.fields import too_deep
from ..lenient_json import encode
from .items import Conversation
from .reasoning import Thoughts
from .tools import Json, Tools

SPEECH: Speech = ("chat", "responses")
COUNT: Speech = ("count", "responses")

# Parameters that have the same name and meaning in chat.
_AS_THEY_ARE = ["frequency_penalty", "presence_penalty", "prompt_cache_key", "prompt_cache_options"]
_AS_THEY_ARE += ["prompt_cache_retention", "safety_identifier", "seed", "service_tier", "stop"]
_AS_THEY_ARE += ["temperature", "top_k", "top_p", "user"]
# Those that are read by name below, or change no answer that is made of chat. Whatever else comes
# is dropped and noted.
_KNOWN = {"client_metadata", "include", "input", "instructions", "max_output_tokens", "model"}
_KNOWN |= {"max_tool_calls", "metadata", "parallel_tool_calls", "reasoning", "store", "stream"}
_KNOWN |= {"stream_options", "text", "tool_choice", "tools", "top_logprobs", "truncation"}
_KNOWN |= {*_AS_THEY_ARE, "previous_response_id", "conversation", "background", "prompt"}

# Where an answer depends on what only its vendor keeps.
KEPT: Final = ("previous_response_id", "conversation", "background", "prompt")

_UPDATED: Final = ("reasoning", "text")  # what items may change

_NOTHING: Final = (b"null", b"false")
_LOGPROBS: Final = "message.output_text.logprobs"


class Translation(NamedTuple):
    """A request as chat. `dropped`: what of it nobody will see.

    `has_reasoning`: it says how to think, or what was thought before.
    """

    request: ChatRequest
    tools: Tools
    dropped: tuple[str, ...]
    has_reasoning: bool


def kept_by_the_vendor(fields: Mapping[str, Raw]) -> str | None:
    """The parameter by which this request needs a conversation that its vendor keeps, if any."""
    return next((name for name in KEPT if is_set(fields, name)), None)


def is_set(fields: Mapping[str, Raw], name: str) -> bool:
    """Whether the parameter asks for anything."""
    return name in fields and bytes(fields[name]) not in _NOTHING


def refuse_kept(name: str) -> UnsupportedParameter:
    """The error for a conversation that nobody here keeps."""
    return UnsupportedParameter(
        f"{name}: no conversations are kept here; send the whole input", param=name
    )


def to_chat(
    body: bytes, kind: str, *, model: str, stream: bool, reasons: bool = True
) -> Translation:
    """The request in a checked body as chat, for a client of this `kind`.

    `reasons`: with what it says of reasoning. Raises InvalidRequest, UnsupportedParameter, whose
    `param` is a path in the caller's body.
    """
    try:
        return _translated(body, kind, model=model, stream=stream, reasons=reasons)
    except RecursionError as error:
        raise too_deep() from error


def _translated(body: bytes, kind: str, *, model: str, stream: bool, reasons: bool) -> Translation:
    fields = read_fields(body)
    if name := kept_by_the_vendor(fields):
        raise refuse_kept(name)
    if is_set(fields, "moderation"):
        raise UnsupportedParameter("moderation: no client here moderates", param="moderation")

    def read(name: str, kind: type[Any]) -> Any:
        """The parameter; None if it is not there or null."""
        value = read_any(fields[name]) if name in fields else None
        if value is not None and not isinstance(value, kind):
            raise InvalidRequest(f"{name}: expected {_WORDS[kind]}", param=name)
        return value

    tools = Tools(kind)
    tools.add(read("tools", list), "tools")
    thoughts = Thoughts(kind if reasons else "")
    talk = Conversation(tools, kind, thoughts)
    if instructions := read("instructions", str):
        talk.instruct(instructions)
    talk.add(read("input", object))
    dropped = dict.fromkeys(name for name in fields if name not in _KNOWN)
    chat: Json = {"model": model, "messages": talk.messages()}
    chat |= {name: fields[name] for name in _AS_THEY_ARE if is_set(fields, name)}
    most = read("max_output_tokens", int)
    if most is not None:
        chat["max_tokens"] = most
    reasoning, text = (
        {**(read(name, dict) or {}), **talk.updates.get(name, {})} for name in _UPDATED
    )
    chat |= _reasoning(reasoning, dropped, reasons=reasons) | _text(text)
    if _LOGPROBS in (read("include", list) or ()) or read("top_logprobs", int):
        chat["logprobs"] = True
        chat["top_logprobs"] = read("top_logprobs", int) or 0
    choice = tools.choice(read("tool_choice", object))
    if tools.declared:
        chat["tools"] = tools.declared
        parallel = read("parallel_tool_calls", bool)
        asked = {"tool_choice": choice, "parallel_tool_calls": parallel}
        chat |= {name: value for name, value in asked.items() if value is not None}
    if tools.searches:
        chat["web_search_options"] = {"optional": True}
    if stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    request = ChatRequest(encode(chat), model, stream, is_made=True)
    has_reasoning = thoughts.were_put or "reasoning_effort" in chat
    names = tuple({**dropped, **tools.dropped, **talk.dropped})
    return Translation(request, tools, names, has_reasoning)


_WORDS: Final = {
    bool: "true or false",
    dict: "an object",
    int: "a whole number",
    list: "an array",
    str: "a string",
}


def _reasoning(asked: Json, dropped: dict[str, None], *, reasons: bool) -> Json:
    kept = ("effort", "summary") if reasons else ("summary",)
    dropped |= {
        f"reasoning.{name}": None
        for name, value in asked.items()
        if name not in kept and value is not None
    }
    effort = asked.get("effort")
    return {"reasoning_effort": effort} if effort is not None and reasons else {}


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
