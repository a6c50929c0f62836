"""Names are looked up by few threads, once for all who ask; answers are kept."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.net import names
from proxy.net.helpers import HelperThreads
from proxy.net.names import Address, Lookup, Names, literal, resolve
from proxy.net.watch import CallerConnection
from tests.support.name_server import PATIENCE_S, NameServer

LOOPBACK = Address(socket.AF_INET, ("127.0.0.1", 0))
OTHER = Address(socket.AF_INET, ("127.0.0.2", 0))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    """Knows `a.test` and `b.test`; speaks at the end, so that no lookup stays behind."""
    running = NameServer(monkeypatch)
    running.answers = {"a.test": ["127.0.0.1"], "b.test": ["127.0.0.2"]}
    yield running
    running.speak()


def result(lookup: Lookup) -> list[Address]:
    """As soon as it is there."""
    if lookup.task is not None:
        lookup.task.wait(
            min(lookup.usable_at, time.monotonic() + PATIENCE_S), CallerConnection(None)
        )
    assert lookup.is_over(time.monotonic())
    return lookup.result()


def is_at_hand(lookup: Lookup) -> bool:
    return lookup.is_over(time.monotonic())


def eventually(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until
        os.sched_yield()


def test_answer_is_kept(server: NameServer) -> None:
    """Within its time a name is looked up once."""
    known = Names()
    for _ in range(3):
        assert result(known.find("a.test")) == [LOOPBACK]
    assert is_at_hand(known.find("a.test"))
    assert server.asked == ["a.test"]


def test_all_who_ask_at_once_share_one_lookup(server: NameServer) -> None:
    """However many wait for a name, one thread looks it up."""
    known = Names()
    server.fall_silent()
    lookups = [known.find("a.test") for _ in range(50)]
    server.speak()
    assert [result(lookup) for lookup in lookups] == [[LOOPBACK]] * 50
    assert server.asked == ["a.test"]


def test_stale_answer_is_used_while_it_is_renewed(server: NameServer) -> None:
    """Nobody waits for a name that was known before."""
    known = Names(fresh_s=0)
    result(known.find("a.test"))
    server.fall_silent()
    server.answers["a.test"] = ["127.0.0.2"]
    for _ in range(3):
        lookup = known.find("a.test")
        assert is_at_hand(lookup)
        assert lookup.result() == [LOOPBACK]
    server.speak()
    eventually(lambda: result(known.find("a.test")) == [OTHER])


def test_old_answer_waits_a_moment_for_its_renewal(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be somebody else's address by now. Once the renewal hangs, nobody waits again."""
    monkeypatch.setattr(names, "RENEWAL_S", PATIENCE_S)
    known = Names(fresh_s=0, at_once_s=0)
    result(known.find("a.test"))
    server.answers["a.test"] = ["127.0.0.2"]
    assert result(known.find("a.test")) == [OTHER]
    server.fall_silent()
    server.answers["a.test"] = ["127.0.0.1"]
    assert not is_at_hand(known.find("a.test"))
    monkeypatch.setattr(names, "RENEWAL_S", 0.05)
    assert result(known.find("a.test")) == [OTHER]
    assert is_at_hand(known.find("a.test"))
    server.speak()


def test_old_answer_outlives_a_failed_renewal(server: NameServer) -> None:
    """However old it is."""
    known = Names(fresh_s=0, at_once_s=0)
    result(known.find("a.test"))
    server.answers.clear()
    for _ in range(2):
        assert result(known.find("a.test")) == [LOOPBACK]


def test_hanging_renewal_is_the_only_one(server: NameServer) -> None:
    """Its name does not take one thread after the other."""
    known = Names(fresh_s=0)
    result(known.find("a.test"))
    server.fall_silent()
    for _ in range(20):
        known.find("a.test")
    assert result(known.find("a.test")) == [LOOPBACK]
    server.wait_asked()
    server.wait_asked()
    assert server.asked == ["a.test"] * 2


def test_stale_answer_outlives_a_failed_renewal(server: NameServer) -> None:
    """A stale answer is better than none."""
    known = Names(fresh_s=0)
    result(known.find("a.test"))
    server.answers.clear()
    known.find("a.test")
    eventually(lambda: len(server.asked) >= 2)
    assert result(known.find("a.test")) == [LOOPBACK]


def test_failure_is_told_to_all_and_not_kept(server: NameServer) -> None:
    """The next one who asks has it looked up again."""
    known = Names()
    server.fall_silent()
    lookups = [known.find("c.test") for _ in range(3)]
    server.speak()
    for lookup in lookups:
        with pytest.raises(socket.gaierror):
            result(lookup)
    server.answers["c.test"] = ["127.0.0.1"]
    assert result(known.find("c.test")) == [LOOPBACK]
    # A question of an earlier test may come once more, late.
    assert [name for name in server.asked if name == "c.test"] == ["c.test"] * 2


def test_impossible_name_is_an_error_of_its_lookup() -> None:
    """Labels have 63 bytes at most (RFC 1035 section 2.3.4)."""
    with pytest.raises(UnicodeError):
        result(Names().find("a" * 64 + ".test"))


def test_hanging_names_hold_up_no_other_while_there_are_threads(server: NameServer) -> None:
    """With all threads hung, a further name waits; what is known is at hand."""
    known = Names(max_threads=2)
    assert result(known.find("b.test")) == [OTHER]
    server.fall_silent()
    hung = [known.find(f"{number}.test") for number in range(2)]
    waiting = known.find("a.test")
    assert waiting.task is not None
    assert not waiting.task.wait(time.monotonic() + 0.05, CallerConnection(None))
    assert known.find("b.test").result() == [OTHER]
    server.speak()
    assert result(waiting) == [LOOPBACK]
    for lookup in hung:
        with pytest.raises(socket.gaierror):
            result(lookup)


def test_want_of_threads_is_told_unless_an_answer_is_known(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the name can be asked for again."""
    known = Names(fresh_s=0)
    result(known.find("a.test"))

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        patch.setattr(known, "_threads", HelperThreads("names", 1))
        assert result(known.find("a.test")) == [LOOPBACK]
        for _ in range(2):
            with pytest.raises(RuntimeError):
                known.find("b.test")
    assert result(known.find("b.test")) == [OTHER]


def test_what_is_kept_is_bounded(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest name makes room."""
    monkeypatch.setattr(names, "MAX_NAMES", 2)
    known = Names()
    for host in ("a.test", "b.test", "c.test"):
        server.answers[host] = ["127.0.0.1"]
        result(known.find(host))
    assert is_at_hand(known.find("b.test"))
    result(known.find("a.test"))
    assert server.asked == ["a.test", "b.test", "c.test", "a.test"]


def test_forked_child_looks_up_for_itself(server: NameServer) -> None:
    """Its parent's lookups never end there."""
    server.fall_silent()
    names.NAMES.find("a.test")
    server.wait_asked()
    child = os.fork()
    if not child:
        server.speak()
        os._exit(0 if result(names.NAMES.find("a.test")) == [LOOPBACK] else 1)
    assert os.waitpid(child, 0)[1] == 0


HUNG = """
    import socket, sys, threading
    sys.path.insert(0, {root!r})
    from proxy.net.names import MAX_THREADS, NAMES
    socket.getaddrinfo = lambda *args, **options: threading.Event().wait()
    for number in range(MAX_THREADS + 1):
        NAMES.find(f"{{number}}.test")
    assert sum("names" in thread.name for thread in threading.enumerate()) == MAX_THREADS
"""


def test_process_ends_though_all_lookups_hang() -> None:
    """Nothing can end a lookup, so nobody waits for it."""
    code = textwrap.dedent(HUNG).format(root=str(Path(__file__).parents[2]))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_families_take_turns(server: NameServer) -> None:
    """RFC 8305 section 4: the first of each, then the second of each."""
    server.answers["a.test"] = ["::1", "::2", "::3", "127.0.0.1", "127.0.0.2", "127.0.0.1"]
    hosts = [address.sockaddr[0] for address in resolve("a.test")]
    assert hosts == ["::1", "127.0.0.1", "::2", "127.0.0.2", "::3"]


@pytest.mark.parametrize(
    ("host", "sockaddr"),
    [
        ("127.0.0.1", ("127.0.0.1", 80)),
        ("::1", ("::1", 80, 0, 0)),
        ("fe80::1%lo", ("fe80::1", 80, 0, socket.if_nametoindex("lo"))),
    ],
)
def test_literal_is_no_name(host: str, sockaddr: tuple[object, ...]) -> None:
    """It goes to no thread; an address of IPv6 keeps its zone."""
    [address] = literal(host)
    assert address.at(80) in (sockaddr, (host, *sockaddr[1:]))


@pytest.mark.parametrize("host", ["localhost", "a.test", "127.1", ""])
def test_name_is_no_literal(host: str) -> None:
    """It has to be looked up."""
    assert literal(host) == []
