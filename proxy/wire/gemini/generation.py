"""A chat request's parameters as Gemini's `generationConfig`."""

from __future__ import annotations

from typing import Any, Final

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat import shapes as chat
from ..effort import wanted
from . import schema
from .family import Family

_MODALITIES: Final = {"text": "TEXT", "image": "IMAGE"}
_MAX_SEED: Final = 2**31 - 1


def unsupported(name: str, why: str = "") -> UnsupportedParameter:
    """The 400 for what Gemini can't honour; `name` is the parameter's path."""
    reason = f": {why}" if why else ""
    return UnsupportedParameter(
        f"{name} is not supported: the model is served by Gemini{reason}", param=name
    )


def generation_config(asked: chat.Request, family: Family) -> dict[str, Any]:
    """Only what was asked for; raises InvalidRequest or UnsupportedParameter naming the rest."""
    most = asked.max_completion_tokens
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or ()
    config: dict[str, Any] = {
        "maxOutputTokens": asked.max_tokens if most is None else most,
        "stopSequences": list(filter(None, stops)) or None,
        # Gemini's seed has 32 bits, OpenAI's 64: equal seeds stay equal.
        "seed": None if asked.seed is None else asked.seed % (_MAX_SEED + 1),
        "candidateCount": _candidates(asked.n, family),
        "frequencyPenalty": _penalty("frequency_penalty", asked.frequency_penalty, family),
        "presencePenalty": _penalty("presence_penalty", asked.presence_penalty, family),
        "responseLogprobs": asked.logprobs or None,
        "logprobs": asked.top_logprobs if asked.logprobs else None,
        "thinkingConfig": _thinking(asked, family),
        "responseModalities": _modalities(asked.modalities),
    }
    if family.sampling:
        config |= {"temperature": asked.temperature, "topP": asked.top_p, "topK": asked.top_k}
    config |= _format(asked.response_format)
    return {name: value for name, value in config.items() if value is not None}


def _candidates(n: int | None, family: Family) -> int | None:
    if n is None or n == 1:
        return None
    if n < 1:
        raise InvalidRequest("n must be at least 1", param="n")
    if not family.many_candidates:
        raise unsupported("n", "Gemini 3 and later give one answer per request")
    return n


def _penalty(name: str, value: float | None, family: Family) -> float | None:
    if value and not family.penalties:
        raise unsupported(name, "Gemini 4 and later have no penalties")
    return value or None


def _thinking(request: chat.Request, family: Family) -> dict[str, Any] | None:
    google = request.extra_body.google if request.extra_body else None
    asked = wanted(request.reasoning_effort, request.reasoning, request.thinking)
    effort: str | None = asked.effort
    if effort is None and asked.budget is not None:
        effort = family.effort_of(asked.budget)
    if google is not None and google.thinking_config is not None:
        if effort is not None:
            raise InvalidRequest(
                f"{asked.name} and extra_body.google.thinking_config exclude each other",
                param=asked.name,
            )
        return {_camel(name): value for name, value in google.thinking_config.items()}
    if effort is None:
        return {"includeThoughts": True} if asked.is_on and family.thinks else None
    if not family.thinks:
        if effort == "none":
            return None
        raise unsupported(asked.name, "this model does not think")
    config = family.thinking_config(effort)
    if asked.budget is not None and "thinkingBudget" in config:
        config["thinkingBudget"] = family.budget(asked.budget)
    if request.reasoning is not None and request.reasoning.exclude:
        config["includeThoughts"] = False
    return config


def _modalities(asked: list[str] | None) -> list[str] | None:
    if not asked or asked == ["text"]:
        return None
    for place, name in enumerate(asked):
        if name not in _MODALITIES:
            raise unsupported(f"modalities[{place}]", "it answers in text and images")
    return [_MODALITIES[name] for name in asked]


def _format(asked: chat.ResponseFormat | None) -> dict[str, Any]:
    if asked is None or asked.type == "text":
        return {}
    if asked.type == "json_object":
        return {"responseMimeType": "application/json"}
    if asked.type != "json_schema" or asked.json_schema is None:
        raise InvalidRequest(
            "response_format must be of type text, json_object or json_schema "
            f"(with `json_schema`), got {asked.type!r}",
            param="response_format",
        )
    cleaned = schema.clean(
        asked.json_schema.schema or {}, param="response_format.json_schema.schema"
    )
    if asked.json_schema.description:
        cleaned.setdefault("description", asked.json_schema.description)
    return {"responseMimeType": "application/json", "responseJsonSchema": cleaned}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
