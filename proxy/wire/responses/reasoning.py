"""Signed reasoning as `encrypted_content` of items: packed of what chat carries, and put back.

`payload` of a container (`wire.reasoning`) is JSON: of Claude one thinking block; of Gemini its
extra field, of a call or of the message before; of OpenAI's look-alikes nothing, as what they want
back is the text in `summary`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ..chat import objects, read_object
from ..lenient_json import encode
from ..reasoning import pack, unpack
from .tools import Json

_BLOCK: Final = ("type", "thinking", "signature", "data")


def pack_block(block: Json) -> str | None:
    """A block of Claude's; None: it is too large."""
    return pack("claude", encode({name: block[name] for name in _BLOCK if block.get(name)}))


def pack_extra(place: str, extra: Any) -> str | None:
    """Gemini's field of a `call` that follows, or of the `message` before; None: too large."""
    return pack("gemini", encode({place: extra}))


def pack_plain(kind: str) -> str | None:
    """The mark of reasoning that is text alone; None: nobody wants it back."""
    return pack(kind, b"{}") if kind == "openai" else None


class Thoughts:
    """Reasoning of earlier turns that waits for what it led to, for a client of this `kind`."""

    def __init__(self, kind: str) -> None:
        self.were_put = False  # whether any came back into the chat
        self._kind = kind
        self._blocks: list[Json] = []
        self._extra: Any = None
        self._text = ""

    def take(self, item: Json, before: Json | None) -> None:
        """An item of reasoning; `before`: the assistant's message that is still open, if any.

        What another kind of client signed is left out, and so is a vendor's own.
        """
        packed = item.get("encrypted_content")
        container = unpack(packed) if isinstance(packed, str) else None
        if container is None and packed:
            return
        if self._kind == "openai" and (container is None or container.kind == self._kind):
            # Of a stranger what is plainly the model's reasoning, not a summary of it.
            parts = item.get("content") if container is None else item.get("summary")
            self._text += "".join(texts_of(parts))
        if container is None or container.kind != self._kind:
            return
        found = read_object(container.payload)
        if self._kind == "claude":
            self._blocks.append(found)
        elif "message" in found and before is not None:
            before["extra_content"] = found["message"]
            self.were_put = True
        else:
            self._extra = found.get("call") or self._extra

    def put(self, message: Json, call: Json | None = None) -> None:
        """Into the assistant's message what was thought before its text, or before this call."""
        self.were_put = self.were_put or bool(self._blocks or self._text)
        for block in self._blocks:
            blocks = message.setdefault("thinking_blocks", [])
            place = {
                "index": len(blocks),
                "content_offset": len(message["content"] or ""),
                "tool_call_offset": len(message.get("tool_calls", ())),
            }
            blocks.append({**block, **place})
        if self._text:
            message["reasoning_content"] = message.get("reasoning_content", "") + self._text
        if call is not None and self._extra is not None:
            call["extra_content"] = self._extra
            self.were_put = True
        self.forget()

    def forget(self) -> None:
        """Nothing followed that it led to."""
        self._blocks, self._extra, self._text = [], None, ""


def texts_of(parts: Any) -> Iterator[str]:
    """The texts in a list of parts."""
    for part in objects(parts):
        if isinstance(part.get("text"), str):
            yield part["text"]
