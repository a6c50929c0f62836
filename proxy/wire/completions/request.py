"""Legacy completions as chat requests, for callers of /v1/completions.

A request has one or more prompts; each becomes a chat request of its own, and their answers one
answer (`answers`). Source of the shapes: platform.openai.com/docs/api-reference/completions
and /chat, read 2026-11.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import Raw

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


class PromptRequest(NamedTuple):
    """One prompt as it goes to an upstream's own /completions, and as chat.

    `chat` may be why no chat upstream can serve it.
    """

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
    `wants_usage`: whether its stream is to end with the usage.
    """

    requests: tuple[PromptRequest, ...]
    prompts: tuple[str, ...]
    choices: int
    echo: bool
    wants_usage: bool


def read_completion(request: ChatRequest, *, is_native: bool) -> Completion:
    """Check what `read_request` has read as far as the proxy answers for it; raises InvalidRequest.

    `is_native`: every client that could serve it has a /completions of its own, so it stays whole.
    """
    body, model, stream = request.body, request.model, request.stream
    native = ChatRequest(body, model, stream, speech=SPEECH)
    if is_native:
        whole = PromptRequest(native, InvalidRequest("a client has no /completions"))
        return Completion((whole,), ("",), 1, echo=False, wants_usage=False)
    fields = read_fields(body)
    own = _OwnFields(**{name: read_any(fields[name]) for name in _OWN if name in fields})
    choices = own.n if isinstance(own.n, int) and own.n > 0 else 1
    prompts, problem = _prompts(own.prompt)
    if len(prompts) > 1:
        _check_repeated(len(body) - len(fields["prompt"]), len(prompts))
    problem = problem or _unsupported(own, choices)
    requests = tuple(
        PromptRequest(
            native
            if len(prompts) == 1
            else ChatRequest(_with(fields, prompt=prompt), model, stream, speech=SPEECH),
            problem or ChatRequest(_chat_body(fields, own, prompt), model, stream),
        )
        for prompt in prompts
    )
    if problem and not requests:  # for upstreams that understand it as it is
        requests = (PromptRequest(native, problem),)
    options = own.stream_options
    return Completion(
        requests,
        prompts or ("",),
        choices,
        echo=own.echo is True,
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


class _OwnFields(NamedTuple):
    """The fields that the answer depends on, or that chat has in another form or not at all."""

    prompt: Any = None
    n: Any = None
    stream_options: Any = None
    logprobs: Any = None
    echo: Any = None
    suffix: Any = None
    best_of: Any = None

    @property
    def wants_logprobs(self) -> bool:
        """Those of the chosen tokens at least, which is what 0 asks for."""
        return self.logprobs is not None and self.logprobs is not False


_OWN = _OwnFields._fields


def _with(fields: dict[str, Raw], **changed: Any) -> bytes:
    return encode({**fields, **changed})


def _prompts(prompt: Any) -> tuple[tuple[str, ...], InvalidRequest | None]:
    if prompt is None or prompt in ("", []):
        return ("",), None
    if isinstance(prompt, str):
        return (prompt,), None
    if not isinstance(prompt, list) or not all(isinstance(part, str) for part in prompt):
        return (), InvalidRequest(
            "`prompt` must be a string or a list of strings; arrays of tokens are not supported",
            param="prompt",
        )
    if len(prompt) > MAX_PROMPTS:
        return (), InvalidRequest(
            f"`prompt` must not hold more than {MAX_PROMPTS} strings", param="prompt"
        )
    return tuple(prompt), None


def _check_repeated(size: int, times: int) -> None:
    """Raise InvalidRequest where the fields beside the prompts would fill the memory."""
    if size * times > MAX_REPEATED_BYTES:
        raise InvalidRequest(
            f"each of the {times} strings in `prompt` is asked with all other fields, and {size}"
            f" bytes of these are too many for so many ({MAX_REPEATED_BYTES} in all)",
            param="prompt",
        )


def _unsupported(own: _OwnFields, choices: int) -> InvalidRequest | None:
    """Why chat cannot stand in for this request."""
    if own.suffix:
        return UnsupportedParameter("`suffix` is not supported here", param="suffix")
    if isinstance(own.best_of, (int, float)) and own.best_of > choices:
        return UnsupportedParameter("`best_of` above `n` is not supported here", param="best_of")
    if own.echo is True and own.wants_logprobs:
        return UnsupportedParameter("`echo` with `logprobs` is not supported here", param="echo")
    return None


def _chat_body(fields: dict[str, Raw], own: _OwnFields, prompt: str) -> bytes:
    dropped = {"prompt", "messages", "logprobs", "echo", "suffix", "best_of"}
    kept = {name: value for name, value in fields.items() if name not in dropped}
    changed: dict[str, Any] = {"messages": [{"role": "user", "content": prompt or EMPTY_PROMPT}]}
    if own.wants_logprobs:
        changed["logprobs"] = True
        if own.logprobs is not True:
            changed["top_logprobs"] = fields["logprobs"]
    return _with(kept, **changed)
