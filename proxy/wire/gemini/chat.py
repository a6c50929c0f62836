"""An OpenAI chat request as far as the translation reads it.

The types are those of the `openai` package (types/chat/completion_create_params.py, 3.54), made as
wide as callers are known to write them. A wrong type becomes an InvalidRequest with its path.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat.fields import misfit
from ..effort import Effort, Reasoning, Thinking
from ..lenient_json import without_lone
from ..tool_calls import LegacyCall, ToolCall


class Url(msgspec.Struct):
    url: str


class InputAudio(msgspec.Struct):
    data: str
    format: str


class File(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Url | str | None = None
    input_audio: InputAudio | None = None
    file: File | None = None


class Message(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    is_error: bool = False  # of a tool's result, in requests made of other dialects
    function_call: LegacyCall | None = None
    extra_content: Any = None


class Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct):
    type: str = "function"
    function: Function | None = None


class JSONSchema(msgspec.Struct):
    schema: dict[str, Any] | None = None
    description: str | None = None


class ResponseFormat(msgspec.Struct):
    type: str
    json_schema: JSONSchema | None = None


class AllowedTools(msgspec.Struct):
    mode: str
    tools: list[Tool]


class ToolChoice(msgspec.Struct):
    type: str
    function: Function | None = None
    allowed_tools: AllowedTools | None = None


class Google(msgspec.Struct):
    thinking_config: dict[str, Any] | None = None
    cached_content: str | None = None


class ExtraBody(msgspec.Struct):
    google: Google | None = None


class Request(msgspec.Struct):
    messages: list[Message]
    extra_body: ExtraBody | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    modalities: list[str] | None = None
    n: int | None = None
    parallel_tool_calls: bool | None = None
    presence_penalty: float | None = None
    reasoning: Reasoning | None = None
    reasoning_effort: Effort | None = None
    response_format: ResponseFormat | None = None
    seed: int | None = None
    service_tier: str | None = None
    stop: str | list[str] | None = None
    store: bool | None = None
    temperature: float | None = None
    thinking: Thinking | None = None
    tool_choice: str | ToolChoice | None = None
    tools: list[Tool] | None = None
    top_k: int | None = None
    top_logprobs: int | None = None
    top_p: float | None = None
    web_search_options: dict[str, Any] | None = None


_request_decoder: Final = msgspec.json.Decoder(Request)
_keys_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read(body: bytes) -> tuple[Request, dict[str, msgspec.Raw]]:
    """The typed request, and every top-level value that is not null as it came."""
    try:
        body = without_lone(body)
        values = _keys_decoder.decode(body).items()
        present = {name: value for name, value in values if bytes(value).strip() != b"null"}
        return _request_decoder.decode(body), present
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise misfit(error) from error


def invalid(param: str, why: str) -> InvalidRequest:
    """The 400 for what is wrong at this path in the request."""
    return InvalidRequest(f"{param}: {why}", param=param)


def unsupported(name: str, why: str = "") -> UnsupportedParameter:
    """The 400 for what Gemini can't honour; `name` is the parameter's path."""
    reason = f": {why}" if why else ""
    return UnsupportedParameter(
        f"{name} is not supported: the model is served by Gemini{reason}", param=name
    )
