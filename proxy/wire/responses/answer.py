"""The Response: what it says beside its output, and what an output's items are made of."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from ...errors import ProxyError
from ..chat import Usage, objects
from ..chat.usage import as_object
from .tools import Json

# The parameters that come back, and what they are if the caller left them out.
_GIVEN: Final[Json] = {
    **dict.fromkeys(("instructions", "max_output_tokens", "max_tool_calls", "prompt_cache_key")),
    **dict.fromkeys(("temperature", "safety_identifier", "top_p", "user")),
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "auto",
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "truncation": "disabled",
}
_NULL: Final = Raw(b"null")

# Why an answer is not complete, by chat's `finish_reason`.
INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


def opening(model: str, fields: dict[str, Raw], token: str) -> Json:
    """A Response without output, to a request with these `fields`; its ids are made of `token`."""
    return {
        "id": f"resp_{token}",
        "object": "response",
        "created_at": 0,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "previous_response_id": None,
        "store": False,
        "usage": None,
        **_GIVEN,
        **{name: value for name, value in fields.items() if name in _GIVEN and value != _NULL},
    }


def usage_of(told: Usage) -> Json:
    """`usage` as this dialect has it; the input has what was cached in both."""
    prompt, completion = told.prompt_tokens or 0, told.completion_tokens or 0
    read, written = told.cached_tokens or 0, told.cache_write_tokens or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": told.reasoning_tokens or 0},
        "total_tokens": prompt + completion,
    }


def logprobs_of(choice: Json) -> list[Json]:
    """The tokens' probabilities in a choice."""
    return [
        {**_logprob(token), "top_logprobs": list(map(_logprob, objects(token.get("top_logprobs"))))}
        for token in objects(as_object(choice.get("logprobs")).get("content"))
    ]


def _logprob(token: Json) -> Json:
    defaults: Json = {"token": "", "bytes": [], "logprob": 0.0}
    return {name: token.get(name) or default for name, default in defaults.items()}


class _Cited(msgspec.Struct):
    url: str
    title: str | None = None
    start_index: int | None = None
    end_index: int | None = None


def citation_of(annotation: Json, *, before: int) -> Json | None:
    """A citation of a page; `before`: so many characters were said in earlier parts."""
    try:
        cited = msgspec.convert(annotation.get("url_citation"), _Cited)
    except msgspec.ValidationError:
        return None
    return {
        "type": "url_citation",
        "start_index": max(0, (cited.start_index or 0) - before),
        "end_index": max(0, (cited.end_index or 0) - before),
        "title": cited.title or cited.url,
        "url": cited.url,
    }


def error_of(error: ProxyError, message: str) -> Json:
    """The error of a Response that failed; its codes are few (types/responses/response_error.py).

    `message`: what is said of the error where there is no status.
    """
    is_callers = 400 <= error.status < 500 and error.status != 408
    code = "invalid_prompt" if is_callers else "server_error"
    code = "rate_limit_exceeded" if error.status == 429 else code
    return {"code": code, "message": message, "type": error.type, "param": error.param}
