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

from ...errors import UnsupportedParameter
from ..chat import shapes as chat
from ..chat.spelling import MISSPELT, joined
from .family import Family

GeminiPart = dict[str, Any]


class Result(NamedTuple):
    """What a tool gave: text, media that go with it, media that have to come behind all results."""

    text: str
    inside: list[GeminiPart]
    behind: list[GeminiPart]


# ai.google.dev/gemini-api/docs/function-calling, "Multimodal function responses", 2026-11
_IN_RESULTS: Final = frozenset(
    {"image/png", "image/jpeg", "image/webp", "application/pdf", "text/plain"}
)
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


def texts(content: chat.Content, param: str) -> list[str]:
    """The texts of a message that may hold nothing else; empty ones are left out."""
    for number, part in enumerate(_parts_of(content)):
        if part.type not in ("text", "refusal"):
            raise chat.invalid(
                f"{param}[{number}]", f"only text is possible here, got {part.type!r}"
            )
    return list(filter(None, (part.text or part.refusal for part in _parts_of(content))))


def result(content: chat.Content, param: str, family: Family) -> Result:
    """What a tool's message holds; raises as `parts` does."""
    found: list[str] = []
    inside: list[GeminiPart] = []
    behind: list[GeminiPart] = []
    for part in parts(content, param, family):
        if "text" in part:
            found.append(part["text"])
        elif family.media_in_results and part.get("inlineData", {}).get("mimeType") in _IN_RESULTS:
            inside.append(part)
        else:
            behind.append(part)
    return Result("".join(found), inside, behind)


def parts(content: chat.Content, param: str, family: Family) -> list[GeminiPart]:
    """The parts of a message; empty texts, which Gemini refuses, are left out.

    Raises InvalidRequest or UnsupportedParameter naming the part (`messages[2].content[0]`).
    """
    return [
        _part(part, f"{param}[{number}]", family)
        for number, part in enumerate(_parts_of(content))
        if part.type != "text" or part.text != ""
    ]


def _parts_of(content: chat.Content) -> list[chat.Part]:
    return [chat.Part("text", content)] if isinstance(content, str) else content or []


def _part(part: chat.Part, param: str, family: Family) -> GeminiPart:
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


def _file(file: chat.File, param: str, family: Family) -> GeminiPart:
    at = f"{param}.file"
    if file.file_data is None:
        at += "" if file.file_id is None else ".file_id"
        raise UnsupportedParameter(
            f"{at}: the model is served by Gemini, which knows no files uploaded to OpenAI; "
            "send the file itself as `file_data`",
            param=at,
        )
    if ":" in file.file_data:  # a data URL or a link: base64 has no colon
        return _linked(file.file_data, param, family)
    kind = mimetypes.guess_type(file.filename or "")[0]
    if kind is None:
        remedy = "send `file_data` as a data URL or a `filename` with a known extension"
        raise chat.invalid(at, f"the type of the file is unknown; {remedy}")
    return _inline(kind, file.file_data, param)


def _linked(url: str, param: str, family: Family) -> GeminiPart:
    scheme = url.partition(":")[0].lower()
    if scheme == "data":
        return _data_url(url, param)
    if scheme != "https" or not family.fetches_urls:
        what = "public https URLs and data URLs" if family.fetches_urls else "data URLs"
        remedy = "send the file as a data URL (data:<type>;base64,...)"
        raise chat.invalid(param, f"this Gemini model takes {what} only; {remedy}")
    try:
        kind = mimetypes.guess_type(urlsplit(url).path)[0]
    except ValueError as error:
        raise chat.invalid(param, f"not a URL: {error}") from error
    return {"fileData": {"fileUri": url} | ({"mimeType": _registered(kind)} if kind else {})}


def _data_url(url: str, param: str) -> GeminiPart:
    """RFC 2397; without base64 the data is percent-encoded."""
    head, comma, data = url[len("data:") :].partition(",")
    kind, *options = [field.strip() for field in head.split(";")]
    if not comma or "/" not in kind:
        raise chat.invalid(param, "expected a data URL with a type (data:image/png;base64,...)")
    if "base64" not in map(str.lower, options):
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    elif "%" in data:
        data = unquote(data)
    return _inline(kind, data, param)


def _inline(kind: str, data: str, param: str) -> GeminiPart:
    """Base64 in one piece, its padding made up."""
    try:
        base64.b64decode(data, validate=True)
    except ValueError:
        data = joined(data).translate(_FROM_URL)
        data += "=" * (-len(data) % 4)
        try:
            base64.b64decode(data, validate=True)
        except ValueError as error:
            raise chat.invalid(param, f"the data is not valid base64: {error}") from error
    return {"inlineData": {"mimeType": _registered(kind), "data": data}}


def _registered(kind: str) -> str:
    kind = kind.lower()
    return _MISSPELT.get(kind, kind)
