"""An OpenAI chat request as a generateContent request (v1beta).

`PARAMETERS` says what becomes of every parameter; docs/parameters.md is checked against it. What
Gemini can't honour is dropped only if the answer stays what the caller asked for, else it is a 400
`unsupported_parameter`. No safety settings are sent: Google's defaults hold.

Sources: google-genai 3.4 (types.py, models.py), ai.google.dev/api/generate-content, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat import shapes as chat
from . import schema
from .family import Family, family_of
from .generation import generation_config, unsupported
from .names import wire_name
from .turns import Turns

_GC: Final = "generationConfig."

# parameter -> what becomes of it. "dropped" and "400" open the texts of those that never arrive.
PARAMETERS: Final[dict[str, str]] = {
    "model": "the path",
    "stream": "the path",
    "stream_options": "the usage chunk is made here",
    "messages": "contents, systemInstruction",
    "audio": "400",
    "cache_control": "dropped: Gemini caches by itself",
    "extra_body": "google.thinking_config: generationConfig.thinkingConfig; "
    "google.cached_content: cachedContent",
    "frequency_penalty": _GC + "frequencyPenalty; 400 from Gemini 4 on",
    "function_call": "400: use tool_choice",
    "functions": "400: use tools",
    "include_reasoning": "dropped: OpenRouter's",
    "logit_bias": "400 unless empty",
    "logprobs": _GC + "responseLogprobs",
    "max_completion_tokens": _GC + "maxOutputTokens",
    "max_tokens": _GC + "maxOutputTokens, unless max_completion_tokens is given",
    "metadata": "dropped: it labels stored chats only",
    "modalities": _GC + "responseModalities (text, image); 400 for audio",
    "models": "dropped: OpenRouter's",
    "moderation": "400",
    "n": _GC + "candidateCount; 400 for n > 1 from Gemini 3 on",
    "parallel_tool_calls": "false: of several calls only the first is given",
    "prediction": "dropped: it speeds up, and changes no answer",
    "preset": "dropped: OpenRouter's",
    "presence_penalty": _GC + "presencePenalty; 400 from Gemini 4 on",
    "prompt_cache_key": "dropped: Gemini caches by itself",
    "prompt_cache_options": "dropped: Gemini caches by itself",
    "prompt_cache_retention": "dropped: Gemini caches by itself",
    "provider": "dropped: OpenRouter's",
    "reasoning": "as reasoning_effort, if neither that nor thinking is there; max_tokens: "
    "thinkingBudget for 2.5; OpenRouter's",
    "reasoning_effort": _GC + "thinkingConfig: thinkingLevel from Gemini 3 on, thinkingBudget for "
    "2.5; 400 for models that don't think",
    "reasoning_format": "dropped: Groq's",
    "response_format": _GC
    + "responseMimeType, generationConfig.responseJsonSchema; before Gemini 3 "
    "an instruction beside tools",
    "route": "dropped: OpenRouter's",
    "safety_identifier": "dropped: Gemini has no place for it",
    "seed": _GC + "seed",
    "service_tier": "serviceTier (flex, priority; default is standard); dropped if auto or "
    "on_demand; else 400",
    "stop": _GC + "stopSequences",
    "store": "store: whether Google logs the request",
    "temperature": _GC + "temperature; dropped from Gemini 3.6 on, which ignores it",
    "thinking": "as reasoning_effort, before which it decides; Anthropic's",
    "tool_choice": "toolConfig.functionCallingConfig",
    "tools": "tools[].functionDeclarations",
    "top_k": _GC + "topK; dropped from Gemini 3.6 on, which ignores it",
    "top_logprobs": _GC + "logprobs",
    "top_p": _GC + "topP; dropped from Gemini 3.6 on, which ignores it",
    "transforms": "dropped: OpenRouter's",
    "usage": "dropped: OpenRouter's",
    "user": "dropped: Gemini has no place for it",
    "verbosity": "dropped: a hint",
    "web_search_options": "tools[].googleSearch; 400 beside functions before Gemini 3",
}

_REFUSED: Final = frozenset(name for name, fate in PARAMETERS.items() if fate.startswith("400"))
_encode: Final = msgspec.json.Encoder().encode
_NOTHING_SET: Final = (b"{}", b"[]", b"false", b"0", b'""')
_NO_TIER: Final = ("auto", "on_demand")  # the second is Groq's
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
    """Raises InvalidRequest or UnsupportedParameter, with `param` the path to what is wrong.

    `model` is the upstream's name for it; `stream` changes the path alone.
    """
    asked, present = chat.read(body)
    family = family_of(model)
    _refuse_unknown(present)
    try:
        turns = Turns(family)
        turns.add(asked.messages)
        system, contents = turns.build()
        tools = _tools(asked, family)
        config = generation_config(asked, family)
        if tools and not family.combines_tools:
            # "Function calling with a response mime type is unsupported": so it is told.
            system = system + _told_format(asked, config)
        request: dict[str, Any] = {"contents": contents}
        if system:
            request["systemInstruction"] = {"parts": system}
        if config:
            request["generationConfig"] = config
        request.update(tools)
        request.update(_account(asked))
        return msgspec.json.encode(request)
    except RecursionError as error:
        raise InvalidRequest("the request is nested too deeply") from error


def _refuse_unknown(present: Mapping[str, msgspec.Raw]) -> None:
    for name, value in present.items():
        if bytes(value).strip() in _NOTHING_SET:
            continue
        if name not in PARAMETERS:
            raise unsupported(name, "Gemini has nothing like it")
        if name in _REFUSED:
            raise unsupported(name, PARAMETERS[name].partition(": ")[2])


def _told_format(asked: chat.Request, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Take the format out of the configuration; returns it as an instruction."""
    if config.pop("responseMimeType", None) is None:
        return []
    told = "Answer with JSON and nothing else, no prose, no code fence, unless you call a function."
    config.pop("responseJsonSchema", None)
    wanted = asked.response_format
    if wanted is not None and wanted.json_schema is not None:
        told += f" It follows this JSON Schema: {_encode(wanted.json_schema.schema or {}).decode()}"
    return [{"text": told}]


def _tools(asked: chat.Request, family: Family) -> dict[str, Any]:
    """`tools` and `toolConfig`."""
    declared = [_declaration(place, tool) for place, tool in enumerate(asked.tools or ())]
    tools: list[dict[str, Any]] = [{"functionDeclarations": declared}] if declared else []
    config: dict[str, Any] = {}
    calling = _calling(asked.tool_choice, {function["name"] for function in declared})
    if calling is not None:
        config["functionCallingConfig"] = calling
    search = asked.web_search_options
    if search is not None and declared and not family.combines_tools and search.get("optional"):
        search = None
    if search is not None:
        tools.append({"googleSearch": {}})
        if declared:
            if not family.combines_tools:
                raise unsupported(
                    "web_search_options", "before Gemini 3 it searches or calls functions, not both"
                )
            # What it searched comes back in the answer, and has to be in the next request.
            config["includeServerSideToolInvocations"] = True
    found: dict[str, Any] = {"tools": tools} if tools else {}
    return {**found, "toolConfig": config} if config else found


def _declaration(place: int, tool: chat.Tool) -> dict[str, Any]:
    at = f"tools[{place}]"
    if tool.type != "function" or tool.function is None:
        raise UnsupportedParameter(
            f"{at}: only functions are possible with Gemini, got type {tool.type!r}; a custom tool "
            "can be declared as a function with one string parameter",
            param=at,
        )
    declaration: dict[str, Any] = {"name": wire_name(tool.function.name)}
    if tool.function.description:
        declaration["description"] = tool.function.description
    parameters = schema.function_parameters(
        tool.function.parameters, param=f"{at}.function.parameters"
    )
    if parameters is not None:
        declaration["parametersJsonSchema"] = parameters
    return declaration


def _calling(choice: str | chat.ToolChoice | None, declared: set[str]) -> dict[str, Any] | None:
    """`functionCallingConfig`; None is Gemini's own AUTO."""
    mode, chosen = chat.choice_of(choice or "auto")
    if chosen is not None:
        names = set(map(wire_name, chosen))
        if not names or not names <= declared:
            raise InvalidRequest(
                "tool_choice must name functions among `tools`", param="tool_choice"
            )
        # VALIDATED is AUTO that keeps to the allowed names.
        mode = "VALIDATED" if mode == "auto" else "ANY"
        return {"mode": mode, "allowedFunctionNames": sorted(names)}
    if mode == "required":
        if not declared:
            raise InvalidRequest("tool_choice: there are no tools to choose", param="tool_choice")
        return {"mode": "ANY"}
    return {"mode": "NONE"} if mode == "none" and declared else None


def _account(asked: chat.Request) -> dict[str, Any]:
    """What concerns the account and not the answer: tier, logging, a cached prompt."""
    found: dict[str, Any] = {}
    tier = asked.service_tier
    if tier is not None and tier not in _NO_TIER:
        if tier not in _TIERS:
            raise unsupported("service_tier", f"it has no tier {tier!r}")
        found["serviceTier"] = _TIERS[tier]
    if asked.store is not None:
        found["store"] = asked.store
    google = asked.extra_body.google if asked.extra_body else None
    if google is not None and google.cached_content is not None:
        found["cachedContent"] = google.cached_content
    return found
