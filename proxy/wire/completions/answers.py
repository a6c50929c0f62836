"""Chat answers as one answer of /v1/completions, whole or in chunks.

Source of the shapes: platform.openai.com/docs/api-reference/completions and /chat, read 2026-11;
the openai SDK's `Completion` and `ChatCompletionChunk`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from ...errors import UpstreamInvalid
from ..chat import objects, read_object
from ..lenient_json import encode
from .request import Completion

# Past it JSON's numbers are not exact (RFC 8259, section 6): no count of tokens.
_MAX_COUNT = 2**53

_KEPT = ("id", "created", "model", "system_fingerprint", "service_tier")


class TextAnswers:
    """The chat answers to a request's prompts, as one text completion.

    Index = prompt * n + choice; id, time and model are the first answer's; usage is summed. An
    upstream may have spoken completions itself: its choices have their `text` already.
    """

    def __init__(self, request: Completion) -> None:
        self._request = request
        self._head: dict[str, Any] = {}
        self._usages: dict[int, dict[str, Any]] = {}  # by prompt: streams may tell it repeatedly
        self._tells_usage = request.wants_usage
        self._choices: list[dict[str, Any]] = []
        self._offsets: dict[int, int] = {}  # characters of each choice that went out already
        self._echoed: set[int] = set()

    def add(self, body: bytes, prompt: int) -> None:
        """Take in one unary chat answer; raises UpstreamInvalid."""
        answer = _read(body)
        choices = objects(answer.get("choices"))
        if not choices:
            raise UpstreamInvalid("the upstream's answer has no choices")
        self._note(answer, prompt)
        self._choices += [
            self._choice(choice, _said(choice, "message"), prompt, at)
            for at, choice in enumerate(choices)
        ]

    def whole(self) -> bytes:
        """The completion made of all that was added; raises UpstreamInvalid."""
        usage = _sum(self._usages.values())
        return self._encoded(self._choices, **({"usage": usage} if usage else {}))

    def chunks(self, events: Iterable[bytes], prompt: int) -> list[bytes]:
        """Chat chunks as completion chunks; those that say nothing are left out.

        Raises UpstreamInvalid.
        """
        return [chunk for event in events if (chunk := self._chunk(_read(event), prompt))]

    def last_chunk(self) -> list[bytes]:
        """The usage of all prompts, if the upstreams told it and it was asked for.

        Upstreams that put it into a chunk with choices tell it unasked; callers who did not ask
        may not be ready for a chunk without choices.
        """
        if not (self._usages and self._tells_usage):
            return []
        return [self._encoded([], usage=_sum(self._usages.values()))]

    def _chunk(self, chunk: dict[str, Any], prompt: int) -> bytes | None:
        self._note(chunk, prompt)
        said = [
            (choice, _said(choice, "delta"), at)
            for at, choice in enumerate(objects(chunk.get("choices")))
        ]
        choices = [
            self._choice(choice, text, prompt, at)
            for choice, text, at in said
            if text or _finish(choice)
        ]
        return self._encoded(choices) if choices else None

    def _note(self, answer: dict[str, Any], prompt: int) -> None:
        """Keep what an answer or chunk says besides its choices."""
        for name in _KEPT:  # Azure's first chunk has them all, but empty
            if answer.get(name) is not None and not self._head.get(name):
                self._head[name] = answer[name]
        usage = answer.get("usage")
        if usage and isinstance(usage, dict):
            self._usages[prompt] = usage
            self._tells_usage = self._tells_usage or not answer.get("choices")

    def _encoded(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        answer = {**self._head, "object": "text_completion", "choices": choices, **more}
        try:
            return encode(answer)
        except (RecursionError, ValueError) as error:  # a number of thousands of digits
            raise UpstreamInvalid("the upstream's answer is beyond all bounds") from error

    def _choice(
        self, choice: dict[str, Any], text: str, prompt: int, position: int
    ) -> dict[str, Any]:
        number = choice.get("index")
        number = number if isinstance(number, int) else position
        index = prompt * self._request.choices + number
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + _length(text)
        logprobs = choice.get("logprobs")
        if "text" not in choice:
            logprobs = _legacy_logprobs(logprobs, offset)
        if self._request.echo and "text" not in choice and index not in self._echoed:
            self._echoed.add(index)
            text = self._request.prompts[prompt] + text
        finish = _finish(choice)
        return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}


def _read(data: bytes) -> dict[str, Any]:
    """The object in an answer or event, of which it is known that it holds one."""
    found = read_object(data)
    if not found and b'"' in data:
        raise UpstreamInvalid("the upstream's answer holds what cannot be read")
    return found


def _sum(usages: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """All counts added up, those of the details too; what is no count is kept of the last."""
    total: dict[str, Any] = {}
    for usage in usages:
        for name, value in usage.items():
            before = total.get(name)
            if isinstance(before, dict) and isinstance(value, dict):
                keys = {**before, **value}
                total[name] = {key: _plus(before.get(key), value.get(key)) for key in keys}
            else:
                total[name] = _plus(before, value)
    return total


def _plus(one: Any, other: Any) -> Any:
    if _is_count(one) and _is_count(other):
        return one + other
    return one if other is None else other


def _is_count(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) <= _MAX_COUNT


def _said(choice: dict[str, Any], where: str) -> str:
    """The text of a chat choice, or of a native one, which has it in `text`."""
    if "text" in choice:
        return _text(choice["text"])
    said = choice.get(where)
    content = said.get("content") if isinstance(said, dict) else None
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in objects(content) if _is_text(part))
    return _text(content)


def _is_text(part: dict[str, Any]) -> bool:
    """Whether a part of a content is for the reader, not the thinking of a model.

    Mistral answers in parts, streams too (docs.mistral.ai/capabilities/reasoning, read 2026-11).
    """
    return part.get("type", "text") in ("text", "output_text")


def _finish(choice: dict[str, Any]) -> str | None:
    """Null until the end, as OpenAI has it; some send an empty string."""
    return _text(choice.get("finish_reason")) or None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _length(text: str) -> int:
    """In characters, as the caller will count them: a lone surrogate, shielded here, is one."""
    spelled = encode(text)
    return len(json.loads(spelled)) if b"\\u" in spelled else len(text)


def _legacy_logprobs(logprobs: Any, offset: int) -> dict[str, list[Any]] | None:
    """Chat's list of tokens as parallel lists; `offset`: characters of the text before them."""
    tokens = objects(logprobs.get("content")) if isinstance(logprobs, dict) else []
    if not tokens:
        return None
    texts = [_text(token.get("token")) for token in tokens]
    tops = [objects(token.get("top_logprobs")) for token in tokens]
    return {
        "tokens": texts,
        "token_logprobs": [token.get("logprob") for token in tokens],
        "top_logprobs": [{_text(t.get("token")): t.get("logprob") for t in top} for top in tops],
        "text_offset": list(accumulate(map(_length, texts[:-1]), initial=offset)),
    }
