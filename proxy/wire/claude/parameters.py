"""What becomes of each parameter of a chat request at Claude; request.py carries it out."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ...errors import UnsupportedParameter

# Every parameter of OpenAI's chat request, and of those that callers of a mixed pool send always
# (Claude's own, OpenRouter's, Groq's), and what becomes of it. "dropped": it has no counterpart and
# the answer means the same without it. "400": it has none, and the caller would miss it. What is
# not in the table is a 400 as well.
_DROPPED = (
    *("include_reasoning", "metadata", "models", "prediction", "preset", "prompt_cache_key"),
    *("prompt_cache_retention", "provider", "reasoning_format", "route", "seed", "session_id"),
    *("store", "trace", "transforms", "usage", "verbosity"),
)
PARAMETERS: dict[str, str] = {
    **dict.fromkeys(_DROPPED, "dropped"),
    "audio": "400: Claude makes no audio",
    "cache_control": "cache_control: the end of the request is cached",
    "frequency_penalty": "400: Claude has none",
    "function_call": "400: out of use, send tool_choice",
    "functions": "400: out of use, send tools",
    "logit_bias": "400: Claude has none",
    "logprobs": "400: Claude gives none",
    "max_completion_tokens": "max_tokens; without either, the largest output of the model family",
    "max_tokens": "max_tokens, if max_completion_tokens is not there",
    "messages": "system and messages; system and developer messages behind the first stay in "
    "place: role system from Opus 4.8 on, else a marked turn of the user",
    "modalities": '400 unless ["text"]',
    "model": "model",
    "moderation": "400: Claude gives none",
    "n": "400 above 1",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "presence_penalty": "400: Claude has none",
    "prompt_cache_options": "dropped; a part's prompt_cache_breakpoint becomes its cache_control",
    "reasoning": "as reasoning_effort, if neither that nor thinking is there; max_tokens: "
    "thinking.budget_tokens",
    "reasoning_effort": "thinking and output_config.effort, or thinking.budget_tokens up to 4.5; "
    "none: thinking off, the lowest effort where it can't be",
    "response_format": "json_schema: output_config.format, or an instruction where the family has "
    "no structured outputs; json_object: an instruction in system",
    "safety_identifier": "metadata.user_id, if user is not there",
    "service_tier": "default: standard_only, else dropped",
    "stop": "stop_sequences; an empty one is left out; 400 if one is blank, which Claude refuses",
    "stream": "stream",
    "stream_options": "done by this proxy",
    "temperature": "temperature, at most 1; dropped while thinking and from 4.7 on, which has none",
    "thinking": "thinking: a budget up to 4.5, adaptive from 4.6 on; decides before "
    "reasoning_effort, which says how hard",
    "tool_choice": "tool_choice (required: any); 400 if the family can't be made to call a tool",
    "tools": "tools, functions only; strict where the family has structured outputs",
    "top_k": "top_k; dropped while thinking and from 4.7 on, which has none",
    "top_logprobs": "400: Claude gives none",
    "top_p": "top_p; dropped beside temperature, while thinking and from 4.7 on, which has none",
    "user": "metadata.user_id; a digest of what may be personal (an address), which Claude refuses",
    "web_search_options": "400: no web search is offered",
}

_REFUSED = {name: fate[5:] for name, fate in PARAMETERS.items() if fate.startswith("400: ")}


def check(fields: Mapping[str, msgspec.Raw]) -> None:
    """Raise UnsupportedParameter for what Claude can't honour, unless it asks for nothing.

    That is null, false, 0, "", [] or {}. Raises msgspec.DecodeError too.
    """
    for name, value in fields.items():
        if name in PARAMETERS and name not in _REFUSED:
            continue
        if msgspec.json.decode(value):
            reason = _REFUSED.get(name, "Claude has nothing like it")
            raise UnsupportedParameter(f"{name}: {reason}", param=name)
