"""langchain-openai as a caller: a question a line on standard input, an answer a line back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import openai
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings  # type: ignore[import-not-found]

Heard = dict[str, Any]

OPTIONS: Any = {
    "base_url": os.environ["CALLER_BASE_URL"],
    "api_key": "none",
    "max_retries": 0,
    "timeout": 20,
}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]


def chat(asked: Heard) -> Any:
    return ChatOpenAI(model=asked["model"], stream_usage=True, **OPTIONS)


def unary(asked: Heard, heard: Heard) -> None:
    answer = chat(asked).invoke("Hi")
    heard["pieces"].append(answer.content)
    heard["total_tokens"] = answer.usage_metadata["total_tokens"]


def stream(asked: Heard, heard: Heard) -> None:
    for chunk in chat(asked).stream("Hi"):
        if chunk.content:
            heard["pieces"].append(chunk.content)
        if chunk.usage_metadata:
            heard["total_tokens"] = chunk.usage_metadata["total_tokens"]


def tool_calls(asked: Heard, heard: Heard) -> None:
    answer = chat(asked).bind_tools(TOOLS).invoke("Hi")
    heard["calls"] = [[call["name"], call["args"]] for call in answer.tool_calls]


def stream_tools(asked: Heard, heard: Heard) -> None:
    first, *others = chat(asked).bind_tools(TOOLS).stream("Hi")
    answer = sum(others, start=first)
    heard["calls"] = [[call["name"], call["args"]] for call in answer.tool_calls]


def completion(asked: Heard, heard: Heard) -> None:
    answer = OpenAI(model=asked["model"], **OPTIONS).generate([asked["prompt"]])
    heard["pieces"] = [one.text for one in answer.generations[0]]
    heard["total_tokens"] = answer.llm_output["token_usage"]["total_tokens"]


def stream_completion(asked: Heard, heard: Heard) -> None:
    pieces = OpenAI(model=asked["model"], **OPTIONS).stream(asked["prompt"])
    heard["pieces"] = [piece for piece in pieces if piece]


def embed(asked: Heard, heard: Heard) -> None:
    model = OpenAIEmbeddings(model=asked["model"], check_embedding_ctx_length=False, **OPTIONS)
    heard["calls"] = model.embed_documents(asked["input"])


CALLS: dict[str, Callable[[Heard, Heard], None]] = {
    "unary": unary,
    "stream": stream,
    "tools": tool_calls,
    "stream_tools": stream_tools,
    "completion": completion,
    "stream_completion": stream_completion,
    "embed": embed,
}

for line in sys.stdin:
    asked = json.loads(line)
    heard: Heard = {"pieces": [], "calls": [], "total_tokens": None}
    heard |= {"status": None, "message": "", "code": None}
    try:
        CALLS[asked["call"]](asked, heard)
    except openai.APIError as error:
        heard |= {"status": getattr(error, "status_code", None), "message": error.message}
        heard["code"] = error.code
    print(json.dumps(heard), flush=True)
