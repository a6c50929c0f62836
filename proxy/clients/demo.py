"""The client that answers in this process, without key or network, for a first try.

It repeats what it was told, a word each `delay-ms`, and the same each time. Its answers have
OpenAI's format, so that everything behind it works as with a real upstream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..config import ClientConfig
from ..errors import UpstreamRefusal
from ..net.watch import CLOCK, CallerConnection, Clock
from ..wire import chat as wire
from ..wire import lenient_json
from ..wire.sse import DONE, encode
from .base import ChunkTranslator, Client, Reply

# Of the caller's last message no more is said back.
MAX_WORDS = 200

_HEAD = {"id": "chatcmpl-demo", "created": 0}


class DemoClient(Client):
    """A client without an upstream."""

    def __init__(self, config: ClientConfig, clock: Clock = CLOCK) -> None:
        super().__init__(config)
        self._clock = clock

    def send(
        self,
        request: wire.ChatRequest,
        *,
        model: str,
        headers: Mapping[str, str],
        caller: CallerConnection,
        deadline: float,
    ) -> DemoReply:
        asked = wire.read_object(request.body)
        return DemoReply(asked, model, caller, delay_s=self.config.delay_s, clock=self._clock)

    def refusal(self, reply: Reply, body: bytes) -> UpstreamRefusal:
        raise AssertionError("the demo provider always answers 200")

    def answer(self, request: wire.ChatRequest, body: bytes) -> tuple[bytes, wire.Usage | None]:
        return body, wire.read_answer(body)

    def chunks(self, request: wire.ChatRequest) -> ChunkTranslator:
        return wire.ChunkStream()

    def list_models(self, *, caller: CallerConnection, deadline: float) -> list[str]:
        return ["demo"]

    def close(self) -> None:
        """Nothing is open."""


class DemoReply:
    """Makes its answer while it is read."""

    status = 200
    is_whole = True

    def __init__(
        self,
        asked: dict[str, Any],
        model: str,
        caller: CallerConnection,
        *,
        delay_s: float,
        clock: Clock,
    ) -> None:
        is_stream = asked.get("stream") is True
        self.headers = {"content-type": "text/event-stream" if is_stream else "application/json"}
        self._caller = caller
        self._clock = clock
        self._delay_s = delay_s
        self._due_at = clock.monotonic() + delay_s
        self._pieces = _stream(asked, model) if is_stream else _unary(asked, model)

    def open(self, until: float) -> bool:
        return True

    def head(self, until: float) -> bool:
        return True

    def read(self, until: float) -> bytes | None:
        self._caller.pause(min(until, self._due_at), self._clock)
        if self._due_at > until:
            return None
        self._due_at = self._clock.monotonic() + self._delay_s
        return next(self._pieces, b"")

    def close(self, *, linger_s: float = 0.0) -> None:
        """Nothing is open."""


def _unary(asked: dict[str, Any], model: str) -> Iterator[bytes]:
    words, finish, usage = _answer(asked)
    message = {"role": "assistant", "content": "".join(words), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    yield lenient_json.encode(
        {**_HEAD, "object": "chat.completion", "model": model, "choices": [choice], "usage": usage}
    )


def _stream(asked: dict[str, Any], model: str) -> Iterator[bytes]:
    words, finish, usage = _answer(asked)
    head = {**_HEAD, "object": "chat.completion.chunk", "model": model}

    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return lenient_json.encode({**head, "choices": [choice]})

    yield encode([chunk({"role": "assistant", "content": words[0]})])
    for word in words[1:]:
        yield encode([chunk({"content": word})])
    last = [chunk({}, finish)]
    options = asked.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage") is True:
        last.append(lenient_json.encode({**head, "choices": [], "usage": usage}))
    yield encode([*last, DONE])


def _answer(asked: dict[str, Any]) -> tuple[list[str], str, dict[str, int]]:
    """The words, the finish reason, and the usage, at one token a word."""
    messages = [text for message in _list(asked.get("messages")) if (text := _text(message))]
    said = messages[-1].split()[:MAX_WORDS] if messages else []
    words = ["Hello", "from", "the", "demo", "provider."]
    words += ["You", "said:", *said] if said else []
    most = asked.get("max_completion_tokens") or asked.get("max_tokens")
    finish = "stop"
    if isinstance(most, int) and 0 < most < len(words):
        words, finish = words[:most], "length"
    prompt = sum(len(text.split()) for text in messages)
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": len(words),
        "total_tokens": prompt + len(words),
    }
    return [words[0], *[f" {word}" for word in words[1:]]], finish, usage


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return content
    parts = [part.get("text") for part in _list(content) if isinstance(part, dict)]
    return " ".join(part for part in parts if isinstance(part, str))
