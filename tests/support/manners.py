"""What well-known upstreams send, as `Reply`s.

Each is scripted after its maker's documentation or, where that is silent, its source; read 2026-11:

- Ollama: docs.ollama.com/api/openai-compatibility; github.com/ollama/ollama, openai/openai.go
  (`ToChunk`, `NewError`, `ToListCompletion`) and middleware/openai.go (`ChatWriter`)
- vLLM: docs.vllm.ai, "OpenAI-Compatible Server"; github.com/vllm-project/vllm,
  vllm/entrypoints/openai/chat_completion/serving.py (`chat_completion_stream_generator`)
- llama.cpp: github.com/ggml-org/llama.cpp, tools/server/README.md (`/health`,
  `sse_ping_interval`, `timings`)
- OpenRouter: openrouter.ai/docs/api/reference/streaming and /errors-and-debugging
- DeepSeek: api-docs.deepseek.com/quick_start/rate_limit and /guides/reasoning_model
- Groq: console.groq.com/docs/errors; its `x_groq` as in recorded streams (github.com/vercel/ai,
  packages/groq)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import openai

from tests.support.upstream import Json, Reply, chunk, error_object, events, json_reply

# What every stream below says, and counts.
TEXT = "Hello there!"
PROMPT_TOKENS, COMPLETION_TOKENS = 9, 3


def tokens(prompt: int, completion: int, **more: Any) -> Json:
    """A `usage` object."""
    total = prompt + completion
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        **more,
    }


USAGE = tokens(PROMPT_TOKENS, COMPLETION_TOKENS)


def said(content: str, finish: str | None = None, **more: Any) -> Json:
    """A chunk with the role in it."""
    return chunk({"role": "assistant", "content": content}, finish=finish, **more)


def untyped(reply: Reply, *content_type: str) -> Reply:
    """The reply under another content type, or under none."""
    kept = [pair for pair in reply.headers if pair[0] != "Content-Type"]
    return replace(reply, headers=[*kept, *(("Content-Type", each) for each in content_type)])


PLAIN = events(said("Hello"), said(" there!", "stop"), "[DONE]")

# With each, whether a chunk has `usage`, and so the log.
STREAMS: dict[str, tuple[Reply, bool]] = {
    # The role in every chunk; the last one once more for usage, its choices emptied.
    "ollama": (
        events(
            said("Hello", system_fingerprint="fp_ollama"),
            said(" there!", system_fingerprint="fp_ollama"),
            said("", "stop", system_fingerprint="fp_ollama"),
            chunk(None, usage=USAGE, system_fingerprint="fp_ollama"),
            "[DONE]",
        ),
        True,
    ),
    # `continuous_usage_stats`: a growing count in every chunk; `stop_reason` beside the finish.
    "vllm": (
        events(
            said("", usage=tokens(9, 0)),
            chunk({"reasoning": "They greet.", "reasoning_content": "They greet."}),
            chunk({"content": "Hello"}, usage=tokens(9, 1)),
            chunk({"content": " there!"}, finish="stop", usage=tokens(9, 3), stop_reason=None),
            chunk(None, usage=USAGE),
            "[DONE]",
        ),
        True,
    ),
    # Comments as pings while the prompt is processed; `timings` beside the usage.
    "llama.cpp": (
        events(
            b":\n\n",
            said("", system_fingerprint="b8681"),
            b":\n\n",
            chunk({"content": "Hello"}),
            chunk({"content": " there!"}),
            chunk({}, finish="stop"),
            chunk(None, usage=USAGE, timings={"predicted_n": 3, "predicted_per_second": 41.5}),
            "[DONE]",
        ),
        True,
    ),
    # Comments before and between; whose answer it is; usage behind the finish.
    "openrouter": (
        events(
            b": OPENROUTER PROCESSING\n\n",
            b": OPENROUTER PROCESSING\n\n",
            said("Hello", provider="DeepInfra"),
            b": OPENROUTER PROCESSING\n\n",
            said(" there!", provider="DeepInfra"),
            said("", "stop", provider="DeepInfra", native_finish_reason="stop"),
            chunk(None, usage={**USAGE, "cost": 0.00014}, provider="DeepInfra"),
            "[DONE]",
        ),
        True,
    ),
    # Comments; reasoning with `content: null`; usage in the chunk that finishes.
    "deepseek": (
        events(
            b": keep-alive\n\n",
            chunk({"role": "assistant", "content": None, "reasoning_content": ""}),
            chunk({"content": None, "reasoning_content": "They greet."}),
            chunk({"content": "Hello", "reasoning_content": None}),
            chunk({"content": " there!", "reasoning_content": None}),
            chunk(
                {"content": "", "reasoning_content": None},
                finish="stop",
                usage={**USAGE, "prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": 9},
            ),
            "[DONE]",
        ),
        True,
    ),
    # The request's id in the first chunk, usage in the last, both in a field of its own.
    "groq": (
        events(
            said("", x_groq={"id": "req_01jadadp0femyae9kav1gpkhe8"}),
            chunk({"content": "Hello"}),
            chunk({"content": " there!"}),
            chunk({}, finish="stop", x_groq={"id": "req_01jadadp0fem", "usage": USAGE}),
            "[DONE]",
        ),
        True,
    ),
    "empty-finish-reason": (
        events(said("Hello", ""), said(" there!", ""), said("", "stop", usage=USAGE), "[DONE]"),
        True,
    ),
    "no-done": (events(said("Hello"), said(" there!", "stop")), False),
    "no-done-close": (events(said("Hello"), said(" there!", "stop"), framing="close"), False),
    "crlf": (events(said("Hello"), said(" there!", "stop"), "[DONE]", newline="\r\n"), False),
    "text-plain": (untyped(PLAIN, "text/plain; charset=utf-8"), False),
    "no-content-type": (untyped(PLAIN), False),
    "json-content-type": (untyped(PLAIN, "application/json"), False),
}


# Refusals


class Refusal(NamedTuple):
    """An error answer and what the caller's SDK makes of it."""

    reply: Reply
    kind: type[openai.APIStatusError]
    message: str
    fields: Json


def flat(status: int, message: str, kind: str) -> Reply:
    """vLLM's error in older versions: no `error` object around it."""
    body = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
    return json_reply(body, status)


LENGTH = "This model's maximum context length is 2048 tokens. However, you requested 2723 tokens."
CONTEXT = "request (9412 tokens) exceeds the available context size (8192 tokens)"
CONTEXT_ERROR = {
    "code": 400,
    "message": CONTEXT,
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 9412,
    "n_ctx": 8192,
}
TOOL_ERROR = {
    "message": "Failed to call a function.",
    "type": "invalid_request_error",
    "code": "tool_use_failed",
    "failed_generation": "<function=f>",
}
TOO_LARGE = error_object("Request too large for model.", code="rate_limit_exceeded", type="tokens")

REFUSALS: dict[str, Refusal] = {
    "ollama-unknown-model": Refusal(
        json_reply(error_object("model 'x' not found", type="not_found_error"), 404),
        openai.NotFoundError,
        "model 'x' not found",
        {"type": "not_found_error", "code": None},
    ),
    "vllm-context-length": Refusal(
        json_reply(error_object(LENGTH, code=400, type="BadRequestError"), 400),
        openai.BadRequestError,
        LENGTH,
        {"code": 400, "type": "BadRequestError"},
    ),
    "vllm-flat": Refusal(
        flat(400, LENGTH, "BadRequestError"), openai.BadRequestError, LENGTH, {"param": None}
    ),
    "llama.cpp-context-length": Refusal(
        json_reply({"error": CONTEXT_ERROR}, 400), openai.BadRequestError, CONTEXT, CONTEXT_ERROR
    ),
    "groq-tool-use": Refusal(
        json_reply({"error": TOOL_ERROR}, 400),
        openai.BadRequestError,
        "Failed to call a function.",
        TOOL_ERROR,
    ),
    "groq-too-large": Refusal(
        json_reply(TOO_LARGE, 413),
        openai.APIStatusError,
        "Request too large",
        {"code": "rate_limit_exceeded", "type": "tokens"},
    ),
    "openrouter-200": Refusal(
        json_reply({"error": {"code": 400, "message": "No endpoints for it.", "metadata": {}}}),
        openai.BadRequestError,
        "No endpoints for it.",
        {"code": 400, "metadata": {}},
    ),
    "deepseek-balance": Refusal(
        json_reply(error_object("Insufficient Balance", type="unknown_error"), 402),
        openai.APIStatusError,
        "Insufficient Balance",
        {"type": "unknown_error"},
    ),
    "as-html": Refusal(
        untyped(json_reply(error_object("No.", code="c"), 400), "text/html"),
        openai.BadRequestError,
        "No.",
        {"code": "c"},
    ),
    "html": Refusal(
        untyped(Reply([b"<html>Request blocked</html>"], 400), "text/html"),
        openai.BadRequestError,
        "Request blocked",
        {"type": "upstream_error", "code": None},
    ),
    "text": Refusal(
        Reply([b'{"error": "model is busy"}'], 400),
        openai.BadRequestError,
        "model is busy",
        {"type": "upstream_error", "param": None},
    ),
}


# Faults that pass

LOADING = json_reply(error_object("Loading model", code=503, type="unavailable_error"), 503)

PASSING: dict[str, tuple[Reply, Reply]] = {
    "llama.cpp-loading": (LOADING, LOADING),
    "openrouter-provider-down": (
        json_reply({"error": {"code": 502, "message": "Provider returned error"}}),
        events(
            b": OPENROUTER PROCESSING\n\n",
            {"error": {"code": 502, "message": "Provider returned error"}},
        ),
    ),
    "openrouter-rate-limit": (
        json_reply({"error": {"code": 429, "message": "Rate limit exceeded"}}),
        events({"error": {"code": 429, "message": "Rate limit exceeded"}}),
    ),
    "vllm-engine-dead": (
        json_reply(error_object("EngineDeadError", code=500, type="InternalServerError"), 500),
        events(error_object("EngineDeadError", code=500, type="InternalServerError"), "[DONE]"),
    ),
    "nothing-but-done": (json_reply({}, 503), events("[DONE]")),
}


# Failures in mid-stream

GONE = "Provider disconnected unexpectedly"
ENDED = {"code": "server_error", "message": GONE}

BROKEN: dict[str, tuple[Reply, str]] = {
    # A chunk like the others, with an `error` at its top and `finish_reason: "error"`.
    "openrouter": (
        events(said("Hello"), said("", "error", provider="DeepInfra", error=ENDED), "[DONE]"),
        GONE,
    ),
    "vllm": (
        events(
            said("Hello"),
            error_object("EngineDeadError", code=500),
            chunk(None, usage=USAGE),
            "[DONE]",
        ),
        "EngineDeadError",
    ),
    # An `event:` line before it would hide it from openai-python.
    "groq": (
        events(said("Hello"), b'event: error\ndata: {"error":{"message":"Over capacity"}}\n\n'),
        "Over capacity",
    ),
    # An error becomes an empty chunk, and the stream ends.
    "ollama": (events(said("Hello"), said("")), "cut off"),
    # Its time is over: closed amid comments.
    "deepseek": (events(said("Hello"), b": keep-alive\n\n", framing="close"), "cut off"),
}
