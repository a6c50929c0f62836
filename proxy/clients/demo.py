"""The client that answers in this process, without key or network, for a first try.

It repeats what it was told, a word each `delay-ms`, and the same each time. It calls the first of
the tools that it may use, once for what a user says, and answers in JSON where a response format
asks for it; arguments and answer fit their schemas. Its answers have OpenAI's format, so that
everything behind it works as with a real upstream.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

from ..config import ClientConfig
from ..errors import UnsupportedParameter, UpstreamRefusal
from ..net.watch import CLOCK, CallerConnection, Clock
from ..wire import chat as wire
from ..wire import lenient_json
from ..wire.chat.usage import as_object
from ..wire.sample import Unmade, sample
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
        return DemoReply(asked, model, self.config.delay_s, caller, self._clock)

    def refusal(self, reply: Reply, body: bytes) -> UpstreamRefusal:
        raise AssertionError("the demo provider always answers 200")

    def answer(self, request: wire.ChatRequest, body: bytes) -> tuple[bytes, wire.Usage | None]:
        return body, wire.read_answer(body)

    def chunks(self, request: wire.ChatRequest) -> ChunkTranslator:
        return wire.ChunkStream(hides_usage=not request.wants_usage)

    def list_models(self, *, caller: CallerConnection, deadline: float) -> list[str]:
        return ["demo"]


class DemoReply:
    """Makes its answer while it is read."""

    status = 200
    is_whole = True

    def __init__(
        self, asked: Any, model: str, delay_s: float, caller: CallerConnection, clock: Clock
    ) -> None:
        is_stream = asked.get("stream") is True
        self.headers = {"content-type": "text/event-stream" if is_stream else "application/json"}
        self._caller = caller
        self._clock = clock
        self._delay_s = delay_s
        self._due_at = clock.monotonic() + delay_s
        self._pieces = (_stream if is_stream else _unary)(model, _answer(asked))

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


class _Answer(NamedTuple):
    """`call` makes the call of arguments."""

    words: list[str]  # of a text, or of a call's arguments
    call: Callable[[str], dict[str, Any]] | None
    finish: str
    usage: dict[str, int]


def _unary(model: str, answer: _Answer) -> Iterator[bytes]:
    text = "".join(answer.words)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if answer.call:
        message |= {"content": None, "tool_calls": [answer.call(text)]}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish}
    head = {**_HEAD, "object": "chat.completion", "model": model}
    yield lenient_json.encode({**head, "choices": [choice], "usage": answer.usage})


def _stream(model: str, answer: _Answer) -> Iterator[bytes]:
    head = {**_HEAD, "object": "chat.completion.chunk", "model": model}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return lenient_json.encode({**head, "choices": [choice]})

    first, *others = answer.words
    delta: dict[str, Any] = {"role": "assistant", "content": first}
    if answer.call:
        delta |= {"content": None, "tool_calls": [{"index": 0, **answer.call(first)}]}
    yield encode([chunk(delta)])
    for word in others:
        part = {"tool_calls": [{"index": 0, "function": {"arguments": word}}]}
        yield encode([chunk(part if answer.call else {"content": word})])
    told = lenient_json.encode({**head, "choices": [], "usage": answer.usage})
    yield encode([chunk({}, answer.finish), told, DONE])


def _answer(asked: dict[str, Any]) -> _Answer:
    """One token a word. Raises UnsupportedParameter for a schema that no value was found for."""
    messages = wire.objects(asked.get("messages"))
    texts = [text for message in messages if (text := _text(message))]
    said = texts[-1].split()[:MAX_WORDS] if texts else []
    text = " ".join(["Hello from the demo provider.", *(["You said:", *said] if said else [])])
    words, finish, call = re.findall(r"\s*\S+", text), "stop", None
    wanted = as_object(asked.get("response_format"))
    if (function := _called(asked, messages)) is not None:
        words, finish = _fitting(function.get("parameters"), "tools"), "tool_calls"
        earlier = sum([message.get("role") == "tool" for message in messages])
        call = partial(_call, function["name"], f"call_demo_{earlier + 1}")
    elif wanted.get("type") == "json_schema":
        words = _fitting(as_object(wanted.get("json_schema")).get("schema"), "response_format")
    elif wanted.get("type") == "json_object":
        words = [lenient_json.encode({"answer": text}).decode()]
    most = asked.get("max_completion_tokens") or asked.get("max_tokens")
    if isinstance(most, int) and 0 < most < len(words):
        words, finish = words[:most], "length"
    prompt = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": prompt, "completion_tokens": len(words)}
    return _Answer(words, call, finish, {**usage, "total_tokens": prompt + len(words)})


def _called(asked: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The function to call: the first that may be, unless a result came since the user spoke."""
    since = takewhile(lambda role: role != "user", [each.get("role") for each in messages[::-1]])
    choice = asked.get("tool_choice")
    if choice == "none" or "tool" in since:
        return None
    functions = [as_object(tool.get("function")) for tool in wire.objects(asked.get("tools"))]
    if isinstance(choice, dict):
        allowed = wire.objects(as_object(choice.get("allowed_tools")).get("tools")) or [choice]
        names = [as_object(tool.get("function")).get("name") for tool in allowed]
        functions = [function for function in functions if function.get("name") in names]
    return next((each for each in functions if isinstance(each.get("name"), str)), None)


def _call(name: str, call_id: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def _fitting(schema: Any, param: str) -> list[str]:
    """The JSON text of a value for the schema, in pieces; without a schema, of an object."""
    try:
        value = sample({"type": "object"} if schema is None else schema)
    except Unmade as error:
        why = "the demo provider finds no value for the schema"
        raise UnsupportedParameter(why, param=param) from error
    return re.findall("[^,]*,|[^,]+", lenient_json.encode(value).decode())


def _text(message: dict[str, Any]) -> str:
    if isinstance(content := message.get("content"), str):
        return content
    parts = [part.get("text") for part in wire.objects(content)]
    return " ".join(part for part in parts if isinstance(part, str))
