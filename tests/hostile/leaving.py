"""Cases of callers that leave, and of callers that do not take their answer."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from tests.hostile.place import (
    HEAD_TIMEOUT_S,
    Place,
    is_open,
    json_event,
    send_for_ever,
    waiting,
)
from tests.support.callers import LEAVE, chat_request, half_close, head, read_all
from tests.support.commandline import wait_for
from tests.support.gateway import CHAT, PATIENCE_S, Reached
from tests.support.upstream import Step, chat, chunk, endless, error, events, raw

# Gone

WAYS = [*LEAVE.values()] * 4


def gone_before_body(place: Place) -> None:
    """The head promises a body, and a part of it comes."""
    with contextlib.ExitStack() as stack:
        ids = [f"before-body-{number}" for number in range(len(WAYS))]
        requests = [head(CHAT, "Content-Length: 100", f"x-request-id: {one}") for one in ids]
        socks = place.send(stack, *(request + b'{"model":' for request in requests))
        for sock, leave in zip(socks, WAYS, strict=True):
            leave(sock)
        ends = {place.gateway.record_of(one)["end"] for one in ids}
        assert ends == {"invalid_request"}


def gone_in_queue(place: Place) -> None:
    """Behind somebody whose upstream is silent, and who stays."""
    lot, reached = place.lot(), Reached()
    place.upstream.reply(lot.key, raw(reached.hold()))
    with contextlib.ExitStack() as stack:
        (holder,) = place.send(stack, chat_request(lot.model))
        reached.wait_reached()
        ids = [f"{lot.model}-{number}" for number in range(len(WAYS))]
        requests = [chat_request(lot.model, one, stream=True) for one in ids]
        socks = place.send(stack, *requests)
        wait_for(lambda: waiting(place.gateway, lot) == len(ids))
        for sock, leave in zip(socks, WAYS, strict=True):
            leave(sock)
        assert {place.gateway.record_of(one)["end"] for one in ids} == {"caller_gone"}
        assert [one.aborted for one in place.upstream.received(lot.key)] == [False]
        holder.close()
        place.upstream.received(lot.key)[0].wait_ended()


def gone_in_back_off(place: Place) -> None:
    """After attempts that failed, before one that will not be made."""
    lots = [place.lot() for _ in WAYS]
    for lot in lots:
        place.upstream.always(lot.key, error(500))
    with contextlib.ExitStack() as stack:
        socks = place.send(stack, *(chat_request(lot.model, lot.model) for lot in lots))
        for sock, leave, lot in zip(socks, WAYS, lots, strict=True):
            place.upstream.wait_for(4, lot.key, timeout_s=PATIENCE_S)[-1].wait_ended()
            leave(sock)
        assert {place.gateway.record_of(lot.model)["end"] for lot in lots} == {"caller_gone"}


def gone_while_silent(place: Place) -> None:
    """The upstream has the request, and says nothing."""
    lots, reached = [place.lot() for _ in WAYS], [Reached() for _ in WAYS]
    for lot, silence in zip(lots, reached, strict=True):
        place.upstream.reply(lot.key, raw(silence.hold()))
    with contextlib.ExitStack() as stack:
        socks = place.send(stack, *(chat_request(lot.model, lot.model) for lot in lots))
        for sock, leave, silence in zip(socks, WAYS, reached, strict=True):
            silence.wait_reached()
            leave(sock)
        assert {place.gateway.record_of(lot.model)["end"] for lot in lots} == {"caller_gone"}
        for lot in lots:
            assert place.upstream.received(lot.key)[0].wait_ended().aborted


def gone_in_mid_stream(place: Place) -> None:
    """Events go by."""
    lots = [place.lot() for _ in WAYS]
    for lot in lots:
        place.upstream.reply(lot.key, endless())
    with contextlib.ExitStack() as stack:
        requests = [chat_request(lot.model, lot.model, stream=True) for lot in lots]
        for sock, leave in zip(place.send(stack, *requests), WAYS, strict=True):
            assert sock.recv(12) == b"HTTP/1.1 200"
            leave(sock)
        assert {place.gateway.record_of(lot.model)["end"] for lot in lots} == {"caller_gone"}
        for lot in lots:
            assert place.upstream.received(lot.key)[0].wait_ended().aborted


def half_closed_at_once(place: Place) -> None:
    """`nc -N`: it counts as gone, and what it gets does not look whole."""
    lot = place.lot()
    place.upstream.reply(lot.key, endless())
    with place.gateway.connect() as sock:
        sock.sendall(chat_request(lot.model, lot.model, stream=True))
        half_close(sock)
        got = read_all(sock)
        assert not got.endswith(b"0\r\n\r\n")
        assert place.gateway.record_of(lot.model)["end"] == "caller_gone"


# Slow readers


def reads_no_stream(place: Place) -> None:
    """It is cut, and its upstream too."""
    lots = [place.lot() for _ in range(10)]
    # Made before, and once: it takes seconds of a busy machine, and an upstream has but eight.
    flood = raw(*events(*[json_event("x" * 100_000)] * 1000).wire())
    for lot in lots:
        place.upstream.reply(lot.key, flood)
    with contextlib.ExitStack() as stack:
        place.send(stack, *(chat_request(lot.model, lot.model, stream=True) for lot in lots))
        assert {place.gateway.record_of(lot.model)["end"] for lot in lots} == {"caller_gone"}
        for lot in lots:
            assert place.upstream.received(lot.key)[0].wait_ended().aborted


def reads_no_answer(place: Place) -> None:
    """A large unary answer: the lock is free as soon as it is there, the thread soon after."""
    lots = [place.lot() for _ in range(4)]
    for lot in lots:
        place.upstream.reply(lot.key, chat("x" * 30_000_000))
    with contextlib.ExitStack() as stack:
        socks = place.send(stack, *(chat_request(lot.model, lot.model) for lot in lots))
        assert {place.gateway.record_of(lot.model)["end"] for lot in lots} == {"ok"}
        for sock in socks:
            wait_for(lambda sock=sock: not is_open(place.gateway, sock))  # type: ignore[misc]
            assert len(read_all(sock)) < 30_000_000


def reads_no_short_answers(place: Place) -> None:
    """Requests by the thousand on one connection, none of whose answers is taken."""
    many = head("/", method="GET") * 500
    with contextlib.ExitStack() as stack:
        for sock in place.connect(stack, 5):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(HEAD_TIMEOUT_S * 2)
            with pytest.raises(ConnectionError):
                send_for_ever(sock, many)


def reads_slowly(place: Place) -> None:
    """40 KB a second, for a minute: all of a stream and of a unary answer comes."""
    size = 2_400_000
    lots = [place.lot() for _ in range(6)]
    for lot in lots[::2]:
        place.upstream.reply(lot.key, chat("x" * size))
    for lot in lots[1::2]:
        flood: list[Step] = [json_event("x" * 10_000)] * (size // 10_000)
        place.upstream.reply(lot.key, events(*flood, chunk({}, finish="stop"), "[DONE]"))
    with contextlib.ExitStack() as stack:
        requests = [
            chat_request(lot.model, lot.model, stream=number % 2 == 1)
            for number, lot in enumerate(lots)
        ]
        socks = place.send(stack, *requests)
        got = {sock: bytearray() for sock in socks}
        slow = list(socks)
        while slow:
            for sock in [*slow]:
                got[sock] += sock.recv(2048)
                if len(got[sock]) > size and got[sock].endswith((b"}", b"\r\n0\r\n\r\n")):
                    slow.remove(sock)
            time.sleep(0.05)  # is the case
        assert all(len(one) > size for one in got.values())
        assert {place.gateway.record_of(lot.model)["end"] for lot in lots} == {"ok"}


def reads_a_byte_at_a_time(place: Place) -> None:
    """A short answer is in the kernel's hands at once: no thread and no lock waits for its reader.

    The accounts serve others between its first two bytes, and it loses nothing.
    """
    lots = [place.lot() for _ in range(10)]
    with contextlib.ExitStack() as stack:
        requests = [chat_request(lot.model, lot.model, stream=True) for lot in lots]
        socks = place.send(stack, *requests)
        assert {place.gateway.record_of(lot.model)["end"] for lot in lots} == {"ok"}
        got = [sock.recv(1) for sock in socks]
        ids = {lot.model: f"{lot.model}-other" for lot in lots}
        place.send(stack, *(chat_request(model, one) for model, one in ids.items()))
        assert {place.gateway.record_of(one)["end"] for one in ids.values()} == {"ok"}
        got = [one + sock.recv(1) for one, sock in zip(got, socks, strict=True)]
        for sock, one in zip(socks, got, strict=True):
            half_close(sock)
            assert (one + read_all(sock)).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
