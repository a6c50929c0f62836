"""Legacy completions as chat requests, for callers of /v1/completions.

A request has one or more prompts; each becomes a chat request of its own, and their answers one
answer (`answers`). Source of the shapes: platform.openai.com/docs/api-reference/completions
and /chat, the openai SDK's `Completion` and `ChatCompletionChunk`, read 2026-11.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat import ChatRequest, Speech, read_any, read_fields
from ..lenient_json import encode

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


class PromptRequest(NamedTuple):
    """One prompt as it goes to an upstream's own /completions, and as chat, or why it cannot."""

    native: ChatRequest
    chat: ChatRequest | InvalidRequest

    @property
    def hub(self) -> ChatRequest:
        """The chat request; raises InvalidRequest."""
        if isinstance(self.chat, InvalidRequest):
            raise self.chat
        return self.chat


class Completion(NamedTuple):
    """A completions request: its parts, and what its answer needs to know of it.

    `prompts`: what `echo` repeats, one for each of `requests`. `choices`: per prompt.
    """

    requests: tuple[PromptRequest, ...]
    prompts: tuple[str, ...] = ("",)
    choices: int = 1
    echo: bool = False
    wants_usage: bool = False


def read_completion(request: ChatRequest, *, is_native: bool) -> Completion:
    """Check what `read_request` has read as far as the proxy answers for it; raises InvalidRequest.

    `is_native`: every client that could serve it has a /completions of its own, so it stays whole.
    """
    body, model, stream = request.body, request.model, request.stream
    native = ChatRequest(body, model, stream, speech=SPEECH)
    if is_native:
        return Completion((PromptRequest(native, InvalidRequest("a client has no /completions")),))
    fields = read_fields(body)
    own = {name: read_any(fields[name]) for name in _READ if name in fields}
    try:
        prompts = _prompts(own.get("prompt"))
    except InvalidRequest as error:  # for upstreams that understand it as it is
        return Completion((PromptRequest(native, error),))
    if len(prompts) > 1:
        _check_repeated(len(body) - len(fields["prompt"]), len(prompts))
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
    requests = []
    for prompt in prompts:
        if len(prompts) > 1:
            one = encode({**fields, "prompt": prompt})
            native = ChatRequest(one, model, stream, speech=SPEECH)
        messages = [{"role": "user", "content": prompt or EMPTY_PROMPT}]
        said = encode({**kept, "messages": messages, **more})
        requests.append(PromptRequest(native, problem or ChatRequest(said, model, stream)))
    return Completion(tuple(requests), prompts, choices, echoes, request.wants_usage)


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


def _check_repeated(size: int, times: int) -> None:
    """Raise InvalidRequest where the fields beside the prompts would fill the memory."""
    if size * times > MAX_REPEATED_BYTES:
        raise InvalidRequest(
            f"each of the {times} strings in `prompt` is asked with all other fields, and {size}"
            f" bytes of these are too many for so many ({MAX_REPEATED_BYTES} in all)",
            param="prompt",
        )
