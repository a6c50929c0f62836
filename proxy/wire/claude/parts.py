"""The content of a message as blocks: text, images, files; what Claude has no counterpart of.

Claude takes images of four kinds, inline or by URL, and PDF and plain text as documents
(platform.claude.com/docs/en/build-with-claude/vision and /pdf-support, 2026-11); no audio. Files
uploaded elsewhere are unknown to it.
"""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Any

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat import shapes as chat
from ..chat.spelling import MISSPELT, joined
from ..history import Block

_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
# RFC 2397; parameters such as a charset are read over.
_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^;,]*)*?(;base64)?,", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_PDF_IN_BASE64 = "JVBERi"  # %PDF
_MISSPELT = {**MISSPELT, "text/pdf": "application/pdf"}


def content_blocks(content: chat.Content, path: str, *, text_only: bool = False) -> list[Block]:
    """The blocks of a content, without blank text. `path`: of its message, which errors name.

    Raises InvalidRequest or UnsupportedParameter.
    """
    if content is None or isinstance(content, str):
        return text_block(content or "")
    blocks: list[Block] = []
    for index, part in enumerate(content):
        at = f"{path}.content[{index}]"
        text = {"text": part.text, "refusal": part.refusal}.get(part.type)
        if text is not None:
            blocks += text_block(text, **_cache_control(part))
        elif text_only:
            raise UnsupportedParameter(f"{at}: only text can stand here", param=at)
        else:
            blocks.append(_part_to_block(part, at))
    return blocks


def text_block(text: str, **extra: Any) -> list[Block]:
    """A block of this text; none if it is blank, which the API refuses."""
    return [{"type": "text", "text": text, **extra}] if text.strip() else []


def _cache_control(part: chat.Part) -> Block:
    """Where the caller marks the end of what is worth caching, Claude's mark for it."""
    if part.cache_control is not None:
        return {"cache_control": part.cache_control}
    return {"cache_control": {"type": "ephemeral"}} if part.prompt_cache_breakpoint else {}


def _part_to_block(part: chat.Part, path: str) -> Block:
    """The block for a part that is not text. Raises InvalidRequest that names `path`."""
    if part.type == "image_url" and part.image_url is not None:
        url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
        block = {"type": "image", "source": _image_source(url, f"{path}.image_url.url")}
    elif part.type == "file" and part.file is not None:
        block = _document(part.file, f"{path}.file")
    elif part.type == "input_audio":
        raise UnsupportedParameter(f"{path}: Claude takes no audio", param=path)
    else:
        raise chat.no_part(part, path)
    return {**block, **_cache_control(part)}


def _image_source(url: str, path: str) -> Block:
    if _is_web_address(url):
        return {"type": "url", "url": url}
    media_type, data = _split_data_url(url, path)
    if media_type not in _IMAGE_TYPES:
        raise _untaken(path, ", ".join(_IMAGE_TYPES), media_type)
    return {"type": "base64", "media_type": media_type, "data": data}


def _untaken(path: str, taken: str, media_type: str) -> UnsupportedParameter:
    told = f"{path}: Claude takes {taken}, not {media_type[:80]!r}"
    return UnsupportedParameter(told, param=path)


def _is_web_address(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))


def _split_data_url(url: str, path: str) -> tuple[str, str]:
    """Media type and base64 data."""
    match = _DATA_URL.match(url)
    if match is None or match[2] is None:
        raise InvalidRequest(f"{path}: expected an http(s) URL or a base64 data URL", param=path)
    media_type = match[1].strip().lower()
    return _MISSPELT.get(media_type, media_type), _base64(url[match.end() :], path)


def _base64(text: str, path: str) -> str:
    """Base64 in one piece; what is in it is Claude's to judge."""
    data = joined(text)
    if not _BASE64.fullmatch(data):
        raise InvalidRequest(f"{path}: the data is not valid base64", param=path)
    return data


def _document(file: chat.File, path: str) -> Block:
    told = file.file_data
    if not told:
        raise UnsupportedParameter(
            f"{path}: Claude can't see files uploaded elsewhere; send file_data", param=path
        )
    path = f"{path}.file_data"
    if _is_web_address(told):  # of a PDF: Claude fetches no other
        source = {"type": "url", "url": told}
    else:
        if told[:5].lower() == "data:":
            media_type, data = _split_data_url(told, path)
        else:
            data = _base64(told, path)
            media_type = "application/pdf" if data.startswith(_PDF_IN_BASE64) else "text/plain"
        source = {"type": "base64", "media_type": media_type, "data": data}
        if media_type in _IMAGE_TYPES:
            return {"type": "image", "source": source}
        if media_type != "application/pdf":
            if not media_type.startswith("text/"):
                raise _untaken(path, "PDF and text", media_type)
            source = {"type": "text", "media_type": "text/plain", "data": _text(data, path)}
    title = {"title": file.filename} if file.filename else {}
    return {"type": "document", "source": source, **title}


def _text(data: str, path: str) -> str:
    try:
        text = b64decode(data, validate=True).decode()
    except ValueError as error:
        raise InvalidRequest(f"{path}: expected UTF-8 text in base64", param=path) from error
    if not text.strip():
        raise InvalidRequest(f"{path}: there is no text in it", param=path)
    return text
