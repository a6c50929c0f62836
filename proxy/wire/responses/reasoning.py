"""Signed reasoning as `encrypted_content` of items: packed of what chat carries, and put back.

The payload of a container (`wire.reasoning`) is JSON with one member at most: a `block` of Claude's
thinking, or Google's extra field of the `call` that follows or of the `message` before. Without any
it is text, which some of OpenAI's look-alikes want back; that stands in the item's `summary`.
"""

from __future__ import annotations

from typing import Any, Final

from ..chat import objects, read_object
from ..lenient_json import encode
from ..reasoning import pack, unpack
from .tools import Json

# Of a block: what else chat has in it is where it was.
_BLOCK: Final = ("type", "thinking", "signature", "data")


def packed(kind: str, **signed: Any) -> str | None:
    """What this kind of client signed; None: it is too large, or nobody wants it back."""
    if isinstance(block := signed.get("block"), dict):
        signed = {"block": {name: block[name] for name in _BLOCK if block.get(name)}}
    return pack(kind, encode(signed)) if signed or kind == "openai" else None


class Thoughts:
    """Reasoning of earlier turns that waits for what it led to, for a client of this `kind`."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.forget()

    def forget(self) -> None:
        """Nothing followed that it led to."""
        self._blocks: list[Json] = []
        self._extra: Any = None
        self._text = ""

    def take(self, item: Json, before: Json | None) -> None:
        """An item of reasoning; `before`: the assistant's message that is still open, if any.

        What another kind of client made is left out, and so is a vendor's own.
        """
        sealed = item.get("encrypted_content")
        container = unpack(sealed) if isinstance(sealed, str) else None
        if container is None:
            if self._kind == "openai" and not sealed:  # no summary, but a model's plain reasoning
                self._text += texts_of(item.get("content"))
        elif container.kind == self._kind:
            signed = read_object(container.payload)
            if isinstance(signed.get("block"), dict):
                self._blocks.append(signed["block"])
            elif "message" in signed and before is not None:
                before["extra_content"] = signed["message"]
            elif not signed:
                self._text += texts_of(item.get("summary"))
            self._extra = signed.get("call") or self._extra

    def put(self, message: Json, call: Json | None = None) -> None:
        """Into the assistant's message what was thought before its text, or before this call."""
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
        self.forget()


def texts_of(parts: Any) -> str:
    """The texts in a list of parts."""
    return "".join(text for part in objects(parts) if isinstance(text := part.get("text"), str))
