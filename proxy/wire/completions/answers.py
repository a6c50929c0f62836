"""Chat answers as one answer of /v1/completions, whole or in chunks (shapes: `request`)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from itertools import accumulate
from typing import Any

from ...errors import UpstreamInvalid
from ..chat import objects, read_object
from ..chat.reply import no_choices
from ..chat.usage import as_text
from ..lenient_json import encode, legible
from .request import Completion

Json = dict[str, Any]

_KEPT = ("id", "created", "model", "system_fingerprint", "service_tier")


class TextAnswers:
    """The chat answers to a request's prompts, as one text completion.

    Index = prompt * n + choice; id, time and model are the first answer's; usage is summed. An
    upstream may have spoken completions itself: its choices have their `text` already.
    """

    def __init__(self, request: Completion) -> None:
        self._request = request
        self._head: Json = {}
        self._usages: dict[int, Json] = {}  # by prompt: streams may tell it repeatedly
        self._tells_usage = request.wants_usage
        self._choices: list[Json] = []
        self._offsets: dict[int, int] = {}  # characters of each choice that went out already

    def add(self, body: bytes, prompt: int) -> None:
        """Take in one unary chat answer; raises UpstreamInvalid."""
        choices = self._take(body, prompt, is_whole=True)
        if not choices:
            raise no_choices()
        self._choices += choices

    def whole(self) -> bytes:
        """The completion made of all that was added; raises UpstreamInvalid."""
        return self._encoded(self._choices, tells_usage=bool(self._usages))

    def chunks(self, events: Iterable[bytes], prompt: int) -> list[bytes]:
        """Chat chunks that say anything as completion chunks; raises UpstreamInvalid."""
        said = [self._take(event, prompt, is_whole=False) for event in events]
        return [self._encoded(choices) for choices in said if choices]

    def last_chunk(self) -> list[bytes]:
        """The usage of all prompts, if the upstreams told it and it was asked for.

        Upstreams that put it into a chunk with choices tell it unasked; callers who did not ask
        may not be ready for a chunk without choices.
        """
        tells = self._usages and self._tells_usage
        return [self._encoded([], tells_usage=True)] if tells else []

    def _take(self, data: bytes, prompt: int, *, is_whole: bool) -> list[Json]:
        """The choices of an answer, or those of a chunk that say anything; all else is kept."""
        answer = read_object(data)
        if not answer and b'"' in data:
            raise UpstreamInvalid("the upstream's answer holds what cannot be read")
        for name in _KEPT:  # Azure's first chunk has them all, but empty
            if answer.get(name) is not None and not self._head.get(name):
                self._head[name] = answer[name]
        usage = answer.get("usage")
        if usage and isinstance(usage, dict):
            self._usages[prompt] = usage
            self._tells_usage = self._tells_usage or not answer.get("choices")
        return [
            self._choice(choice, text, prompt, at)
            for at, choice in enumerate(objects(answer.get("choices")))
            if (text := _said(choice)) or is_whole or _finish(choice)
        ]

    def _encoded(self, choices: list[Json], *, tells_usage: bool = False) -> bytes:
        answer = {**self._head, "object": "text_completion", "choices": choices}
        try:
            if tells_usage:
                answer["usage"] = reduce(_sum, self._usages.values())
            return encode(answer)
        except (RecursionError, ArithmeticError, ValueError) as error:  # thousands of digits
            raise UpstreamInvalid("the upstream's answer is beyond all bounds") from error

    def _choice(self, choice: Json, text: str, prompt: int, position: int) -> Json:
        number = choice.get("index")
        number = number if isinstance(number, int) else position
        index = prompt * self._request.choices + number
        is_first, offset = index not in self._offsets, self._offsets.get(index, 0)
        self._offsets[index] = offset + len(legible(text))
        logprobs = choice.get("logprobs")
        if "text" not in choice:
            logprobs = _legacy_logprobs(logprobs, offset)
            if self._request.echo and is_first:
                text = self._request.prompts[prompt] + text
        finish = _finish(choice)
        return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}


def _sum(one: Any, other: Any) -> Any:
    """Counts added up, those of the details too; of what is no count the last one."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: _sum(one.get(name), other.get(name)) for name in {**one, **other}}
    if type(one) in (int, float) and type(other) in (int, float):
        return one + other
    return one if other is None else other


def _said(choice: Json) -> str:
    """The text of a chat choice, or of a native one, which has it in `text`.

    Mistral answers in parts, streams too, of which some are the thinking of a model
    (docs.mistral.ai/capabilities/reasoning, read 2026-11).
    """
    said = choice.get("message") or choice.get("delta")
    content = said.get("content") if isinstance(said, dict) else None
    if isinstance(content, list) and "text" not in choice:
        kinds = ("text", "output_text")
        texts = [part.get("text") for part in objects(content) if part.get("type", "text") in kinds]
        return "".join(map(as_text, texts))
    return as_text(choice.get("text", content))


def _finish(choice: Json) -> str | None:
    """Null until the end, as OpenAI has it; some send an empty string."""
    return as_text(choice.get("finish_reason")) or None


def _legacy_logprobs(logprobs: Any, offset: int) -> dict[str, list[Any]] | None:
    """Chat's list of tokens as parallel lists; `offset`: characters of the text before them."""
    tokens = objects(logprobs.get("content")) if isinstance(logprobs, dict) else []
    if not tokens:
        return None
    texts = [as_text(token.get("token")) for token in tokens]
    tops = [objects(token.get("top_logprobs")) for token in tokens]
    lengths = [len(legible(text)) for text in texts[:-1]]
    return {
        "tokens": texts,
        "token_logprobs": [token.get("logprob") for token in tokens],
        "top_logprobs": [{as_text(t.get("token")): t.get("logprob") for t in top} for top in tops],
        "text_offset": list(accumulate(lengths, initial=offset)),
    }
