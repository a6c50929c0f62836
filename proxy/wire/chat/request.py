"""What is read of a caller's chat request. All else passes through as the bytes it came in.

A plain request is read here alone. `fields`, `spelling` and `names` are for one that has contents
in parts, calls, tools or a `stop`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ...errors import InvalidRequest
from ..lenient_json import encode, is_shielded, shield
from .fields import read_fields, read_messages, read_text, too_deep, with_model
from .names import made_names, rename
from .spelling import respelled
from .usage import as_text, asking_usage, is_asked


def _spelled(name: str) -> re.Pattern[bytes]:
    """The string `name` in JSON, however its letters are escaped; not the end of a longer one."""
    letters = "".join(f"(?:{letter}|\\\\u00(?i:{ord(letter):x}))" for letter in name)
    return re.compile(rf'"(?<!\\"){letters}"'.encode())


_KEYS = {name: _spelled(name) for name in ("model", "stream")}

_FILLED_ARRAY = re.compile(rb"\[[ \t\r\n]*[^\] \t\r\n]")

# Members that may have to be spelled or named in another way, even if all messages are plain text.
_LOOKED_INTO = frozenset({"stop", "tools", "functions"})

_MAX_LOOKS = 64
_BEFORE_ITEM = (b"{", b" ", b"\n", b"\r", b"\t")

_flag = msgspec.json.Decoder(bool).decode
_members = msgspec.json.Decoder(dict[str, Raw]).decode


# An operation and a dialect.
Speech = tuple[str, str]

HUB: Speech = ("chat", "chat")
# To count the tokens of a chat request: the answer is an object with `input_tokens`.
HUB_COUNT: Speech = ("count", "chat")
# OpenAI's embeddings as they came, and of a text or up to `MAX_TEXTS`: Google's service takes no
# more ("at most 100 requests can be in one batch").
EMBED: Speech = ("embed", "embeddings")
HUB_EMBED: Speech = ("embed", "texts")
MAX_TEXTS = 100


class ChatRequest(Struct, frozen=True):
    """A request for an upstream: its body, and what of it decides its way.

    It is chat, unless its `speech` is another that the client speaks. `names`: by the caller's
    names of functions those that OpenAI takes, if there are others. `stream_options`: the body's,
    for whoever has them at hand. `query`: behind the path, for clients that speak the caller's
    dialect. `is_made`: out of another dialect. `is_taken_back`: a wish for usage of ours is.
    `session`: which one the caller says that it is part of.
    """

    body: bytes
    model: str
    stream: bool
    names: dict[str, str] = {}
    speech: Speech = HUB
    stream_options: Raw | UnsetType | None = UNSET
    query: str = ""
    is_made: bool = False
    is_taken_back: bool = False
    session: str = ""

    @property
    def wants_usage(self) -> bool:
        """Whether a stream's caller asked for its usage. Other dialects always tell it."""
        return self.is_made or is_asked(self._options())

    def _options(self) -> Raw | None:
        if isinstance(self.stream_options, UnsetType):
            return read_fields(self.body).get("stream_options")
        return self.stream_options

    def for_model(self, name: str, *, asks_usage: bool = False) -> bytes:
        """The body for an upstream that calls the model `name`.

        All other values stay as they came, except names of functions that OpenAI does not take.
        `asks_usage`: it asks for the chunk with the usage, whether or not the caller did.
        """
        body = self.body if name == self.model else with_model(self.body, name)
        if asks_usage and not is_asked(options := self._options()):
            body = asking_usage(body, options)
        return rename(body, self.names) if self.names else body


_NULL = Raw(b"null")


class Outer(NamedTuple):
    """What all dialects' requests have at their top: model, stream, session, whatever members.

    `text`: what the members are parts of: the body, or what was shielded of it (`lenient_json`).
    """

    model: str
    stream: bool
    fields: dict[str, Raw]
    text: bytes
    session: str = ""


def read_outer(body: bytes) -> Outer:
    """Check a request of any dialect at its top; raises InvalidRequest."""
    text, fields = _request_fields(body)
    try:
        model = read_text(fields["model"])
    except (KeyError, msgspec.DecodeError):
        model = ""
    if not model or (text is not body and is_shielded(model)):
        raise InvalidRequest("`model` must be a non-empty string", param="model")
    try:
        stream = fields.get("stream", _NULL) != _NULL and _flag(fields["stream"])
    except msgspec.DecodeError as error:
        raise InvalidRequest("`stream` must be true or false", param="stream") from error
    return Outer(model, stream, fields, text, session_of(fields))


def check_filled(fields: dict[str, Raw], name: str) -> None:
    """Raise InvalidRequest unless this member is an array with something in it."""
    if not ((array := fields.get(name)) and _FILLED_ARRAY.match(array)):
        raise InvalidRequest(f"`{name}` must be a non-empty array", param=name)


def read_request(body: bytes, *, needs_messages: bool = True) -> ChatRequest:
    """Check a request's body as far as the proxy answers for it; raises InvalidRequest."""
    model, stream, fields, text, session = read_outer(body)
    messages = fields.get("messages")
    if needs_messages:
        check_filled(fields, "messages")
    options = fields.get("stream_options")
    has_lists = messages is not None and _may_have_lists(text, messages)
    if not has_lists and fields.keys().isdisjoint(_LOOKED_INTO):
        return ChatRequest(body, model, stream, stream_options=options, session=session)
    read = read_messages(messages) if messages and (has_lists or "functions" in fields) else []
    if changed := respelled(fields, read):
        body = encode({**fields, **changed})
    names = made_names(fields, read)
    return ChatRequest(body, model, stream, names, stream_options=options, session=session)


def _may_have_lists(text: bytes, messages: Raw) -> bool:
    """Whether the messages may have parts or calls. Much quicker than a parse of long prose.

    All of the text is looked at, which needs no copy: a list elsewhere costs a parse for nothing.
    Looking for one byte is quick as long as it is rare. In code it is not, and a parse is quicker.
    """
    is_own = memoryview(messages)[1:2] in _BEFORE_ITEM  # one bracket is where the messages begin
    at = -1
    for _ in range(_MAX_LOOKS):
        at = text.find(b"[", at + 1)
        if at < 0:
            return False
        if text[at + 1 : at + 2] in _BEFORE_ITEM:
            if not is_own:
                return True
            is_own = False
    return True


def _request_fields(body: bytes) -> tuple[bytes, dict[str, Raw]]:
    """The request's members, and the text that they are parts of: `body`, or what was shielded."""
    text = body
    try:
        if not body.isascii():
            body.decode()  # msgspec takes invalid UTF-8 in what it skips
        try:
            fields = _members(body)
        except msgspec.DecodeError:  # of lone surrogates, or for good
            text = shield(body)
            fields = _members(text)
    except UnicodeDecodeError as error:
        raise InvalidRequest("the request body is not valid UTF-8") from error
    except RecursionError as error:
        raise too_deep() from error
    except msgspec.ValidationError as error:
        raise InvalidRequest("the request body must be a JSON object") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the request body is not valid JSON: {error}") from error
    if not _are_all(text, fields):
        _refuse_duplicates(body, fields)
    return text, fields


def _are_all(text: bytes, fields: dict[str, Raw]) -> bool:
    """Whether these are all members of the object, so that none was given twice.

    False proves nothing, as this knows the spacing of `JSON.stringify` and of Python's `json` only.
    It is here because searching 2 MB for a key takes longer than parsing them.
    """
    spare = len(text) - sum(map(len, fields)) - sum(map(len, fields.values()))
    if spare == 4 * len(fields) + 1:
        return True  # with no byte of space in between: there is no room for another
    if spare != 6 * len(fields):
        return False
    parts: list[bytes | Raw] = []
    for name, value in fields.items():
        parts += (b', "%b": ' % name.encode(), value)
    parts[0] = b"{" + bytes(parts[0])[2:]
    parts.append(b"}")
    return b"".join(parts) == text


def _refuse_duplicates(body: bytes, fields: dict[str, Raw]) -> None:
    """Raise InvalidRequest if `model` or `stream` is twice at the top level.

    A decoder keeps the last of equal keys. An occurrence outside of the kept values is therefore a
    key itself, or is in a value that another duplicate key hides, which is malformed as well.
    """
    for name, pattern in _KEYS.items():
        texts = (body, *fields.values())
        whole, *inside = (sum(1 for _ in pattern.finditer(text)) for text in texts)
        if whole - sum(inside) > 1:
            raise InvalidRequest(f"`{name}` is given twice", param=name)


# How callers name the session that a request is part of: headers and members that coding agents and
# SDKs send, read 2026-11; `prompt_cache_key` is OpenAI's (platform.openai.com/docs/guides/
# prompt-caching), `metadata.user_id` Anthropic's. The request's own id is none, nor is a user's.
# gunicorn drops names with an underscore, such as Codex's `session_id`.
SESSION_HEADERS = ("x-session-id", "x-claude-code-session-id", "session-id", "x-session-affinity")

# Claude Code's `user_id`, before it was JSON: user_..._account_..._session_...
_MARK = "_session_"


class _Ids(Struct):
    session_id: Any = None
    user_id: Any = None

    def named(self) -> str:
        """The session; "": they name none. Raises DecodeError."""
        session, user = as_text(self.session_id), as_text(self.user_id)
        if session or not user.startswith("{"):
            return session or user.partition(_MARK)[2]
        return as_text(_read_ids(user.encode()).session_id)


_read_any, _read_ids = msgspec.json.Decoder().decode, msgspec.json.Decoder(_Ids).decode


def session_of(fields: Mapping[str, Raw]) -> str:
    """The session that a body names, of which these are the members; "": none."""
    try:
        if "prompt_cache_key" in fields and (key := as_text(_read_any(fields["prompt_cache_key"]))):
            return key
        return _read_ids(fields["metadata"]).named() if "metadata" in fields else ""
    except (msgspec.DecodeError, RecursionError):
        return ""
