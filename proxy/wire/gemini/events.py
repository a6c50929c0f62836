"""A GenerateContentResponse as far as the translation reads it: a whole answer or one event.

Source: google-genai 3.4 (types.GenerateContentResponse), ai.google.dev/api/generate-content,
read 2026-11. Every field may be missing; unknown ones are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from ...errors import UpstreamInvalid
from ..chat import Usage, unlisted, usage_object
from .errors import read_status


class Blob(msgspec.Struct, rename="camel"):
    mime_type: str = ""
    data: str = ""


class PartialArg(msgspec.Struct, rename="camel"):
    """One value of a call's arguments; `nullValue` is null itself in protobuf's JSON."""

    json_path: str = ""
    string_value: str | None = None
    number_value: int | float | None = None
    bool_value: bool | None = None
    null_value: Any = msgspec.UNSET


class FunctionCall(msgspec.Struct, rename="camel"):
    """`name` is missing in a part that continues a call."""

    name: str | None = None
    args: msgspec.Raw = msgspec.Raw(b"")
    id: str | None = None
    partial_args: list[PartialArg] | None = None
    will_continue: bool | None = None


class Part(msgspec.Struct, rename="camel", omit_defaults=True):
    """`toolCall` and `toolResponse`: what Gemini's own tools were asked, and what they said."""

    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None
    tool_call: dict[str, Any] | None = None
    tool_response: dict[str, Any] | None = None
    inline_data: Blob | None = None


class Content(msgspec.Struct, rename="camel"):
    parts: list[Part] | None = None


class TokenLogprob(msgspec.Struct, rename="camel"):
    token: str = ""
    log_probability: float = 0.0


class TopLogprobs(msgspec.Struct, rename="camel"):
    candidates: list[TokenLogprob] | None = None


class LogprobsResult(msgspec.Struct, rename="camel"):
    chosen_candidates: list[TokenLogprob] | None = None
    top_candidates: list[TopLogprobs] | None = None


class Candidate(msgspec.Struct, rename="camel"):
    content: Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    index: int | None = None
    citation_metadata: dict[str, Any] | None = None
    grounding_metadata: dict[str, Any] | None = None
    logprobs_result: LogprobsResult | None = None


class ModalityTokens(msgspec.Struct, rename="camel"):
    modality: str = ""
    token_count: int = 0


class UsageMetadata(msgspec.Struct, rename="camel"):
    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    prompt_tokens_details: list[ModalityTokens] | None = None


class PromptFeedback(msgspec.Struct, rename="camel"):
    """`blockReasonMessage`: Vertex AI's."""

    block_reason: str | None = None
    block_reason_message: str | None = None


class Answer(msgspec.Struct, rename="camel"):
    """Any answer; one of a method may be an error after all."""

    error: Any = None


class Response(Answer, rename="camel"):
    candidates: list[Candidate] | None = None
    usage_metadata: UsageMetadata | None = None
    response_id: str | None = None
    prompt_feedback: PromptFeedback | None = None


_Shape = TypeVar("_Shape", bound=Answer)


def reader(shape: type[_Shape], what: str) -> Callable[[bytes], _Shape]:
    """A reader of answers; an array of one, as errors of the streaming method come, is opened.

    It raises UpstreamInvalid if there is no such answer, and UpstreamRefusal for an error object.
    """
    decode = msgspec.json.Decoder(shape).decode

    def read(body: bytes) -> _Shape:
        try:
            answer = decode(unlisted(body))
        except (ValueError, RecursionError) as error:
            raise UpstreamInvalid(f"Gemini sent no {what}: {error}") from error
        if answer.error is not None:
            raise read_status(answer.error).refusal()
        return answer

    return read


read: Final = reader(Response, "GenerateContentResponse")


def tokens(told: UsageMetadata) -> Usage:
    """Gemini counts thoughts beside the candidates and tool results beside the prompt."""
    return Usage(
        (told.prompt_token_count or 0) + (told.tool_use_prompt_token_count or 0),
        (told.candidates_token_count or 0) + (told.thoughts_token_count or 0),
        cached_tokens=told.cached_content_token_count,
        reasoning_tokens=told.thoughts_token_count,
    )


def chat_usage(told: UsageMetadata | None) -> dict[str, Any]:
    """The object `usage` of a chat completion; `told`: None if the answer told none."""
    told = told or UsageMetadata()
    details = told.prompt_tokens_details or ()
    return usage_object(
        tokens(told),
        audio_tokens=sum(each.token_count for each in details if each.modality == "AUDIO"),
    )
