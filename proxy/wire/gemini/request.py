"""An OpenAI chat request as a generateContent request (v1beta).

docs/parameters.md says what becomes of every parameter. What Gemini can't honour is dropped only if
the answer stays what the caller asked for, else it is a 400 `unsupported_parameter`. No safety
settings are sent: Google's defaults hold.

Sources: google-genai 3.4 (types.py, models.py), ai.google.dev/api/generate-content, read 2026-11.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

import msgspec

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat import shapes as chat
from ..effort import wanted
from . import schema
from .models import Family, family_of, wire_name
from .turns import Turns

_INSTEAD: Final = {"function_call": "use tool_choice", "functions": "use tools"}
_MODALITIES: Final = {"text": "TEXT", "image": "IMAGE"}
_NO_TIERS: Final = (None, "auto", "on_demand")  # the third is Groq's
_TIERS: Final = {"default": "standard", "flex": "flex", "priority": "priority"}


def resource(model: str) -> str:
    """The model with the folder that Google has it in."""
    name = model.encode(errors="replace").decode()
    return name if name.startswith(("models/", "tunedModels/")) else f"models/{name}"


def path(model: str, method: str) -> str:
    """Path and query below the base URL; nothing in `model` can leave its path segment."""
    folder, _, name = resource(model).partition("/")
    return f"/v1beta/{folder}/{quote(name, safe='')}:{method}"


def to_request(body: bytes, *, model: str, stream: bool) -> bytes:
    """The body for the upstream's `model`; raises InvalidRequest with the path to what is wrong."""
    asked, present = chat.read(body)
    family = family_of(model)
    for name in chat.unknown(present, chat.KNOWN):
        raise _unsupported(name, _INSTEAD.get(name, "Gemini has nothing like it"))
    try:
        turns = Turns(family)
        turns.add(asked.messages)
        system, contents = turns.build()
        tools = _tools(asked, family)
        config, formatted = _generation_config(asked, family), _format(asked.response_format)
        if formatted and tools and not family.combines_tools:
            # "Function calling with a response mime type is unsupported": so it is told.
            system = [*system, {"text": _told_format(asked.response_format)}]
        else:
            config |= formatted
        told = {"parts": system} if system else None
        request = _given(contents=contents, systemInstruction=told, generationConfig=config or None)
        return msgspec.json.encode({**request, **tools, **_account(asked)})
    except RecursionError as error:
        raise InvalidRequest("the request is nested too deeply") from error


def to_count(body: bytes, *, model: str) -> bytes:
    """A request for `countTokens`, with a whole one in it (ai.google.dev/api/tokens, 2026-11)."""
    named = msgspec.json.encode(resource(model))
    request = to_request(body, model=model, stream=False)
    return b'{"generateContentRequest":{"model":%b,%b}' % (named, request[1:])


def _given(**members: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in members.items() if value is not None}


def _unsupported(name: str, why: str) -> UnsupportedParameter:
    """The 400 for what Gemini can't honour; `name` is the parameter's path."""
    told = f"{name} is not supported: the model is served by Gemini: {why}"
    return UnsupportedParameter(told, param=name)


def _format(asked: chat.ResponseFormat | None) -> dict[str, Any]:
    """The configuration for `response_format`."""
    if asked is None or asked.type == "text":
        return {}
    if asked.type == "json_object":
        return {"responseMimeType": "application/json"}
    if asked.type != "json_schema" or asked.json_schema is None:
        what = "type text, json_object or json_schema (with `json_schema`)"
        raise InvalidRequest.at("response_format", f"expected {what}, got {asked.type!r}")
    at = "response_format.json_schema.schema"
    cleaned = schema.clean(asked.json_schema.schema or {}, param=at)
    if asked.json_schema.description:
        cleaned.setdefault("description", asked.json_schema.description)
    return {"responseMimeType": "application/json", "responseJsonSchema": cleaned}


def _told_format(asked: chat.ResponseFormat | None) -> str:
    """The same as an instruction."""
    told = "Answer with JSON and nothing else, no prose, no code fence, unless you call a function."
    if asked is not None and asked.json_schema is not None:
        described = msgspec.json.encode(asked.json_schema.schema or {}).decode()
        told += f" It follows this JSON Schema: {described}"
    return told


def _tools(asked: chat.Request, family: Family) -> dict[str, Any]:
    """`tools` and `toolConfig`."""
    declared = [_declaration(place, tool) for place, tool in enumerate(asked.tools or ())]
    tools: list[dict[str, Any]] = [{"functionDeclarations": declared}] if declared else []
    calling = _calling(asked.tool_choice, {function["name"] for function in declared})
    config: dict[str, Any] = {"functionCallingConfig": calling} if calling else {}
    search = asked.web_search_options
    excluded = declared and not family.combines_tools
    if search is not None and not (excluded and search.get("optional")):
        if excluded:
            why = "before Gemini 3 it searches or calls functions, not both"
            raise _unsupported("web_search_options", why)
        tools.append({"googleSearch": {}})
        if declared:
            # What it searched comes back in the answer, and has to be in the next request.
            config["includeServerSideToolInvocations"] = True
    return _given(tools=tools or None, toolConfig=config or None)


def _declaration(place: int, tool: chat.Tool) -> dict[str, Any]:
    at = f"tools[{place}]"
    if tool.type != "function" or tool.function is None:
        why = f"only functions are possible with Gemini, got type {tool.type!r}"
        raise UnsupportedParameter.at(at, f"{why}; {chat.CUSTOM_TOOLS}")
    param = f"{at}.function.parameters"
    parameters = schema.function_parameters(tool.function.parameters, param=param)
    name, description = wire_name(tool.function.name), tool.function.description or None
    return _given(name=name, description=description, parametersJsonSchema=parameters)


def _calling(choice: str | chat.ToolChoice | None, declared: set[str]) -> dict[str, Any] | None:
    """`functionCallingConfig`; None is Gemini's own AUTO."""
    mode, chosen = chat.choice_of(choice or "auto")
    if chosen is not None:
        names = set(map(wire_name, chosen))
        if not names or not names <= declared:
            raise InvalidRequest.at("tool_choice", "it has to name functions among `tools`")
        # VALIDATED is AUTO that keeps to the allowed names.
        mode = "VALIDATED" if mode == "auto" else "ANY"
        return {"mode": mode, "allowedFunctionNames": sorted(names)}
    if mode == "required":
        if not declared:
            raise InvalidRequest.at("tool_choice", "there are no tools to choose")
        return {"mode": "ANY"}
    return {"mode": "NONE"} if mode == "none" and declared else None


def _account(asked: chat.Request) -> dict[str, Any]:
    """What concerns the account and not the answer: tier, logging, a cached prompt."""
    tier, google = asked.service_tier, asked.extra_body.google if asked.extra_body else None
    if tier not in (*_NO_TIERS, *_TIERS):
        raise _unsupported("service_tier", f"it has no tier {tier!r}")
    cached = None if google is None else google.cached_content
    return _given(serviceTier=_TIERS.get(tier or ""), store=asked.store, cachedContent=cached)


def _generation_config(asked: chat.Request, family: Family) -> dict[str, Any]:
    """Only what was asked for; raises InvalidRequest or UnsupportedParameter naming the rest."""
    for name in ("frequency_penalty", "presence_penalty"):
        if getattr(asked, name) and not family.penalties:
            raise _unsupported(name, "Gemini 4 and later have no penalties")
    if asked.n is not None and asked.n < 1:
        raise InvalidRequest.at("n", "it has to be at least 1")
    if asked.n not in (None, 1) and not family.many_candidates:
        raise _unsupported("n", "Gemini 3 and later give one answer per request")
    most = asked.max_completion_tokens
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or ()
    sampling = {"temperature": asked.temperature, "topP": asked.top_p, "topK": asked.top_k}
    return _given(
        maxOutputTokens=asked.max_tokens if most is None else most,
        stopSequences=list(filter(None, stops)) or None,
        # Gemini's seed has 32 bits, OpenAI's 64: equal seeds stay equal.
        seed=None if asked.seed is None else asked.seed % 2**31,
        candidateCount=None if asked.n == 1 else asked.n,
        frequencyPenalty=asked.frequency_penalty or None,
        presencePenalty=asked.presence_penalty or None,
        responseLogprobs=asked.logprobs or None,
        logprobs=asked.top_logprobs if asked.logprobs else None,
        thinkingConfig=_thinking(asked, family),
        responseModalities=_modalities(asked.modalities),
        **(sampling if family.sampling else {}),
    )


def _thinking(request: chat.Request, family: Family) -> dict[str, Any] | None:
    google = request.extra_body.google if request.extra_body else None
    asked = wanted(request.reasoning_effort, request.reasoning, request.thinking)
    effort: str | None = asked.effort
    if effort is None and asked.budget is not None:
        effort = family.effort_of(asked.budget)
    if google is not None and google.thinking_config is not None:
        if effort is not None:
            what = f"{asked.name} and extra_body.google.thinking_config"
            raise InvalidRequest(f"{what} exclude each other", param=asked.name)
        given = google.thinking_config.items()
        return {re.sub("_+(.?)", lambda at: at[1].upper(), name): value for name, value in given}
    if effort is None:
        return {"includeThoughts": True} if asked.is_on and family.thinks else None
    if not family.thinks:
        if effort == "none":
            return None
        raise _unsupported(asked.name, "this model does not think")
    config = family.thinking_config(effort, asked.budget)
    if request.reasoning is not None and request.reasoning.exclude:
        config["includeThoughts"] = False
    return config


def _modalities(asked: list[str] | None) -> list[str] | None:
    if not asked or asked == ["text"]:
        return None
    for place, name in enumerate(asked):
        if name not in _MODALITIES:
            raise _unsupported(f"modalities[{place}]", "it answers in text and images")
    return [_MODALITIES[name] for name in asked]
