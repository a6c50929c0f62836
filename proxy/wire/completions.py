"""Legacy completions as chat requests, for callers of /v1/completions, and chat answers as theirs.

A request has one or more prompts; each becomes a chat request of its own, and their answers one
answer. Source of the shapes: platform.openai.com/docs/api-reference/completions and /chat, the
openai SDK's `Completion` and `ChatCompletionChunk`, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from itertools import accumulate
from typing import Any, NamedTuple

from ..errors import InvalidRequest, UnsupportedParameter, UpstreamInvalid
from .chat import ChatRequest, Speech, objects, read_any, read_fields, read_object
from .chat.reply import no_choices
from .chat.usage import as_object, as_text
from .lenient_json import encode, legible

SPEECH: Speech = ("chat", "completions")

# As many prompts as a list may hold: they are served one after the other.
MAX_PROMPTS = 128

# All other fields are repeated for each prompt of a list: so many bytes of them in all.
MAX_REPEATED_BYTES = 16 * 1024 * 1024

# What the Go original asks for where there is no prompt.
EMPTY_PROMPT = "Complete this:"

# What the answer depends on, and what chat has in another form or not at all.
_READ = ("prompt", "n", "logprobs", "echo", "suffix", "best_of")
_NOT_OF_CHAT = frozenset(("prompt", "messages", "logprobs", "echo", "suffix", "best_of"))


class Completion(NamedTuple):
    """A completions request, in a piece for each prompt, and what its answer needs to know of it.

    `natives`: the pieces as they go to an upstream's own /completions; `chats`: as chat, or why
    they cannot. `prompts`: what `echo` repeats. `choices`: per prompt.
    """

    natives: list[ChatRequest]
    chats: list[ChatRequest] | InvalidRequest
    prompts: tuple[str, ...] = ("",)
    choices: int = 1
    echo: bool = False
    wants_usage: bool = False

    @property
    def hubs(self) -> list[ChatRequest]:
        """The chat requests; raises InvalidRequest."""
        if isinstance(self.chats, InvalidRequest):
            raise self.chats
        return self.chats


def read_completion(request: ChatRequest, *, is_native: bool) -> Completion:
    """Check what `read_request` has read as far as the proxy answers for it; raises InvalidRequest.

    `is_native`: every client that could serve it has a /completions of its own, so it stays whole.
    """
    body, model, stream = request.body, request.model, request.stream
    natives = [ChatRequest(body, model, stream, speech=SPEECH)]
    if is_native:
        return Completion(natives, InvalidRequest("a client has no /completions"))
    fields = read_fields(body)
    own = {name: read_any(fields[name]) for name in _READ if name in fields}
    try:
        prompts = _prompts(own.get("prompt"))
    except InvalidRequest as error:  # for upstreams that understand it as it is
        return Completion(natives, error)
    if len(prompts) > 1:
        size = len(body) - len(fields["prompt"])
        if size * len(prompts) > MAX_REPEATED_BYTES:
            raise InvalidRequest(
                f"each of the {len(prompts)} strings in `prompt` is asked with all other fields, "
                f"and {size} bytes of these are too many for so many ({MAX_REPEATED_BYTES} in all)",
                param="prompt",
            )
        bodies = [encode({**fields, "prompt": prompt}) for prompt in prompts]
        natives = [ChatRequest(one, model, stream, speech=SPEECH) for one in bodies]
    n, logprobs = own.get("n"), own.get("logprobs")
    choices = n if isinstance(n, int) and n > 0 else 1
    # Those of the chosen tokens at least, which is what 0 asks for.
    wants_logprobs = logprobs is not None and logprobs is not False
    echoes = own.get("echo") is True
    problem: InvalidRequest | None = None
    if own.get("suffix"):
        problem = UnsupportedParameter("`suffix` is not supported here", param="suffix")
    elif isinstance(own.get("best_of"), (int, float)) and own["best_of"] > choices:
        problem = UnsupportedParameter("`best_of` above `n` is not supported here", param="best_of")
    elif echoes and wants_logprobs:
        problem = UnsupportedParameter("`echo` with `logprobs` is not supported here", param="echo")
    kept = {name: value for name, value in fields.items() if name not in _NOT_OF_CHAT}
    more: dict[str, Any] = {"logprobs": True} if wants_logprobs else {}
    if more and logprobs is not True:
        more["top_logprobs"] = fields["logprobs"]
    chats = []
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt or EMPTY_PROMPT}]
        chats.append(ChatRequest(encode({**kept, "messages": messages, **more}), model, stream))
    return Completion(natives, problem or chats, prompts, choices, echoes, request.wants_usage)


def _prompts(prompt: Any) -> tuple[str, ...]:
    prompts = prompt if isinstance(prompt, list) else ["" if prompt is None else prompt]
    if not all(isinstance(one, str) for one in prompts):
        raise InvalidRequest(
            "`prompt` must be a string or a list of strings; arrays of tokens are not supported",
            param="prompt",
        )
    if len(prompts) > MAX_PROMPTS:
        problem = f"`prompt` must not hold more than {MAX_PROMPTS} strings"
        raise InvalidRequest(problem, param="prompt")
    return tuple(prompts) or ("",)


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
        if usage := as_object(answer.get("usage")):
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
    content = as_object(choice.get("message") or choice.get("delta")).get("content")
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
    if not (tokens := objects(as_object(logprobs).get("content"))):
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
