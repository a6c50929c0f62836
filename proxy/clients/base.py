"""The interface of every kind of client, and the base of those whose upstream is a server.

A client is one account at one provider. It sends a request, and its reply is read. It keeps no
state of a request: the reply does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Protocol

from ..config import ClientConfig
from ..errors import UpstreamInvalid, UpstreamRefusal, UpstreamTimeout, UpstreamTooLarge
from ..net.exchange import SocketReply
from ..net.transport import Transport
from ..net.watch import CallerConnection
from ..version import USER_AGENT
from ..wire.chat import ChatRequest, Speech, Usage
from ..wire.http.headers import merged
from ..wire.model_list import ModelPage

# A list of 10,000 models is about 1.5 MB (OpenRouter's, with prices, in 2026), a page of 1000 with
# all that Google tells of them about 1 MB.
MAX_PAGE_BYTES = 32 * 1024 * 1024
# An upstream whose list has no end must not keep us.
MAX_PAGES = 20
# One or two for each model that is asked for.
MAX_HEADS = 4096


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

    def feed(self, data: bytes, chunks: list[bytes]) -> None:
        """Translate an event to more `chunks`; not called once it is over.

        Raises UpstreamRefusal for an `error` event, UpstreamInvalid for one that can't be read.
        """

    def finish(self, chunks: list[bytes]) -> None:
        """Add those still due when the upstream's answer ended; raises UpstreamTruncated."""


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

    def close(self) -> None:
        """Close idle connections."""
        if self.transport is not None:
            self.transport.close()


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


class RemoteClient(Client):
    """One key at a provider, sent in a header. A caller's own may stand in place of `defaults`."""

    models_path: ClassVar[str]
    transport: Transport

    def __init__(
        self,
        config: ClientConfig,
        transport: Transport,
        headers: Mapping[str, str],
        *,
        defaults: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(config)
        self.transport = transport
        self._lines = merged({"User-Agent": USER_AGENT}, headers)
        self._defaults = defaults
        self._own_names = {name.lower() for name in config.headers}  # the caller's don't count
        self._heads: dict[str, bytes] = {}  # by path, up to MAX_HEADS: callers choose queries

    @abstractmethod
    def _asked(self, request: ChatRequest, model: str) -> tuple[str, bytes]:
        """The path of a request and its body, as this upstream takes it; raises InvalidRequest."""

    @staticmethod
    @abstractmethod
    def read_page(body: bytes) -> ModelPage:
        """Read one page of the model list; raises UpstreamInvalid."""

    def send(
        self,
        request: ChatRequest,
        *,
        model: str,
        headers: Mapping[str, str],
        caller: CallerConnection,
        deadline: float,
    ) -> SocketReply:
        path, body = self._asked(request, model)
        head = self._heads.get(path)
        if head is None:
            ours = merged({"Content-Type": "application/json"}, self._lines)
            head = self.transport.head("POST", self._meant(path), ours)
            if len(self._heads) < MAX_HEADS:
                self._heads[path] = head
        lines = [
            f"{name}: {value}\r\n"
            for name, value in self._passed(headers).items()
            if name.lower() not in self._own_names
        ]
        head += "".join(lines).encode("latin-1")
        return self.transport.send(head, body, caller=caller, deadline=deadline)

    def _passed(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The caller's headers as they go on."""
        return merged(self._defaults, headers) if self._defaults else headers

    def _meant(self, path: str) -> str:
        """The path, with the version of the API that the configuration names, if it names one."""
        version = self.config.api_version
        return f"{version}/{path.split('/', 2)[2]}" if version else path

    def list_models(self, *, caller: CallerConnection, deadline: float) -> list[str]:
        names: list[str] = []
        path: str | None = self.models_path
        for _ in range(MAX_PAGES):
            if path is None:
                break
            page = self.read_page(self._get(path, caller=caller, deadline=deadline))
            names += page.ids
            path = page.next_path
        if not names:
            raise UpstreamInvalid(f"{self.label}: the upstream's model list is empty")
        return list(dict.fromkeys(names))

    def _get(self, path: str, *, caller: CallerConnection, deadline: float) -> bytes:
        head = self.transport.head("GET", self._meant(path), merged(self._defaults, self._lines))
        reply = self.transport.send(head, b"", caller=caller, deadline=deadline)
        body = Collected(MAX_PAGE_BYTES, "the limit of a model list")
        try:
            data = reply.read(deadline) if reply.head(deadline) else None
            while data:
                body.add(data)
                data = reply.read(deadline)
            if data is None:
                raise UpstreamTimeout("the upstream did not answer in time")
            if reply.status != 200:
                raise self.refusal(reply, body.whole())
            return body.whole()
        finally:
            reply.close()

    def _wall(self) -> float:
        return self.transport.clock.wall()
