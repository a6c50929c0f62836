"""What a dialect of callers is: a `Dialect` reads an `Ask`, whose `Writer` writes its stream.

Chat is the hub. Where caller and client speak the same dialect nothing is translated. Else the
caller's is made chat here, and chat the upstream's by its client, and back the same way. A dialect
touches no socket, thread or clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

from ..errors import ProxyError
from ..wire.chat import HUB, ChatRequest, Speech, chunks_of


class Answer(NamedTuple):
    """A client's unary answer: in the caller's dialect if it `is_native`, else in the hub's."""

    body: bytes
    is_native: bool
    kind: str = ""


class Writer(ABC):
    """A stream in the caller's dialect. Made for one answer, begun or not.

    `feed`: what goes to the caller of some chunks; b"": nothing yet. Raises UpstreamInvalid.
    `keep_alive`: what tells that the stream still lives; b"": nobody needs to be told.
    """

    keep_alive: bytes
    feed: Callable[[Sequence[bytes]], bytes]

    @abstractmethod
    def begin(self, at: int, *, is_native: bool, kind: str = "") -> None:
        """A prompt's answer follows: its own events, or chunks of chat of this `kind` of client."""

    @abstractmethod
    def end(self) -> bytes:
        """What goes behind a stream that is whole."""

    @abstractmethod
    def fail(self, error: ProxyError) -> bytes:
        """What ends a stream that is not, so that no caller takes it for whole."""


class Ask(ABC):
    """One request of a caller. `headers`: those that go on to the upstream; `native_headers`: to
    one that speaks the dialect.

    `speech`: what a client has to speak to get it as it is (`Client.speaks`): the operation (chat,
    embed, count) and the dialect. Others get it in the `hub_speech`; all speak that of chat.
    """

    speech: ClassVar[Speech]
    hub_speech: ClassVar[Speech] = HUB
    clients = 0  # so many may serve it, once that is known
    dropped: Sequence[str] = ()  # what the hub's form leaves out, once that was made

    def __init__(
        self, model: str, headers: Mapping[str, str], *, stream: bool, session: str = ""
    ) -> None:
        self.model = model  # of fallbacks, the one that is tried
        self.stream = stream
        self.session = session  # which one it says that it is part of
        self.headers = self.native_headers = headers

    @property
    def wants_usage(self) -> bool:
        """Whether the chunks of its stream have to tell the usage."""
        return True

    def prompts(self, *, natively: bool) -> int:
        """How many prompts it has; raises InvalidRequest.

        `natively`: all clients that may serve it speak its dialect, so it may stay in one piece.
        """
        return 1

    @abstractmethod
    def request(self, at: int, kind: str, *, natively: bool) -> ChatRequest:
        """What a client of this kind is sent for a prompt, counted from 0; raises InvalidRequest.

        `natively`: in the caller's dialect, which the client speaks, else in the hub's form.
        """

    def plain_request(self, at: int, kind: str, *, natively: bool) -> ChatRequest | None:
        """The same without reasoning of earlier turns; None, or an equal one: it has none."""
        return None

    def unserved(self, error: ProxyError) -> tuple[Answer, dict[str, str]]:
        """An answer that needs no client, with its headers, where all failed so; else raises it."""
        raise error

    def whole(self, answers: Sequence[Answer]) -> bytes:
        """The unary answer, of those to the prompts: the first; raises UpstreamInvalid."""
        return answers[0].body

    def streamed(self, answer: Answer) -> tuple[list[bytes], bool]:
        """A unary answer to a request for a stream as chunks, and whether these are native."""
        return chunks_of(answer.body, with_usage=self.wants_usage), False

    @abstractmethod
    def writer(self) -> Writer:
        """For its stream."""


Read = Callable[..., Ask]


class Dialect(NamedTuple):
    """What is served at a path.

    `read`: the request in a body, with those of the caller's headers, and the query, that may go
    on; raises InvalidRequest. `error`: the body of an answer that is an error, for the request of
    this id. `headers`: what the dialect's own clients are passed of a caller's besides what all
    are. `id_header`: where its SDKs look for the request's id, besides `x-request-id`. `below`:
    what is said of paths below its own that are not there.
    """

    read: Read
    error: Callable[..., bytes]
    headers: tuple[str, ...] = ()
    id_header: str = ""
    below: str = ""
