"""A GenerateContentResponse as far as the translation reads it: a whole answer or one event.

Every field may be missing; unknown ones are skipped. In its place may be an error, a
google.rpc.Status in JSON with the facts for retrying in its details.

    {"error": {"code": 429, "message": "...", "status": "RESOURCE_EXHAUSTED", "details": [
        {"@type": ".../google.rpc.QuotaFailure", "violations": [{"quotaId": ...}]}, ...]}}

The streaming method wraps it in an array of one unless the error comes within the stream. Sources:
google-genai 3.4 (types.GenerateContentResponse), ai.google.dev/api/generate-content,
google/rpc/error_details.proto, ai.google.dev/gemini-api/docs/troubleshooting and /docs/rate-limits
(daily quotas begin anew at midnight, Pacific time), read 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec

from ...errors import UpstreamInvalid
from ..chat import ErrorFacts, Usage, objects, read_object, read_retry_info, unlisted, usage_object
from ..chat.usage import as_text
from ..http.headers import read_retry_after
from ..lenient_json import without_lone

MAX_MESSAGE_CHARS: Final = 2000

_DAY_S: Final = 86_400
# Midnight in Los Angeles in summer and winter, in hours of UTC.
_RESETS_UTC_H: Final = (7, 8)
# Messages about a suspended key hold the key: "Consumer 'api_key:AIza...' has been suspended."
_KEY: Final = re.compile(r"AIza[\w-]{8,}|(?<=api_key:)[\w.-]+")

# Gemini says of a bad key 400 (API_KEY_INVALID) or 403; either way this key is out of service.
_KEY_REASONS: Final = {"API_KEY_INVALID", "API_KEY_EXPIRED", "CONSUMER_SUSPENDED"}
_LEAKED: Final = "reported as leaked"

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES: Final = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


def read_error(status: int, headers: Mapping[str, str], body: bytes, *, now_s: float) -> ErrorFacts:
    """What an answer other than 2xx says; `headers` by lower-case name, `now_s` since the epoch."""
    error = read_object(without_lone(unlisted(body))).get("error")
    if not isinstance(error, dict):
        text = error if isinstance(error, str) else body.decode(errors="replace")
        error = {"message": text.strip()}
    facts = read_status(error, status=status, now_s=now_s)
    if facts.retry_after_s is None:
        facts = facts._replace(retry_after_s=read_retry_after(headers, now_s=now_s))
    return facts


def read_status(error: Any, *, status: int | None = None, now_s: float | None = None) -> ErrorFacts:
    """A google.rpc.Status; without an HTTP `status` (in a stream) its own `code` is taken.

    Without `now_s` the end of a daily quota is not reckoned.
    """
    fields: dict[str, Any] = error if isinstance(error, dict) else {"message": str(error)}
    details = objects(fields.get("details"))
    reasons = {str(detail.get("reason", "")) for detail in details}
    message = as_text(fields.get("message")) or "Gemini gave no reason"
    number = status or fields.get("code")
    if not isinstance(number, int) or (status is None and not 400 <= number <= 599):
        number = 502
    if reasons & _KEY_REASONS or (number == 403 and _LEAKED in message):
        number = 401
    retry_after_s = read_retry_info(fields)
    quotas = _violated(details, "violations", "quotaId")
    # Such as GenerateRequestsPerDayPerProjectPerModel-FreeTier.
    if now_s is not None and any("PerDay" in quota for quota in quotas):
        # The delay beside a daily quota is that of a passing one; the day ends later. In doubt
        # about summer time it ends at the earlier midnight.
        until_reset_s = min((hour * 3600 - now_s) % _DAY_S for hour in _RESETS_UTC_H)
        retry_after_s = max(retry_after_s or 0.0, until_reset_s)
    return ErrorFacts(
        number,
        _KEY.sub("…", message)[:MAX_MESSAGE_CHARS],
        _TYPES.get(number, "invalid_request_error" if number < 500 else "upstream_error"),
        _CODES.get(number) or as_text(fields.get("status")).lower()[:64] or "upstream_error",
        next(_violated(details, "fieldViolations", "field"), None),
        retry_after_s,
    )


def _violated(details: Iterable[Mapping[str, Any]], kind: str, name: str) -> Iterator[str]:
    """What a google.rpc.QuotaFailure or BadRequest names, in Gemini's words."""
    violations = (violation for detail in details for violation in objects(detail.get(kind)))
    return filter(None, (as_text(violation.get(name)) for violation in violations))


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
    """A reader of answers, which opens an array of one; raises UpstreamInvalid, UpstreamRefusal."""
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
    audio = sum(each.token_count for each in details if each.modality == "AUDIO")
    return usage_object(tokens(told), audio_tokens=audio)
