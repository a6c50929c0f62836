"""The messages of a chat as Gemini's `systemInstruction` and `contents`.

Gemini knows two roles, `user` and `model`; function results are a turn of the user's role. Besides
the order of turns (`wire/history.py`) it wants the last one to be the user's, and before Gemini 3
it matches results to calls by name and order.

Data URLs and base64 travel as `inlineData`. A public https URL travels as `fileData`: Gemini 2.5
and later fetch it themselves (ai.google.dev/gemini-api/docs/file-input-methods, 2026-11); nothing
is ever fetched here.
"""

from __future__ import annotations

import base64
import mimetypes
from typing import Final
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import msgspec

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat import shapes as chat
from ..chat.spelling import MISSPELT, joined
from ..history import CONTINUE, NOT_RUN, Block, Call, History, result_without_call
from ..made_names import plain_id
from . import calls
from .models import Family, wire_name


class _Result(msgspec.Struct):
    """What a tool gave: text, media that go with it, media that come behind all results."""

    texts: list[str]
    inside: list[Block]
    behind: list[Block]


# ai.google.dev/gemini-api/docs/function-calling, "Multimodal function responses", 2026-11
_IN_RESULTS: Final = ("image/png", "image/jpeg", "image/webp", "application/pdf", "text/plain")
_FROM_URL: Final = str.maketrans("-_", "+/")

# Gemini refuses what it does not know; MP3 as in ai.google.dev/gemini-api/docs/audio.
_MISSPELT: Final = {
    **MISSPELT,
    **dict.fromkeys(("audio/x-mp3", "audio/mpeg3", "audio/x-mpeg"), "audio/mp3"),
    **dict.fromkeys(("audio/x-wav", "audio/wave", "audio/vnd.wave"), "audio/wav"),
    **{f"audio/x-{name}": f"audio/{name}" for name in ("flac", "aiff", "aac")},
    "audio/pcm16": "audio/l16",  # OpenAI's name for it
    "text/pdf": "application/pdf",
    "text/x-markdown": "text/markdown",
    "application/x-javascript": "text/javascript",
}


class Turns(History[_Result]):
    def __init__(self, family: Family) -> None:
        super().__init__()
        self._family = family
        self._wire_ids: set[str] = set()

    def build(self) -> tuple[list[Block], list[Block]]:
        """What the system says before all turns, and the turns; raises InvalidRequest."""
        if not self._turns:
            # A chat of system messages alone is possible at OpenAI, not at Gemini.
            if not self._system:
                raise InvalidRequest.at("messages", "there is nothing to answer")
            return [], [{"role": "user", "parts": self._system}]
        if self._family.validates_signatures:
            self._sign()
        go_on = {"text": CONTINUE}
        contents: list[Block] = [
            {"role": "model" if role == "assistant" else role, "parts": parts}
            for role, parts in self._woven(go_on)
        ]
        if contents[-1]["role"] == "model":
            contents.append({"role": "user", "parts": [go_on]})
        return self._system, contents

    def _sign(self) -> None:
        """Signatures are validated from what the user said last on: the first call of each turn."""
        for turn in reversed(self._turns):
            if turn.role == "user":
                break
            for part in turn.content:
                if "functionCall" in part:
                    part.setdefault("thoughtSignature", calls.NO_SIGNATURE)
                    break

    def _blocks(self, message: chat.Message, path: str, *, text_only: bool = False) -> list[Block]:
        path = f"{path}.content"
        if text_only:
            parts = _parts_of(message.content)
            for number, part in enumerate(parts):
                if part.type not in ("text", "refusal"):
                    why = f"only text is possible here, got {part.type!r}"
                    raise InvalidRequest.at(f"{path}[{number}]", why)
            return [{"text": text} for part in parts if (text := part.text or part.refusal)]
        return _parts(message.content, path, self._family)

    def _assistant(self, message: chat.Message, path: str) -> None:
        parts: list[Block] = [{"text": text} for text in chat.said(message.content)]
        if not parts and message.refusal:
            parts.append({"text": message.refusal})
        signature = calls.signature_in(message.extra_content)
        if parts and signature is not None:
            parts[-1]["thoughtSignature"] = signature
        if self._family.combines_tools:
            parts = calls.server_parts_in(message.extra_content) + parts
        made = chat.calls_of(message.tool_calls, message.function_call)
        if not parts and not made:
            return
        turn = self._turn_of_model(speaks=bool(parts))
        turn.content += parts
        for place, call in enumerate(made):
            function = call.as_function(f"{path}.tool_calls[{place}]")
            bare, signature = calls.parse_id(call.id or "")
            name, wire_id = wire_name(function.name), plain_id(bare, self._wire_ids, "call_")
            told = {"name": name, "args": msgspec.Raw(function.as_object()), **self._named(wire_id)}
            signature = calls.signature_in(call.extra_content) or signature
            signed = {} if signature is None else {"thoughtSignature": signature}
            turn.content.append({"functionCall": told, **signed})
            self._expect(turn, call.id or "", Call(name, wire_id))

    def _named(self, wire_id: str) -> dict[str, str]:
        """The id of a call, where the model reads it."""
        return {"id": wire_id} if self._family.matches_call_ids else {}

    def _result(self, message: chat.Message, path: str) -> _Result:
        result = _Result([], [], [])
        for part in _parts(message.content, f"{path}.content", self._family):
            kind = part.get("inlineData", {}).get("mimeType")
            if "text" in part:
                result.texts.append(part["text"])
            elif self._family.media_in_results and kind in _IN_RESULTS:
                result.inside.append(part)
            else:
                result.behind.append(part)
        return result

    def _orphan(self, result: _Result) -> list[Block]:
        text = result_without_call("".join(result.texts))
        return [{"text": text}, *result.inside, *result.behind]

    def _answers(self, calls: list[Call[_Result]]) -> tuple[list[Block], list[Block]]:
        apart: list[Block] = []
        behind: list[Block] = []
        for call in calls:
            found = call.result or _Result([NOT_RUN], [], [])
            # As text under `output`, which is exact: a JSON object would travel as a protobuf
            # Struct, where every number is a double.
            key = "error" if call.result is None or call.is_error else "output"
            response: Block = {"name": call.name, "response": {key: "".join(found.texts)}}
            response |= self._named(call.wire_id)
            if found.inside:
                response["parts"] = found.inside
            if found.behind:
                behind += [{"text": f"From the result of {call.name}:"}, *found.behind]
            apart.append({"functionResponse": response})
        return apart, behind


def _parts(content: chat.Content, param: str, family: Family) -> list[Block]:
    """The parts of a message without empty texts, which Gemini refuses; raises InvalidRequest."""
    return [
        _part(part, f"{param}[{number}]", family)
        for number, part in enumerate(_parts_of(content))
        if part.type != "text" or part.text != ""
    ]


def _parts_of(content: chat.Content) -> list[chat.Part]:
    return [chat.Part("text", content)] if isinstance(content, str) else content or []


def _part(part: chat.Part, param: str, family: Family) -> Block:
    if part.type == "text" and part.text is not None:
        return {"text": part.text}
    if part.type == "image_url" and part.image_url is not None:
        url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
        return _linked(url, param, family)
    if part.type == "input_audio" and part.input_audio is not None:
        return _inline(f"audio/{part.input_audio.format}", part.input_audio.data, param)
    if part.type == "file" and part.file is not None:
        return _file(part.file, param, family)
    raise chat.no_part(part, param)


def _file(file: chat.File, param: str, family: Family) -> Block:
    at = f"{param}.file"
    if file.file_data is None:
        at += "" if file.file_id is None else ".file_id"
        why = "the model is served by Gemini, which knows no files uploaded to OpenAI"
        raise UnsupportedParameter.at(at, f"{why}; send the file itself as `file_data`")
    if ":" in file.file_data:  # a data URL or a link: base64 has no colon
        return _linked(file.file_data, param, family)
    kind = mimetypes.guess_type(file.filename or "")[0]
    if kind is None:
        remedy = "send `file_data` as a data URL or a `filename` with a known extension"
        raise InvalidRequest.at(at, f"the type of the file is unknown; {remedy}")
    return _inline(kind, file.file_data, param)


def _linked(url: str, param: str, family: Family) -> Block:
    scheme = url.partition(":")[0].lower()
    if scheme == "data":
        return _data_url(url, param)
    if scheme != "https" or not family.fetches_urls:
        what = "public https URLs and data URLs" if family.fetches_urls else "data URLs"
        remedy = "send the file as a data URL (data:<type>;base64,...)"
        raise InvalidRequest.at(param, f"this Gemini model takes {what} only; {remedy}")
    try:
        kind = mimetypes.guess_type(urlsplit(url).path)[0]
    except ValueError as error:
        raise InvalidRequest.at(param, f"not a URL: {error}") from error
    return {"fileData": {"fileUri": url} | ({"mimeType": _registered(kind)} if kind else {})}


def _data_url(url: str, param: str) -> Block:
    """RFC 2397; without base64 the data is percent-encoded."""
    head, comma, data = url[len("data:") :].partition(",")
    kind, *options = [field.strip() for field in head.split(";")]
    if not comma or "/" not in kind:
        why = "expected a data URL with a type (data:image/png;base64,...)"
        raise InvalidRequest.at(param, why)
    if "base64" not in map(str.lower, options):
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    elif "%" in data:
        data = unquote(data)
    return _inline(kind, data, param)


def _inline(kind: str, data: str, param: str) -> Block:
    """Base64 in one piece, its padding made up."""
    try:
        base64.b64decode(data, validate=True)
    except ValueError:
        data = joined(data).translate(_FROM_URL)
        data += "=" * (-len(data) % 4)
        try:
            base64.b64decode(data, validate=True)
        except ValueError as error:
            raise InvalidRequest.at(param, f"the data is not valid base64: {error}") from error
    return {"inlineData": {"mimeType": _registered(kind), "data": data}}


def _registered(kind: str) -> str:
    kind = kind.lower()
    return _MISSPELT.get(kind, kind)
