"""A stream in a dialect of named events on its way to a caller who speaks the same.

Events pass as they came, with their names. What is read of them is how the answer ends, what it
cost, and whether it is an error; a subclass for each dialect knows by which names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import msgspec
from msgspec import Raw, Struct

from ..errors import UpstreamInvalid, UpstreamRefusal
from .chat import Usage
from .sse import DONE, NamedEvent, named

# So many events are held back at most until the answer itself begins.
MAX_HELD = 64


_NULL = Raw(b"null")


class _Head(Struct):
    type: str | None = None
    error: Raw = _NULL


_decode = msgspec.json.Decoder(_Head).decode


class NativeStream(ABC):
    """One answer (a `ChunkTranslator`). `is_over`: its last event came.

    Nothing passes before the first event that is none of the `preamble`: until then an early error
    still lets another client try. `errors` are raised, `watched` are told to `_watch`.
    """

    preamble: ClassVar[frozenset[bytes]]
    errors: ClassVar[frozenset[bytes]]
    watched: ClassVar[frozenset[bytes]]

    def __init__(self) -> None:
        self.is_over = False
        self.usage: Usage | None = None
        self._held: list[bytes] | None = []  # None: the answer has begun

    @abstractmethod
    def _watch(self, name: bytes, data: bytes) -> None:
        """Read one of the `watched`; sets `usage` and `is_over`, raises UpstreamError."""

    @abstractmethod
    def _refusal(self, data: bytes) -> UpstreamRefusal:
        """The error in one of the `errors`, with that event's data for its `as_sent`."""

    @abstractmethod
    def finish(self, chunks: list[bytes]) -> None:
        """Add the last event, if only that is missing; raises UpstreamTruncated if more is."""

    def feed(self, data: bytes, chunks: list[bytes]) -> None:
        """Add the events that pass; raises UpstreamRefusal for an error, UpstreamInvalid."""
        event = data if type(data) is NamedEvent and data.name else self._named(data)
        if event is None:
            self.finish(chunks)
            self.is_over = True
            return
        name = event.name
        if name in self.errors:
            raise self._refusal(event)
        if name in self.watched:
            self._watch(name, event)
        if self._held is None:
            chunks.append(event)
        elif name in self.preamble and len(self._held) < MAX_HELD:
            if self._held or name != b"ping":  # which is nothing before the first event
                self._held.append(event)
        else:
            chunks += [*self._held, event]
            self._held = None

    def _named(self, event: bytes) -> NamedEvent | None:
        """An event that came without a name, by that in its data; None: OpenAI's end mark."""
        try:
            head = _decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if event.strip() == DONE:
                return None
            raise UpstreamInvalid("the upstream sent an event that is not a JSON object") from error
        if not head.type and head.error != _NULL:
            raise self._refusal(event)
        return named(event, " ".join((head.type or "").split()).encode())
