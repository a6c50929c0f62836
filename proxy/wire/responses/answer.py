"""The Response: what it says beside its output, and what an output's items are made of."""

from __future__ import annotations

import os
from typing import Any, Final

from msgspec import Raw

from ...errors import AllCoolingDown, CallerError, CallerLimitReached, ProxyError, UpstreamRefusal
from ..chat import objects
from .tools import Json

# The parameters that come back, and what they are if the caller left them out.
_GIVEN: Final[dict[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "auto",
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
_NULL: Final = Raw(b"null")

# Why an answer is not complete, by chat's `finish_reason`.
INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Response:
    """The answer to a request with these `fields`. `token`: what all its ids are made of."""

    def __init__(self, model: str, fields: dict[str, Raw]) -> None:
        self.token = os.urandom(16).hex()
        self.output: list[Json] = []
        self.usage: Json | None = None
        self.created: float = 0
        self._model = model
        self._given = {
            name: default if fields.get(name, _NULL) == _NULL else fields[name]
            for name, default in _GIVEN.items()
        }

    def shown(
        self, status: str, *, incomplete: str | None = None, error: Json | None = None
    ) -> Json:
        """The object as it is now."""
        return {
            "id": f"resp_{self.token}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": incomplete} if incomplete else None,
            "model": self._model,
            "output": self.output,
            "previous_response_id": None,
            "store": False,
            "usage": self.usage,
            **self._given,
        }


def usage_of(told: Json) -> Json:
    """`usage` as this dialect has it; the input has what was cached in both."""
    prompt, completion = count(told, "prompt_tokens"), count(told, "completion_tokens")
    read, made = told.get("prompt_tokens_details"), told.get("completion_tokens_details")
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": count(read, "cached_tokens"),
            "cache_write_tokens": count(read, "cache_write_tokens"),
        },
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": count(made, "reasoning_tokens")},
        "total_tokens": count(told, "total_tokens") or prompt + completion,
    }


def count(told: Any, name: str) -> int:
    """A number in an upstream's object; 0 if it is none."""
    value = told.get(name) if isinstance(told, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def logprobs_of(choice: Json) -> list[Json]:
    """The tokens' probabilities in a choice."""
    found = choice.get("logprobs")
    tokens = objects(found.get("content")) if isinstance(found, dict) else []
    return [
        {**_logprob(token), "top_logprobs": list(map(_logprob, objects(token.get("top_logprobs"))))}
        for token in tokens
    ]


def _logprob(token: Json) -> Json:
    return {
        "token": token.get("token") or "",
        "bytes": token.get("bytes") or [],
        "logprob": token.get("logprob") or 0.0,
    }


def citation_of(annotation: Json, *, before: int) -> Json | None:
    """A citation of a page; `before`: so many characters were said in earlier parts."""
    cited = annotation.get("url_citation")
    if not isinstance(cited, dict) or not isinstance(cited.get("url"), str):
        return None
    start, end = count(cited, "start_index"), count(cited, "end_index")
    return {
        "type": "url_citation",
        "start_index": max(0, start - before),
        "end_index": max(0, end - before),
        "title": cited.get("title") or cited["url"],
        "url": cited["url"],
    }


def error_of(error: ProxyError, message: str) -> Json:
    """The error of a Response that failed; its codes are few (types/responses/response_error.py).

    `message`: what is said of the error where there is no status.
    """
    status = error.status
    if isinstance(error, (AllCoolingDown, CallerLimitReached)) or status == 429:
        code = "rate_limit_exceeded"
    elif isinstance(error, CallerError) or (
        isinstance(error, UpstreamRefusal) and 400 <= status < 500 and status != 408
    ):
        code = "invalid_prompt"
    else:
        code = "server_error"
    return {"code": code, "message": message, "type": error.type, "param": error.param}
