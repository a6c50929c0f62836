"""/v1/completions: prompts as chat requests, the answers to them as one text completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..wire.chat import ChatRequest, error_body, read_request
from ..wire.completions.answers import TextAnswers
from ..wire.completions.request import SPEECH, Completion, PromptRequest, read_completion
from ..wire.sse import DONE, encode
from .base import Answer, Ask, Dialect
from .chat import ChatWriter


class CompletionsAsk(Ask):
    """One or more prompts."""

    speech = SPEECH
    may_have_prompts = True

    def __init__(self, request: ChatRequest, headers: Mapping[str, str]) -> None:
        super().__init__(request.model, headers, stream=request.stream)
        self._request = request
        self._completion: Completion | None = None

    def prompts(self, *, natively: bool) -> Sequence[PromptRequest]:
        self._completion = read_completion(self._request, is_native=natively)
        return self._completion.requests

    @property
    def completion(self) -> Completion:
        """What `prompts` has read."""
        assert self._completion is not None, "prompts() comes first"
        return self._completion

    def whole(self, answers: Sequence[Answer]) -> bytes:
        if len(answers) == 1 and answers[0].is_native:
            return answers[0].body
        made = TextAnswers(self.completion)
        for at, answer in enumerate(answers):
            made.add(answer.body, at)
        return made.whole()

    def writer(self) -> TextWriter:
        return TextWriter(self)


class TextWriter(ChatWriter):
    """Chunks of text. The only prompt's own completion passes through."""

    def __init__(self, ask: CompletionsAsk) -> None:
        super().__init__()
        self._ask = ask
        self._answers: TextAnswers | None = None
        self._at = 0
        self._passes = False

    def begin(self, at: int, *, is_native: bool) -> None:
        super().begin(at, is_native=is_native)
        if self._answers is None:
            self._answers = TextAnswers(self._ask.completion)
        self._at = at
        self._passes = is_native and len(self._ask.completion.requests) == 1

    def feed(self, chunks: Sequence[bytes]) -> bytes:
        if self._passes:
            return encode(chunks)
        assert self._answers is not None, "begin() comes first"
        return encode(self._answers.chunks(chunks, self._at))

    def end(self) -> bytes:
        last = [] if self._answers is None else self._answers.last_chunk()
        return encode([*last, DONE])


def _read(body: bytes, headers: Mapping[str, str]) -> CompletionsAsk:
    return CompletionsAsk(read_request(body, needs_messages=False), headers)


COMPLETIONS = Dialect(_read, error_body)
