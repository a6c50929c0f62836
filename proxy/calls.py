"""The pool from Python: calls without HTTP, through the same gateway as all others.

They have the same attempts, limits, records and errors. The thread that calls does all the work.
"""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple, TypeVar

import msgspec

from .config import Caller
from .dialects.base import Read
from .dialects.chat import ChatAsk, ChatWriter
from .errors import CallerGone, ProxyError
from .gateway import ANYONE, Gateway
from .net import shortage
from .net.lost import LOST
from .net.watch import CallerConnection
from .record.record import Record
from .request.stream import StreamBody
from .wire.chat import error_body

_T = TypeVar("_T")


class PythonCall(NamedTuple):
    """One call, as an HTTP exchange is one. `host`: the application that it is made for, if any."""

    gateway: Gateway
    host: object
    endpoint: str
    body: bytes
    caller: Caller | str | None
    timeout_s: float | None

    def serve(
        self,
        read: Read,
        connect: Callable[[ExitStack], CallerConnection] = lambda _: CallerConnection(None),
    ) -> bytes | StreamBody:
        """The whole answer, or the body of a stream; raises ProxyError.

        `connect` makes what tells that the caller has hung up, and `held` holds it.
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
        try:
            with ExitStack() as held:
                gateway.keep(record, held)
                if record.transcript is not None:
                    record.transcript.body = self.body
                caller = self._who()
                gateway.admit(caller, record, held)
                connection = connect(held)
                ask = read(self.body, {"x-request-id": record.request_id})
                found, _ = gateway.serve(
                    ask, caller, connection, record=record, held=held, timeout_s=self.timeout_s
                )
        except (ProxyError, *shortage.SIGNS) as fault:
            known = fault if isinstance(fault, ProxyError) else shortage.recognised(fault)
            if known is not None and record.transcript is not None:
                record.transcript.answer(known.status, [], error_body(known))
            if known is None or known is fault:
                raise
            raise known from fault
        if record.transcript is not None:
            record.transcript.answer(200, [], found)
        return found

    def whole(self, read: Read) -> dict[str, Any]:
        """The answer of a call that does not stream; raises ProxyError."""
        body = self.serve(read)
        assert isinstance(body, bytes)
        found: dict[str, Any] = json.loads(body)
        return found

    def _who(self) -> Caller:
        if isinstance(self.caller, Caller):
            return self.caller
        if not self.caller:
            return ANYONE
        known = (one for one in self.gateway.config.callers if one.name == self.caller)
        return next(known, None) or Caller(self.caller)


def to_json(values: Mapping[str, Any]) -> bytes:
    """The body of a request; raises TypeError for what JSON cannot say."""
    try:
        return msgspec.json.encode(values)
    except UnicodeEncodeError:  # a lone surrogate: half an emoji, of a model's making
        return json.dumps(values).encode()


class _ChunkWriter(ChatWriter):
    """Keeps chunks for whoever iterates them: nothing is framed, as no wire lies in between."""

    keep_alive = b""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: deque[bytes] = deque()
        self.error: ProxyError | None = None  # what ended the stream, if it failed

    def feed(self, chunks: Sequence[bytes]) -> bytes:
        self.chunks += chunks
        return b"\n".join(chunks)

    def end(self) -> bytes:
        return b""

    def fail(self, error: ProxyError) -> bytes:
        self.error = error
        return error_body(error)


class Stream(Iterator[dict[str, Any]]):
    """The chunks of an answer, as dicts: an iterator, and a context manager that closes it.

    One thread iterates at a time. Any thread may `close`, an event loop's too.
    """

    def __init__(self, call: PythonCall) -> None:
        self._call = call
        self._written = _ChunkWriter()
        self._body: StreamBody | None = None  # once it is open
        self._is_over = self._is_closed = False
        self._turn = deque([True])  # whoever pops it may use the body
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
        self._free()

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
            if self._is_over or self._is_closed:
                self._free()

    def _free(self) -> None:
        """Hang up, and close the body; whoever uses it comes here afterwards."""
        with suppress(IndexError), self._line.pop() as line:
            line.shutdown(socket.SHUT_RDWR)  # a forked child may have it, too
        try:
            self._turn.pop()
        except IndexError:
            return
        try:
            if self._body is not None:
                self._body.close()
        finally:
            self._turn.append(True)

    def _open(self) -> StreamBody:
        if self._body is None:
            self._is_over = True  # unless it opens
            body = self._call.serve(self._read, self._connect)
            assert isinstance(body, StreamBody)
            self._body, self._is_over = body, False
        return self._body

    def _read(self, body: bytes, headers: Mapping[str, str], query: str = "") -> ChatAsk:
        return ChatAsk(body, headers, query, self._written)

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
        while not self._written.chunks:
            try:
                next(body)
            except StopIteration:
                self._is_over = True
                body.close()
                if self._written.error is not None:
                    raise self._written.error from None
                raise
            except ConnectionResetError as error:  # how a body says that nobody listens
                raise _closed() from error
        found: dict[str, Any] = json.loads(self._written.chunks.popleft())
        return found


def _warn_of_loss() -> None:
    warnings.warn("a stream was neither closed nor read to its end", ResourceWarning, stacklevel=2)


def _closed() -> CallerGone:
    return CallerGone("the stream was closed before its end")
