"""Token counts of Gemini in OpenAI's terms."""

from __future__ import annotations

from typing import Any

from ..chat import Usage, usage_object
from .events import UsageMetadata


def tokens(told: UsageMetadata) -> Usage:
    """Gemini counts thoughts beside the candidates and tool results beside the prompt."""
    return Usage(
        (told.prompt_token_count or 0) + (told.tool_use_prompt_token_count or 0),
        (told.candidates_token_count or 0) + (told.thoughts_token_count or 0),
    )


def chat_usage(told: UsageMetadata | None) -> dict[str, Any]:
    """The object `usage` of a chat completion; `told`: None if the answer told none."""
    told = told or UsageMetadata()
    details = told.prompt_tokens_details or ()
    return usage_object(
        tokens(told),
        reasoning_tokens=told.thoughts_token_count or 0,
        cached_tokens=told.cached_content_token_count or 0,
        audio_tokens=sum(each.token_count for each in details if each.modality == "AUDIO"),
    )
