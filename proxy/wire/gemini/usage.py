"""Token counts of Gemini in OpenAI's terms."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..chat import Usage, usage_object
from .events import UsageMetadata


class Counts(NamedTuple):
    """`output_tokens` holds the reasoning, `input_tokens` the cached tokens, as at OpenAI."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    audio_tokens: int

    def told(self) -> Usage:
        """What the request's record keeps."""
        return Usage(self.input_tokens, self.output_tokens)

    def as_chat(self) -> dict[str, Any]:
        """The object `usage` of a chat completion."""
        return usage_object(
            self.told(),
            reasoning_tokens=self.reasoning_tokens,
            cached_tokens=self.cached_tokens,
            audio_tokens=self.audio_tokens,
        )


UNKNOWN = Counts(0, 0, 0, 0, 0)


def counts_of(told: UsageMetadata) -> Counts:
    """Gemini counts thoughts beside the candidates and tool results beside the prompt."""
    thoughts = told.thoughts_token_count or 0
    return Counts(
        input_tokens=(told.prompt_token_count or 0) + (told.tool_use_prompt_token_count or 0),
        output_tokens=(told.candidates_token_count or 0) + thoughts,
        cached_tokens=told.cached_content_token_count or 0,
        reasoning_tokens=thoughts,
        audio_tokens=sum(
            detail.token_count
            for detail in told.prompt_tokens_details or ()
            if detail.modality == "AUDIO"
        ),
    )
