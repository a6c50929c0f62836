"""A stage for attempts: scripted clients in this process, on a virtual clock.

A script is made of the fake upstream's own replies (`tests.support.upstream`), played without a
socket: a `Pause` lets virtual seconds pass, `HANG` all that are left, `CUT` and `RESET` break the
connection. An error in a script is raised by `send`. The dialect is that of the real OpenAI client.
"""

from __future__ import annotations

import json
import math
import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeAlias

from proxy.clients.base import ChunkTranslator, Client
from proxy.clients.base import Reply as ClientReply
from proxy.clients.openai import OpenAIClient
from proxy.clients.registry import Entry, Registry
from proxy.config import ClientConfig, load_config
from proxy.dialects.chat import CHAT
from proxy.errors import ProxyError, UpstreamRefusal, UpstreamReset
from proxy.gateway import ANYONE, Gateway
from proxy.net.transport import Transport
from proxy.net.watch import CallerConnection, Clock
from proxy.pool import ClientPool, Effect, Lease, Ticket
from proxy.record.record import Record
from proxy.request.attempts import Attempts, Call
from proxy.request.stream import StreamBody
from proxy.wire.chat import ChatRequest, Usage
from tests.support.clock import START_S, VirtualClock
from tests.support.upstream import HANG, Pause, Reply, Step

Play: TypeAlias = Reply | ProxyError


class Sent(NamedTuple):
    """A request as a client was given it; times count from the start."""

    client: str
    at_s: float
    deadline_s: float
    model: str
    headers: Mapping[str, str]


class ScriptedReply:
    """A reply that follows its script."""

    status = 0

    def __init__(self, reply: Reply, caller: CallerConnection, clock: Clock) -> None:
        self.headers: dict[str, str] = {}
        self.is_closed = False
        self._reply = reply
        self._caller = caller
        self._clock = clock
        self._before_head = deque(reply.before_head)
        self.body = deque(reply.body)
        self._quiet_until = clock.monotonic()

    def open(self, until: float) -> bool:
        return True

    def head(self, until: float) -> bool:
        while self._is_quiet_over(until):
            if not self._before_head:
                self.status = self._reply.status
                self.headers = {name.lower(): value for name, value in self._reply.headers}
                return True
            self._take(self._before_head)
        return False

    def read(self, until: float) -> bytes | None:
        while self._is_quiet_over(until):
            if not self.body:
                return b""
            data = self._take(self.body)
            if data:
                return data
        return None

    @property
    def is_whole(self) -> bool:
        return not self.body

    def close(self, *, linger_s: float = 0.0) -> None:
        self.is_closed = True

    def _is_quiet_over(self, until: float) -> bool:
        self._caller.pause(min(until, self._quiet_until), self._clock)
        return self._clock.monotonic() >= self._quiet_until

    def _take(self, steps: deque[Step]) -> bytes:
        step = steps.popleft()
        if isinstance(step, bytes):
            return step
        if isinstance(step, Pause):
            self._quiet_until = self._clock.monotonic() + step.seconds
        elif step is HANG:
            self._quiet_until = math.inf
        else:
            raise UpstreamReset("the scripted connection broke")
        return b""


class ScriptedClient(Client):
    """An account whose upstream is a script. `always` is played when the script is over."""

    def __init__(self, config: ClientConfig, clock: Clock, script: Iterable[Play]) -> None:
        super().__init__(config)
        self.script = deque(script)
        self.always: Play | None = None
        self.sent: list[Sent] = []
        self.replies: list[ScriptedReply] = []
        self._clock = clock
        transport = Transport(config.base_url, connect_timeout_s=1, max_connections=1, clock=clock)
        self._dialect = OpenAIClient(config, transport)

    def send(
        self,
        request: ChatRequest,
        *,
        model: str,
        headers: Mapping[str, str],
        caller: CallerConnection,
        deadline: float,
    ) -> ClientReply:
        at_s, deadline_s = self._clock.monotonic() - START_S, deadline - START_S
        self.sent.append(Sent(self.label, at_s, deadline_s, model, dict(headers)))
        play = self.script.popleft() if self.script else self.always
        assert play is not None, f"{self.label} was asked once more than its script has replies"
        if isinstance(play, ProxyError):
            raise play
        reply = ScriptedReply(play, caller, self._clock)
        self.replies.append(reply)
        return reply

    def refusal(self, reply: ClientReply, body: bytes) -> UpstreamRefusal:
        return self._dialect.refusal(reply, body)

    def answer(self, request: ChatRequest, body: bytes) -> tuple[bytes, Usage | None]:
        return self._dialect.answer(request, body)

    def chunks(self, request: ChatRequest) -> ChunkTranslator:
        return self._dialect.chunks(request)

    def list_models(self, *, caller: CallerConnection, deadline: float) -> list[str]:
        raise AssertionError("the models are configured")

    def close(self) -> None:
        """Nothing is open."""


class Stage:
    """Clients `a`, `b`, `c` ... that offer the model `m`, a script for each, and their pool.

    `settings` are the configuration's, with underscores. Random numbers are `seed`'s.
    """

    def __init__(
        self, *scripts: Sequence[Play], permits: int = 1, seed: int = 1, **settings: Any
    ) -> None:
        random.seed(seed)
        self.clock = VirtualClock()
        providers = [
            {
                "name": name,
                "base-url": f"http://{name}.invalid/v1",
                "max-concurrency": permits,
                "models": [
                    {"name": f"{name}-m", "alias": "m"},
                    {"name": f"{name}-m", "alias": f"only-{name}"},
                    {"name": "other", "alias": f"other-{name}"},
                ],
            }
            for name in "abcdefgh"[: len(scripts)]
        ]
        tree = {name.replace("_", "-"): value for name, value in settings.items()}
        self.config = load_config({"openai-compatibility": providers, **tree})
        self.clients = [
            ScriptedClient(config, self.clock, script)
            for config, script in zip(self.config.clients, scripts, strict=True)
        ]
        self.pool = ClientPool(self.clients, clock=self.clock)
        secrets = self.config.secrets
        self.registry = Registry(self.clients, secrets=secrets, clock=self.clock)
        self.gateway = Gateway(self.config, clock=self.clock)
        self.gateway.pool = self.pool
        self.gateway.generation = self.gateway.generation._replace(registry=self.registry)
        self.record = Record("req_0", endpoint="", arrived=START_S)  # of the latest request
        self._occupied: set[Lease] = set()
        self._under_way = 0

    def __getitem__(self, label: str) -> ScriptedClient:
        return next(client for client in self.clients if client.label == label)

    @property
    def now_s(self) -> float:
        """Seconds since the start."""
        return self.clock.now - START_S

    @property
    def sent(self) -> list[Sent]:
        """What all clients were sent, in order of time."""
        return sorted(
            (sent for client in self.clients for sent in client.sent), key=lambda sent: sent.at_s
        )

    @property
    def sent_to(self) -> str:
        """The clients that were asked, one by one."""
        return "".join(attempt.client for attempt in self.record.attempts)

    def state_of(self, label: str) -> dict[str, Any]:
        """What the pool thinks of a client: `state`, `failures`, `for_s` for the model."""
        (facts,) = [one for one in self.pool.snapshot() if one["client"] == label]
        state: dict[str, Any] = facts["models"][f"{label}-m"]
        return {name: state[name] for name in state if name not in ("since_s", "cause")}

    def call(
        self,
        *,
        stream: bool = False,
        caller: CallerConnection | None = None,
        headers: dict[str, str] | None = None,
    ) -> Call:
        """A request that arrives now."""
        self.record = Record("req_1", endpoint="", arrived=self.clock.monotonic())
        asked = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
        ask = CHAT.read(json.dumps(asked).encode(), headers or {})
        writer = ask.writer() if stream else None
        return Call(ask, writer, caller or CallerConnection(None), self.record)

    def entry(self, alias: str) -> Entry:
        """A configured model."""
        entry = self.registry.find(alias, CallerConnection(None), -math.inf)
        assert entry is not None
        return entry

    def ask(self, caller: CallerConnection | None = None, **more: Any) -> bytes:
        """The unary answer; raises ProxyError."""
        with self._served(self.call(caller=caller, **more)) as body:
            assert isinstance(body, bytes)
            return body

    def refused(self) -> ProxyError:
        """The error that a unary request ends with."""
        try:
            body = self.ask()
        except ProxyError as error:
            return error
        raise AssertionError(f"the request was answered: {body!r}")

    def stream(self, caller: CallerConnection | None = None, **more: Any) -> list[bytes]:
        """A stream's writes; raises ProxyError."""
        with self._served(self.call(stream=True, caller=caller, **more)) as body:
            assert isinstance(body, StreamBody)
            try:
                return list(body)
            finally:
                body.close()

    @contextmanager
    def _served(self, call: Call) -> Iterator[bytes | StreamBody]:
        with self._checked(), ExitStack() as held:
            yield self.serve(call, held)

    def serve(self, call: Call, held: ExitStack) -> bytes | StreamBody:
        """The answer, or a stream's body."""
        ask, record = call.ask, call.record
        return self.gateway.serve(ask, ANYONE, call.connection, record=record, held=held)[0]

    @contextmanager
    def attempts(self, call: Call) -> Iterator[Attempts]:
        """The attempts of a request, to be advanced by hand."""
        with self._checked():
            attempts = Attempts(call, self.registry, self.pool, self.config, self.clock)
            try:
                yield attempts
            finally:
                attempts.close()

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """Requests may be nested; when the last has ended, none may hold anything."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self.check()

    def occupy(self, label: str, *, until_s: float | None = None, alias: str = "only") -> Lease:
        """Take a client away, for another request; it comes free by itself at `until_s`.

        `alias`: "only" is the same model by a name of this client's own, "other" another model.
        """
        entry = self.entry(f"{alias}-{label}")
        ticket = Ticket(entry.alias, CallerConnection(None), self.config)
        lease = self.pool.acquire(ticket, entry.routes, self.clock.monotonic())
        assert lease is not None, f"{label} is not free"
        self._occupied.add(lease)
        if until_s is not None:
            self.clock.after(until_s - self.now_s, lambda: self.free(lease))
        return lease

    def free(self, lease: Lease) -> None:
        """Give back what `occupy` took."""
        self._occupied.discard(lease)
        lease.release()

    def free_all(self) -> None:
        """Give back whatever `occupy` took."""
        for lease in tuple(self._occupied):
            self.free(lease)

    def cool(self, label: str, asked_s: float) -> None:
        """Have another request be told by a client to wait so long."""
        lease = self.occupy(label)
        lease.report(Effect.COOL, asked_s=asked_s)
        self.free(lease)

    def check(self) -> None:
        """Raise AssertionError if a request that has ended holds a client, a reply or a place."""
        in_flight = sum(facts["in_flight"] for facts in self.pool.snapshot())
        waiting = sum(facts["waiting"] for facts in self.pool.queue_facts().values())
        still_open = [reply for one in self.clients for reply in one.replies if not reply.is_closed]
        assert (in_flight, waiting, still_open) == (len(self._occupied), 0, [])


def error_of(body: bytes) -> dict[str, Any]:
    """The error object of an envelope, which has all of OpenAI's fields."""
    found: dict[str, Any] = json.loads(body)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found
