"""What programs send to /v1/messages, as it was recorded on 2026-11-26: headers, query and shapes.

Prose is shortened, all that decides the shape is kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Json = dict[str, Any]


class Recorded(NamedTuple):
    """`body`: without its model."""

    headers: dict[str, str]
    body: Json
    path: str = "/v1/messages"


CACHED = {"cache_control": {"type": "ephemeral"}}
SIGNATURE = "c2lnbmF0dXJlLW9mLXRoZS1tb2Nr"
THOUGHT = {"type": "thinking", "thinking": "Let me see.", "signature": SIGNATURE}


def text(said: str, **more: Any) -> Json:
    return {"type": "text", "text": said, **more}


def tool(name: str, *properties: str, **more: Any) -> Json:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": [*properties],
        "additionalProperties": False,
        "properties": {each: {"type": "string"} for each in properties},
    }
    return {"name": name, "description": "d", "input_schema": schema, **more}


def use(call_id: str, name: str, given: Json, **more: Any) -> Json:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given, **more}


def result(call_id: str, content: Any, **more: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def user(*blocks: Any) -> Json:
    return {"role": "user", "content": blocks[0] if isinstance(blocks[0], str) else [*blocks]}


def assistant(*blocks: Json) -> Json:
    return {"role": "assistant", "content": [*blocks]}


_CLAUDE_CODE = {
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,"
    "context-management-2025-06-27,thinking-token-count-2026-05-13,advanced-tool-use-2025-11-20",
    "anthropic-dangerous-direct-browser-access": "true",
    "anthropic-version": "2023-06-01",
    "user-agent": "claude-cli/2.1.332 (external, sdk-cli)",
    "x-app": "cli",
    "x-claude-code-session-id": "0a3cc2b6-4a4e-4be3-a5f3-ad8bd8b8d2b2",
    "x-stainless-lang": "js",
}
_ASKED = [*(text(f"<system-reminder>\n{n}\n</system-reminder>") for n in range(8))]
_CLAUDE_CODES: Json = {
    "system": [text("You are."), text("s", **CACHED), text("s" * 200, **CACHED)],
    "tools": [
        tool("Agent", "description", "prompt"),
        tool("Bash", "command"),
        tool("DeferredToolPlaceholder", defer_loading=True),
    ],
    "metadata": {"user_id": f'{{"device_id":"{"a" * 64}","account_uuid":"","session_id":"x"}}'},
    "max_tokens": 32000,
    "thinking": {"budget_tokens": 31999, "type": "enabled", "display": "omitted"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "stream": True,
}
_OPENCODE = {
    "anthropic-beta": "structured-outputs-2025-11-13",
    "anthropic-version": "2023-06-01",
    "user-agent": "opencode/1.18.33 ai-sdk/provider-utils/4.0.46 runtime/bun/1.3.14",
    "x-session-affinity": "ses_deacb34d6ffeZttcUSLYE15GR3",
}
_OPENCODES: Json = {
    "max_tokens": 8000,
    "system": [text("s", **CACHED)],
    "tools": [tool("bash", "command", eager_input_streaming=True), tool("edit", "path")],
    "tool_choice": {"type": "auto"},
    "stream": True,
}
_PI = {
    "anthropic-beta": "interleaved-thinking-2025-05-14",
    "anthropic-version": "2023-06-01",
    "user-agent": "Anthropic/JS 0.91.1",
}
_PIS: Json = {
    "max_tokens": 16384,
    "stream": True,
    "system": [text("s", **CACHED)],
    "tools": [
        tool("read", "path", eager_input_streaming=True),
        tool("bash", "command", eager_input_streaming=True, **CACHED),
    ],
    "thinking": {"type": "enabled", "budget_tokens": 8192, "display": "summarized"},
}
_SDK = {"anthropic-version": "2026-10-21", "user-agent": "Anthropic/Python 2.10.0"}
_CALL = use("toolu_0000016b86b273ff34", "Bash", {"command": "echo proof > p && cat p"})
_LOOKUP = tool("lookup", "city")
_LOOKED = [
    user("weather?"),
    assistant(use("toolu_0001", "lookup", {"city": "Paris"})),
    user(result("toolu_0001", "sunny")),
]

TRAFFIC = {
    "claude-code": Recorded(
        _CLAUDE_CODE,
        {"messages": [user(*_ASKED, text("Do.", **CACHED))], **_CLAUDE_CODES},
        "/v1/messages?beta=true",
    ),
    "claude-code, with a result": Recorded(
        _CLAUDE_CODE,
        {
            "messages": [
                user(*_ASKED, text("Do.")),
                assistant(THOUGHT, _CALL),
                user(result(_CALL["id"], "proof\n", is_error=False, **CACHED)),
            ],
            **_CLAUDE_CODES,
        },
        "/v1/messages?beta=true",
    ),
    "claude-code, the system inside": Recorded(
        _CLAUDE_CODE,
        {
            "messages": [user("Do."), {"role": "system", "content": "Mind."}],
            **_CLAUDE_CODES,
            "thinking": {"type": "adaptive"},
        },
        "/v1/messages?beta=true",
    ),
    "opencode, a title": Recorded(
        _OPENCODE,
        {
            "messages": [user(text("Generate a title:\n", **CACHED), text("Do.", **CACHED))],
            "max_tokens": 8000,
            "system": [text("s", **CACHED)],
            "stream": True,
        },
    ),
    "opencode": Recorded(_OPENCODE, {"messages": [user(text("Do.", **CACHED))], **_OPENCODES}),
    "opencode, with a result": Recorded(
        _OPENCODE,
        {
            "messages": [
                user(text("Do.")),
                assistant({**_CALL, "name": "bash", **CACHED}),
                user(result(_CALL["id"], "proof\n", **CACHED)),
            ],
            **_OPENCODES,
        },
    ),
    "pi": Recorded(_PI, {"messages": [user(text("Do.", **CACHED))], **_PIS}),
    "pi, with a result": Recorded(
        _PI,
        {
            "messages": [
                user(text("Do.")),
                assistant(THOUGHT, {**_CALL, "name": "bash"}),
                user(result(_CALL["id"], "proof\n", is_error=False, **CACHED)),
            ],
            **_PIS,
        },
    ),
    "sdk": Recorded(_SDK, {"max_tokens": 64, "messages": [user("hi")], "system": "be brief"}),
    "sdk, thinking": Recorded(
        _SDK,
        {
            "max_tokens": 4000,
            "messages": [user("hi")],
            "system": [text("s", **CACHED)],
            "tools": [_LOOKUP],
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "stream": True,
        },
    ),
    "sdk, with a result": Recorded(
        _SDK,
        {
            "max_tokens": 4000,
            "messages": [
                user("hi"),
                assistant(THOUGHT, use("toolu_0001045ef6fdf32513", "lookup", {"city": "Paris"})),
                user(result("toolu_0001045ef6fdf32513", [text("sunny")])),
            ],
            "system": [text("s", **CACHED)],
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "tools": [_LOOKUP],
        },
    ),
    "ai-sdk, with a result": Recorded(
        _OPENCODE,
        {"max_tokens": 500, "messages": _LOOKED, "tools": [_LOOKUP], "stream": True},
    ),
    "count_tokens": Recorded(
        _SDK,
        {"messages": _LOOKED, "system": "s", "tools": [_LOOKUP]},
        "/v1/messages/count_tokens",
    ),
}
