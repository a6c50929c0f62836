"""Calls from Python: chat as well, in dicts. Nothing is framed, as no wire lies in between."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..errors import ProxyError
from ..wire.chat import error_body
from .chat import ChatWriter


class ChunkWriter(ChatWriter):
    """Keeps chunks for whoever iterates them. `error`: what ended the stream, if it failed."""

    keep_alive = b""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: deque[bytes] = deque()
        self.error: ProxyError | None = None

    def feed(self, chunks: Sequence[bytes]) -> bytes:
        self.chunks += chunks
        return b"\n".join(chunks)

    def end(self) -> bytes:
        return b""

    def fail(self, error: ProxyError) -> bytes:
        self.error = error
        return error_body(error)


def to_json(values: Mapping[str, Any]) -> bytes:
    """The body of a request; raises TypeError for what JSON cannot say."""
    try:
        return msgspec.json.encode(values)
    except UnicodeEncodeError:  # a lone surrogate: half an emoji, of a model's making
        return json.dumps(values).encode()
