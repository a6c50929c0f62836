"""The conversation of a request: OpenAI's messages to Claude's `system` and `messages`.

Besides the order of turns (`wire/history.py`) the API wants unique ids of calls of `[a-zA-Z0-9_-]`,
and no blank text. It takes images of four kinds, inline or by URL, and PDF and plain text as
documents (build-with-claude/vision and /pdf-support, 2026-11), no audio, and no files that were
uploaded elsewhere.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable
from typing import Any

import msgspec

from ...errors import InvalidRequest, UnsupportedParameter
from ..chat import shapes as chat
from ..chat.fields import misfit
from ..chat.spelling import MISSPELT, joined
from ..history import CONTINUE, NOT_RUN, Block, Call, History, Turn, result_without_call
from ..made_names import plain_id, plain_name
from ..reasoning import BLOCKS, loop_thinks
from .thinking import ThinkingBlock, unpack

_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
# RFC 2397; parameters such as a charset are read over.
_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^;,]*)*?(;base64)?,", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_PDF, _PDF_IN_BASE64 = "application/pdf", "JVBERi"  # %PDF
_MISSPELT = {**MISSPELT, "text/pdf": _PDF}

_CONTINUE: Block = {"type": "text", "text": CONTINUE}
_NOT_RUN: Block = {"content": [{"type": "text", "text": NOT_RUN}], "is_error": True}


class Turns(History[Block]):
    """Claude's turns. `system_inside`: the model takes messages of the system among the others."""

    # Once they are built. The turns alternate, the user's first.
    system: list[Block]
    turns: list[Block]
    thinks = False  # some have thinking
    loop_thinks = False  # every turn of the assistant in the tool loop that is going on has

    def __init__(self, *, system_inside: bool) -> None:
        super().__init__()
        self._system_inside = system_inside
        self._held: list[Block] = []  # the system's words that wait for a place among the turns
        self._used_ids: set[str] = set()

    def build(self, *, prefill: bool) -> None:
        """All was added. `prefill`: the model takes a last turn of the assistant."""
        if not self._turns and self._system:
            # OpenAI answers a lone system message; here it has to be what the user says.
            self._say_as_user([self._system.pop()])
        if not self._turns:
            raise InvalidRequest.at("messages", "there is no text to answer")
        self._place_held()
        woven = list(self._woven(_CONTINUE))
        turns: list[Block] = [{"role": role, "content": content} for role, content in woven]
        kinds = [(role == "user", [block["type"] for block in content]) for role, content in woven]
        self.loop_thinks = loop_thinks(kinds)
        self.thinks = any(not set(BLOCKS).isdisjoint(types) for _, types in kinds)
        last = turns[-1]["content"][-1]
        if turns[-1]["role"] == "assistant":
            if prefill and last["type"] == "text":
                last["text"] = last["text"].rstrip()  # the API refuses one that ends in space
            else:
                turns.append({"role": "user", "content": [_CONTINUE]})
        self.system, self.turns = self._system, turns

    def drop_thinking(self) -> None:
        """Leave out all thinking; something else is in every turn."""
        for turn in self.turns:
            turn["content"] = [b for b in turn["content"] if b["type"] not in BLOCKS]

    def _say_as_system(self, blocks: list[Block]) -> None:
        if self._turns and self._system_inside:
            self._held += blocks
        else:
            super()._say_as_system(blocks)

    def _place_held(self) -> None:
        """A turn of the system stands behind the user's, and before the assistant's or last
        (build-with-claude/mid-conversation-system-messages, 2026-11).
        """
        if self._held:
            if self._turns[-1].role != "user":
                self._turns.append(Turn("user", []))
            self._turns.append(Turn("system", self._held))
            self._held = []

    def _blocks(self, message: chat.Message, path: str, *, text_only: bool = False) -> list[Block]:
        return _marked(_content_blocks(message.content, path, text_only=text_only), message)

    def _assistant(self, message: chat.Message, path: str) -> None:
        if message.audio:
            raise UnsupportedParameter.at(f"{path}.audio", "Claude has no such thing")
        text = "".join(chat.said(message.content)) or message.refusal or ""
        made = chat.calls_of(message.tool_calls, message.function_call)
        blocks: list[Block] = []
        carried: list[ThinkingBlock] = []
        for index, call in enumerate(made):
            function = call.as_function(f"{path}.tool_calls[{index}]")
            bare, thoughts = unpack(call.id or "")
            carried += thoughts
            block: Block = {"type": "tool_use", "id": plain_id(bare, self._used_ids, "call_")}
            arguments = msgspec.Raw(function.as_object())
            blocks.append({**block, "name": plain_name(function.name), "input": arguments})
        thinking = _thinking_blocks(message, f"{path}.thinking_blocks") or carried
        placed = _marked(_place(text, blocks, thinking), message)
        if not placed:
            return
        self._place_held()
        turn = self._turn_of_model(speaks=bool(text.strip()))
        turn.content += placed
        for call, block in zip(made, blocks, strict=True):
            self._expect(turn, call.id or "", Call(block["name"], block["id"]))

    def _result(self, message: chat.Message, path: str) -> Block:
        blocks = _content_blocks(message.content, path)
        mark = {"cache_control": message.cache_control} if message.cache_control else {}
        return {**({"content": blocks} if blocks else {}), **mark}

    def _orphan(self, result: Block) -> list[Block]:
        blocks = result.pop("content", [])
        text = "\n".join(block["text"] for block in blocks if block["type"] == "text")
        others = [block for block in blocks if block["type"] != "text"]
        return [{"type": "text", "text": result_without_call(text), **result}, *others]

    def _answers(self, calls: list[Call[Block]]) -> tuple[list[Block], list[Block]]:
        def answer(call: Call[Block]) -> Block:
            result = _NOT_RUN if call.result is None else call.result
            return {"type": "tool_result", "tool_use_id": call.wire_id, **result}

        return [], list(map(answer, calls))


def _thinking_blocks(message: chat.Message, path: str) -> list[ThinkingBlock]:
    try:
        return msgspec.convert(message.thinking_blocks or [], list[ThinkingBlock])
    except msgspec.ValidationError as error:
        raise misfit(error, path) from error


def _place(text: str, calls: list[Block], thinking: Iterable[ThinkingBlock]) -> list[Block]:
    """Text and calls with the thinking between them, where it was."""
    placed: list[Block] = []
    text_at = call_at = 0
    for block in thinking:
        wire = block.to_wire()
        if wire is None:
            continue
        text_to = min(max(block.content_offset, text_at), len(text))
        call_to = min(max(block.tool_call_offset, call_at), len(calls))
        placed += [*_text_block(text[text_at:text_to]), *calls[call_at:call_to], wire]
        text_at, call_at = text_to, call_to
    placed += [*_text_block(text[text_at:]), *calls[call_at:]]
    while placed and placed[-1]["type"] in BLOCKS:
        placed.pop()  # the API refuses a turn that ends in thinking
    return placed


def _marked(blocks: list[Block], message: chat.Message) -> list[Block]:
    """The blocks, with the message's own mark for the cache on the last of them."""
    if blocks and message.cache_control:
        blocks[-1] = {**blocks[-1], "cache_control": message.cache_control}
    return blocks


def _content_blocks(content: chat.Content, path: str, *, text_only: bool = False) -> list[Block]:
    """The blocks of a content, without blank text; raises InvalidRequest that names `path`."""
    if content is None or isinstance(content, str):
        return _text_block(content or "")
    blocks: list[Block] = []
    for index, part in enumerate(content):
        at = f"{path}.content[{index}]"
        text = {"text": part.text, "refusal": part.refusal}.get(part.type)
        if text is not None:
            blocks += _text_block(text, **_cache_control(part))
        elif text_only:
            raise UnsupportedParameter.at(at, "only text can stand here")
        else:
            blocks.append(_part_to_block(part, at))
    return blocks


def _text_block(text: str, **extra: Any) -> list[Block]:
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
        block = _image(url, f"{path}.image_url.url")
    elif part.type == "file" and part.file is not None:
        block = _document(part.file, f"{path}.file")
    elif part.type == "input_audio":
        raise UnsupportedParameter.at(path, "Claude takes no audio")
    else:
        raise chat.no_part(part, path)
    return {**block, **_cache_control(part)}


def _image(url: str, path: str) -> Block:
    source = _source(url, path)
    if source.get("media_type", _IMAGE_TYPES[0]) not in _IMAGE_TYPES:
        raise _untaken(path, ", ".join(_IMAGE_TYPES), source)
    return {"type": "image", "source": source}


def _document(file: chat.File, path: str) -> Block:
    if not file.file_data:
        why = "Claude can't see files uploaded elsewhere; send file_data"
        raise UnsupportedParameter.at(path, why)
    path = f"{path}.file_data"
    source = _source(file.file_data, path, may_be_bare=True)
    media_type = source.get("media_type", _PDF)  # of what it fetches itself, Claude takes only that
    if media_type in _IMAGE_TYPES:
        return {"type": "image", "source": source}
    if media_type.startswith("text/"):
        data = _text(source["data"], path)
        source = {"type": "text", "media_type": "text/plain", "data": data}
    elif media_type != _PDF:
        raise _untaken(path, "PDF and text", source)
    title = {"title": file.filename} if file.filename else {}
    return {"type": "document", "source": source, **title}


def _untaken(path: str, taken: str, source: Block) -> InvalidRequest:
    media_type = source["media_type"][:80]
    return UnsupportedParameter.at(path, f"Claude takes {taken}, not {media_type!r}")


def _source(told: str, path: str, *, may_be_bare: bool = False) -> Block:
    """What is at an address or in a data URL, or else, bare, in base64 without a type."""
    if told[:8].lower().startswith(("http://", "https://")):
        return {"type": "url", "url": told}
    if may_be_bare and told[:5].lower() != "data:":
        data = _base64(told, path)
        media_type = _PDF if data.startswith(_PDF_IN_BASE64) else "text/plain"
    else:
        match = _DATA_URL.match(told)
        if match is None or match[2] is None:
            raise InvalidRequest.at(path, "expected an http(s) URL or a base64 data URL")
        media_type, data = match[1].strip().lower(), _base64(told[match.end() :], path)
    media_type = _MISSPELT.get(media_type, media_type)
    return {"type": "base64", "media_type": media_type, "data": data}


def _base64(text: str, path: str) -> str:
    """Base64 in one piece; what is in it is Claude's to judge."""
    data = joined(text)
    if not _BASE64.fullmatch(data):
        raise InvalidRequest.at(path, "the data is not valid base64")
    return data


def _text(data: str, path: str) -> str:
    try:
        text = b64decode(data, validate=True).decode()
    except ValueError as error:
        raise InvalidRequest.at(path, "expected UTF-8 text in base64") from error
    if not text.strip():
        raise InvalidRequest.at(path, "there is no text in it")
    return text
