"""What Anthropic's Messages API refuses: each rule once, with its source.

The sources are Anthropic's own 400s as users of other software quote them, and its documentation,
both read 2026-11. `violations` judges a request as it goes out; that every field has a type that
the API knows is for the SDK's types (`claude_upstream.read_request`).
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from proxy.wire.claude.families import family_of

Json = dict[str, Any]

# "tools.0.custom.name: String should match pattern" home-assistant/core#147760
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
# "Property keys should match pattern" anthropics/claude-code#79418
PROPERTY_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
# "messages.1.content.0.tool_use.id: String should match pattern" BerriAI/litellm#9347
CALL_ID = re.compile(r"[a-zA-Z0-9_-]+")
# "input_schema does not support oneOf, allOf, or anyOf at the top level" claude-code#40075
UNIONS = ("oneOf", "allOf", "anyOf")
# build-with-claude/vision
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
# "metadata.user_id: user_id appears to contain an email address" BerriAI/litellm#10106
PERSONAL = re.compile(r".*@.*|\+?[0-9 ()-]{7,}")
THINKING = ("thinking", "redacted_thinking")


def violations(wire: Json) -> list[str]:
    """Every rule that the request breaks."""
    return [
        *_parameters(wire),
        *_tools(wire),
        *_turns(wire),
        *_blocks(wire),
        *_calls(wire),
        *_thinking(wire),
        *_caching(wire),
    ]


def _parameters(wire: Json) -> Iterator[str]:
    if wire["max_tokens"] < 1:
        yield "max_tokens: Input should be greater than or equal to 1"
    user = wire.get("metadata", {}).get("user_id")
    # docs/en/api/messages: 256 characters
    if user is not None and (PERSONAL.fullmatch(user) or len(user) > 256):
        yield "metadata.user_id appears to contain personal data"
    if any(not stop.strip() for stop in wire.get("stop_sequences", ())):
        yield "stop_sequences: each stop sequence must contain non-whitespace"
    if {"temperature", "top_p"} <= wire.keys():
        # models/*/migration-guide, 4.1 on
        yield "temperature and top_p cannot both be specified"
    if not 0 <= wire.get("temperature", 0) <= 1:
        yield "temperature: range: 0..1"


def _tools(wire: Json) -> Iterator[str]:
    tools = wire.get("tools", [])
    names = Counter(tool["name"] for tool in tools)
    if names and max(names.values()) > 1:
        yield "tools: Tool names must be unique"
    for tool in tools:
        if not TOOL_NAME.fullmatch(tool["name"]):
            yield f"tools.name: String should match pattern, {tool['name']!r}"
        schema = tool["input_schema"]
        if schema.get("type") != "object":
            yield "input_schema.type: Input should be 'object'"
        if any(key in schema for key in UNIONS):
            yield "input_schema does not support oneOf, allOf, or anyOf at the top level"
        for name in _property_names(schema):
            if not PROPERTY_NAME.fullmatch(name):
                yield f"Property keys should match pattern, {name!r}"
    choice = wire.get("tool_choice")
    if choice is not None:
        if not tools:
            yield "tool_choice may only be specified while providing tools"
        if choice["type"] == "tool" and choice["name"] not in names:
            yield f"Tool {choice['name']!r} not found in provided tools"
        is_forced = choice["type"] in ("any", "tool")
        if is_forced and wire.get("thinking", {}).get("type") in ("enabled", "adaptive"):
            yield "Thinking may not be enabled when tool_choice forces tool use"
        if is_forced and not family_of(wire["model"]).forced_tools:
            yield "tool_choice: this model cannot be forced to call a tool"
    used = {b["type"] for turn in wire["messages"] for b in turn["content"]}
    if not tools and used & {"tool_use", "tool_result"}:
        yield "Requests which include tool_use or tool_result blocks must define tools"


def _property_names(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for inner in schema:
            yield from _property_names(inner)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key == "properties":
                yield from value
            if key not in ("enum", "const", "default", "examples"):
                yield from _property_names(list(value.values()) if key == "properties" else value)


def _turns(wire: Json) -> Iterator[str]:
    turns = wire["messages"]
    family = family_of(wire["model"])
    if not turns:
        yield "messages: at least one message is required"
        return
    roles = [turn["role"] for turn in turns]
    if roles[0] == "assistant":
        yield "messages: first message must use the user role"
    for number, role in enumerate(roles):
        if role != "system":
            continue
        # build-with-claude/mid-conversation-system-messages; gproxy#209, chatcli#1523
        if not family.system_inside:
            yield "role 'system' is not supported on this model"
        if number == 0:
            yield "use the top-level 'system' parameter for the initial system prompt"
        elif roles[number - 1] != "user":
            yield "role 'system' must follow a user message"
        if roles[number + 1 : number + 2] not in ([], ["assistant"]):
            yield "role 'system' must precede an 'assistant' message or end the array"
    for role, after in itertools.pairwise(roles):
        if role == after:  # the API joins them; we send none
            yield f"two turns of the {role}"
    for number, turn in enumerate(turns):
        if not turn["content"]:
            yield f"messages.{number}: must have non-empty content"
    if roles[-1] == "assistant":
        if not family.prefill:
            yield "This model does not support assistant message prefill"
        if "thinking" in wire:
            yield "the final block must not be a prefill while thinking"
        last = turns[-1]["content"][-1]
        if last["type"] == "text" and last["text"] != last["text"].rstrip():
            yield "final assistant content cannot end with trailing whitespace"


def _all_blocks(wire: Json) -> Iterator[Json]:
    yield from wire.get("system", ())
    for turn in wire["messages"]:
        for block in turn["content"]:
            yield block
            if block["type"] == "tool_result":
                yield from block.get("content", ())


def _blocks(wire: Json) -> Iterator[str]:
    for block in _all_blocks(wire):
        if block["type"] == "text" and not block["text"].strip():
            yield "text content blocks must contain non-whitespace text"
        source = block.get("source", {})
        if source.get("type") == "base64":
            if block["type"] == "image" and source["media_type"] not in IMAGES:
                yield "image.source.media_type: Input should be one of four"
            if not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", source["data"]):
                yield "source.base64: invalid base64 data"
    allowed = {
        "user": {"text", "image", "document", "tool_result"},
        "assistant": {"text", "tool_use", *THINKING},
        "system": {"text"},
    }
    for turn in wire["messages"]:
        for block in turn["content"]:
            if block["type"] not in allowed[turn["role"]]:
                yield f"{block['type']} in a turn of the {turn['role']}"


def _calls(wire: Json) -> Iterator[str]:
    turns = wire["messages"]
    seen: set[str] = set()
    for number, turn in enumerate(turns):
        made = [block for block in turn["content"] if block["type"] == "tool_use"]
        for block in made:
            if not CALL_ID.fullmatch(block["id"]):
                yield "tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
            if block["id"] in seen:
                yield "`tool_use` ids must be unique"
            seen.add(block["id"])
            if not isinstance(block["input"], dict):
                yield "tool_use.input: Input should be a valid dictionary"
            if not TOOL_NAME.fullmatch(block["name"]):
                yield "tool_use.name: String should match pattern"
        # handle-tool-calls: results first, in the very next message, one for each call
        if made:
            after = turns[number + 1]["content"] if number + 1 < len(turns) else []
            answered = [b["tool_use_id"] for b in after if b["type"] == "tool_result"]
            if sorted(answered) != sorted(block["id"] for block in made):
                yield "`tool_use` ids were found without `tool_result` blocks immediately after"
            if any(b["type"] != "tool_result" for b in after[: len(answered)]):
                yield "`tool_result` blocks must come first"
        results = [b["tool_use_id"] for b in turn["content"] if b["type"] == "tool_result"]
        before = turns[number - 1]["content"] if number else []
        known = {block["id"] for block in before if block["type"] == "tool_use"}
        if not set(results) <= known:
            yield "unexpected `tool_use_id` found in `tool_result` blocks"


def _thinking(wire: Json) -> Iterator[str]:
    family = family_of(wire["model"])
    asked = wire.get("thinking", {})
    if asked.get("type") == "enabled":
        if family.adaptive:
            yield '"thinking.type.enabled" is not supported for this model'
        if not 1024 <= asked["budget_tokens"] < wire["max_tokens"]:
            yield "thinking.budget_tokens: at least 1024 and less than max_tokens"
        if wire.keys() & {"temperature", "top_k"}:
            yield "temperature may only be set to 1 when thinking is enabled"
        yield from _loop_begins_with_thinking(wire)
    if asked.get("type") == "adaptive" and not family.adaptive:
        yield "adaptive thinking is not supported on this model"
    for turn in wire["messages"]:
        content = turn["content"]
        if content and content[-1]["type"] in THINKING:
            yield "The final block in an assistant message cannot be `thinking`"
        for block in content:
            if block["type"] == "thinking" and not block["signature"]:
                yield "thinking.signature: Field required"


def _loop_begins_with_thinking(wire: Json) -> Iterator[str]:
    for turn in reversed(wire["messages"]):
        kinds = {block["type"] for block in turn["content"]}
        if turn["role"] == "user" and "tool_result" not in kinds:
            return
        is_call = turn["role"] == "assistant" and "tool_use" in kinds
        if is_call and turn["content"][0]["type"] not in THINKING:
            yield "Expected `thinking` or `redacted_thinking`, but found `tool_use`"


def _caching(wire: Json) -> Iterator[str]:
    blocks = [*wire.get("tools", ()), *_all_blocks(wire)]
    marked = [block for block in blocks if "cache_control" in block]
    # "A maximum of 4 blocks with cache_control may be provided" build-with-claude/prompt-caching
    if len(marked) + ("cache_control" in wire) > 4:
        yield "A maximum of 4 blocks with cache_control may be provided"
    if any(block.get("type") in THINKING for block in marked):
        yield "cache_control cannot be set for thinking blocks"
