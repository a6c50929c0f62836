"""/v1/completions: prompts as chat requests, the answers to them as one text completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..wire.chat import ChatRequest, error_body, read_request
from ..wire.completions import SPEECH, TextAnswers, read_completion
from ..wire.sse import DONE, encode
from .base import Answer, Ask, Dialect
from .chat import ChatWriter


class CompletionsAsk(Ask):
    """One or more prompts."""

    speech = SPEECH

    def __init__(self, body: bytes, headers: Mapping[str, str], query: str = "") -> None:
        self._request = asked = read_request(body, needs_messages=False)
        super().__init__(asked.model, headers, stream=asked.stream, session=asked.session)

    @property
    def wants_usage(self) -> bool:
        return self._request.wants_usage

    def prompts(self, *, natively: bool) -> int:
        self._completion = read_completion(self._request, is_native=natively)
        self.answers = TextAnswers(self._completion)
        prompts = len(self._completion.natives)
        self.has_one = prompts == 1
        return prompts

    def request(self, at: int, kind: str, *, natively: bool) -> ChatRequest:
        return (self._completion.natives if natively else self._completion.hubs)[at]

    def whole(self, answers: Sequence[Answer]) -> bytes:
        if self.has_one and answers[0].is_native:
            return answers[0].body
        for at, answer in enumerate(answers):
            self.answers.add(answer.body, at)
        return self.answers.whole()

    def writer(self) -> TextWriter:
        return TextWriter(self)


class TextWriter(ChatWriter):
    """Chunks of text. The only prompt's own completion passes through."""

    def __init__(self, ask: CompletionsAsk) -> None:
        super().__init__()
        self._ask = ask
        self._at = 0
        self._passes = False

    def begin(self, at: int, *, is_native: bool, kind: str = "") -> None:
        super().begin(at, is_native=is_native, kind=kind)
        self._at = at
        self._passes = is_native and self._ask.has_one

    def feed(self, chunks: Sequence[bytes]) -> bytes:
        return encode(chunks if self._passes else self._ask.answers.chunks(chunks, self._at))

    def end(self) -> bytes:
        return encode([*self._ask.answers.last_chunk(), DONE])


COMPLETIONS = Dialect(CompletionsAsk, error_body)
