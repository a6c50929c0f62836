"""An OpenAI chat request to a request for `POST /v1/messages`: what becomes of each parameter.

Claude's side: platform.claude.com/docs/en/api/messages, read 2026-11; what a model family takes:
families.py.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat import shapes as chat
from ..effort import BUDGETS, effort_of, wanted
from ..made_names import plain_name
from .families import Family, family_of
from .messages import Turns
from .schema import close_schema, flat_schema, taken_properties

_LEAST_BUDGET = 1_024

# Ids that nobody is known by: no address, no telephone number (the API refuses these two).
_OPAQUE_USER = re.compile(r"(?![0-9-]{7,}$)[A-Za-z0-9_.:|-]{1,128}")

# platform.claude.com/docs/en/build-with-claude/prompt-caching, 2026-11
_MAX_CACHE_MARKS = 4

_JSON_INSTRUCTION = "Answer with one JSON object and nothing else: no prose, no code fence."

# What count_tokens takes (docs/en/api/messages-count-tokens, 2026-11).
_COUNTED = {"messages", "model", "output_config", "system", "thinking", "tool_choice", "tools"}

_Json = dict[str, Any]

# What the caller would miss. What is not known at all is a 400 as well.
_REFUSED = {
    "audio": "Claude makes no audio",
    "extra_body": "Claude has nothing like it",
    "frequency_penalty": "Claude has none",
    "function_call": "out of use, send tool_choice",
    "functions": "out of use, send tools",
    "logit_bias": "Claude has none",
    "logprobs": "Claude gives none",
    "moderation": "Claude gives none",
    "presence_penalty": "Claude has none",
    "top_logprobs": "Claude gives none",
    "web_search_options": "no web search is offered",
}
_TAKEN = {*chat.KNOWN, "session_id", "trace"} - _REFUSED.keys()
KNOWN = {*_TAKEN, *_REFUSED}


def to_request(body: bytes, *, model: str, stream: bool) -> bytes:
    """The body for the upstream's `model`; raises InvalidRequest by paths of the caller's body."""
    wire = _wire(body, model)
    if stream:
        wire["stream"] = True
    return _encode(wire)


def to_count(body: bytes, *, model: str) -> bytes:
    """As `to_request`, for `POST /v1/messages/count_tokens`."""
    return _encode({name: value for name, value in _wire(body, model).items() if name in _COUNTED})


def _wire(body: bytes, model: str) -> _Json:
    request, present = chat.read(body)
    for name in chat.unknown(present, _TAKEN):
        raise UnsupportedParameter.at(name, _REFUSED.get(name, "Claude has nothing like it"))
    if request.modalities not in (None, ["text"]):
        raise UnsupportedParameter.at("modalities", "Claude answers in text")
    family = family_of(model)
    asked = wanted(request.reasoning_effort, request.reasoning, request.thinking)
    effort: str | None = asked.effort
    if effort is None and asked.is_on:
        effort = "medium" if asked.budget is None else effort_of(asked.budget)
    talk = Turns(system_inside=family.system_inside)
    talk.add(request.messages)
    talk.build(prefill=family.prefill and effort in (None, "none"))
    wire: _Json = {"model": model, "max_tokens": _max_tokens(request, family)}
    wire |= _tools(request, family) or _tools_of_history(talk)
    wire |= _thinking(effort, asked.budget, family, talk, wire)
    wire |= _sampling(request, family, wire.get("thinking", {}))
    _add_format(request, family, talk, wire)
    wire |= _rest(request)
    if talk.system:
        wire["system"] = talk.system
    wire["messages"] = talk.turns
    _limit_cache_marks(wire)
    return wire


def _encode(wire: _Json) -> bytes:
    try:
        return msgspec.json.encode(wire)
    except (OverflowError, RecursionError) as error:  # a schema with an integer past 64 bits
        raise InvalidRequest(f"the request can't be translated: {error}") from error


def _limit_cache_marks(wire: _Json) -> None:
    """Leave out the first marks where there are more than the API takes: later ones hold more."""
    blocks = [*wire.get("tools", ()), *wire.get("system", ())]
    for turn in wire["messages"]:
        for block in turn["content"]:
            inside = block.get("content", ()) if block["type"] == "tool_result" else ()
            blocks += [*inside, block]
    marked = [block for block in blocks if "cache_control" in block]
    spare = len(marked) + ("cache_control" in wire) - _MAX_CACHE_MARKS
    for block in marked[: max(0, spare)]:
        del block["cache_control"]


def _max_tokens(request: chat.Request, family: Family) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        value: int | None = getattr(request, name)
        if value is not None:
            if value < 1:
                raise InvalidRequest.at(name, "expected at least 1")
            return value
    return family.max_tokens


def _tool_choice(request: chat.Request, family: Family) -> tuple[_Json, set[str] | None]:
    """`tool_choice`, empty where nothing has to be said, and the names of the tools allowed."""
    wire: _Json = {}
    allowed = None
    if request.tool_choice is not None:
        mode, allowed = chat.choice_of(request.tool_choice)
        wire = {"type": "any" if mode == "required" else mode}
        if mode == "function" and allowed is not None:
            wire = {"type": "tool", "name": plain_name(*allowed)}
            allowed = None
        if mode in ("required", "function") and not family.forced_tools:
            why = "this model can't be made to call a tool; send auto"
            raise UnsupportedParameter.at("tool_choice", why)
    if request.parallel_tool_calls is False and wire.get("type") != "none":
        wire = {"type": "auto", **wire, "disable_parallel_tool_use": True}
    return wire, allowed


def _tools(request: chat.Request, family: Family) -> _Json:
    """`tools` and `tool_choice`, which the API takes only together."""
    choice, allowed = _tool_choice(request, family)
    tools: dict[str, _Json] = {}  # by name: the API refuses two of the same
    for index, tool in enumerate(request.tools or ()):
        path = f"tools[{index}]"
        if tool.function is None:
            why = f"Claude takes functions only; {chat.CUSTOM_TOOLS}"
            raise UnsupportedParameter.at(path, why)
        if allowed is None or tool.function.name in allowed:
            made = _tool(tool.function, family, f"{path}.function.parameters")
            if mark := tool.cache_control or tool.function.cache_control:
                made["cache_control"] = mark
            tools.setdefault(made["name"], made)
    if not tools:
        return {}
    return {"tools": list(tools.values()), **({"tool_choice": choice} if choice else {})}


def _tools_of_history(talk: Turns) -> _Json:
    """The API refuses calls and results of tools in a request that defines none."""
    blocks = [block for turn in talk.turns for block in turn["content"]]
    names = dict.fromkeys(block["name"] for block in blocks if block["type"] == "tool_use")
    if not names:
        return {}
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in names]
    return {"tools": tools, "tool_choice": {"type": "none"}}


def _tool(function: chat.Function, family: Family, path: str) -> _Json:
    schema, unions = flat_schema(taken_properties(function.parameters or {"properties": {}}))
    wire: _Json = {"name": plain_name(function.name)}
    told = msgspec.json.encode(unions).decode()
    hint = f"The input also follows this JSON Schema: {told}" if unions else ""
    description = f"{function.description or ''}\n\n{hint}".strip()
    if description:
        wire["description"] = description
    if function.strict and family.structured:
        wire["strict"] = True
        schema = close_schema(schema, path)
    wire["input_schema"] = schema
    return wire


def _thinking(
    wanted: str | None, tokens: int | None, family: Family, talk: Turns, wire: _Json
) -> _Json:
    """`thinking`, and `output_config` with the effort. `tokens`: the caller's own budget."""
    # A demanded tool call and thinking exclude each other.
    forced = wire.get("tool_choice", {}).get("type") in ("any", "tool")
    is_off = family.off != "never" and (wanted == "none" or forced)
    parts = _effort(wanted, family, is_off=is_off)
    if is_off:
        if family.off in ("disabled", "between_tools"):
            parts["thinking"] = {"type": family.off}
        if family.bound:
            talk.drop_thinking()  # it would be checked all the same, and not used
        return parts
    if wanted not in (None, "none"):
        if family.adaptive:
            parts["thinking"] = {"type": "adaptive", "display": "summarized"}
        else:
            most = wire["max_tokens"]
            budget = min(BUDGETS[wanted], most * 3 // 4)
            if tokens is not None:
                budget = min(max(tokens, _LEAST_BUDGET), most - 1)
            if budget >= _LEAST_BUDGET and talk.loop_thinks:
                parts["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if family.bound and talk.thinks:
        # Callers trim and edit their histories; a refused request would be the worse answer.
        binding = {"block_binding": {"prefix_mismatch_behavior": "drop_block"}}
        parts["thinking"] = {"type": "adaptive", **parts.get("thinking", {}), **binding}
    return parts


def _effort(wanted: str | None, family: Family, *, is_off: bool) -> _Json:
    if wanted is None or (wanted == "none" and is_off):
        return {}
    effort = family.effort("low" if wanted in ("none", "minimal") else wanted)
    if is_off and effort in ("xhigh", "max"):
        effort = "high"  # the most that goes without thinking
    return {"output_config": {"effort": effort}} if effort else {}


def _sampling(request: chat.Request, family: Family, thinking: _Json) -> _Json:
    for name, most in (("temperature", 2), ("top_p", 1)):
        value: float | None = getattr(request, name)
        if value is not None and not 0 <= value <= most:
            raise InvalidRequest.at(name, f"expected 0 to {most}")
    if thinking.get("type") in ("adaptive", "enabled") or not family.sampling:
        return {}
    wire: _Json = {} if request.top_k is None else {"top_k": request.top_k}
    if request.temperature is not None:
        wire["temperature"] = min(request.temperature, 1.0)
    elif request.top_p is not None:
        wire["top_p"] = request.top_p
    return wire


def _add_format(request: chat.Request, family: Family, talk: Turns, wire: _Json) -> None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return
    if wanted.type not in ("json_object", "json_schema"):
        expected = f"expected text, json_object or json_schema, got {wanted.type!r}"
        raise InvalidRequest.at("response_format.type", expected)
    path = "response_format.json_schema.schema"
    schema = wanted.json_schema.schema if wanted.json_schema else None
    if wanted.type == "json_schema" and schema is None:
        raise InvalidRequest.at(path, "expected a JSON Schema")
    if wanted.type == "json_schema" and family.structured:
        wanted_format = {"type": "json_schema", "schema": close_schema(schema, path)}
        wire["output_config"] = {**wire.get("output_config", {}), "format": wanted_format}
        return
    instruction = _JSON_INSTRUCTION
    if schema is not None:
        instruction += f" It follows this JSON Schema: {msgspec.json.encode(schema).decode()}"
    talk.system.append({"type": "text", "text": instruction})


def _rest(request: chat.Request) -> _Json:
    wire: _Json = {}
    if request.n not in (None, 1):
        raise UnsupportedParameter.at("n", "Claude gives one answer per request")
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    for index, stop in enumerate(stops):
        if stop and not stop.strip():
            path = "stop" if isinstance(request.stop, str) else f"stop[{index}]"
            raise UnsupportedParameter.at(path, "Claude takes no blank stop sequence")
    if any(stops):
        wire["stop_sequences"] = [stop for stop in stops if stop]
    if user := str(request.user or request.safety_identifier or ""):
        # The same every time, without personal data.
        digest = hashlib.sha256(user.encode()).hexdigest()
        wire["metadata"] = {"user_id": user if _OPAQUE_USER.fullmatch(user) else digest}
    if request.cache_control:
        wire["cache_control"] = request.cache_control
    if request.service_tier == "default":
        wire["service_tier"] = "standard_only"
    return wire
