"""Chat completions in chunks, on their way through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ...errors import UpstreamInvalid, UpstreamTruncated
from ..lenient_json import decoder, encode
from ..sse import DONE
from .names import CallersNames
from .reply import error_object, hidden_error, no_choices, objects, read_object
from .usage import Usage, as_object, read_usage

# Chunks before the first choice (Azure's, with what its filters found) wait for it up to this size.
MAX_HELD_BYTES = 65_536


class _Choice(Struct, gc=False):
    index: int = 0
    finish_reason: str | None = None


class _Groq(Struct, gc=False):
    usage: dict[str, Any] | None = None


class _Chunk(Struct, gc=False):
    """`x_groq`: where Groq tells the usage unasked (console.groq.com/docs, read 2026-11)."""

    choices: list[_Choice] | None = None
    error: Raw | UnsetType = UNSET
    usage: dict[str, Any] | None = None
    x_groq: _Groq | None = None


_decode = decoder(_Chunk)


class ChunkStream:
    """Chat chunks on their way through: they pass as they are, and are watched for their end.

    An end without `[DONE]` is whole if every choice that was seen or asked for has its
    `finish_reason`. `is_over`: `[DONE]` came. Until there is a choice nothing is passed on: a
    stream without any is no answer, and another client can still be asked.

    `choices_asked` is looked up only where it matters; `names` are those of the request;
    `on_bare_end` is called if `[DONE]` came though no choice had a `finish_reason`. `hides_usage`:
    the caller did not ask for the chunk that has the usage and no choices.
    """

    def __init__(
        self,
        choices_asked: Callable[[], int] = lambda: 1,
        *,
        names: Mapping[str, str] | None = None,
        on_bare_end: Callable[[], None] = lambda: None,
        hides_usage: bool = False,
    ) -> None:
        self.is_over = False
        self._told: dict[str, Any] | None = None  # of the usage, by the last chunk that told any
        self._hides_usage = hides_usage
        self._choices_asked = choices_asked
        self._names = CallersNames(names) if names else None
        self._on_bare_end = on_bare_end
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._held: list[bytes] = []
        self._room = MAX_HELD_BYTES  # left to hold chunks back; 0: nothing is held any more

    @property
    def usage(self) -> Usage | None:
        """The tokens, as far as the answer told them by now."""
        return read_usage(self._told)

    def feed(self, data: bytes, chunks: list[bytes]) -> None:
        """Add what passes on; raises UpstreamRefusal for an error event, UpstreamInvalid."""
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            if data.strip() == DONE:
                self._end()
                return
            chunk = _read_odd_chunk(data)
        if chunk.error is not UNSET and (refusal := hidden_error(chunk.error)):
            raise refusal
        if chunk.usage:
            self._told = chunk.usage
        if not chunk.choices:
            if refusal := error_object(data):
                raise refusal
            if chunk.usage and self._hides_usage:
                return
        for choice in chunk.choices or ():
            self._seen.add(choice.index)
            if choice.finish_reason:
                self._finished.add(choice.index)
                if chunk.x_groq is not None:
                    self._told = chunk.x_groq.usage or self._told
        if self._names is not None:
            data = self._names.chunk(data)
        self._held.append(data)
        self._room = 0 if self._seen else max(0, self._room - len(data))
        if not self._room:
            chunks += self._held
            self._held.clear()

    def _end(self) -> None:
        if not self._seen:
            raise no_choices()
        self.is_over = True
        if not self._finished:
            self._on_bare_end()

    def finish(self, chunks: list[bytes]) -> None:
        """The upstream ended without `[DONE]`; raises UpstreamTruncated if it was cut off."""
        are_finished = bool(self._seen) and self._seen == self._finished
        if not are_finished or len(self._finished) < self._choices_asked():
            raise UpstreamTruncated("the upstream's stream was cut off before its end")


def _read_odd_chunk(event: bytes) -> _Chunk:
    """A chunk with fields of other types than OpenAI's, as far as it goes."""
    found = read_object(event)
    if not found:
        raise UpstreamInvalid("the upstream sent an event that is not a JSON object")
    choices = []
    for choice in objects(found.get("choices")):
        index, reason = choice.get("index"), choice.get("finish_reason")
        index = index if isinstance(index, int) else 0
        choices.append(_Choice(index, str(reason) if reason else None))
    error = Raw(encode(found.get("error")))
    return _Chunk(choices, error, as_object(found.get("usage")))
