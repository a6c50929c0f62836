"""The litellm library as a caller: a question a line on standard input, an answer a line back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import litellm  # type: ignore[import-not-found]
import openai

Heard = dict[str, Any]

litellm.suppress_debug_info = True
OPTIONS: Any = {
    "api_base": os.environ["CALLER_BASE_URL"],
    "api_key": "none",
    "num_retries": 0,
    "max_retries": 0,
    "timeout": 20,
}
MESSAGES = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]


def chat(asked: Heard, **more: Any) -> Any:
    model = f"openai/{asked['model']}"
    return litellm.completion(model=model, messages=MESSAGES, **OPTIONS, **more)


def text_completion(asked: Heard, **more: Any) -> Any:
    model = f"text-completion-openai/{asked['model']}"
    return litellm.text_completion(model=model, prompt=asked["prompt"], **OPTIONS, **more)


def unary(asked: Heard, heard: Heard) -> None:
    answer = chat(asked)
    heard["pieces"].append(answer.choices[0].message.content)
    heard["total_tokens"] = answer.usage.total_tokens


def stream(asked: Heard, heard: Heard) -> None:
    for chunk in chat(asked, stream=True, stream_options={"include_usage": True}):
        if chunk.choices and chunk.choices[0].delta.content:
            heard["pieces"].append(chunk.choices[0].delta.content)
        if usage := getattr(chunk, "usage", None):
            heard["total_tokens"] = usage.total_tokens


def tool_calls(asked: Heard, heard: Heard) -> None:
    hear_calls(chat(asked, tools=TOOLS), heard)


def stream_tools(asked: Heard, heard: Heard) -> None:
    hear_calls(litellm.stream_chunk_builder(list(chat(asked, tools=TOOLS, stream=True))), heard)


def hear_calls(answer: Any, heard: Heard) -> None:
    functions = [call.function for call in answer.choices[0].message.tool_calls]
    heard["calls"] = [[one.name, json.loads(one.arguments)] for one in functions]


def completion(asked: Heard, heard: Heard) -> None:
    answer = text_completion(asked)
    heard["pieces"] = [choice.text for choice in answer.choices]
    heard["total_tokens"] = answer.usage.total_tokens


def stream_completion(asked: Heard, heard: Heard) -> None:
    pieces = [chunk.choices[0].text for chunk in text_completion(asked, stream=True)]
    heard["pieces"] = [piece for piece in pieces if piece]


CALLS: dict[str, Callable[[Heard, Heard], None]] = {
    "unary": unary,
    "stream": stream,
    "tools": tool_calls,
    "stream_tools": stream_tools,
    "completion": completion,
    "stream_completion": stream_completion,
}

for line in sys.stdin:
    asked = json.loads(line)
    heard: Heard = {"pieces": [], "calls": [], "total_tokens": None}
    heard |= {"status": None, "message": "", "code": None}
    try:
        CALLS[asked["call"]](asked, heard)
    except openai.APIError as error:  # of which all of litellm's are
        heard |= {"status": getattr(error, "status_code", None), "message": error.message}
        heard["code"] = error.code
    print(json.dumps(heard), flush=True)
