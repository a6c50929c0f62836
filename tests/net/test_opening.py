"""Opening connections without blocking: limits, callers who leave and pauses at each step."""

from __future__ import annotations

import contextlib
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy.errors import CallerGone, UpstreamTimeout, UpstreamUnreachable
from proxy.net import opening
from proxy.net.exchange import SocketReply
from proxy.net.names import Names
from proxy.net.transport import Transport
from proxy.net.watch import CallerConnection, Clock, Poll
from tests.net.test_caller_gone import Leaving
from tests.support.calls import fetch, read_all, send
from tests.support.certificates import Authority
from tests.support.clock import NOTICED_S, SLACK_S
from tests.support.name_server import NameServer
from tests.support.outbound_proxies import HttpProxy, SocksProxy
from tests.support.rude import Dribble, FullBacklog, RudeUpstream
from tests.support.upstream import CUT, Upstream, error, raw

Maker = Callable[..., Transport]
DEAD = [f"127.0.0.{number}" for number in range(1, 9)]
LIMIT_S = 0.5


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    running = NameServer(monkeypatch)
    yield running
    running.speak()


@pytest.fixture
def name() -> str:
    """One that nobody has looked up."""
    return f"{uuid.uuid4().hex}.test"


class Stuck:
    """A way to an upstream that never gets there. `reached` blocks until it is stuck."""

    def __init__(self, name: str, names: NameServer, authority: Authority) -> None:
        self.held = contextlib.ExitStack()
        self.reached: Callable[[], object] = lambda: None
        self.left: Callable[[], object] = lambda: None
        self.url = "https://127.0.0.1:9/v1"
        self.options: dict[str, Any] = {}
        self._name = name
        self._names = names
        self._authority = authority

    def silent_name(self) -> None:
        self._names.fall_silent()
        self.reached = self._names.wait_asked
        self.url = f"http://{self._name}/v1"

    def silent_name_of_proxy(self) -> None:
        self.silent_name()
        self.url = "http://127.0.0.1:9/v1"
        self.options["proxy_url"] = f"http://{self._name}"

    def silent_name_for_socks(self) -> None:
        self.silent_name()
        self.options["proxy_url"] = "socks5://127.0.0.1:9"

    def dead_addresses(self) -> None:
        self._names.answers[self._name] = DEAD
        port = self.held.enter_context(FullBacklog()).port
        self.url = f"http://{self._name}:{port}/v1"

    def silent_tls(self) -> None:
        self.url = f"https://127.0.0.1:{self._dribble()}/v1"

    def dribbled_connect(self) -> None:
        self.options["proxy_url"] = f"http://127.0.0.1:{self._dribble(b'HTTP/1.1 200 OK' * 99)}"

    def silent_tls_of_proxy(self) -> None:
        self.options["proxy_url"] = f"https://127.0.0.1:{self._dribble()}"

    def dribbled_connect_in_tls(self) -> None:
        port = self._dribble(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 999, is_tls=True)
        self.options["proxy_url"] = f"https://127.0.0.1:{port}"

    def silent_tls_in_tls(self) -> None:
        port = self._dribble(b"HTTP/1.1 200 OK\r\n\r\n", is_tls=True, gap_s=0.001)
        self.options["proxy_url"] = f"https://127.0.0.1:{port}"

    def silent_socks(self) -> None:
        self.options["proxy_url"] = f"socks5://127.0.0.1:{self._dribble()}"

    def dribbled_socks(self) -> None:
        port = self._dribble(b"\x05\x00\x05\x00\x00\x03\xff" + b"x" * 255)
        self.options["proxy_url"] = f"socks5h://127.0.0.1:{port}"

    def _dribble(self, words: bytes = b"", *, gap_s: float = 0.05, is_tls: bool = False) -> int:
        tls = self._authority.server() if is_tls else None
        server = self.held.enter_context(Dribble(words, gap_s=gap_s, tls=tls))
        self.reached, self.left = server.wait_reached, server.wait_for_connections
        return server.port


STEPS = [name for name in vars(Stuck) if not name.startswith("_")]


@pytest.fixture(params=STEPS)
def stuck(
    request: pytest.FixtureRequest, name: str, names: NameServer, authority: Authority
) -> Iterator[Stuck]:
    made = Stuck(name, names, authority)
    with made.held:
        getattr(made, request.param)()
        yield made


def test_one_limit_holds_for_all_steps(stuck: Stuck, make_way: Maker) -> None:
    """Whatever comes meanwhile, and however many addresses there are; the connection is let go."""
    way = make_way(stuck.url, connect_timeout_s=LIMIT_S, **stuck.options)
    began = time.monotonic()
    reply = send(way)
    with contextlib.closing(reply), pytest.raises(UpstreamTimeout, match=r"longer than 0\.5 s"):
        reply.head(began + 20)
    assert LIMIT_S - 0.01 < time.monotonic() - began < LIMIT_S * 1.1 + SLACK_S
    stuck.left()


def test_silent_name_server_is_named(make_way: Maker, names: NameServer, name: str) -> None:
    """Where there is no answer, an operator looks for the network first."""
    names.fall_silent()
    with pytest.raises(UpstreamTimeout, match="its name was not resolved"):
        fetch(make_way(f"http://{name}/v1", connect_timeout_s=0.1))


def test_requests_own_limit_holds(stuck: Stuck, make_way: Maker) -> None:
    """What is left of the request's time may be less than connect-timeout."""
    way = make_way(stuck.url, connect_timeout_s=60, **stuck.options)
    began = time.monotonic()
    head = way.head("GET", "/models", {})
    reply = way.send(head, b"", caller=CallerConnection(None), deadline=began + LIMIT_S)
    with contextlib.closing(reply), pytest.raises(UpstreamTimeout):
        reply.head(began + 20)
    assert time.monotonic() - began < LIMIT_S * 1.1 + SLACK_S
    stuck.left()


def test_gone_caller_is_noticed(stuck: Stuck, make_way: Maker) -> None:
    """Within a second, and the connection is let go."""
    ours, peer = socket.socketpair()
    with ours, peer:
        leaving = Leaving(stuck.reached, peer.close)
        reply = send(
            make_way(stuck.url, connect_timeout_s=60, **stuck.options),
            caller=CallerConnection(ours),
        )
        with contextlib.closing(reply), pytest.raises(CallerGone):
            reply.head(time.monotonic() + 20)
        assert time.monotonic() - leaving.left_at < NOTICED_S
        leaving.join()
    stuck.left()


def test_wait_can_be_paused(stuck: Stuck, make_way: Maker) -> None:
    """At its moment it ends, and can be taken up again; one in the past only looks."""
    with contextlib.closing(send(make_way(stuck.url, **stuck.options))) as reply:
        for until in (0.0, time.monotonic() + 0.1, time.monotonic() + 0.2, 0.0):
            assert not reply.head(until)
            assert time.monotonic() - until < 3 or not until
    stuck.left()


def looked_at(reply: SocketReply) -> int:
    """The status, without ever waiting for it."""
    until = time.monotonic() + 20
    while not reply.head(0.0):
        assert time.monotonic() < until
    return reply.status


@pytest.mark.parametrize("kind", ["", "http", "https", "socks5", "socks5h"])
def test_every_step_can_be_taken_up_again(
    upstream: Upstream, authority: Authority, make_way: Maker, kind: str
) -> None:
    """A request whose every wait is cut short gets its answer all the same."""
    with contextlib.ExitStack() as held:
        options = {}
        if kind:
            tls = authority.server() if kind == "https" else None
            made = HttpProxy(tls=tls) if kind.startswith("http") else SocksProxy()
            proxy = held.enter_context(made)
            options["proxy_url"] = f"{kind}://127.0.0.1:{proxy.port}"
        way = make_way(upstream.url, **options)
        reply = send(way, b'{"model":"m"}')
        assert looked_at(reply) == 200
        assert read_all(reply)
        reply.close()
        way.close()


def test_limit_holds_while_other_names_take_all_threads(
    make_way: Maker, names: NameServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name whose lookup cannot even begin."""
    monkeypatch.setattr(opening, "NAMES", Names(max_threads=1))
    names.fall_silent()
    hung = send(make_way(f"http://other-{name}/v1"))
    with contextlib.closing(hung):
        assert not hung.head(0.0)
        with pytest.raises(UpstreamTimeout, match="not resolved"):
            fetch(make_way(f"http://{name}/v1", connect_timeout_s=0.1))


def test_answer_that_hangs_on_its_renewal_is_used(
    plain: Upstream, make_way: Maker, names: NameServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However old it is, after a moment."""
    monkeypatch.setattr(opening, "NAMES", Names(fresh_s=0, at_once_s=0))
    monkeypatch.setattr("proxy.net.names.RENEWAL_S", 0.05)
    names.answers[name] = ["127.0.0.1"]
    url = plain.url.replace("127.0.0.1", name)
    for _ in range(2):
        way = make_way(url)
        assert fetch(way, b'{"model":"m"}')[0] == 200
        names.fall_silent()


# Addresses


def test_dead_address_holds_up_the_next_by_a_head_start(
    plain: Upstream, make_way: Maker, names: NameServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 8305 section 5: the next address is tried beside it."""
    monkeypatch.setattr(opening, "HEAD_START_S", 0.05)
    names.answers[name] = ["127.0.0.2", "127.0.0.3", "127.0.0.1"]
    way = make_way(plain.url.replace("127.0.0.1", name), connect_timeout_s=60)
    with FullBacklog("127.0.0.2", plain.port), FullBacklog("127.0.0.3", plain.port):
        began = time.monotonic()
        assert fetch(way, b'{"model":"m"}')[0] == 200
        assert 0.1 <= time.monotonic() - began < 10


def test_refused_address_gives_way_at_once(
    plain: Upstream, make_way: Maker, names: NameServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head start is for those that may still answer."""
    monkeypatch.setattr(opening, "HEAD_START_S", 60)
    names.answers[name] = ["127.0.0.2", "::1", "127.0.0.1"]
    way = make_way(plain.url.replace("127.0.0.1", name), connect_timeout_s=30)
    assert fetch(way, b'{"model":"m"}')[0] == 200


class CountingClock(Clock):
    """Counts the waits."""

    waits = 0

    def poll(self, poller: Poll, until: float) -> list[tuple[int, int]]:
        self.waits += 1
        return super().poll(poller, until)


def test_refused_address_is_looked_at_no_more(
    make_way: Maker, names: NameServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another may still answer, nobody asks what became of it in a circle."""
    monkeypatch.setattr(opening, "HEAD_START_S", 0.01)
    clock = CountingClock()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # and does not listen
        port = sock.getsockname()[1]
        names.answers[name] = ["127.0.0.2", "127.0.0.1"]
        with FullBacklog("127.0.0.2", port):
            reply = send(make_way(f"http://{name}:{port}/v1", clock=clock))
            with contextlib.closing(reply):
                assert not reply.head(time.monotonic() + 0.2)
    assert clock.waits < 20


def test_proxy_that_closes_says_so(make_way: Maker) -> None:
    """Instead of an answer to what it was asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        reply = send(make_way("https://upstream.test/v1", proxy_url=url))
        with contextlib.closing(reply):
            assert not reply.open(0.0)
            peer = listener.accept()[0]
            assert not reply.open(time.monotonic() + 0.05)
            assert peer.recv(1000).startswith(b"CONNECT upstream.test:443 ")
            peer.close()
            with pytest.raises(UpstreamUnreachable, match="the proxy closed the connection"):
                reply.open(time.monotonic() + 10)


def test_all_addresses_refused_is_unreachable(
    make_way: Maker, names: NameServer, name: str
) -> None:
    """In the words of the last one."""
    names.answers[name] = DEAD
    with socket.socket() as sock:
        sock.bind(("", 0))  # and does not listen
        way = make_way(f"http://{name}:{sock.getsockname()[1]}/v1")
        with pytest.raises(UpstreamUnreachable, match="refused"):
            fetch(way)


def test_unknown_name_is_unreachable(make_way: Maker, names: NameServer, name: str) -> None:
    """An upstream's, and for SOCKS, which has names resolved here, too."""
    for options in ({}, {"proxy_url": "socks5://127.0.0.1:9"}):
        way = make_way(f"http://{name}/v1", **options)
        with pytest.raises(UpstreamUnreachable, match="its name cannot be resolved"):
            fetch(way)


def test_losing_addresses_are_let_go(
    make_way: Maker, monkeypatch: pytest.MonkeyPatch, names: NameServer, name: str
) -> None:
    """Only one connection stays."""
    monkeypatch.setattr(opening, "HEAD_START_S", 0.0)
    names.answers[name] = DEAD
    with socket.create_server(("", 0), backlog=16) as listener:
        reply = send(make_way(f"http://{name}:{listener.getsockname()[1]}/v1"))
        with contextlib.closing(reply):
            assert not reply.head(time.monotonic() + 0.2)
            listener.settimeout(5)
            peers = [listener.accept()[0] for _ in DEAD]
            heard = []
            for peer in peers:
                with peer, contextlib.suppress(ConnectionError):
                    heard.append(peer.recv(4))
            assert [said for said in heard if said] == [b"POST"]


# Certificates


@pytest.mark.parametrize("is_inner_wrong", [False, True])
def test_both_certificates_of_tls_in_tls_are_checked(
    authority: Authority, make_way: Maker, is_inner_wrong: bool
) -> None:
    """The proxy's for the proxy's name, the upstream's for the upstream's."""
    wrong, right = authority.server("elsewhere.example"), authority.server()
    with (
        Upstream(tls=wrong if is_inner_wrong else right) as upstream,
        HttpProxy(tls=right if is_inner_wrong else wrong) as proxy,
    ):
        with pytest.raises(UpstreamUnreachable, match="TLS failed: IP address mismatch"):
            fetch(make_way(upstream.url, proxy_url=proxy.url))
        assert bool(proxy.asked) is is_inner_wrong
        assert not upstream.received()


def test_root_of_a_name_is_not_in_its_certificate(
    authority: Authority, make_way: Maker, names: NameServer, name: str
) -> None:
    """A trailing dot is for the resolver only."""
    names.answers[f"{name}."] = ["127.0.0.1"]
    with Upstream(tls=authority.server(name)) as upstream:
        way = make_way(upstream.url.replace("127.0.0.1", f"{name}."))
        assert fetch(way, b'{"model":"m"}')[0] == 200
    assert names.asked == [f"{name}."]


def test_address_of_ipv6_is_in_its_certificate(authority: Authority, make_way: Maker) -> None:
    """Without the brackets that it has in a URL."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        reply = send(make_way(f"https://[::1]:{listener.getsockname()[1]}/v1"))
        with contextlib.closing(reply):
            assert not reply.open(0.0)
            sock = authority.server().wrap_socket(
                listener.accept()[0], server_side=True, do_handshake_on_connect=False
            )
            with sock:
                handshake = Leaving(sock.do_handshake, lambda: None)
                assert reply.open(time.monotonic() + 10)
                handshake.join()


# TLS in TLS


def test_tls_in_tls_is_kept(secure: Upstream, authority: Authority, make_way: Maker) -> None:
    """Session tickets, inner and outer, are no answer and no end."""
    with HttpProxy(tls=authority.server()) as proxy:
        way = make_way(secure.url, proxy_url=proxy.url)
        for _ in range(3):
            assert fetch(way, b'{"model":"m"}')[0] == 200
        way.close()
    assert secure.connections == 1


def test_early_answer_comes_through_tls_in_tls(authority: Authority, make_way: Maker) -> None:
    """An upstream that answers before it has read the request, and reads no more."""
    answer = error(413)
    with (
        HttpProxy(tls=authority.server()) as proxy,
        RudeUpstream(answer.wire_bytes(), stays=True, tls=authority.server()) as rude,
    ):
        way = make_way(rude.url, proxy_url=proxy.url)
        assert fetch(way, b"x" * (32 << 20))[0] == 413
        way.close()


def test_gone_caller_is_noticed_while_its_request_goes_out_in_tls_in_tls(
    authority: Authority, make_way: Maker
) -> None:
    """No write waits for a proxy that takes nothing."""
    ours, peer = socket.socketpair()
    with (
        ours,
        peer,
        HttpProxy(tls=authority.server()) as proxy,
        RudeUpstream(b"", stays=True, tls=authority.server()) as rude,
    ):
        leaving = Leaving(rude.busy.wait, peer.close)
        way = make_way(rude.url, proxy_url=proxy.url)
        reply = send(way, b"x" * (32 << 20), caller=CallerConnection(ours))
        with contextlib.closing(reply), pytest.raises(CallerGone):
            reply.head(time.monotonic() + 20)
        assert time.monotonic() - leaving.left_at < NOTICED_S
        leaving.join()


def test_end_of_tls_in_tls_is_the_end_of_an_answer(
    secure: Upstream, authority: Authority, make_way: Maker
) -> None:
    """A body without a length ends with its connection."""
    secure.reply("k", raw(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000, CUT))
    with HttpProxy(tls=authority.server()) as proxy:
        way = make_way(secure.url, proxy_url=proxy.url)
        assert fetch(way) == (200, b"x" * 100_000)
        way.close()
