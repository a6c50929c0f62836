"""Chat requests for the tests of what Gemini gets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.wire.gemini.request import to_request
from tests.support import gemini_upstream as upstream

Json = dict[str, Any]

FLASH = "gemini-3.5-flash"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": True,
    },
}


def translate(model: str = FLASH, **asked: Any) -> Json:
    body = json.dumps({"model": "my-alias", "messages": HELLO, **asked}).encode()
    return upstream.read_request(to_request(body, model=model, stream=False), model=model)


def config(model: str = FLASH, **asked: Any) -> Json:
    found: Json = translate(model, **asked).get("generationConfig", {})
    return found


def contents(*messages: Json, model: str = FLASH) -> list[Json]:
    found: list[Json] = translate(model, messages=list(messages))["contents"]
    return found


def refused(model: str = FLASH, **asked: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        translate(model, **asked)
    return caught.value


def user(*parts: Json) -> Json:
    return {"role": "user", "content": list(parts)}


def called(*made: Json, content: str | None = None) -> Json:
    return {"role": "assistant", "content": content, "tool_calls": list(made)}


def tool_call(call_id: str, arguments: Any = "{}", **more: Any) -> Json:
    function = {"name": f"f_{call_id[:2]}", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function, **more}


def result(call_id: str, content: Any) -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def signed(signature: str) -> Json:
    return {"extra_content": {"google": {"thought_signature": signature}}}
