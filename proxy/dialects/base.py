"""What a dialect of callers is: a `Dialect` reads an `Ask`, whose `Writer` writes its stream.

Chat is the hub. Where caller and client speak the same dialect nothing is translated. Else the
caller's is made chat here, and chat the upstream's by its client, and back the same way. A dialect
touches no socket, thread or clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol

from ..errors import ProxyError
from ..wire.chat import ChatRequest, Speech


class Answer(NamedTuple):
    """A prompt's unary answer: in the caller's dialect if it `is_native`, else in chat's."""

    body: bytes
    is_native: bool


class Prompt(Protocol):
    """What one lease is taken for."""

    @property
    def native(self) -> ChatRequest:
        """For clients that speak the caller's dialect, in that."""

    @property
    def hub(self) -> ChatRequest:
        """For all others, as chat; raises InvalidRequest for what chat cannot say."""


class Writer(ABC):
    """A stream in the caller's dialect. Made for one answer, begun or not.

    `feed`: what goes to the caller of some chunks; b"": nothing yet. Raises UpstreamInvalid.
    `keep_alive`: what tells that the stream still lives; b"": nobody needs to be told.
    """

    keep_alive: bytes
    feed: Callable[[Sequence[bytes]], bytes]

    @abstractmethod
    def begin(self, at: int, *, is_native: bool) -> None:
        """The answer to a prompt follows, counted from 0: its own events, or chunks of chat."""

    @abstractmethod
    def end(self) -> bytes:
        """What goes behind a stream that is whole."""

    @abstractmethod
    def fail(self, error: ProxyError) -> bytes:
        """What ends a stream that is not, so that no caller takes it for whole."""


class Ask(ABC):
    """One request of a caller. `headers`: those that go on to the upstream.

    `speech`: what a client has to speak to get it as it is (`Client.speaks`).
    """

    speech: ClassVar[Speech]
    may_have_prompts: ClassVar[bool] = False  # several, served one after the other

    def __init__(self, model: str, headers: Mapping[str, str], *, stream: bool) -> None:
        self.model = model
        self.stream = stream
        self.headers = headers

    @property
    def wants_usage(self) -> bool:
        """Whether the chunks of its stream have to tell the usage."""
        return True

    @abstractmethod
    def prompts(self, *, natively: bool) -> Sequence[Prompt]:
        """Its prompts, one at least; raises InvalidRequest.

        `natively`: all clients that may serve it speak its dialect, so it may stay in one piece.
        """

    @abstractmethod
    def whole(self, answers: Sequence[Answer]) -> bytes:
        """The unary answer, of those to the prompts; raises UpstreamInvalid."""

    @abstractmethod
    def writer(self) -> Writer:
        """For its stream."""


class Dialect(NamedTuple):
    """`read`: the request in a body, with those of the caller's headers that may go on; raises
    InvalidRequest. `error`: the body of an answer that is an error.
    """

    read: Callable[[bytes, Mapping[str, str]], Ask]
    error: Callable[[ProxyError], bytes]
