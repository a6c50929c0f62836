"""What is read of an OpenAI chat request: its shape, decoded strictly, unknown fields left out.

Source: platform.openai.com/docs/api-reference/chat/create and the types of the `openai` SDK 3.54,
read 2026-11.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..effort import Effort, Reasoning, Thinking
from ..tool_calls import LegacyCall, ToolCall
from .thinking import ThinkingBlock


class _Part(msgspec.Struct, tag_field="type", kw_only=True):
    """`prompt_cache_breakpoint` is OpenAI's spelling, `cache_control` Claude's own."""

    prompt_cache_breakpoint: dict[str, Any] | None = None
    cache_control: dict[str, Any] | None = None


class TextPart(_Part, tag="text"):
    text: str


class RefusalPart(_Part, tag="refusal"):
    refusal: str


class _ImageUrl(msgspec.Struct):
    url: str


class ImagePart(_Part, tag="image_url"):
    """Many callers put the address itself where OpenAI has an object."""

    image_url: _ImageUrl | str

    @property
    def url(self) -> str:
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


class AudioPart(_Part, tag="input_audio"):
    pass


class _File(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class FilePart(_Part, tag="file"):
    file: _File


Part = TextPart | RefusalPart | ImagePart | AudioPart | FilePart
Content = str | list[Part] | None


# Of an assistant: parts as any upstream may have given them out.
AssistantContent = str | list[Any] | None


class _Message(msgspec.Struct, tag_field="role", kw_only=True):
    """`cache_control`: Claude's own, for all of the message."""

    content: Content = None
    cache_control: dict[str, Any] | None = None


class SystemMessage(_Message, tag="system"):
    pass


class DeveloperMessage(_Message, tag="developer"):
    pass


class UserMessage(_Message, tag="user"):
    pass


class AssistantMessage(_Message, tag="assistant"):
    content: AssistantContent = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    thinking_blocks: list[ThinkingBlock] | None = None
    function_call: LegacyCall | None = None
    audio: dict[str, Any] | None = None


class ToolMessage(_Message, tag="tool"):
    tool_call_id: str | None = None


class FunctionMessage(_Message, tag="function"):
    """The result of a `function_call`, which has no id."""

    name: str | None = None

    @property
    def tool_call_id(self) -> str | None:
        return self.name


Message = (
    SystemMessage
    | DeveloperMessage
    | UserMessage
    | AssistantMessage
    | ToolMessage
    | FunctionMessage
)


class Function(msgspec.Struct):
    name: str
    cache_control: dict[str, Any] | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    type: str = "function"
    function: Function | None = None
    cache_control: dict[str, Any] | None = None


class _Named(msgspec.Struct):
    name: str


class _AllowedTool(msgspec.Struct):
    function: _Named


class _AllowedTools(msgspec.Struct):
    mode: Literal["auto", "required"]
    tools: list[_AllowedTool]


class ToolChoice(msgspec.Struct):
    type: str
    function: _Named | None = None
    allowed_tools: _AllowedTools | None = None


class _JsonSchema(msgspec.Struct):
    schema: dict[str, Any] | None = None


class ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class ChatRequest(msgspec.Struct, kw_only=True):
    messages: list[Message]
    cache_control: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    reasoning_effort: Effort | None = None
    response_format: ResponseFormat | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    thinking: Thinking | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    tools: list[Tool] | None = None
    top_k: int | None = None
    top_p: float | None = None
    user: str | None = None
