"""The three kinds of upstreams, each able to say the same thing in its own dialect.

A fake reads what it is sent with the types of the official SDK for its API, so that a request that
the API would not take fails the test (by `Upstream.close`).
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParams
from pydantic import TypeAdapter

from tests.support import claude_upstream as claude
from tests.support import gemini_upstream as gemini
from tests.support.upstream import CREATED, Received, Reply, chunk, events, json_reply

Json = dict[str, Any]
Finish = Literal["stop", "length", "tool_calls", "content_filter"]

_OPENAI: TypeAdapter[Any] = TypeAdapter(CompletionCreateParams)
SIGNATURE = gemini.SIGNATURE


class Call(NamedTuple):
    id: str
    name: str
    arguments: Json


@dataclass(frozen=True)
class Said:
    """What an upstream answers, whatever its dialect."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    finish: Finish = "stop"
    prompt_tokens: int = 11
    completion_tokens: int = 7
    reasoning_tokens: int = 0

    @property
    def pieces(self) -> list[str]:
        return re.findall(r"\s*\S+|\s+$", self.text)

    def gist(self) -> Json:
        """What a caller is to find in the answer."""
        return {
            "role": "assistant",
            "content": self.text or None,
            "reasoning": self.reasoning or None,
            "calls": [(call.id, call.name, call.arguments) for call in self.calls],
            "finish": self.finish,
            "tokens": [self.prompt_tokens, self.completion_tokens, self.reasoning_tokens],
        }


def gist(completion: ChatCompletion) -> Json:
    """What a caller gets of an answer: all but ids, time and name, and what ids carry."""
    (choice,) = completion.choices
    message, usage = choice.message, completion.usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    details = usage.completion_tokens_details
    return {
        "role": message.role,
        "content": message.content or None,
        "reasoning": (message.model_extra or {}).get("reasoning_content"),
        "calls": [
            (re.sub("__.*", "", call.id), call.function.name, json.loads(call.function.arguments))
            for call in message.tool_calls or ()
            if call.type == "function"
        ],
        "finish": choice.finish_reason,
        "tokens": [
            usage.prompt_tokens,
            usage.completion_tokens,
            (details and details.reasoning_tokens) or 0,
        ],
    }


def joined(chunks: Iterable[bytes]) -> ChatCompletion:
    """The completion that the official SDK makes of a stream's payloads, each checked strictly."""
    state = ChatCompletionStreamState()
    for payload in chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate_json(payload, strict=True))
    return ChatCompletion.model_validate(state.current_completion_snapshot.to_dict())


class Dialect(ABC):
    """A kind of upstream."""

    kind: ClassVar[str]
    model: ClassVar[str]
    key_header: ClassVar[str]
    messages: ClassVar[str] = "messages"  # where a request has them

    @abstractmethod
    def client(self, origin: str, key: str, alias: str, **more: Any) -> Json:
        """The configuration of one client, under its section."""

    @abstractmethod
    def read(self, received: Received) -> Json:
        """The request as the upstream understands it."""

    @abstractmethod
    def is_stream(self, received: Received) -> bool:
        """Whether a stream is asked for."""

    @abstractmethod
    def whole(self, said: Said) -> Reply: ...

    @abstractmethod
    def streamed(self, said: Said) -> Reply: ...

    @abstractmethod
    def refused(self, status: int, message: str, **more: Any) -> Reply: ...

    def answer(self, said: Said) -> Callable[[Received], Reply]:
        """Answer a request that the API would take, as asked."""

        def answer(received: Received) -> Reply:
            assert received.header[self.key_header].removeprefix("Bearer ") == received.key
            assert str(received.key) not in f"{received.path}?{received.query}"
            self.read(received)
            return self.streamed(said) if self.is_stream(received) else self.whole(said)

        return answer

    def _entry(self, key: str, alias: str, more: Mapping[str, Any]) -> Json:
        return {"api-key": key, "models": [{"name": self.model, "alias": alias}], **more}


class OpenAI(Dialect):
    kind = "openai"
    model = "gpt-4.1-mini"
    key_header = "authorization"

    def client(self, origin: str, key: str, alias: str, **more: Any) -> Json:
        entry = self._entry(key, alias, more)
        entry |= {"name": f"openai-{alias}", "base-url": f"{origin}/v1"}
        entry["api-keys"] = [entry.pop("api-key")]
        return {"openai-compatibility": [entry]}

    def read(self, received: Received) -> Json:
        assert received.path == "/v1/chat/completions"
        claude.exhaust(_OPENAI.validate_python(received.json()))
        return dict(received.json())

    def is_stream(self, received: Received) -> bool:
        return bool(received.json().get("stream"))

    def whole(self, said: Said) -> Reply:
        message: Json = {"role": "assistant", "content": said.text or None}
        if said.calls:
            message["tool_calls"] = [_openai_call(call) for call in said.calls]
        if said.reasoning:
            message["reasoning_content"] = said.reasoning
        choice = {"index": 0, "message": message, "finish_reason": said.finish, "logprobs": None}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": CREATED}
        return json_reply(
            {**head, "model": self.model, "choices": [choice], "usage": _openai_usage(said)}
        )

    def streamed(self, said: Said) -> Reply:
        deltas: list[Json] = [{"role": "assistant", "content": None}]
        if said.reasoning:
            deltas.append({"reasoning_content": said.reasoning})
        deltas += [{"content": piece} for piece in said.pieces]
        for index, call in enumerate(said.calls):
            made = _openai_call(call)
            arguments = made["function"].pop("arguments")
            made["function"]["arguments"] = ""
            deltas.append({"tool_calls": [{"index": index, **made}]})
            rest = {"index": index, "function": {"arguments": arguments}}
            deltas.append({"tool_calls": [rest]})
        chunks = [chunk(delta) for delta in deltas]
        chunks.append(chunk({}, finish=said.finish))
        return events(*chunks, chunk(None, usage=_openai_usage(said)), "[DONE]")

    def refused(self, status: int, message: str, **more: Any) -> Reply:
        return json_reply({"error": {"message": message, "type": "x", "code": None}}, status, more)


def _openai_call(call: Call) -> Json:
    function = {"name": call.name, "arguments": json.dumps(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _openai_usage(said: Said) -> Json:
    return {
        "prompt_tokens": said.prompt_tokens,
        "completion_tokens": said.completion_tokens,
        "total_tokens": said.prompt_tokens + said.completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": said.reasoning_tokens},
    }


class Claude(Dialect):
    kind = "claude"
    model = claude.MODEL
    key_header = "x-api-key"

    def client(self, origin: str, key: str, alias: str, **more: Any) -> Json:
        return {"claude-api-key": [{**self._entry(key, alias, more), "base-url": origin}]}

    def read(self, received: Received) -> Json:
        assert (received.path, received.query) == ("/v1/messages", "")
        assert received.header["anthropic-version"] == "2023-06-01"
        assert received.header["content-type"] == "application/json"
        assert "authorization" not in received.header
        return claude.read_request(received.body)

    def is_stream(self, received: Received) -> bool:
        return received.json().get("stream") is True

    def message(self, said: Said) -> Json:
        blocks = [claude.thinking(said.reasoning)] if said.reasoning else []
        blocks += [claude.text(said.text)] if said.text else []
        blocks += [claude.tool_use(*call) for call in said.calls]
        reasons = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
        return claude.message(
            *blocks,
            stop_reason=reasons.get(said.finish, "end_turn"),
            input_tokens=said.prompt_tokens,
            output_tokens=said.completion_tokens,
            thinking_tokens=said.reasoning_tokens,
        )

    def whole(self, said: Said) -> Reply:
        return json_reply(self.message(said))

    def streamed(self, said: Said) -> Reply:
        return claude_stream(self.message(said))

    def refused(self, status: int, message: str, **more: Any) -> Reply:
        kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind |= {400: "invalid_request_error", 500: "api_error", 529: "overloaded_error"}
        refused = json_reply(claude.error(kind.get(status, "api_error"), message), status, more)
        return replace(refused, reason="Refused")  # 529 has no phrase of its own


def claude_stream(message: Json) -> Reply:
    """The message as the event stream that Claude would send."""
    return events(*claude.events(message), named=True)


class Gemini(Dialect):
    kind = "gemini"
    model = "gemini-3.5-flash"
    key_header = "x-goog-api-key"
    messages = "contents"

    def client(self, origin: str, key: str, alias: str, **more: Any) -> Json:
        return {"gemini-api-key": [{**self._entry(key, alias, more), "base-url": origin}]}

    def read(self, received: Received) -> Json:
        assert (received.path, received.query) in (
            (f"/v1beta/models/{self.model}:generateContent", ""),
            (f"/v1beta/models/{self.model}:streamGenerateContent", "alt=sse"),
        )
        assert received.header["content-type"] == "application/json"
        assert "authorization" not in received.header
        return gemini.read_request(received.body)

    def is_stream(self, received: Received) -> bool:
        return received.query == "alt=sse"

    def responses(self, said: Said) -> list[Json]:
        parts = [gemini.text(said.reasoning, thought=True)] if said.reasoning else []
        parts += [gemini.text(piece) for piece in said.pieces]
        parts += [
            gemini.call(call.name, call.arguments, id=call.id, signature=None if n else SIGNATURE)
            for n, call in enumerate(said.calls)
        ]
        finish = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}.get(said.finish, "STOP")
        thoughts = said.reasoning_tokens
        told = gemini.usage(
            said.prompt_tokens, said.completion_tokens - thoughts, thoughts=thoughts
        )
        made = [gemini.answer([gemini.candidate([part], finish=None)], told) for part in parts]
        return [*made, gemini.answer([gemini.candidate([], finish=finish)], told)]

    def whole(self, said: Said) -> Reply:
        return json_reply(gemini.joined(self.responses(said)))

    def streamed(self, said: Said) -> Reply:
        return gemini_stream(self.responses(said))

    def refused(self, status: int, message: str, **more: Any) -> Reply:
        return json_reply(gemini.error(status, "UNKNOWN", message), status, more)


def gemini_stream(responses: Sequence[Json]) -> Reply:
    """The events as streamGenerateContent sends them: lines end in CRLF, and no mark ends all."""
    return events(*responses, newline="\r\n")


DIALECTS: tuple[Dialect, ...] = (OpenAI(), Gemini(), Claude())
BY_KIND = {dialect.kind: dialect for dialect in DIALECTS}


def configuration(*clients: Json, **settings: Any) -> Json:
    """A file with these clients."""
    made: Json = dict(settings)
    for client in clients:
        for section, entries in client.items():
            made.setdefault(section, []).extend(entries)
    return made
