"""OpenAI chat completions: what is read of requests, answers, chunks and errors.

Everything that is not read here passes through as the bytes it came in. Source of the shapes:
platform.openai.com/docs/api-reference/chat and /streaming, read 2026-11; the openai SDK's types.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ..errors import (
    InvalidRequest,
    ProxyError,
    UpstreamInvalid,
    UpstreamRefusal,
    UpstreamTruncated,
    envelope,
)
from .sse import DONE

# What is quoted of an upstream's error that is not in the envelope.
MAX_QUOTED_CHARS = 2000

# An error's `code` goes into logs.
MAX_CODE_CHARS = 100


def _spelled(name: str) -> re.Pattern[bytes]:
    """The string `name` in JSON, however its letters are escaped; not the end of a longer one."""
    letters = "".join(f"(?:{letter}|\\\\u00(?i:{ord(letter):x}))" for letter in name)
    return re.compile(rf'"(?<!\\"){letters}"'.encode())


_KEYS = {name: _spelled(name) for name in ("model", "stream")}
# An escape of a small letter would hide a second `model` from a search for the plain one.
_ESCAPED_LETTER = re.compile(rb"\\u00[67][0-9a-fA-F]")

_FILLED_ARRAY = re.compile(rb"\[[ \t\r\n]*[^\] \t\r\n]")
_ERROR_STATUS = re.compile("[45][0-9]{2}")

_Object = dict[str, Raw]
_T = TypeVar("_T")


def _decoder(shape: type[_T]) -> Callable[[bytes | Raw], _T]:
    """Decode as this type. Lone surrogates, which msgspec refuses, come out shielded."""
    decode = msgspec.json.Decoder(shape).decode

    def decode_any(data: bytes | Raw) -> _T:
        try:
            return decode(data)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            shielded = shield(bytes(data))
            if shielded == data:
                raise
            return decode(shielded)

    return decode_any


_decode_object = _decoder(_Object)
_decode_any = _decoder(Any)


# In place of `\\u` before a surrogate while msgspec looks; nobody can guess it.
_SHIELD = uuid.uuid4().hex.encode()
_SHIELDED = re.compile(_SHIELD.decode() + "[0-9a-fA-F]{4}")
_ESCAPE = re.compile(rb"\\(?:u([dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)


def shield(data: bytes) -> bytes:
    """JSON with the escapes of surrogates as plain text, which stays valid JSON.

    Streams that cut text anywhere cut an emoji into two lone surrogates, a chunk each.
    """
    if b"\\ud" not in data and b"\\uD" not in data:
        return data
    shielded = bytearray()
    at = 0
    for found in _ESCAPE.finditer(data):
        if found[1]:
            shielded += data[at : found.start()] + _SHIELD
            at = found.start(1)
    return bytes(shielded + data[at:])


def unshield(data: bytes) -> bytes:
    """What `shield` did, undone."""
    return data.replace(_SHIELD, b"\\u")


def encode(value: Any) -> bytes:
    """As JSON, surrogates that were shielded in their escapes again."""
    return unshield(msgspec.json.encode(value))


class Usage(Struct, frozen=True):
    """Tokens, as far as an answer told them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class ChatRequest(Struct, frozen=True):
    """A caller's request: its body, and what of it decides its way."""

    body: bytes
    model: str
    stream: bool

    def for_model(self, name: str) -> bytes:
        """The body for an upstream that calls the model `name`: every other value as it came."""
        return self.body if name == self.model else with_model(self.body, name)

    def check(self) -> None:
        """Raise InvalidRequest if no chat upstream can serve it."""

    def wants_usage(self) -> bool:
        """Whether the caller of a stream asked for a last chunk with the usage."""
        return wants_usage(self.body)


def with_model(body: bytes, name: str) -> bytes:
    """The body with another `model`, and every other value as it came."""
    values = _decode_object(body)
    values["model"] = Raw(encode(name))
    return encode(values)


def read_fields(body: bytes) -> dict[str, Raw]:
    """The top-level values of a body that `read_request` has checked; `unshield` what is made."""
    return _decode_object(body)


def read_any(value: Raw) -> Any:
    """A value as plain data; raises InvalidRequest for a number that is out of all range."""
    try:
        return _decode_any(value)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the request body cannot be read: {error}") from error


_NULL = Raw(b"null")


def read_request(body: bytes, *, needs_messages: bool = True) -> ChatRequest:
    """Check a request's body as far as the proxy answers for it; raises InvalidRequest."""
    fields = _request_fields(body)
    model = _value(fields.get("model"), str)
    if not model or _SHIELD.decode() in model:
        raise InvalidRequest("`model` must be a non-empty string", param="model")
    stream = False if fields.get("stream", _NULL) == _NULL else _value(fields["stream"], bool)
    if stream is None:
        raise InvalidRequest("`stream` must be true or false", param="stream")
    messages = fields.get("messages")
    if needs_messages and not (messages and _FILLED_ARRAY.match(messages)):
        raise InvalidRequest("`messages` must be a non-empty array", param="messages")
    return ChatRequest(body, model, stream)


def _request_fields(body: bytes) -> _Object:
    try:
        if not body.isascii():
            body.decode()  # msgspec takes invalid UTF-8 in what it skips
        fields = _decode_object(body)
    except UnicodeDecodeError as error:
        raise InvalidRequest("the request body is not valid UTF-8") from error
    except RecursionError as error:
        raise InvalidRequest("the request body is nested too deeply") from error
    except msgspec.ValidationError as error:
        raise InvalidRequest("the request body must be a JSON object") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the request body is not valid JSON: {error}") from error
    if not _accounts_for(body, fields):
        _refuse_duplicates(body, fields)
    return fields


def _accounts_for(body: bytes, fields: _Object) -> bool:
    """Whether these fields are all of the body, to the byte, so that none was given twice.

    It is no proof of the contrary: only the spacing of `JSON.stringify` and of Python's `json` is
    known here. Counting bytes is what is cheap: to search 2 MB for a key takes longer than to parse
    them.
    """
    names = sum([len(name) for name in fields])
    values = sum([len(value) for value in fields.values()])
    spare = len(body) - names - values
    return spare in (4 * len(fields) + 1, 6 * len(fields))


def _refuse_duplicates(body: bytes, fields: _Object) -> None:
    """Raise InvalidRequest if `model` or `stream` is twice at the top level.

    A decoder keeps the last of equal keys. So the occurrences that no kept value accounts for are
    the keys themselves, or are in a value that another key twice given hides: malformed as well.
    """

    def count(pattern: re.Pattern[bytes], text: bytes | Raw) -> int:
        return sum(1 for _ in pattern.finditer(text))

    for name, pattern in _KEYS.items():
        if count(pattern, body) - sum(count(pattern, value) for value in fields.values()) > 1:
            raise InvalidRequest(f"`{name}` is given twice", param=name)


def _value(raw: Raw | None, kind: type[_T]) -> _T | None:
    """The value, or None if it is missing or of another type (or a number that is no number)."""
    if raw is None:
        return None
    try:
        found = _decode_any(raw)
    except msgspec.ValidationError:  # a number out of all range
        return None
    return found if isinstance(found, kind) else None


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Options(Struct):
    stream_options: _StreamOptions | None = None


_decode_options = _decoder(_Options)


def wants_usage(body: bytes) -> bool:
    """Whether the caller of a stream asked for a last chunk with the usage."""
    try:
        options = _decode_options(body).stream_options
    except msgspec.DecodeError:
        return False
    return options is not None and options.include_usage is True


class _AnswerHead(Struct):
    choices: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    usage: Raw | UnsetType = UNSET


_decode_answer = _decoder(_AnswerHead)
_decode_usage = _decoder(Usage)


def read_answer(body: bytes) -> Usage | None:
    """Check a unary answer; raises UpstreamInvalid, or UpstreamRefusal for an error sent as 2xx."""
    try:
        if not body.isascii():
            body.decode()  # msgspec takes invalid UTF-8 in what it skips
        head = _decode_answer(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise UpstreamInvalid("the upstream's answer is not a JSON object") from error
    if not (head.choices and _FILLED_ARRAY.match(head.choices)):
        _refuse_hidden_error(head.error)
    return _usage(head.usage)


def _usage(raw: Raw | UnsetType) -> Usage | None:
    if isinstance(raw, UnsetType):
        return None
    try:
        return _decode_usage(raw)
    except msgspec.DecodeError:
        return None


def _refuse_hidden_error(raw: Raw | UnsetType) -> None:
    """Raise UpstreamRefusal if a 2xx body or event holds an error, under its `code` as status.

    OpenRouter and others answer 200 and put the HTTP status into `error.code`:
    openrouter.ai/docs/api-reference/errors, read 2026-11.
    """
    if isinstance(raw, UnsetType):
        return
    text = unshield(bytes(raw))
    try:
        error: Any = _decode_any(text)
    except (msgspec.ValidationError, RecursionError, UnicodeDecodeError):
        error = True  # there is one, with a number out of all range or broken text in it
    if not error:
        return
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int):
        status = code if 400 <= code <= 599 else 502
    else:
        status = int(code) if isinstance(code, str) and _ERROR_STATUS.fullmatch(code) else 502
    raise read_error(status, b'{"error":%b}' % text)


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`, or an empty one where there is none."""
    try:
        found = _decode_any(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def read_error(
    status: int,
    body: bytes,
    *,
    content_type: str = "application/json",
    retry_after_s: float | None = None,
    passed_headers: dict[str, str] | None = None,
) -> UpstreamRefusal:
    """An upstream's error answer; one that is not in the envelope is wrapped, its text bounded."""
    error = read_object(body).get("error")
    if isinstance(error, dict):
        message = error.get("message")
        code = error.get("code")
        return UpstreamRefusal(
            _legible(message)[:MAX_QUOTED_CHARS] or f"the upstream answered {status}",
            status=status,
            body=body,
            content_type=content_type,
            upstream_code=None if code is None else _legible(code)[:MAX_CODE_CHARS],
            retry_after_s=retry_after_s,
            passed_headers=passed_headers,
        )
    text = _legible(error) if isinstance(error, str) else body.decode("utf-8", "replace").strip()
    message = text[:MAX_QUOTED_CHARS] or f"the upstream answered {status} without a body"
    return UpstreamRefusal(
        message,
        status=status,
        body=envelope(message, type="upstream_error", code=None),
        retry_after_s=retry_after_s,
        passed_headers=passed_headers,
    )


def _legible(value: Any) -> str:
    """Text for people, of whatever type; surrogates that were shielded are lost."""
    return _SHIELDED.sub("\N{REPLACEMENT CHARACTER}", str(value or ""))


class _Choice(Struct):
    index: int = 0
    finish_reason: str | None = None


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    error: Raw | UnsetType = UNSET
    usage: Usage | None = None


_decode_chunk = _decoder(_Chunk)


class ChunkStream:
    """Chat chunks on their way through: they pass as they are, and are watched for their end.

    `done`: every choice seen has its `finish_reason`, so that an end without `[DONE]` is whole.
    `ended`: `[DONE]` came.
    """

    def __init__(self) -> None:
        self.ended = False
        self.usage: Usage | None = None
        self._seen: set[int] = set()
        self._finished: set[int] = set()

    @property
    def done(self) -> bool:
        """Whether the stream may end here."""
        return bool(self._seen) and self._seen == self._finished

    def feed(self, events: list[bytes]) -> list[bytes]:
        """The chunks to pass on; raises UpstreamRefusal for an error event, UpstreamInvalid."""
        for place, event in enumerate(events):
            if event == DONE:
                self.ended = True
                return events[:place]
            try:
                chunk = _decode_chunk(event)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                chunk = _read_odd_chunk(event)
            if chunk.error is not UNSET:
                _refuse_hidden_error(chunk.error)
            if chunk.usage is not None:
                self.usage = chunk.usage
            for choice in chunk.choices or ():
                self._seen.add(choice.index)
                if choice.finish_reason:
                    self._finished.add(choice.index)
        return events

    def finish(self) -> list[bytes]:
        """The upstream ended without `[DONE]`; raises UpstreamTruncated if it was cut off."""
        if not self.done:
            raise UpstreamTruncated("the upstream's stream was cut off before its end")
        return []


def _read_odd_chunk(event: bytes) -> _Chunk:
    """A chunk whose fields have other types than OpenAI's, read as far as they make sense."""
    found = read_object(event)
    if not found:
        raise UpstreamInvalid("the upstream sent an event that is not a JSON object")
    choices = found.get("choices")
    chunk = _Chunk(choices=[])
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            index, reason = choice.get("index"), choice.get("finish_reason")
            assert chunk.choices is not None
            chunk.choices.append(
                _Choice(index if isinstance(index, int) else 0, str(reason) if reason else None)
            )
    if "error" in found:
        chunk.error = Raw(encode(found["error"]))
    return chunk


def chunks_of(body: bytes, *, with_usage: bool = True) -> list[bytes]:
    """A unary answer as the chunks of a stream; raises as `read_answer` does.

    For upstreams that answer a stream request with one JSON body. The first chunk carries the whole
    message; `with_usage`: the last one the usage, as streams with `include_usage` do.
    """
    read_answer(body)
    answer = read_object(body)
    head = {key: value for key, value in answer.items() if key not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    found = answer.get("choices")
    choices = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    if not choices:
        raise UpstreamInvalid("the upstream's answer has no choices")
    chunks = [encode({**head, "choices": [_streamed(*each) for each in enumerate(choices)]})]
    if with_usage and answer.get("usage"):
        chunks.append(encode({**head, "choices": [], "usage": answer["usage"]}))
    return chunks


def _streamed(index: int, choice: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    delta = dict(message) if isinstance(message, dict) else {}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [
            {"index": at, **call} for at, call in enumerate(calls) if isinstance(call, dict)
        ]
    rest = {key: value for key, value in choice.items() if key != "message"}
    finish = choice.get("finish_reason") or "stop"
    return {"index": index, **rest, "delta": delta, "finish_reason": finish}


def error_event(error: ProxyError, *, code: str | None) -> bytes:
    """The event that ends a stream that failed, in a shape that makes the official SDKs raise.

    openai-python and openai-node raise on an event whose `error` is an object with a string
    `message`, when no `event:` line came with it (their streaming modules, read 2026-11).
    """
    return envelope(error.message, type=error.type, code=code)
