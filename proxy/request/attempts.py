"""One request's way through the pool: choose, send, switch to the next client on failure.

One loop for unary and stream. It is a generator that can pause at any wait, so that a stream's body
can write a keep-alive and then take the same wait up again, in the same thread. Nothing is cleaned
up in the generator: `Attempts` owns lease and reply, and its `close()` frees them.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import msgspec

from ..clients.base import Client, Reply
from ..clients.registry import Registry, Route
from ..config import Config
from ..dialects.base import Answer, Ask, Writer
from ..errors import (
    CallerError,
    InvalidRequest,
    ModelNotFound,
    PoolError,
    ProxyError,
    UnsupportedParameter,
    UpstreamError,
    UpstreamRefusal,
)
from ..net.watch import CallerConnection, Clock
from ..pool import ClientPool, Effect, Lease, Ticket
from ..record.record import Attempt, Record
from ..wire.chat import HUB, ChatRequest, Usage
from ..wire.chat.fields import with_model
from ..wire.http.headers import passed
from .failures import Failures, refused, report, with_soonest_hint
from .relay import Relay, Relayed, Series, WholeRelay
from .verdict import falls_back, is_about_reasoning, judge
from .waits import OutOfTime, Pausing, Waits, await_head, first_chunks, first_data, whole_body

# After the end of an answer its connection gets this long to become reusable.
LINGER_S = 0.05
# One lease sends so many forms of a request: all of it, without ours, without reasoning, or both.
MAX_FORMS = 4


class Call(NamedTuple):
    """A request as attempts need it. `writer`: of its stream. `timeout_s`: its own.

    `session`: as the pool's ticket has it.
    `fallbacks`: other models, to be tried in this order if nobody serves the one asked for.
    """

    ask: Ask
    writer: Writer | None
    connection: CallerConnection
    record: Record
    timeout_s: float | None = None
    session: bytes = b""
    fallbacks: tuple[str, ...] = ()


class Attempts:
    """The attempts for a request's prompts, in turn. Owns its lease and its reply until `close`."""

    def __init__(
        self, call: Call, registry: Registry, pool: ClientPool, config: Config, clock: Clock
    ) -> None:
        self.call = call
        self.config = config
        self.clock = clock
        self.headers: dict[str, str] = {}  # of the upstream's, those that go back
        self._registry = registry
        self._pool = pool
        self._prompts = 0  # so many, read when it is known who may serve them
        self._routes: tuple[Route, ...] = ()
        self._at = 0  # the prompt
        self._lease: Lease | None = None
        self._reply: Reply | None = None
        self._relay: Relay | None = None  # of the present attempt, if it streams
        self._attempt = Attempt("")  # the present one's record
        self._begin()

    def _begin(self, *, rank: int = -1) -> None:
        call, config = self.call, self.config
        # A later prompt of a stream that has begun has a time of its own.
        is_first = call.record.first_event is None
        arrived = call.record.arrived if is_first else self.clock.monotonic()
        self._waits = Waits(config, self.clock, arrived=arrived, timeout_s=call.timeout_s)
        # One answer is one model's.
        self._pauses = self._run_all() if call.fallbacks and not self._at else self._run()
        self._take_ticket(rank)

    def _take_ticket(self, rank: int) -> None:
        call = self.call
        self._failures: Failures | None = None  # until the first one
        self._ticket = Ticket(
            call.ask.model,
            call.connection,
            self.config,
            holder=call.record.request_id,
            rank=rank,
            session=call.session,
        )

    @property
    def is_last(self) -> bool:
        """Whether the request has no further prompt; known once there is an outcome."""
        return self._at + 1 >= self._prompts

    def begin_next(self) -> None:
        """Give back what is held, and begin with the next prompt, in the rank of this one."""
        self.close()
        self._at += 1
        self._begin(rank=self._ticket.rank)

    def answers(self) -> list[Answer]:
        """The answers to a unary request's prompts; raises ProxyError as `go_on` does."""
        answers = list[Answer]()
        while True:
            try:
                outcome = self.go_on(math.inf)
            except ProxyError as error:
                outcome, self.headers = self.call.ask.unserved(error)
            assert isinstance(outcome, Answer)
            answers.append(outcome)
            if self.is_last:
                return answers
            self.begin_next()

    def advance(self, pause_at: float) -> Relayed | None:
        """As `go_on`, for a stream: that of all prompts."""
        outcome = self.go_on(pause_at)
        assert not isinstance(outcome, Answer)
        return outcome if outcome is None or self.is_last else Series(self, outcome)

    def go_on(self, pause_at: float) -> Answer | Relayed | None:
        """Go on until the answer (of a stream: its first chunks) is there, or `pause_at` came.

        Raises ProxyError, which is to be the caller's answer unless it is gone.
        """
        self._waits.pause_at = pause_at
        try:
            next(self._pauses)
        except StopIteration as stop:
            outcome: Answer | Relayed = stop.value
            return outcome
        return None

    def interrupted(self, error: ProxyError) -> None:
        """The stream broke after its first chunks: told to the client's health, not retried."""
        if self._lease is not None:
            effect = judge(error, switch_project=False).effect
            self.config.secrets.mask_error(error)
            report(self._lease, effect, error)
            self._attempt.failed(error)

    def close(self, *, linger_s: float = LINGER_S) -> None:
        """Give back what is held. Idempotent."""
        relay = self._relay
        is_over = relay is not None and relay.is_over
        if self._lease is not None and relay is not None:
            usage = relay.usage
            self._attempt.usage = usage if is_over else replace(usage or Usage(), partial=True)
            if is_over:
                self._lease.report(Effect.GOOD)
            elif self._attempt.reason == "ok":
                self._attempt.reason = "caller_gone"
        self._end_attempt(linger_s=linger_s if is_over else 0.0)
        self._pool.withdraw(self._ticket)

    def _end_attempt(self, *, linger_s: float = 0.0) -> None:
        lease, self._lease = self._lease, None
        try:
            self._close_reply(linger_s=linger_s)
        finally:
            if lease is not None:
                lease.release()
                record, attempt = self.call.record, self._attempt
                attempt.seconds = self._waits.now() - record.arrived - attempt.began_s
                record.tell("attempt_ended", record, attempt)

    def _close_reply(self, *, linger_s: float = 0.0) -> None:
        reply, self._reply, self._relay = self._reply, None, None
        if reply is not None:
            reply.close(linger_s=linger_s)

    def _run_all(self) -> Pausing[Answer | Relayed]:
        """As `_run`, with one model after the other; raises the first one's error."""
        call, errors = self.call, list[ProxyError]()
        switches = self.config.quota_exceeded.switch_project
        for fallback in ("", *call.fallbacks):
            if fallback:
                self._pool.withdraw(self._ticket)
                call.ask.model = call.record.fallback = fallback
                self._prompts = 0
                self._take_ticket(self._ticket.rank)
            try:
                return (yield from self._run())
            except (PoolError, UpstreamError, CallerError) as error:
                if not (errors or falls_back(error, switch_project=switches)):
                    raise
                error.__traceback__ = error.__cause__ = error.__context__ = None
                errors.append(error)
            if self._waits.now() >= self._waits.deadline:
                break
        call.record.fallback = ""
        raise with_soonest_hint(errors)

    def _run(self) -> Pausing[Answer | Relayed]:
        if not self._prompts:
            yield from self._find()
        goes_on = True
        while goes_on:
            self._lease = lease = yield from self._acquire()
            try:
                outcome = yield from self._try(lease)
            except (UpstreamError, CallerError) as error:
                goes_on = self._failed().goes_on(lease, error, now=self._waits.now())
                self._attempt.failed(error)
            except ProxyError as error:  # the caller is gone, or a want of our own
                self._attempt.failed(error)
                raise
            else:
                if self._relay is None:
                    lease.report(Effect.GOOD)
                self._attempt.reason = "ok"
                return outcome
            self._end_attempt()
        raise self._failed().final()

    def _failed(self) -> Failures:
        if self._failures is None:
            ask = self.call.ask
            cooled_in = partial(self._pool.cooled_in, ask.model, self._routes)
            self._failures = Failures(self.config, cooled_in, is_stream=ask.stream)
        return self._failures

    def _find(self) -> Pausing[None]:
        """Wait until the model is found, and read the prompts for those who may serve it."""
        ask, waits, registry = self.call.ask, self._waits, self._registry
        entry = registry.fixed.get(ask.model)
        while entry is None:
            entry = registry.find(ask.model, self.call.connection, waits.until(math.inf))
            if entry is None:
                waits.check(math.inf, "")
                yield
        self._routes = entry.routes
        # Chat is what all take, so that none needs to be looked at.
        routes = entry.routes if ask.speech != HUB else ()
        speak = [ask.speech in route.client.speaks for route in routes]
        if not any(speak) and not any(_does(ask, route.client) for route in entry.routes):
            raise _cannot(f"no client for the model {ask.model!r} can", ask)
        ask.clients = len(entry.routes)
        self._prompts = ask.prompts(natively=all(speak))
        if any(speak):
            return
        # What no kind of client can do is said now, while nobody is waited for.
        *others, last = dict.fromkeys(route.client.config.kind for route in routes) or ("",)
        for kind in others:
            with suppress(InvalidRequest):
                ask.request(0, kind, natively=False)
                return
        ask.request(0, last, natively=False)

    def _acquire(self) -> Pausing[Lease]:
        asked_at, record = self._waits.now(), self.call.record
        before_s = record.waited_s
        while True:
            until = min(self._waits.pause_at, self._waits.deadline)
            try:
                lease = self._pool.acquire(self._ticket, self._routes, until)
            except (PoolError, ModelNotFound) as error:
                unserved: ProxyError = error
                break
            finally:
                now = self._waits.now()
                record.waited_s = before_s + now - asked_at
            if now >= self._waits.deadline:
                if lease is not None:
                    lease.release()
                unserved = self._waits.out_of_time()
                break
            if lease is not None:
                lease.client = self._registry.own(lease.client)
                self._attempt = Attempt(lease.client.label, lease.model)
                self._attempt.began_s, self._attempt.waited_s = now - record.arrived, now - asked_at
                if record.is_kept is None:
                    record.is_kept = self._ticket.is_kept
                record.attempts.append(self._attempt)
                return lease
            yield
        raise self._failed().final(unserved)

    def _try(self, lease: Lease) -> Pausing[Answer | Relayed]:
        """One attempt; raises UpstreamError, or CallerError for what this upstream cannot do.

        On the same lease, a request goes out in another form where something in it was refused
        that may be left out, and a model whose quota is out is stood in for by preview variants.
        """
        request = self._request(lease)
        for _ in range(MAX_FORMS):
            try:
                return (yield from self._ask(lease, lease.model, request))
            except (UpstreamRefusal, InvalidRequest) as error:
                failure = error
                again = self._again(lease, request, error)
            if again is None:
                break
            request = again
            self._close_reply()
        is_quota = isinstance(failure, UpstreamRefusal) and failure.status == 429
        if is_quota and self.config.quota_exceeded.switch_preview_model:
            for model in lease.client.substitutes(lease.model):
                self._close_reply()
                try:
                    return (yield from self._ask(lease, model, request))
                except OutOfTime:
                    raise
                except UpstreamError:
                    continue  # the first one says how long it lasts
            self._attempt.model, self._attempt.status = lease.model, failure.status
        raise failure

    def _request(self, lease: Lease) -> ChatRequest:
        """What this client is sent; raises InvalidRequest for what it cannot do."""
        ask, client = self.call.ask, lease.client
        natively = ask.speech in client.speaks
        if not natively and not _does(ask, client):
            raise _cannot(f"{client.label} cannot", ask)
        return ask.request(self._at, client.config.kind, natively=natively)

    def _again(
        self, lease: Lease, request: ChatRequest, error: UpstreamRefusal | InvalidRequest
    ) -> ChatRequest | None:
        """What to send once more after this refusal of it; None: nothing."""
        ask, client = self.call.ask, lease.client
        if isinstance(error, UpstreamRefusal) and (other := client.second_form(request, error)):
            return other
        if not is_about_reasoning(error):
            return None
        natively = ask.speech in client.speaks
        plain = ask.plain_request(self._at, client.config.kind, natively=natively)
        return None if plain == request else plain

    def _ask(self, lease: Lease, model: str, request: ChatRequest) -> Pausing[Answer | Relayed]:
        ask, writer, connection, record = self.call[:4]
        self._attempt.model = model
        if record.fallback:  # the request is as it is had its caller asked for that model
            body = with_model(request.body, ask.model)
            request = msgspec.structs.replace(request, body=body, model=ask.model)
        is_native, kind = request.speech == ask.speech, lease.client.config.kind
        self._reply = reply = lease.client.send(
            request,
            model=model,
            headers=ask.native_headers if is_native else ask.headers,
            caller=connection,
            deadline=self._waits.deadline,
        )
        yield from await_head(reply, self._waits)
        self._attempt.status = reply.status
        if not 200 <= reply.status < 300:
            yield from refused(lease.client, reply, self._waits)
        lease.report(Effect.BEGUN)
        secrets = self.config.secrets
        self.headers = {name: secrets.mask(value) for name, value in passed(reply.headers).items()}
        first = b""
        if writer is not None:
            # Whatever its content type says: no event begins like an object does.
            first = yield from first_data(reply, self._waits)
            if not first.startswith(b"{"):
                translator = lease.client.chunks(request)
                relay = Relay(reply, translator, self.config, self.clock, first)
                self._relay = relay
                relay.first = yield from first_chunks(relay, self._waits)
                since_arrival = self._waits.now() - record.arrived
                self._attempt.first_event_s = since_arrival - self._attempt.began_s
                record.dropped = () if is_native else ask.dropped
                writer.begin(self._at, is_native=is_native, kind=kind)
                return relay
        body = yield from whole_body(reply, self._waits, first=first)
        body, self._attempt.usage = lease.client.answer(request, body)
        record.dropped = () if is_native else ask.dropped
        answer = Answer(body, is_native, kind)
        if writer is None:
            return answer
        chunks, is_native = ask.streamed(answer)
        writer.begin(self._at, is_native=is_native, kind=kind)
        return WholeRelay(chunks)


def _does(ask: Ask, client: Client) -> bool:
    """Whether the client takes the request in the hub's form, as all do of chat."""
    return ask.hub_speech == HUB or ask.hub_speech in client.speaks


def _cannot(who: str, ask: Ask) -> UnsupportedParameter:
    return UnsupportedParameter(f"{who} do the operation {ask.speech[0]!r}", param="model")
