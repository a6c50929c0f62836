"""The input of a request: items as the messages of a chat.

Chat wants what Responses leaves open: the calls of a turn stand in one message of the assistant,
and the results of all of them come right behind it. So results go to their calls wherever they
stand, an unanswered call gets a result that says so, and what was said in between comes behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from ...errors import InvalidRequest, UnsupportedParameter
from ..history import NOT_RUN, result_without_call
from ..lenient_json import encode
from ..tool_calls import CallResults
from .reasoning import Thoughts
from .tools import CALLERS, NAMES_BY_ITEM, Json, Tools, chat_name, name_of

_CALLS: Final = frozenset({"function_call", "custom_tool_call", *NAMES_BY_ITEM})
_RESULTS: Final = frozenset(f"{kind}_output" for kind in _CALLS)
_TEXTS: Final = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
# What an item without a type is, by a member that only such items have.
_KINDS: Final = {"role": "message", "output": "function_call_output", "arguments": "function_call"}
# Kinds of clients that take media in results, and those that take files by URL.
_SEE_RESULTS = _FETCH_FILES = ("claude", "gemini")
_SYSTEM: Final = ("system", "developer")  # chat look-alikes know the first alone

# What a tool of the vendor's says of its work: the members of its item, and those within them.
_TOLD = ["results", "outputs", "output", "result", "error", "title", "filename", "source", "url"]
_TOLD += ["text", "logs", "stdout", "stderr", "message"]


class _Call(msgspec.Struct):
    """A call, and the content of its result."""

    id: str
    name: str
    result: Any = None


class _Turn(msgspec.Struct):
    """A message, and of the assistant's its calls. `closed`: a result of theirs was seen.

    `texts`: the system's, which are one message: templates of local models take no second one.
    """

    message: Json
    texts: list[str] = []
    calls: list[_Call] = []
    closed: bool = False


class Conversation:
    """Grows item by item, for a client of this `kind`. `tools` take in those that items bring."""

    def __init__(self, tools: Tools, kind: str) -> None:
        self.dropped: dict[str, None] = {}
        self._tools = tools
        self._kind = kind
        self._thoughts = Thoughts(kind)
        self._turns: list[_Turn] = []
        self._loop = 0  # where the tool loop begins that is going on
        self._results: CallResults[_Turn, _Call] = CallResults()
        self._ids: set[str] = set()

    def add(self, items: Any) -> None:
        """The `input`; raises InvalidRequest, UnsupportedParameter naming the item."""
        if isinstance(items, str):
            items = [{"role": "user", "content": items}]
        if not isinstance(items, list):
            raise InvalidRequest("input: expected a string or an array of items", param="input")
        for at, item in enumerate(items):
            path = f"input[{at}]"
            if not isinstance(item, dict):
                raise InvalidRequest(f"{path}: expected an object", param=path)
            self._add(item, _kind(item), path)

    def messages(self) -> list[Json]:
        """All of them; raises InvalidRequest if there is none."""
        found: list[Json] = []
        for turn in self._turns:
            if turn.texts:
                turn.message["content"] = "\n\n".join(turn.texts)
            found.append(turn.message)
            behind: list[Json] = []
            for call in turn.calls:
                content = NOT_RUN if call.result is None else call.result
                if isinstance(content, list) and self._kind not in _SEE_RESULTS:
                    media = [part for part in content if part["type"] != "text"]
                    behind += [_text(f"From the result of {call.name}:"), *media]
                    content = "\n".join(part["text"] for part in content if part["type"] == "text")
                found.append({"role": "tool", "tool_call_id": call.id, "content": content})
            if behind:
                found.append({"role": "user", "content": behind})
        if not found:
            raise InvalidRequest("input: there is nothing to answer", param="input")
        return found

    def _add(self, item: Json, kind: str, path: str) -> None:
        if kind == "message":
            self._message(item, path)
        elif kind == "reasoning":
            turn = self._current
            self._thoughts.take(item, turn.message if turn is not None else None)
        elif kind in _CALLS:
            self._call(item, kind, path)
        elif kind in _RESULTS:
            self._result(item, path)
        elif kind in ("tool_search_output", "additional_tools"):
            self._tools.add(item.get("tools"), f"{path}.tools")
        elif kind == "item_reference":
            raise InvalidRequest(
                f"{path}: item_reference: no items are kept here; send the whole input", param=path
            )
        elif kind in ("compaction", "compaction_trigger"):
            raise UnsupportedParameter(
                f"{path}: {kind}: only a client that speaks Responses itself can read it",
                param=path,
            )
        elif kind != "image_generation_call" and (text := "\n".join(_told(item))):
            self._say("user", result_without_call(text))
        else:
            self.dropped[kind[:64]] = None

    def _say(self, role: str, content: Any) -> None:
        self._thoughts.forget()
        if role == "user":
            for turn in self._turns[self._loop :]:
                turn.message.pop("reasoning_content", None)
            self._loop = len(self._turns) + 1
        last = self._turns[-1] if self._turns else None
        texts = [content] if role == "system" and isinstance(content, str) else []
        if texts and last is not None and last.texts:
            last.texts += texts
        else:
            self._turns.append(_Turn({"role": role, "content": content}, texts))

    def _message(self, item: Json, path: str) -> None:
        role = item.get("role")
        if item.get("phase"):
            self.dropped["phase"] = None
        content = item.get("content")
        parts = [] if content is None else self._parts(content, f"{path}.content")
        if role == "assistant":
            self._said(parts)
        elif role in _SYSTEM:
            self._say("system", _joined(parts, "\n\n"))
        elif role == "user":
            self._say("user", _joined(parts, "") if len(parts) == 1 else parts)
        else:
            raise InvalidRequest(
                f"{path}.role: expected user, assistant, system or developer, got {role!r:.80}",
                param=f"{path}.role",
            )

    def _parts(self, content: Any, path: str) -> list[Json]:
        """A content as parts of chat; raises InvalidRequest, UnsupportedParameter."""
        if isinstance(content, str):
            return [_text(content)]
        if not _is_content(content):
            raise InvalidRequest(f"{path}: expected a string or an array of parts", param=path)
        return [_part(part, f"{path}[{at}]", self._kind) for at, part in enumerate(content)]

    def _said(self, parts: list[Json]) -> None:
        """What the assistant said."""
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        refusal = "".join(part["refusal"] for part in parts if part["type"] == "refusal")
        turn = self._current
        if turn is None or turn.message["content"] or turn.calls:
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
        if kind in NAMES_BY_ITEM:
            name = NAMES_BY_ITEM[kind]
            action = item.get(CALLERS[name][1])
            arguments = encode(action if isinstance(action, dict) else {}).decode()
        else:
            name = chat_name(name_of(item, path), item.get("namespace"))
            found = item.get("arguments" if kind == "function_call" else "input")
            if kind == "custom_tool_call":
                found = {"input": found if isinstance(found, str) else ""}
            arguments = found if isinstance(found, str) else encode(found or {}).decode()
        ids = _ids(item)
        call = _Call(self._unique(ids[0] if ids else "call"), name)
        function = {"name": name, "arguments": arguments}
        made: Json = {"id": call.id, "type": "function", "function": function}
        self._thoughts.put(turn.message, made)
        turn.message.setdefault("tool_calls", []).append(made)
        turn.calls.append(call)
        self._results.expect(call, turn, *(ids or [""]))

    def _unique(self, call_id: str) -> str:
        """An id that no other call of the request has, the same every time."""
        found, again = call_id, len(self._ids)
        while found in self._ids:
            again += 1
            found = f"{call_id}_{again}"
        self._ids.add(found)
        return found

    def _result(self, item: Json, path: str) -> None:
        output = item.get("output")
        if _is_content(output):
            content = _joined(self._parts(output, f"{path}.output"), "\n")
        else:
            content = "\n".join(_told(item))
        if item.get("status") == "failed" and isinstance(content, str):
            content = f"Error: {content}"
        if pair := self._results.take(*(_ids(item) or [""])):
            turn, call = pair
            call.result, turn.closed = content, True
        else:
            self._say("user", result_without_call(content) if isinstance(content, str) else content)


def _kind(item: Json) -> str:
    """Its type; what some programs leave out can be told from its members."""
    kind = item.get("type")
    if isinstance(kind, str):
        return kind
    return next((kind for name, kind in _KINDS.items() if name in item), "item_reference")


def _ids(item: Json) -> list[str]:
    """What a call may be named by: the shell's outputs have the call's id in `id`."""
    return [value for key in ("call_id", "id") if isinstance(value := item.get(key), str) and value]


def _is_content(value: Any) -> bool:
    """Whether it is a list of parts as messages have them."""
    return isinstance(value, list) and all(
        isinstance(part, dict) and isinstance(part.get("type"), str) for part in value
    )


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
        is_fetched = part.get("file_url") and client in _FETCH_FILES
        data = _address(part, path, "file_url" if is_fetched else "file_data")
        made = {"type": "file", "file": {"file_data": data}}
        if name := part.get("filename"):
            made["file"]["filename"] = name
    elif kind == "input_audio":
        made = {"type": kind, "input_audio": part.get("input_audio")}
    else:
        raise InvalidRequest(f"{path}: there is no part of type {kind!r:.80}", param=path)
    if mark := part.get("prompt_cache_breakpoint"):
        made["prompt_cache_breakpoint"] = mark
    return made


def _address(part: Json, path: str, wanted: str) -> str:
    """The data or URL of a medium; raises UnsupportedParameter if it is somewhere else."""
    if isinstance(found := part.get(wanted), str):
        return found
    for name in ("file_id", "file_url"):
        if part.get(name):
            raise UnsupportedParameter(
                f"{path}.{name}: no client of this model can read it; send `{wanted}`",
                param=f"{path}.{name}",
            )
    raise InvalidRequest(f"{path}: expected `{wanted}`", param=path)


def _is_plain(part: Json) -> bool:
    return part.keys() == {"type", "text"}


def _joined(parts: list[Json], between: str) -> Any:
    """Mere text as one string; more chat look-alikes take that."""
    if all(map(_is_plain, parts)):
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
