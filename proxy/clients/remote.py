"""The base of clients whose upstream is a server: request heads and lists of models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from ..config import ClientConfig
from ..errors import UpstreamInvalid, UpstreamTimeout
from ..net.exchange import SocketReply
from ..net.transport import Transport
from ..net.watch import CallerConnection
from ..version import USER_AGENT
from ..wire.chat import ChatRequest
from ..wire.http.headers import merged
from ..wire.model_list import ModelPage
from .base import Client, Collected

# A list of 10,000 models is about 1.5 MB (OpenRouter's, with prices, in 2026), a page of 1000 with
# all that Google tells of them about 1 MB.
MAX_PAGE_BYTES = 32 * 1024 * 1024
# An upstream whose list has no end must not keep us.
MAX_PAGES = 20
# One or two for each model that is asked for.
MAX_HEADS = 4096


class RemoteClient(Client):
    """One key at a provider. The key goes into a header, not the URL.

    `headers` are those of the dialect and of the configuration, `defaults` those in whose place a
    caller's own may stand.
    """

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

    def close(self) -> None:
        self.transport.close()
