"""The blocks of a message, and what of them chat can say: text, images, files, tools' results."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec import Raw

from ...errors import UnsupportedParameter
from ..chat.fields import misfit
from ..lenient_json import decode_any, decoder

Json = dict[str, Any]


class _Source(msgspec.Struct):
    type: str = ""
    media_type: str = ""
    data: str = ""
    url: str = ""
    content: Any = None


class Block(msgspec.Struct):
    """A block of any type, with the members that are read of one; the others' are left alone."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = Raw(b"{}")
    tool_use_id: str | None = None
    tool_name: str | None = None
    content: Raw = Raw(b"null")
    is_error: bool | None = None
    source: str | _Source | None = None
    title: str | None = None

    @property
    def medium(self) -> _Source:
        """The source of an image or a document."""
        return self.source if isinstance(self.source, _Source) else _Source()


_decode_content = decoder(str | list[Block] | None)  # type: ignore[arg-type]


def content_of(block: Block, path: str) -> list[Block]:
    """The blocks within a block; text is one of them."""
    try:
        found: Any = _decode_content(block.content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise misfit(error, f"{path}.content") from error
    return [Block("text", found)] if isinstance(found, str) else found or []


def parts(blocks: list[Block], path: str, kind: str) -> list[Json]:
    """What a user, the system or a tool says as parts of chat for a kind of client.

    Raises InvalidRequest.
    """
    return [p for at, block in enumerate(blocks) for p in parts_of(block, f"{path}[{at}]", kind)]


def parts_of(block: Block, path: str, kind: str) -> list[Json]:
    """The same of one block; none if it says nothing."""
    if block.type == "text":
        return _text(block.text or "")
    if block.type == "image":
        return [{"type": "image_url", "image_url": {"url": _address(block.medium, path)}}]
    if block.type == "document":
        return _document(block, path, kind)
    if block.type == "search_result":
        return _text(told(block))
    if block.type == "tool_reference":
        return _text(f"loaded: {block.tool_name or ''}")
    if block.type == "compaction":
        return parts(content_of(block, path), f"{path}.content", kind)
    if block.type in ("tool_addition", "tool_removal", "mcp_tool_listing"):
        return []  # they are about the request's tools, all of which count as declared
    raise _unsupported(path, f"only Claude itself takes a block of type {block.type[:80]!r}")


def _unsupported(path: str, why: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"{path}: {why}", param=path)


def _text(text: str) -> list[Json]:
    return [{"type": "text", "text": text}] if text else []


def _address(source: _Source, path: str) -> str:
    """The URL of a medium, or its data as one."""
    if source.type == "base64":
        return f"data:{source.media_type};base64,{source.data}"
    if source.type == "url":
        return source.url
    why = f"only Claude itself takes a source of type {source.type[:80]!r}"
    raise _unsupported(f"{path}.source", why)


def _document(block: Block, path: str, kind: str) -> list[Json]:
    source = block.medium
    if source.type in ("text", "content"):
        body = source.data if source.type == "text" else told(source.content)
        return _text("\n".join(filter(None, [block.title, body])))
    if source.type == "url" and kind == "openai":  # platform.openai.com/docs/guides/pdf-files
        raise _unsupported(f"{path}.source", "OpenAI's chat takes no file by URL; send its data")
    name = block.title or "document.pdf"
    return [{"type": "file", "file": {"filename": name, "file_data": _address(source, path)}}]


# Where results of any kind have what can be read of them.
_READ: Final = ("title", "url", "source", "text", "data", "stdout", "stderr", "content")


def told(found: Any) -> str:
    """What there is to read in a block or in the output of a vendor's own tool: all of its texts,
    titles and sources, a line each.
    """
    if isinstance(found, Block):
        found = [found.title, found.source, found.content]
    if isinstance(found, Raw):
        with suppress(msgspec.DecodeError):  # a number out of all range is nothing to read
            found = decode_any(found)
    if isinstance(found, str):
        return found
    if isinstance(found, dict):
        if found.get("type") == "base64":
            return ""
        found = [found[name] for name in _READ if name in found]
    return "\n".join(filter(None, map(told, found))) if isinstance(found, list) else ""
