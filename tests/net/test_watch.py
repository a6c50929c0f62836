"""Waiting: for data, for a moment, and always for the caller's end."""

from __future__ import annotations

import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from proxy.errors import CallerGone
from proxy.net import watch
from proxy.net.bell import Bell, my_bell
from proxy.net.watch import CLOCK, CallerConnection, Poll

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, peer = socket.socketpair()
    with ours, peer:
        yield ours, peer


@pytest.fixture
def upstream() -> Iterator[Pair]:
    ours, peer = socket.socketpair()
    with ours, peer:
        yield ours, peer


@pytest.fixture(params=["rdhup", "peek"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Linux, and platforms without POLLRDHUP."""
    if request.param == "peek":
        monkeypatch.setattr(watch, "_ENDED", watch._ENDED & ~watch._RDHUP & ~select.POLLHUP)
        monkeypatch.setattr(watch, "_RDHUP", 0)
    name: str = request.param
    return name


def soon(seconds: float = 0.02) -> float:
    return time.monotonic() + seconds


def data(upstream: Pair, caller: CallerConnection, until: float) -> list[tuple[int, int]]:
    """What is to be read from an upstream by then."""
    return caller.wait(caller.poller(upstream[0].fileno()), until, CLOCK)


@pytest.mark.parametrize("how", ["close", "half", "reset"])
def test_gone_caller_ends_every_wait(platform: str, pair: Pair, upstream: Pair, how: str) -> None:
    """A pause, a wait for data, a wait for a bell."""
    ours, peer = pair
    caller = CallerConnection(ours)
    poller = caller.poller(upstream[0].fileno())
    caller.raise_if_gone()
    if how == "half":
        peer.shutdown(socket.SHUT_WR)
    else:
        if how == "reset":
            ours.sendall(b"unread")
        peer.close()
    until = time.monotonic() + 20
    with pytest.raises(CallerGone):
        caller.pause(until)
    with pytest.raises(CallerGone):
        caller.wait(poller, until, CLOCK)
    with pytest.raises(CallerGone):
        Bell().wait(until, caller, CLOCK)
    with pytest.raises(CallerGone):
        caller.raise_if_gone()
    assert time.monotonic() < until - 15


def test_caller_that_stays_is_waited_with(platform: str, pair: Pair, upstream: Pair) -> None:
    """Until the moment."""
    caller = CallerConnection(pair[0])
    until = soon()
    caller.pause(until)
    assert time.monotonic() >= until
    assert data(upstream, caller, soon()) == []
    assert not Bell().wait(soon(), caller, CLOCK)


def test_pipelined_bytes_are_no_end(platform: str, pair: Pair, upstream: Pair) -> None:
    """Without POLLRDHUP the watch ends there: they hide the end."""
    ours, peer = pair
    caller = CallerConnection(ours)
    peer.sendall(b"GET")
    caller.pause(soon())
    peer.close()
    if platform == "peek":
        assert data(upstream, caller, soon()) == []
    else:
        with pytest.raises(CallerGone):
            data(upstream, caller, soon(20))


def test_pipelined_bytes_are_nobody_elses(platform: str, pair: Pair, upstream: Pair) -> None:
    """Also not in a poll set that was made before they came, as one wait follows another."""
    ours, peer = pair
    caller = CallerConnection(ours)
    poller = caller.poller(upstream[0].fileno())
    peer.sendall(b"GET")
    caller.pause(soon())
    assert caller.wait(poller, soon(), CLOCK) == []
    upstream[1].sendall(b"x")
    assert caller.wait(poller, soon(20), CLOCK) == [(upstream[0].fileno(), select.POLLIN)]


def test_spurious_event_is_no_end(pair: Pair) -> None:
    """Readable, and then there is nothing: the caller stays."""
    caller = CallerConnection(pair[0])
    poller: Poll = select.poll()
    caller.join(poller)
    events = [(pair[0].fileno(), select.POLLIN), (999, select.POLLHUP)]
    assert caller.check(events, poller) == [(999, select.POLLHUP)]


def test_closed_socket_is_gone(pair: Pair, platform: str) -> None:
    """The server closed it."""
    caller = CallerConnection(pair[0])
    pair[0].close()
    with pytest.raises(CallerGone):
        caller.raise_if_gone()


def test_peek_that_fails_is_an_end(pair: Pair) -> None:
    """A reset caller, or a TLS socket, which takes no flags."""
    caller = CallerConnection(pair[0])
    fd = pair[0].fileno()
    pair[0].close()
    with pytest.raises(CallerGone):
        caller.check([(fd, select.POLLIN)], select.poll())


def test_caller_without_a_socket_never_leaves(upstream: Pair) -> None:
    """The server does not let us see it."""
    caller = CallerConnection(None)
    caller.raise_if_gone()
    caller.pause(soon(0.001))
    caller.limit_io(1.0)
    upstream[1].sendall(b"x")
    assert data(upstream, caller, math.inf)


@pytest.mark.parametrize("kind", ["pause", "data", "bell"])
def test_server_without_a_socket_is_asked(upstream: Pair, kind: str) -> None:
    """Again and again, twice a second: waits go on while the caller is there."""
    asked = []

    def is_gone() -> bool:
        asked.append(time.monotonic())
        return len(asked) == 3

    caller = CallerConnection(None, is_gone)
    until = time.monotonic() + 20
    waits: dict[str, Callable[[], object]] = {
        "pause": lambda: caller.pause(until),
        "data": lambda: data(upstream, caller, until),
        "bell": lambda: Bell().wait(until, caller, CLOCK),
    }
    with pytest.raises(CallerGone):
        waits[kind]()
    assert len(asked) == 3
    assert asked[-1] < until - 15


def test_wait_ends_while_the_server_is_asked(upstream: Pair) -> None:
    """By its moment, or by data."""
    caller = CallerConnection(None, lambda: False)
    until = soon()
    caller.pause(until)
    assert time.monotonic() >= until
    assert data(upstream, caller, soon()) == []
    upstream[1].sendall(b"x")
    assert data(upstream, caller, math.inf)


def test_caller_is_taken_from_the_servers_environ(pair: Pair) -> None:
    """gunicorn's, werkzeug's, waitress's; HTTP/2 shares its socket."""
    with pytest.raises(CallerGone):
        CallerConnection.from_environ(
            {"waitress.client_disconnected": lambda: True}
        ).raise_if_gone()
    ours, peer = pair
    peer.close()
    for name in ("gunicorn.socket", "werkzeug.socket"):
        with pytest.raises(CallerGone):
            CallerConnection.from_environ({name: ours}).raise_if_gone()
    CallerConnection.from_environ({}).raise_if_gone()
    http_2 = {"gunicorn.socket": ours, "SERVER_PROTOCOL": "HTTP/2.0"}
    CallerConnection.from_environ(http_2).raise_if_gone()


@pytest.mark.parametrize("name", ["VERSION", "SERVER_PROTOCOL"])
def test_no_header_hides_a_caller_that_left(pair: Pair, name: str) -> None:
    """Its name becomes a variable behind `HTTP_`."""
    ours, peer = pair
    peer.close()
    environ = {"gunicorn.socket": ours, "SERVER_PROTOCOL": "HTTP/1.1"}
    for value in ("2", "HTTP/2.0"):
        with pytest.raises(CallerGone):
            CallerConnection.from_environ({**environ, f"HTTP_{name}": value}).raise_if_gone()


def test_reads_and_writes_of_the_caller_are_limited(pair: Pair) -> None:
    """One that sends nothing is not waited for; writes are looked at in `tests.hostile`."""
    CallerConnection(pair[0]).limit_io(0.01)
    with pytest.raises((TimeoutError, BlockingIOError)):  # how servers' sockets say it
        pair[0].recv(1)


def test_upstreams_events_are_told(upstream: Pair) -> None:
    """Readable; writable only if asked for."""
    ours, peer = upstream
    caller = CallerConnection(None)
    poller = caller.poller(ours.fileno())
    assert caller.wait(poller, soon(), CLOCK) == []
    poller.modify(ours, select.POLLIN | select.POLLOUT)
    assert caller.wait(poller, soon(), CLOCK) == [(ours.fileno(), select.POLLOUT)]
    poller.modify(ours, select.POLLIN)
    assert caller.wait(poller, soon(), CLOCK) == []
    peer.sendall(b"x")
    assert caller.wait(poller, soon(20), CLOCK) == [(ours.fileno(), select.POLLIN)]
    peer.close()
    ours.recv(1)
    assert caller.wait(poller, soon(20), CLOCK)


@pytest.fixture(params=["eventfd", "pipe"])
def bell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bell:
    if request.param == "pipe":
        monkeypatch.delattr(os, "eventfd")
    return Bell()


def test_bell_wakes_its_waiter(bell: Bell) -> None:
    """From another thread, or before the wait; each ring once."""
    caller = CallerConnection(None)
    assert not bell.wait(soon(0.001), caller, CLOCK)
    bell.ring()
    bell.ring()
    assert bell.wait(math.inf, caller, CLOCK)
    assert not bell.wait(soon(0.001), caller, CLOCK)
    thread = threading.Thread(target=bell.ring)
    thread.start()
    assert bell.wait(soon(20), caller, CLOCK)
    thread.join()


def test_ringing_never_blocks(bell: Bell) -> None:
    """However often nobody looks."""
    for _ in range(20_000):
        bell.ring()
    assert bell.wait(soon(20), CallerConnection(None), CLOCK)


def test_bell_has_descriptors_that_neither_block_nor_are_inherited(bell: Bell) -> None:
    """To hush one that nobody rang is no wait; programs that are started get nothing of it."""
    for fd in {bell.fd, bell._write_fd}:
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)
    bell.hush()
    bell.ring()
    bell.hush()
    assert not bell.wait(soon(0.001), CallerConnection(None), CLOCK)


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="there are pipes only")
def test_bell_is_one_descriptor() -> None:
    """Of which each thread has one: two thousand threads have so many less."""
    bell = Bell()
    assert bell.fd == bell._write_fd


def test_bell_is_a_threads_own_and_not_inherited() -> None:
    """A fork gets a new one."""
    mine = my_bell()
    assert my_bell() is mine
    others: list[Bell] = []
    thread = threading.Thread(target=lambda: others.append(my_bell()))
    thread.start()
    thread.join()
    assert others[0] is not mine
    mine.pid = -1
    assert my_bell() is not mine


def test_bells_leave_no_descriptors(bell: Bell) -> None:
    """Freed with their thread."""
    # Other threads may open and close some meanwhile, which a count of all would tell of.
    assert len({Bell().fd for _ in range(100)}) < 50


def test_clock_waits_at_most_until_its_moment() -> None:
    """The past is now; a moment beyond what poll() takes is for ever."""
    ours, peer = socket.socketpair()
    with ours, peer:
        poller = select.poll()
        poller.register(ours, select.POLLIN)
        for until in (-math.inf, 0.0, soon()):
            assert CLOCK.poll(poller, until) == []
        peer.sendall(b"x")
        for until in (math.inf, time.monotonic() + 2**40):
            assert CLOCK.poll(poller, until)
