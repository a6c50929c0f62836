"""What OpenAI refuses of the names of functions, and where they stand in a request.

"Invalid 'messages[1].tool_calls[0].function.name': string does not match pattern. Expected a string
that matches the pattern '^[a-zA-Z0-9_-]+$'", and 64 characters at most: OpenAI's own 400s as users
of other software quote them (openai/openai-dotnet#441, vercel/ai#1972), read 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def violations(request: Json) -> list[str]:
    """The places of names that break the rule."""
    named = [*places(request)]
    return [at for at, found in named if not NAME.fullmatch(found["name"])]


def places(request: Json) -> Iterator[tuple[str, Json]]:
    """All objects in a request whose `name` is that of a function, with their path."""
    yield from _tools("tools", request.get("tools"))
    for number, function in enumerate(request.get("functions") or ()):
        yield f"functions[{number}]", function
    choice = request.get("tool_choice")
    if isinstance(choice, dict):
        yield from _tools("tool_choice", [choice])
        allowed = choice.get("allowed_tools", {})
        yield from _tools("tool_choice.allowed_tools", allowed.get("tools"))
    if isinstance(request.get("function_call"), dict):
        yield "function_call", request["function_call"]
    for number, message in enumerate(request["messages"]):
        at = f"messages[{number}]"
        yield from _tools(f"{at}.tool_calls", message.get("tool_calls"))
        if message.get("function_call"):
            yield f"{at}.function_call", message["function_call"]
        if message["role"] in ("tool", "function") and message.get("name") is not None:
            yield at, message


def _tools(at: str, tools: list[Json] | None) -> Iterator[tuple[str, Json]]:
    for number, tool in enumerate(tools or ()):
        for kind in ("function", "custom"):
            if kind in tool:
                yield f"{at}[{number}].{kind}", tool[kind]
