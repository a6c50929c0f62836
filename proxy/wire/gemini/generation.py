"""A chat request's parameters as Gemini's `generationConfig`."""

from __future__ import annotations

from typing import Any, Final

from ...errors import InvalidRequest
from ..effort import wanted
from . import chat, schema
from .family import Family

_MODALITIES: Final = {"text": "TEXT", "image": "IMAGE"}
_MAX_SEED: Final = 2**31 - 1


def generation_config(asked: chat.Request, family: Family) -> dict[str, Any]:
    """Only what was asked for; raises InvalidRequest or UnsupportedParameter naming the rest."""
    return _Config(asked, family).build()


class _Config:
    def __init__(self, asked: chat.Request, family: Family) -> None:
        self._asked = asked
        self._family = family

    def build(self) -> dict[str, Any]:
        asked = self._asked
        config: dict[str, Any] = {
            "maxOutputTokens": self._max_tokens(),
            "stopSequences": self._stop(),
            "seed": self._seed(),
            "candidateCount": self._candidates(),
            "frequencyPenalty": self._penalty("frequency_penalty", asked.frequency_penalty),
            "presencePenalty": self._penalty("presence_penalty", asked.presence_penalty),
            "responseLogprobs": asked.logprobs or None,
            "logprobs": asked.top_logprobs if asked.logprobs else None,
            "thinkingConfig": self._thinking(),
            "responseModalities": self._modalities(),
        }
        if self._family.sampling:
            config |= {
                "temperature": asked.temperature,
                "topP": asked.top_p,
                "topK": asked.top_k,
            }
        config |= self._format()
        return {name: value for name, value in config.items() if value is not None}

    def _max_tokens(self) -> int | None:
        asked = self._asked
        if asked.max_completion_tokens is not None:
            return asked.max_completion_tokens
        return asked.max_tokens

    def _stop(self) -> list[str] | None:
        stop = self._asked.stop
        return list(filter(None, [stop] if isinstance(stop, str) else stop or ())) or None

    def _seed(self) -> int | None:
        """Gemini's seed has 32 bits, OpenAI's 64: equal seeds stay equal."""
        seed = self._asked.seed
        return None if seed is None else seed % (_MAX_SEED + 1)

    def _candidates(self) -> int | None:
        n = self._asked.n
        if n is None or n == 1:
            return None
        if n < 1:
            raise InvalidRequest("n must be at least 1", param="n")
        if not self._family.many_candidates:
            raise chat.unsupported("n", "Gemini 3 and later give one answer per request")
        return n

    def _penalty(self, name: str, value: float | None) -> float | None:
        if not value:
            return None
        if not self._family.penalties:
            raise chat.unsupported(name, "Gemini 4 and later have no penalties")
        return value

    def _thinking(self) -> dict[str, Any] | None:
        google = self._asked.extra_body.google if self._asked.extra_body else None
        reasoning = self._asked.reasoning
        asked = wanted(self._asked.reasoning_effort, reasoning, self._asked.thinking)
        effort: str | None = asked.effort
        if effort is None and asked.budget is not None:
            effort = self._family.effort_of(asked.budget)
        if google is not None and google.thinking_config is not None:
            if effort is not None:
                raise InvalidRequest(
                    f"{asked.name} and extra_body.google.thinking_config exclude each other",
                    param=asked.name,
                )
            return {_camel(name): value for name, value in google.thinking_config.items()}
        if effort is None:
            return {"includeThoughts": True} if asked.is_on and self._family.thinks else None
        if not self._family.thinks:
            if effort == "none":
                return None
            raise chat.unsupported(asked.name, "this model does not think")
        config = self._family.thinking_config(effort)
        if asked.budget is not None and "thinkingBudget" in config:
            config["thinkingBudget"] = self._family.budget(asked.budget)
        if reasoning is not None and reasoning.exclude:
            config["includeThoughts"] = False
        return config

    def _modalities(self) -> list[str] | None:
        asked = self._asked.modalities
        if not asked or asked == ["text"]:
            return None
        for place, name in enumerate(asked):
            if name not in _MODALITIES:
                raise chat.unsupported(f"modalities[{place}]", "it answers in text and images")
        return [_MODALITIES[name] for name in asked]

    def _format(self) -> dict[str, Any]:
        wanted = self._asked.response_format
        if wanted is None or wanted.type == "text":
            return {}
        if wanted.type == "json_object":
            return {"responseMimeType": "application/json"}
        if wanted.type != "json_schema" or wanted.json_schema is None:
            raise InvalidRequest(
                "response_format must be of type text, json_object or json_schema "
                f"(with `json_schema`), got {wanted.type!r}",
                param="response_format",
            )
        cleaned = schema.clean(
            wanted.json_schema.schema or {}, param="response_format.json_schema.schema"
        )
        if wanted.json_schema.description:
            cleaned.setdefault("description", wanted.json_schema.description)
        return {"responseMimeType": "application/json", "responseJsonSchema": cleaned}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
