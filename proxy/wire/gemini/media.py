"""Text, image, audio and file parts of a chat message as Gemini parts.

Data URLs and base64 travel as `inlineData`. A public https URL travels as `fileData`: Gemini 2.5
and later fetch it themselves (ai.google.dev/gemini-api/docs/file-input-methods, 2026-11); nothing
is ever fetched here.
"""

from __future__ import annotations

import base64
import mimetypes
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat import shapes as chat
from ..media_types import MISSPELT, joined
from .family import Family

GeminiPart = dict[str, Any]

# ai.google.dev/gemini-api/docs/function-calling, "Multimodal function responses", 2026-11
_IN_RESULTS: Final = frozenset(
    {"image/png", "image/jpeg", "image/webp", "application/pdf", "text/plain"}
)
_FROM_URL: Final = str.maketrans("-_", "+/")

# Of `input_audio.format`; any other name is taken for a subtype of audio/.
_AUDIO_TYPES: Final = {"mp3": "audio/mp3", "wav": "audio/wav", "pcm16": "audio/l16"}
# Gemini refuses what it does not know; MP3 as in ai.google.dev/gemini-api/docs/audio.
_MISSPELT: Final = {
    **MISSPELT,
    "audio/x-mp3": "audio/mp3",
    "audio/mpeg3": "audio/mp3",
    "audio/x-mpeg": "audio/mp3",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/x-aiff": "audio/aiff",
    "audio/x-aac": "audio/aac",
    "text/pdf": "application/pdf",
    "text/x-markdown": "text/markdown",
    "application/x-javascript": "text/javascript",
}


def texts(content: chat.Content, *, param: str) -> list[str]:
    """The texts of a message that may hold nothing else; empty ones are left out."""
    if content is None:
        return []
    if isinstance(content, str):
        return [content] if content else []
    found: list[str] = []
    for number, part in enumerate(content):
        if part.type not in ("text", "refusal"):
            at = f"{param}[{number}]"
            raise InvalidRequest(f"{at}: only text is possible here, got {part.type!r}", param=at)
        found.append(part.text or part.refusal or "")
    return list(filter(None, found))


class Result(NamedTuple):
    """What a tool gave: text, media that go with it, media that have to come behind all results."""

    texts: list[str]
    inside: list[GeminiPart]
    behind: list[GeminiPart]

    @property
    def text(self) -> str:
        return "".join(self.texts)


def result(content: chat.Content, *, param: str, family: Family) -> Result:
    """What a tool's message holds; raises as `parts` does."""
    made = Result([], [], [])
    for part in parts(content, param=param, family=family):
        if "text" in part:
            made.texts.append(part["text"])
        elif family.media_in_results and _goes_inside(part):
            made.inside.append(part)
        else:
            made.behind.append(part)
    return made


def _goes_inside(part: GeminiPart) -> bool:
    return "inlineData" in part and part["inlineData"]["mimeType"] in _IN_RESULTS


def parts(content: chat.Content, *, param: str, family: Family) -> list[GeminiPart]:
    """The parts of a message; empty texts, which Gemini refuses, are left out.

    Raises InvalidRequest or UnsupportedParameter naming the part (`messages[2].content[0]`).
    """
    if content is None or isinstance(content, str):
        return [{"text": content}] if content else []
    return [
        _part(part, param=f"{param}[{number}]", family=family)
        for number, part in enumerate(content)
        if part.type != "text" or part.text != ""
    ]


def _part(part: chat.Part, *, param: str, family: Family) -> GeminiPart:
    if part.type == "text" and part.text is not None:
        return {"text": part.text}
    if part.type == "image_url" and part.image_url is not None:
        url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
        return _linked(url, param=param, family=family)
    if part.type == "input_audio" and part.input_audio is not None:
        audio = part.input_audio
        kind = _AUDIO_TYPES.get(audio.format, f"audio/{audio.format}")
        return _inline(kind, audio.data, param=param)
    if part.type == "file" and part.file is not None:
        return _file(part.file, param=param, family=family)
    raise chat.no_part(part, param)


def _file(file: chat.File, *, param: str, family: Family) -> GeminiPart:
    if file.file_data is None:
        param = f"{param}.file.file_id" if file.file_id is not None else f"{param}.file"
        raise UnsupportedParameter(
            f"{param}: the model is served by Gemini, which knows no files uploaded to OpenAI; "
            "send the file itself as `file_data`",
            param=param,
        )
    if ":" in file.file_data:  # a data URL or a link: base64 has no colon
        return _linked(file.file_data, param=param, family=family)
    kind = mimetypes.guess_type(file.filename or "")[0]
    if kind is None:
        raise InvalidRequest(
            f"{param}.file: the type of the file is unknown; send `file_data` as a data URL or a "
            "`filename` with a known extension",
            param=f"{param}.file",
        )
    return _inline(kind, file.file_data, param=param)


def _linked(url: str, *, param: str, family: Family) -> GeminiPart:
    scheme = url.partition(":")[0].lower()
    if scheme == "data":
        return _data_url(url, param=param)
    if scheme != "https" or not family.fetches_urls:
        what = "public https URLs and data URLs" if family.fetches_urls else "data URLs"
        raise InvalidRequest(
            f"{param}: this Gemini model takes {what} only; send the file as a data URL "
            "(data:<type>;base64,...)",
            param=param,
        )
    try:
        kind = mimetypes.guess_type(urlsplit(url).path)[0]
    except ValueError as error:
        raise InvalidRequest(f"{param}: not a URL: {error}", param=param) from error
    return {"fileData": {"fileUri": url} | ({"mimeType": _registered(kind)} if kind else {})}


def _data_url(url: str, *, param: str) -> GeminiPart:
    """RFC 2397; without base64 the data is percent-encoded."""
    head, comma, data = url[len("data:") :].partition(",")
    kind, *options = [field.strip() for field in head.split(";")]
    if not comma or "/" not in kind:
        raise InvalidRequest(
            f"{param}: expected a data URL with a type (data:image/png;base64,...)", param=param
        )
    if "base64" not in map(str.lower, options):
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    elif "%" in data:
        data = unquote(data)
    return _inline(kind, data, param=param)


def _inline(kind: str, data: str, *, param: str) -> GeminiPart:
    try:
        base64.b64decode(data, validate=True)
    except ValueError:
        data = _tidied(data, param=param)
    return {"inlineData": {"mimeType": _registered(kind), "data": data}}


def _tidied(data: str, *, param: str) -> str:
    """Base64 in one piece, its padding made up."""
    data = joined(data)
    data += "=" * (-len(data) % 4)
    try:
        base64.b64decode(data.translate(_FROM_URL), validate=True)
    except ValueError as error:
        raise InvalidRequest(
            f"{param}: the data is not valid base64: {error}", param=param
        ) from error
    return data.translate(_FROM_URL)


def _registered(kind: str) -> str:
    kind = kind.lower()
    return _MISSPELT.get(kind, kind)
