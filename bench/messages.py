"""What goes over the wire: the requests that `load` sends and the answers that `mock` gives.

Both sides build them from here, so that an answer can be checked to the last byte of its content,
whatever a gateway did to spaces, order of fields or framing. What the mock does is said in the
request itself, in two fields that every gateway passes on: `model` and `max_tokens`.
"""

from __future__ import annotations

import json
from typing import Any

UNARY = "bench-unary"
BURST = "bench-burst"
PACED_10_MS = "bench-paced-10"
PACED_250_MS = "bench-paced-250"
MUTEX_10_MS = "bench-mutex-10"  # paced, and a key's second stream at once is refused
SLOW = "bench-paced-5000"
MODELS = (UNARY, BURST, PACED_10_MS, PACED_250_MS, MUTEX_10_MS)
# Bursts of upstreams that speak otherwise.
CLAUDE = "bench-claude"
GEMINI = "bench-gemini"

CALLER_KEY = "sk-bench-caller-0123456789abcdef"
# What a request is sent in: where it goes, the names of its length and of its conversation.
CHAT, RESPONSES, MESSAGES = "chat", "responses", "messages"
PATHS = {CHAT: "/v1/chat/completions", RESPONSES: "/v1/responses", MESSAGES: "/v1/messages"}
_LENGTHS = {CHAT: "max_tokens", RESPONSES: "max_output_tokens", MESSAGES: "max_tokens"}
_TURNS = {CHAT: "messages", RESPONSES: "input", MESSAGES: "messages"}

# The mock refuses a request without this: a body that was cut must not pass for a cheap one.
END_OF_PROMPT = "end-of-prompt."

_PROSE = "The quick brown fox jumps over the lazy dog, and says: \u201cagain\u201d.\n"
_MESSAGE_BYTES = 4096
_UNARY_BYTES = 1024


def request(dialect: str, model: str, *, stream: bool, chunks: int, body_bytes: int) -> bytes:
    """A request body of close to `body_bytes`: a conversation in messages of 4 KB at most."""
    head: dict[str, object] = {"model": model, "stream": stream, _LENGTHS[dialect]: chunks}
    turns = _TURNS[dialect]
    missing = body_bytes - len(json.dumps({**head, turns: []})) - len(END_OF_PROMPT)
    messages = []
    while missing > _MESSAGE_BYTES:
        messages.append({"role": "user", "content": _prose(_MESSAGE_BYTES)})
        missing -= len(json.dumps(messages[-1])) + 2
    messages.append({"role": "user", "content": _prose(max(missing - 40, 0)) + END_OF_PROMPT})
    return json.dumps({**head, turns: messages}).encode()


def unary_content() -> str:
    """The text of the one unary answer."""
    return _prose(_UNARY_BYTES - 330)


def unary_answer() -> bytes:
    """A whole chat completion of about 1 KB."""
    return json.dumps(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1750000000,
            "model": UNARY,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": unary_content()},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 200, "total_tokens": 300},
        }
    ).encode()


def token(index: int) -> str:
    """The text of one chunk; no two are alike, so a chunk lost, repeated or moved shows."""
    return f"token{index} "


def event(index: int) -> bytes:
    """The server-sent event of one chunk, as long as OpenAI's."""
    delta = (
        {"role": "assistant", "content": token(index)} if index == 0 else {"content": token(index)}
    )
    return _event(delta, finish_reason=None)


def last_events() -> bytes:
    """The chunk with the finish reason, and the end."""
    return _event({}, finish_reason="stop") + b"data: [DONE]\n\n"


def _event(delta: dict[str, str], *, finish_reason: str | None) -> bytes:
    chunk = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1750000000,
        "model": "bench",
        "system_fingerprint": "fp_bench",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def claude_event(index: int) -> bytes:
    """The same of Claude's; the first comes behind what begins a message."""
    begin = b""
    if index == 0:
        message: dict[str, object] = {
            "id": "msg_bench",
            "type": "message",
            "role": "assistant",
            "model": "bench",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 100, "output_tokens": 1},
        }
        begin = _named("message_start", message=message) + _named(
            "content_block_start", index=0, content_block={"type": "text", "text": ""}
        )
    delta = {"type": "text_delta", "text": token(index)}
    return begin + _named("content_block_delta", index=0, delta=delta)


def claude_last_events() -> bytes:
    """The end of the block and of the message."""
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    return (
        _named("content_block_stop", index=0)
        + _named("message_delta", delta=delta, usage={"output_tokens": 200})
        + _named(_STOP)
    )


def _named(kind: str, **fields: object) -> bytes:
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def gemini_event(index: int) -> bytes:
    """The same of Gemini's."""
    return _candidate(token(index))


def gemini_last_events() -> bytes:
    """The event with the finish reason."""
    return _candidate("", finishReason="STOP")


def _candidate(text: str, **fields: str) -> bytes:
    content = {"parts": [{"text": text}], "role": "model"}
    event = {
        "candidates": [{"content": content, "index": 0, **fields}],
        "usageMetadata": {
            "promptTokenCount": 100,
            "candidatesTokenCount": 200,
            "totalTokenCount": 300,
        },
        "modelVersion": "bench",
        "responseId": "bench",
    }
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\r\n\r\n"


def _prose(size: int) -> str:
    """Text whose JSON is about `size` bytes."""
    line = len(json.dumps(_PROSE)) - 2
    return _PROSE * (size // line)


def unary_fault(body: bytes) -> str | None:
    """What is wrong with a unary answer; None: nothing."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return "no chat completion"
    return None if content == unary_content() else "wrong content"


def stream_fault(dialect: str, body: bytes, *, chunks: int) -> str | None:
    """What is wrong with a whole stream of server-sent events; None: nothing."""
    content, finished, done = [], False, False
    for line in body.split(b"\n"):
        data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
        if not data:
            continue
        if done:
            return "data after the end"
        if data == b"[DONE]":
            done = True
            continue
        try:
            text, finishes, done = _READERS[dialect](json.loads(data))
            content.append(text)
            finished = finished or finishes
        except (ValueError, LookupError, TypeError, AttributeError):
            return "error event" if b'"error"' in data else "no chunk"
    if not (done and finished):
        return "cut stream"
    return None if "".join(content) == expected_text(chunks) else "wrong chunks"


def _chat_event(event: dict[str, Any]) -> tuple[str, bool, bool]:
    """Its text, whether it is the answer's end, and the stream's."""
    choice = event["choices"][0]
    return choice["delta"].get("content") or "", choice.get("finish_reason") == "stop", False


def _responses_event(event: dict[str, Any]) -> tuple[str, bool, bool]:
    kind = event["type"]
    is_last = kind == "response.completed"
    return event["delta"] if kind == "response.output_text.delta" else "", is_last, is_last


def _messages_event(event: dict[str, Any]) -> tuple[str, bool, bool]:
    delta = event.get("delta", {})
    return delta.get("text", ""), delta.get("stop_reason") == "end_turn", event["type"] == _STOP


_STOP = "message_stop"
_READERS = {CHAT: _chat_event, RESPONSES: _responses_event, MESSAGES: _messages_event}


def expected_text(chunks: int) -> str:
    """All chunks' text together."""
    return "".join(map(token, range(chunks)))
