"""A Responses request as a chat request: its parameters, and its items as messages.

Chat wants what Responses leaves open: the calls of a turn stand in one message of the assistant,
and the results of all of them come right behind it. So results go to their calls wherever they
stand, an unanswered call gets a result that says so, and what was said in between comes behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat import ChatRequest, Speech, objects, read_object, without_reasoning
from ..chat.deltas import Translation
from ..chat.request import Outer
from ..chat.usage import as_object, as_text
from ..history import NOT_RUN, CallResults, result_without_call
from ..lenient_json import decoder, encode
from ..made_names import plain_id
from ..reasoning import unpack
from .answer import Events
from .tools import CALLERS, Json, Tools, chat_name, name_of

SPEECH: Speech = ("chat", "responses")
COUNT: Speech = ("count", "responses")

# Parameters that have the same name and meaning in chat.
_AS_THEY_ARE = ["frequency_penalty", "moderation", "presence_penalty", "prompt_cache_key"]
_AS_THEY_ARE += ["prompt_cache_options", "prompt_cache_retention", "safety_identifier", "seed"]
_AS_THEY_ARE += ["service_tier", "stop", "temperature", "top_k", "top_p", "user"]

# Where an answer depends on what only its vendor keeps.
_KEPT: Final = ("previous_response_id", "conversation", "background", "prompt")

_NOTHING: Final = (b"null", b"false")
_READ: Final = {"effort", "summary"}  # of `reasoning`
_LOGPROBS: Final = "message.output_text.logprobs"

_CALLS: Final = frozenset(f"{kind}_call" for kind in ("function", "custom_tool", *CALLERS))
_RESULTS: Final = frozenset(f"{kind}_output" for kind in _CALLS)
_TEXTS: Final = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
# What an item without a type is, by a member that only such items have.
_KINDS: Final = {"role": "message", "output": "function_call_output", "arguments": "function_call"}
# Kinds of clients that see media in results, and fetch files by URL.
_SEE_ALL: Final = ("claude", "gemini")

# What a tool of the vendor's says of its work: the members of its item, and those within them.
_TOLD: Final = (
    *("results", "outputs", "output", "result", "error", "title", "filename", "source", "url"),
    *("text", "logs", "stdout", "stderr", "message"),
)


class _Request(msgspec.Struct, kw_only=True):
    """What becomes another thing in chat."""

    input: Any = None
    include: list[Any] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Json | None = None
    text: Json | None = None
    tool_choice: Any = None
    tools: list[Any] | None = None
    top_logprobs: int | None = None


decode = decoder(_Request)

# Those that are read, or change no answer that is made of chat; others are dropped and noted.
_KNOWN = {*_Request.__struct_fields__, *_AS_THEY_ARE, *_KEPT, "client_metadata", "max_tool_calls"}
_KNOWN |= {"metadata", "model", "store", "stream", "stream_options", "truncation"}


def kept_by_the_vendor(fields: Mapping[str, Raw]) -> InvalidRequest | None:
    """The error for a request that needs what only its vendor keeps, if it does."""
    why = "no conversations are kept here; send the whole input"
    kept = [name for name in _KEPT if _is_set(fields, name)]
    return UnsupportedParameter.at(kept[0], why) if kept else None


def _is_set(fields: Mapping[str, Raw], name: str) -> bool:
    return name in fields and bytes(fields[name]) not in _NOTHING


def to_chat(asked: _Request, outer: Outer, kind: str, *, plain: bool) -> Translation:
    """The request as chat, for a client of this `kind`.

    `plain`: without what it says of reasoning, asked for or had. Raises RecursionError, and
    InvalidRequest, whose `param` is a path in the caller's body.
    """
    fields = outer.fields
    tools = Tools(kind)
    tools.add(asked.tools, "tools")
    talk = _Conversation(tools)
    if asked.instructions:
        talk.add([{"role": "system", "content": asked.instructions}])
    talk.add(asked.input)
    reasoning, text = asked.reasoning or {}, asked.text or {}
    effort = reasoning.get("effort")
    has_logprobs = asked.top_logprobs or _LOGPROBS in (asked.include or ())
    choice = tools.choice(asked.tool_choice)
    chat: Json = {
        "model": outer.model,
        "messages": talk.messages(),
        **{name: fields[name] for name in _AS_THEY_ARE if _is_set(fields, name)},
        "max_tokens": asked.max_output_tokens,
        "reasoning_effort": None if plain else effort,
        "verbosity": text.get("verbosity"),
        "response_format": _format(text.get("format")),
        "logprobs": True if has_logprobs else None,
        "top_logprobs": asked.top_logprobs or 0 if has_logprobs else None,
        "tools": tools.declared or None,
        "tool_choice": choice if tools.declared else None,
        "parallel_tool_calls": asked.parallel_tool_calls if tools.declared else None,
        "web_search_options": {"optional": True} if tools.searches else None,
        "stream": outer.stream or None,
        "stream_options": {"include_usage": True} if outer.stream else None,
    }
    made = encode({name: value for name, value in chat.items() if value is not None})
    made = (plain and without_reasoning(made)) or made
    unknown = [name for name in fields if name not in _KNOWN]
    lost = sorted(name for name in reasoning.keys() - _READ if reasoning[name] is not None)
    unknown += [f"reasoning.{name}" for name in lost]
    unasked = ["reasoning.effort"] if plain and effort is not None else []
    dropped = dict.fromkeys([*unknown, *tools.dropped, *talk.dropped, *unasked])
    request = ChatRequest(made, outer.model, outer.stream, is_made=True)
    return Translation(request, [*dropped], lambda model: Events(model, fields, tools))


def _format(form: Any) -> Json | None:
    """`text.format` as chat's `response_format`."""
    kind = form.get("type") if isinstance(form, dict) else form
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return {"type": kind}
    if kind != "json_schema" or not isinstance(form, dict):
        raise InvalidRequest.at("text.format.type", "expected text, json_schema or json_object")
    names = ("name", "description", "schema", "strict")
    return {"type": kind, kind: {name: form[name] for name in names if form.get(name) is not None}}


class _Turn(msgspec.Struct):
    """A message, and the results of its calls; `closed`: one of them was seen."""

    message: Json
    results: list[Json] = []
    closed: bool = False


class _Thoughts:
    """Reasoning that waits for what it led to; `packed` of `answer` says how it is sealed."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.forget()

    def forget(self) -> None:
        """Nothing followed that it led to."""
        self._blocks: list[Json] = []
        self._extra: Any = None
        self._text = ""

    def take(self, item: Json, before: _Turn | None) -> None:
        """An item of reasoning; `before`: the assistant's turn that is still open, if any.

        What another kind of client made is left out, and so is a vendor's own.
        """
        sealed = item.get("encrypted_content")
        container = unpack(sealed) if isinstance(sealed, str) else None
        if container is None:
            if self._kind == "openai" and not sealed:  # no summary, but a model's plain reasoning
                self._text += _texts(item.get("content"))
        elif container.kind == self._kind:
            signed = read_object(container.payload)
            if isinstance(signed.get("block"), dict):
                self._blocks.append(signed["block"])
            elif "message" in signed and before is not None:
                before.message["extra_content"] = signed["message"]
            elif not signed:
                self._text += _texts(item.get("summary"))
            self._extra = signed.get("call") or self._extra

    def put(self, message: Json, call: Json | None = None) -> None:
        """Into the assistant's message what was thought before its text, or before this call."""
        for block in self._blocks:
            blocks = message.setdefault("thinking_blocks", [])
            place = {"index": len(blocks), "content_offset": len(message["content"] or "")}
            calls = len(message.get("tool_calls", ()))
            blocks.append({**block, **place, "tool_call_offset": calls})
        if self._text:
            message["reasoning_content"] = message.get("reasoning_content", "") + self._text
        if call is not None and self._extra is not None:
            call["extra_content"] = self._extra
        self.forget()


class _Conversation:
    """Grows item by item, for a client as `tools` are for, which take in those that items bring."""

    def __init__(self, tools: Tools) -> None:
        self.dropped: dict[str, None] = {}
        self._tools = tools
        self._thoughts = _Thoughts(tools.kind)
        self._turns: list[_Turn] = []
        self._loop = 0  # where the tool loop begins that is going on
        self._results: CallResults[_Turn, Json] = CallResults()
        self._ids: set[str] = set()

    def add(self, items: Any) -> None:
        """The `input`; raises InvalidRequest, UnsupportedParameter naming the item."""
        if isinstance(items, str):
            items = [{"role": "user", "content": items}]
        if not isinstance(items, list):
            raise InvalidRequest.at("input", "expected a string or an array of items")
        for at, item in enumerate(items):
            if not isinstance(item, dict):
                raise InvalidRequest.at(f"input[{at}]", "expected an object")
            self._add(item, f"input[{at}]")

    def messages(self) -> list[Json]:
        """All of them; raises InvalidRequest if there is none."""
        found: list[Json] = []
        for turn in self._turns:
            message, media = turn.message, []
            if message["role"] == "system":
                message["content"] = _joined(message["content"], "\n\n")
            found += [message, *turn.results]
            for call, result in zip(message.get("tool_calls", ()), turn.results, strict=True):
                content = result["content"]
                if isinstance(content, list) and self._tools.kind not in _SEE_ALL:
                    seen = [part for part in content if part["type"] != "text"]
                    heading = _text(f"From the result of {call['function']['name']}:")
                    media += [heading, *seen] if seen else []
                    texts = [part["text"] for part in content if part["type"] == "text"]
                    result["content"] = "\n".join(texts)
            if media:
                found.append({"role": "user", "content": media})
        if not found:
            raise InvalidRequest.at("input", "there is nothing to answer")
        return found

    def _add(self, item: Json, path: str) -> None:
        kind = item.get("type")
        if not isinstance(kind, str):  # some programs leave it out
            kinds = (each for name, each in _KINDS.items() if name in item)
            kind = next(kinds, "item_reference")
        if kind == "message":
            self._message(item, path)
        elif kind == "reasoning":
            self._thoughts.take(item, self._current)
        elif kind in _CALLS:
            self._call(item, kind, path)
        elif kind in _RESULTS:
            self._result(item, path)
        elif kind in ("tool_search_output", "additional_tools"):
            self._tools.add(item.get("tools"), f"{path}.tools")
        elif kind == "item_reference":
            why = "item_reference: no items are kept here; send the whole input"
            raise InvalidRequest.at(path, why)
        elif kind in ("compaction", "compaction_trigger"):
            why = f"{kind}: only a client that speaks Responses itself can read it"
            raise UnsupportedParameter.at(path, why)
        elif kind != "image_generation_call" and (text := "\n".join(_told(item))):
            self._say("user", result_without_call(text))
        else:
            self.dropped[kind[:64]] = None

    def _say(self, role: str, content: Any) -> None:
        """What the user says, or the system: in one message, as templates of local models want."""
        self._thoughts.forget()
        if role == "user":
            for turn in self._turns[self._loop :]:
                turn.message.pop("reasoning_content", None)
            self._loop = len(self._turns)
        if role == "system" and self._turns and self._turns[-1].message["role"] == role:
            self._turns[-1].message["content"] += content
        else:
            self._turns.append(_Turn({"role": role, "content": content}))

    def _message(self, item: Json, path: str) -> None:
        role, content = item.get("role"), item.get("content")
        if item.get("phase"):
            self.dropped["phase"] = None
        parts = [] if content is None else self._parts(content, f"{path}.content")
        if role == "assistant":
            self._said(parts)
        elif role in ("system", "developer"):  # chat look-alikes know the first alone
            self._say("system", parts)
        elif role == "user":
            self._say("user", _joined(parts, "") if len(parts) == 1 else parts)
        else:
            said = f"expected user, assistant, system or developer, got {role!r:.80}"
            raise InvalidRequest.at(f"{path}.role", said)

    def _parts(self, content: Any, path: str) -> list[Json]:
        """A content as parts of chat; raises InvalidRequest, UnsupportedParameter."""
        if isinstance(content, str):
            return [_text(content)]
        if not _is_content(content):
            raise InvalidRequest.at(path, "expected a string or an array of parts")
        kind = self._tools.kind
        return [_part(part, f"{path}[{at}]", kind) for at, part in enumerate(content)]

    def _said(self, parts: list[Json]) -> None:
        """What the assistant said."""
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        refusal = "".join(part["refusal"] for part in parts if part["type"] == "refusal")
        turn = self._current
        if turn is None or turn.message["content"] or turn.results:
            turn = self._begin()
        self._thoughts.put(turn.message)
        turn.message["content"] = text or (None if refusal else "")
        if refusal:
            turn.message["refusal"] = refusal

    @property
    def _current(self) -> _Turn | None:
        """The assistant's turn that goes on, if one does."""
        turn = self._turns[-1] if self._turns else None
        is_open = turn is not None and turn.message["role"] == "assistant" and not turn.closed
        return turn if is_open else None

    def _begin(self) -> _Turn:
        turn = _Turn({"role": "assistant", "content": None})
        self._turns.append(turn)
        return turn

    def _call(self, item: Json, kind: str, path: str) -> None:
        turn = self._current or self._begin()
        name = kind.removesuffix("_call")
        if name in CALLERS:
            found: Any = as_object(item.get(CALLERS[name][1]))
        else:
            name = chat_name(name_of(item, path), item.get("namespace"))
            found = item.get("arguments")
            if kind == "custom_tool_call":
                found = {"input": as_text(item.get("input"))}
        arguments = found if isinstance(found, str) else encode(found or {}).decode()
        ids = _ids(item)
        call_id = plain_id(ids[0], self._ids, "call_")
        function = {"name": name, "arguments": arguments}
        call: Json = {"id": call_id, "type": "function", "function": function}
        self._thoughts.put(turn.message, call)
        turn.message.setdefault("tool_calls", []).append(call)
        result: Json = {"role": "tool", "tool_call_id": call_id, "content": NOT_RUN}
        turn.results.append(result)
        self._results.expect(result, turn, *ids)

    def _result(self, item: Json, path: str) -> None:
        content: Any = item.get("output")
        if _is_content(content):
            content = _joined(self._parts(content, f"{path}.output"), "\n")
        else:
            content = "\n".join(_told(item))
        is_text = isinstance(content, str)
        if item.get("status") == "failed" and is_text:
            content = f"Error: {content}"
        if pair := self._results.take(*_ids(item)):
            turn, result = pair
            result["content"], turn.closed = content, True
        else:
            self._say("user", result_without_call(content) if is_text else content)


def _ids(item: Json) -> list[str]:
    """What a call may be named by: the shell's outputs have the call's id in `id`."""
    return list(filter(None, (as_text(item.get(key)) for key in ("call_id", "id")))) or [""]


def _is_content(value: Any) -> bool:
    """Whether it is a list of parts as messages have them."""
    return isinstance(value, list) and all(
        isinstance(part, dict) and isinstance(part.get("type"), str) for part in value
    )


def _texts(parts: Any) -> str:
    return "".join(as_text(part.get("text")) for part in objects(parts))


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _part(part: Json, path: str, client: str) -> Json:
    kind = part["type"]
    made: Json
    if kind in _TEXTS and isinstance(part.get("text"), str):
        made = _text(part["text"])
    elif kind == "refusal" and isinstance(part.get("refusal"), str):
        made = {"type": "refusal", "refusal": part["refusal"]}
    elif kind == "input_image":
        made = {"type": "image_url", "image_url": {"url": _address(part, path, "image_url")}}
        if detail := part.get("detail"):  # chat does not know that of the original
            made["image_url"]["detail"] = "high" if detail == "original" else detail
    elif kind == "input_file":
        is_fetched = part.get("file_url") and client in _SEE_ALL
        data = _address(part, path, "file_url" if is_fetched else "file_data")
        name = {"filename": part["filename"]} if part.get("filename") else {}
        made = {"type": "file", "file": {"file_data": data, **name}}
    elif kind == "input_audio":
        made = {"type": kind, "input_audio": part.get("input_audio")}
    else:
        raise InvalidRequest.at(path, f"there is no part of type {kind!r:.80}")
    if mark := part.get("prompt_cache_breakpoint"):
        made["prompt_cache_breakpoint"] = mark
    return made


def _address(part: Json, path: str, wanted: str) -> str:
    """The data or URL of a medium; raises UnsupportedParameter if it is somewhere else."""
    if isinstance(found := part.get(wanted), str):
        return found
    for name in ("file_id", "file_url"):
        if part.get(name):
            why = f"no client of this model can read it; send `{wanted}`"
            raise UnsupportedParameter.at(f"{path}.{name}", why)
    raise InvalidRequest.at(path, f"expected `{wanted}`")


def _joined(parts: list[Json], between: str) -> Any:
    """Mere text as one string; more chat look-alikes take that."""
    if all(part.keys() == {"type", "text"} for part in parts):
        return between.join(part["text"] for part in parts)
    return parts


def _told(value: Any) -> Iterator[str]:
    """The texts in what a tool said of its work."""
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _told(each)
    elif isinstance(value, dict):
        for name in _TOLD:
            yield from _told(value.get(name))
        outcome = value.get("outcome")
        if isinstance(outcome, dict):
            code = outcome.get("exit_code")
            yield "timed out" if code is None else f"exit code {code}"
