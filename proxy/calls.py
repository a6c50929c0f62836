"""The pool from Python: calls without HTTP, through the same gateway as all others.

They have the same attempts, limits, records and errors. The thread that calls does all the work.
"""

from __future__ import annotations

import os
import socket
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple, TypeVar

from .config import Caller
from .dialects.base import Ask
from .dialects.embeddings import EmbedAsk
from .dialects.python import ChunkWriter, PythonAsk, from_json, to_json
from .errors import CallerGone, ProxyError
from .gateway import ANYONE, Gateway
from .net import shortage
from .net.lost import LOST
from .net.watch import CallerConnection
from .record.record import Record
from .record.transcript import Transcript
from .request.stream import StreamBody
from .wire.chat import error_body

_T = TypeVar("_T")


class Calls(ABC):
    """What a `Proxy` does for the Python code around it. Any thread may call."""

    @property
    @abstractmethod
    def gateway(self) -> Gateway:
        """The gateway that serves."""

    @abstractmethod
    def _host(self) -> object:
        """The application that calls are made for; None: none."""

    def chat(
        self,
        *,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        caller: Caller | str | None = None,
        timeout: float | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Ask a model, and wait for the whole answer: a chat completion, as OpenAI has it.

        `parameters` are those of the API, such as `temperature` or `tools`. `caller`: who calls,
        for records and limits; by the name of one of `api-keys` it has that one's models and
        limits. `timeout`: seconds, in place of `request-timeout`.

        Raises ProxyError: its subclasses say what went wrong, `status`, `code` and `hint` what an
        HTTP caller is told. Raises TypeError for what is no JSON. Blocks; from an event loop, call
        it by `asyncio.to_thread`.
        """
        body = _body(model, messages, parameters)
        return _Call(self.gateway, self._host(), "proxy.chat", body, caller, timeout).whole()

    def embed(
        self,
        *,
        model: str,
        input: str | Sequence[str],
        caller: Caller | str | None = None,
        timeout: float | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Ask for embeddings, as `chat` does for an answer; `data` has them in the texts' order."""
        body = to_json({"model": model, "input": input, **parameters})
        call = _Call(self.gateway, self._host(), "proxy.embed", body, caller, timeout, EmbedAsk)
        return call.whole()

    def stream(
        self,
        *,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        caller: Caller | str | None = None,
        timeout: float | None = None,
        **parameters: Any,
    ) -> Stream:
        """Ask a model, and take the answer as it comes, in chunks as OpenAI has them.

            with proxy.stream(model="fast", messages=[...]) as chunks:
                for chunk in chunks: ...

        Arguments are those of `chat`; `timeout` is for the first chunk. Nothing is asked before the
        `with`, or the first `next`: these, and each further `next`, block and raise as `chat`.
        """
        body = _body(model, messages, parameters, stream=True)
        return Stream(_Call(self.gateway, self._host(), "proxy.stream", body, caller, timeout))


def _body(
    model: str,
    messages: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    **stream: bool,
) -> bytes:
    if "stream" in parameters:
        raise TypeError("`chat` answers whole, `stream` in chunks: neither takes `stream`")
    return to_json({"model": model, "messages": messages, **parameters, **stream})


class _Call(NamedTuple):
    """One call, as an HTTP exchange is one."""

    gateway: Gateway
    host: object
    endpoint: str
    body: bytes
    caller: Caller | str | None
    timeout_s: float | None
    read: Callable[[bytes, Mapping[str, str]], Ask] = PythonAsk

    def serve(
        self, connect: Callable[[ExitStack], CallerConnection]
    ) -> tuple[Ask, bytes | StreamBody]:
        """What was asked, and the whole answer or a stream's body; raises ProxyError.

        `connect` makes what tells that the caller has hung up, and lasts as long as the call.
        """
        gateway = self.gateway
        record = Record(
            f"req_{os.urandom(16).hex()}",
            endpoint=self.endpoint,
            arrived=gateway.arrival(),
            mask=gateway.config.secrets.mask,
            host=self.host,
            bytes_in=len(self.body),
        )
        log = gateway.generation.request_log
        transcript = None if log is None else Transcript(log, record, {})
        try:
            with ExitStack() as held:
                if transcript is not None:
                    transcript.body = self.body
                    held.callback(transcript.end)
                gateway.keep(record, held)
                caller = self._who()
                gateway.admit(caller, record, held)
                connection = connect(held)
                ask = self.read(self.body, {"x-request-id": record.request_id})
                found, _ = gateway.serve(
                    ask,
                    caller,
                    connection,
                    record=record,
                    held=held,
                    transcript=transcript,
                    timeout_s=self.timeout_s,
                )
        except (ProxyError, *shortage.SIGNS) as fault:
            known = fault if isinstance(fault, ProxyError) else shortage.recognised(fault)
            if known is not None and transcript is not None:
                transcript.answer(known.status, [], error_body(known))
            if known is None or known is fault:
                raise
            raise known from fault
        if transcript is not None:
            transcript.answer(200, [], found if isinstance(found, bytes) else None)
            if not isinstance(found, bytes):
                found.tap = transcript.write
        return ask, found

    def whole(self) -> dict[str, Any]:
        """The answer of a call that does not stream; raises ProxyError."""
        _, found = self.serve(lambda _: CallerConnection(None))
        assert isinstance(found, bytes)
        return from_json(found)

    def _who(self) -> Caller:
        if isinstance(self.caller, Caller):
            return self.caller
        if not self.caller:
            return ANYONE
        known = (one for one in self.gateway.config.callers if one.name == self.caller)
        return next(known, None) or Caller(self.caller)


class Stream(Iterator[dict[str, Any]]):
    """The chunks of an answer, as dicts: an iterator, and a context manager that closes it.

    One thread iterates at a time. Any thread may `close`, an event loop's too.
    """

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._body: StreamBody | None = None  # once it is open
        self._written: ChunkWriter  # by the body
        self._is_over = False
        self._is_closed = False
        # Whoever pops it may use the body.
        self._turn = deque([True])
        # Whoever pops it closes it: for the call its caller has hung up then.
        self._line: deque[socket.socket] = deque()

    def __enter__(self) -> Stream:
        self._in_turn(self._open)
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __next__(self) -> dict[str, Any]:
        return self._in_turn(self._next)

    def close(self) -> None:
        """End the call: the upstream stops, and its client is free. Idempotent.

        Does not wait for a thread that is in `next`: that one has a CallerGone at once, and so has
        whoever goes on to iterate, so that nobody takes the answer for whole.
        """
        self._is_closed = True
        self._hang_up()
        self._give_back()

    def __del__(self) -> None:
        if self._body is not None and not (self._is_over or self._is_closed):
            LOST.note(_warn_of_loss)  # the body notes the rest
        for line in self._line:
            line.close()

    def _in_turn(self, work: Callable[[], _T]) -> _T:
        try:
            self._turn.pop()
        except IndexError:
            if self._is_closed:
                raise _closed() from None
            raise RuntimeError("another thread is in this stream's `next`") from None
        try:
            return work()
        finally:
            self._turn.append(True)
            if self._is_closed:
                self._give_back()

    def _give_back(self) -> None:
        try:
            self._turn.pop()
        except IndexError:  # whoever has it comes here after it
            return
        try:
            if self._body is not None:
                self._body.close()
        finally:
            self._turn.append(True)

    def _hang_up(self) -> None:
        with suppress(IndexError), self._line.pop() as line:
            line.shutdown(socket.SHUT_RDWR)  # a forked child may have it, too

    def _open(self) -> StreamBody:
        if self._body is not None:
            return self._body
        self._is_over = True  # unless it opens
        ask, body = self._call.serve(self._connect)
        assert isinstance(ask, PythonAsk)
        assert isinstance(body, StreamBody)
        self._written, self._body = ask.made, body
        self._is_over = False
        return body

    def _connect(self, held: ExitStack) -> CallerConnection:
        ours, line = socket.socketpair()
        held.callback(ours.close)
        self._line.append(line)
        if self._is_closed:  # whoever closed it may have come before the line was there
            raise _closed()
        return CallerConnection(ours)

    def _next(self) -> dict[str, Any]:
        if self._is_over:
            raise StopIteration
        if self._is_closed:
            raise _closed()
        body = self._open()
        written = self._written
        while not written.chunks:
            try:
                next(body)
            except StopIteration:
                self._is_over = True
                body.close()
                self._hang_up()
                if written.error is not None:
                    raise written.error from None
                raise
            except ConnectionResetError as error:  # how a body says that nobody listens
                raise _closed() from error
        return from_json(written.chunks.popleft())


def _warn_of_loss() -> None:
    warnings.warn("a stream was neither closed nor read to its end", ResourceWarning, stacklevel=2)


def _closed() -> CallerGone:
    return CallerGone("the stream was closed before its end")
