"""A chat request as the translators to other vendors read it; what none of them reads is left out.

The types are those of the `openai` package (types/chat/completion_create_params.py, 3.54), made as
wide as callers are known to write them. What one vendor alone reads, and its translator or service
checks, is Any: a wrong type there is no reason for the others to refuse a request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from ...errors import InvalidRequest
from ..effort import Effort, Reasoning, Thinking
from ..lenient_json import decode_object, without_lone
from .fields import misfit, read_any


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
    """`prompt_cache_breakpoint` is OpenAI's spelling, `cache_control` Claude's own."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Url | str | None = None
    input_audio: InputAudio | None = None
    file: File | None = None
    prompt_cache_breakpoint: Any = None
    cache_control: Any = None


Content = str | list[Part] | None


# Calls in the messages of a history, in whichever form OpenAI has had for them. Today's are
# `tool_calls`, of functions or of custom tools, which take free text. Before there were tools a
# message had one `function_call`, and its result a message of role `function` (platform.openai.com/
# docs/api-reference/chat/create, "deprecated", read 2026-11). Agents send old conversations on, to
# other vendors too: there all of them are calls of functions.


class FunctionCall(msgspec.Struct):
    """`arguments`: a string that holds JSON; some programs send the object itself."""

    name: str
    arguments: Raw = Raw(b"null")

    def as_object(self) -> bytes:
        """The arguments as they came if they are a JSON object, else an object that tells them.

        What a model began and did not end, or another vendor's model left empty, stays in the
        history for ever: it must not refuse every later request.
        """
        raw = bytes(self.arguments)
        if raw[:1] == b'"':
            raw = without_lone(msgspec.json.decode(raw, type=str).encode())
        try:
            found = msgspec.json.decode(raw) if raw.strip() else None
        except (ValueError, RecursionError):
            found = raw
        if found is None:
            return b"{}"
        return raw if isinstance(found, dict) else msgspec.json.encode({"arguments": raw.decode()})


class CustomCall(msgspec.Struct):
    """A call of a tool that takes free text."""

    name: str
    input: Raw = Raw(b'""')


class ToolCall(msgspec.Struct):
    """`extra_content`: Google's."""

    id: str | None = None
    type: str | None = "function"
    function: FunctionCall | None = None
    custom: CustomCall | None = None
    extra_content: Any = None

    def as_function(self, path: str) -> FunctionCall:
        """What is called, a custom tool as a function of one `input`; raises InvalidRequest."""
        if self.custom is not None:
            return FunctionCall(self.custom.name, Raw(b'{"input":%b}' % bytes(self.custom.input)))
        if self.function is None:
            expected = "expected a call of a function or custom tool"
            raise InvalidRequest.at(path, f"{expected}, got type {self.type!r}")
        return self.function


class LegacyCall(msgspec.Struct):
    """`name` is empty in what some programs keep of a message without a call."""

    name: str = ""
    arguments: Raw = Raw(b"null")


class Message(msgspec.Struct):
    """`is_error`: of a tool's result, in requests made of other dialects."""

    role: str
    content: Content = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    is_error: bool = False
    function_call: LegacyCall | None = None
    audio: Any = None
    cache_control: Any = None
    extra_content: Any = None
    thinking_blocks: Any = None


class Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: Any = None


# What a caller of a vendor without them can do.
CUSTOM_TOOLS: Final = "a custom tool can be declared as a function with one string parameter"


class Tool(msgspec.Struct):
    type: str = "function"
    function: Function | None = None
    cache_control: Any = None


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
    cache_control: Any = None
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
    safety_identifier: str | int | None = None
    seed: int | None = None
    service_tier: str | None = None
    stop: str | list[str] | None = None
    store: Any = None
    temperature: float | None = None
    thinking: Thinking | None = None
    tool_choice: str | ToolChoice | None = None
    tools: list[Tool] | None = None
    top_k: int | None = None
    top_logprobs: int | None = None
    top_p: float | None = None
    user: str | int | None = None
    web_search_options: dict[str, Any] | None = None


# All that can be honoured; at the end what changes no answer, and has no counterpart elsewhere
# (docs/parameters.md has a row for each parameter).
KNOWN: Final = frozenset((*Request.__struct_fields__, "model", "stream", "stream_options")) | {
    *("include_reasoning", "metadata", "models", "prediction", "preset", "prompt_cache_key"),
    *("prompt_cache_options", "prompt_cache_retention", "provider", "reasoning_format", "route"),
    *("transforms", "usage", "verbosity"),
}

_decode: Final = msgspec.json.Decoder(Request).decode


def read(body: bytes) -> tuple[Request, dict[str, Raw]]:
    """The typed request, and each value at its top that is not null; raises InvalidRequest."""
    try:
        body = without_lone(body)
        members = decode_object(body).items()
        present = {name: value for name, value in members if bytes(value).strip() != b"null"}
        return _decode(body), present
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise misfit(error) from error


def unknown(present: Mapping[str, Raw], known: Collection[str]) -> Iterator[str]:
    """Those that are not `known`, unless they ask for nothing: null, false, 0, "", [] or {}."""
    return (name for name, value in present.items() if name not in known and read_any(value))


# What an assistant says, at OpenAI's two APIs.
_SAID: Final = frozenset({"text", "output_text", "refusal"})


def said(content: Content) -> list[str]:
    """The texts of an assistant's message; other parts, such as Mistral's thinking, go."""
    if content is None or isinstance(content, str):
        return [content] if content else []
    spoken = (part for part in content if part.type in _SAID)
    texts = [part.refusal if part.type == "refusal" else part.text for part in spoken]
    return [text for text in texts if text]


def calls_of(tools: list[ToolCall] | None, legacy: LegacyCall | None) -> Sequence[ToolCall]:
    """An assistant's calls; one of before there were tools has its function's name for an id."""
    if tools or legacy is None or not legacy.name:
        return tools or ()
    return [ToolCall(legacy.name, function=FunctionCall(legacy.name, legacy.arguments))]


def choice_of(choice: str | ToolChoice) -> tuple[str, set[str] | None]:
    """`tool_choice` (none, auto, required, function), its functions; raises InvalidRequest."""
    if isinstance(choice, str):
        if choice in ("none", "auto", "required"):
            return choice, None
    elif choice.type == "function" and choice.function is not None:
        return "function", {choice.function.name}
    elif choice.type == "allowed_tools" and choice.allowed_tools is not None:
        tools = choice.allowed_tools.tools
        names = {tool.function.name for tool in tools if tool.function is not None}
        return ("required" if choice.allowed_tools.mode == "required" else "auto"), names
    expected = "expected none, auto, required, a function or allowed_tools"
    raise InvalidRequest.at("tool_choice", expected)


def no_part(part: Part, path: str) -> InvalidRequest:
    """The error for a part of a type that has no place there, or without what its type has."""
    what = "a part of type text, image_url, input_audio or file with the field of its type"
    return InvalidRequest(f"{path}: expected {what}, got type {part.type!r}", param=f"{path}.type")
