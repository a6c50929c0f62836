"""The interface of every kind of client: it sends a request, and its reply is read.

A client is one account at one provider. It keeps no state of a request: the reply does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from ..config import ClientConfig
from ..errors import UpstreamRefusal, UpstreamTooLarge
from ..net.transport import Transport
from ..net.watch import CallerConnection
from ..wire.chat import ChatRequest, Speech, Usage


class Reply(Protocol):
    """The answer to one request, read as it comes. One thread uses it; the sender owns it.

    `open`, `head` and `read` wait until a monotonic moment, and may be called again if that came
    first. They raise CallerGone, UpstreamError. `close` is idempotent.
    """

    status: int  # 0 until `head` has returned True
    headers: dict[str, str]  # by lower-case name

    def open(self, until: float) -> bool:
        """Whether there is a connection for the request to go out on."""

    def head(self, until: float) -> bool:
        """Whether the status and the headers are there; opens the connection if need be."""

    def read(self, until: float) -> bytes | None:
        """The next bytes of the body; b"" at its end, None if nothing came until then."""

    @property
    def is_whole(self) -> bool:
        """Whether all of it was read, so that `close` waits for nothing."""

    def close(self, *, linger_s: float = 0.0) -> None:
        """Give the connection back if the answer is whole, or is so within `linger_s`."""


class ChunkTranslator(Protocol):
    """Translates the events of one streamed answer to chat chunks, both without SSE framing."""

    @property
    def usage(self) -> Usage | None:
        """The tokens, as far as the answer has told them."""

    @property
    def is_over(self) -> bool:
        """Whether the upstream's own end mark came: nothing follows that matters."""

    def feed(self, events: list[bytes]) -> list[bytes]:
        """Translate these events; raises UpstreamError."""

    def finish(self) -> list[bytes]:
        """The chunks still due when the upstream's answer ended; raises UpstreamTruncated."""


class Client(ABC):
    """One upstream account. It takes chat, and whatever else its upstream `speaks` as it came."""

    speaks: Collection[Speech] = ()
    transport: Transport | None = None  # None: it answers in the process

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.label = config.label
        self.identity = config.identity

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"

    def substitutes(self, model: str) -> Sequence[str]:
        """Other models of the upstream's to ask when the quota of this one is out, in order."""
        return ()

    @abstractmethod
    def send(
        self,
        request: ChatRequest,
        *,
        model: str,
        headers: Mapping[str, str],
        caller: CallerConnection,
        deadline: float,
    ) -> Reply:
        """Send a request to the upstream's `model`. Does not block: its reply does the waiting.

        `headers` are the caller's that go on. Raises InvalidRequest for what this upstream cannot
        do, UpstreamUnreachable, UpstreamTimeout.
        """

    @abstractmethod
    def refusal(self, reply: Reply, body: bytes) -> UpstreamRefusal:
        """Read the error from an answer whose status is not 2xx."""

    def second_form(self, request: ChatRequest, refusal: UpstreamRefusal) -> ChatRequest | None:
        """What to ask instead, on the same lease, if the refusal is of what we added."""
        return None

    @abstractmethod
    def answer(self, request: ChatRequest, body: bytes) -> tuple[bytes, Usage | None]:
        """Read a unary answer, in the request's dialect; raises UpstreamError if it is none."""

    @abstractmethod
    def chunks(self, request: ChatRequest) -> ChunkTranslator:
        """Make the translator for one streamed answer."""

    @abstractmethod
    def list_models(self, *, caller: CallerConnection, deadline: float) -> list[str]:
        """Fetch the names in the upstream's own list of models; raises UpstreamError."""

    @abstractmethod
    def close(self) -> None:
        """Close idle connections."""


class Collected:
    """Collects the bytes of a body, up to a limit."""

    def __init__(self, max_bytes: int, limit_name: str) -> None:
        self._parts: list[bytes] = []
        self._left = max_bytes
        self._limit = f"{max_bytes} bytes ({limit_name})"

    def add(self, data: bytes) -> None:
        """Add the next bytes; raises UpstreamTooLarge."""
        self._left -= len(data)
        if self._left < 0:
            raise UpstreamTooLarge(f"the upstream's answer is larger than {self._limit}")
        self._parts.append(data)

    def whole(self) -> bytes:
        """All bytes added so far."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
