"""A third dialect, which is nobody's: named events, a unary body and errors of its own shape.

It takes `{"model", "say", "live"}`, and `think`, which chat cannot say for good: it is a parameter
that may be refused. Other members are dropped. What it gives is at `TurnsAsk.whole`, `TurnsWriter`,
`error`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.dialects.base import Answer, Ask, Dialect, Writer
from proxy.errors import InvalidRequest, ProxyError
from proxy.wire.chat import ChatRequest, read_answer

PATH = "/v1/turns"


class TurnsAsk(Ask):
    """One turn, made chat when a client is there that gets it."""

    speech = ("chat", "turns")

    def __init__(self, asked: dict[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__(asked["model"], headers, stream=asked.get("live") is True)
        self._say = asked.get("say")
        self._think = asked.get("think")
        self.dropped = sorted(asked.keys() - {"model", "say", "live", "think"})

    def request(self, at: int, kind: str, *, natively: bool) -> ChatRequest:
        assert not natively
        if not isinstance(self._say, str):
            raise InvalidRequest("`say` must be a string")
        body: dict[str, Any] = {"messages": [{"role": "user", "content": self._say}]}
        if self._think:
            body["reasoning_effort"] = self._think
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return ChatRequest(_json({"model": self.model, **body}), self.model, self.stream)

    def plain_request(self, at: int, kind: str, *, natively: bool) -> ChatRequest | None:
        if not self._think:
            return None
        plain = TurnsAsk({"model": self.model, "say": self._say, "live": self.stream}, {})
        return plain.request(at, kind, natively=natively)

    def whole(self, answers: Sequence[Answer]) -> bytes:
        (answer,) = answers
        assert not answer.is_native
        (choice,) = json.loads(answer.body)["choices"]
        usage = read_answer(answer.body)
        return _json(
            {
                "said": choice["message"]["content"],
                "why": choice["finish_reason"],
                "tokens": usage and usage.completion_tokens,
            }
        )

    def writer(self) -> TurnsWriter:
        return TurnsWriter()


class TurnsWriter(Writer):
    """`begin`, `said`..., and `end` with the reason and the tokens; or `failed`."""

    keep_alive = b"event: still\ndata: {}\n\n"

    def __init__(self) -> None:
        self._end: dict[str, Any] = {}

    def begin(self, at: int, *, is_native: bool, kind: str = "") -> None:
        assert (at, is_native) == (0, False)

    def feed(self, chunks: Sequence[bytes]) -> bytes:
        written = b""
        for chunk in map(json.loads, chunks):
            if usage := chunk.get("usage"):
                self._end["tokens"] = usage["completion_tokens"]
            for choice in chunk["choices"]:
                if text := choice["delta"].get("content"):
                    written += _event("said", {"text": text})
                if reason := choice.get("finish_reason"):
                    self._end["why"] = reason
        return written

    def end(self) -> bytes:
        return _event("end", self._end)

    def fail(self, error: ProxyError) -> bytes:
        return _event("failed", _problem(error))


def _read(body: bytes, headers: Mapping[str, str], query: str = "") -> TurnsAsk:
    try:
        return TurnsAsk(json.loads(body), headers)
    except (ValueError, KeyError) as error:
        raise InvalidRequest("this is no turn") from error


def _problem(error: ProxyError) -> dict[str, Any]:
    return {"status": error.status, "text": error.message}


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _json(data))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _error(error: ProxyError, request_id: str = "") -> bytes:
    return _json({"problem": _problem(error)})


TURNS = Dialect(_read, _error)
