"""Exit test 2: a caller who leaves is noticed within 1 s, whatever its request is waiting for.

Each case: a request gets to a known place, its caller leaves, and then the upstream's connection
must end, the record must say `caller_gone`, and the one permit of the client must be free.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.support.callers import LEAVE, chat_request, fin, half_close
from tests.support.certificates import Authority
from tests.support.clock import NOTICED_S
from tests.support.gateway import PATIENCE_S, Gateway, Lot, Lots, Reached
from tests.support.upstream import Pause, Reply, Step, Upstream, chunk, endless, error, events, raw

CASES_PER_UPSTREAM = 90

# Planted into the gateway: a back-off, which may be 0 by chance, outlasts each test.
LONG_BACK_OFF = "import random\nrandom.uniform = lambda least, most: 60.0\n"


class Upstreams(NamedTuple):
    """A gateway before a plain upstream and one that speaks TLS 1.3."""

    gateway: Gateway
    upstream: dict[str, Upstream]
    lots: dict[str, Lots]


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstreams]:
    authority = Authority()
    bundle = authority.write(tmp_path_factory.mktemp("ca") / "ca.pem")
    with Upstream() as plain, Upstream(tls=authority.server()) as tls:
        trusting = {"ca-bundle": str(bundle)}
        lots = {
            "plain": Lots(plain.url, {1: CASES_PER_UPSTREAM}),
            "tls": Lots(tls.url, {1: CASES_PER_UPSTREAM}, options=trusting),
        }
        config = {
            "max-retry-interval": 60,
            "openai-compatibility": [*lots["plain"].providers, *lots["tls"].providers],
        }
        place = tmp_path_factory.mktemp("planted")
        (place / "sitecustomize.py").write_text(LONG_BACK_OFF)
        with Gateway(config, env={"PYTHONPATH": str(place)}) as gateway:
            yield Upstreams(gateway, {"plain": plain, "tls": tls}, lots)


@pytest.fixture(params=["plain", "tls"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gateway(upstreams: Upstreams) -> Gateway:
    return upstreams.gateway


@pytest.fixture
def upstream(upstreams: Upstreams, kind: str) -> Upstream:
    return upstreams.upstream[kind]


@pytest.fixture
def lot(upstreams: Upstreams, kind: str) -> Lot:
    return upstreams.lots[kind].take()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_HEAD = HEAD % b"text/event-stream"
JSON_HEAD = HEAD % b"application/json"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
PART = b'd\r\n{"choices":[{\r\n'

# By what the upstream has sent when the caller leaves; unary and streamed.
STATES: dict[str, tuple[list[Step], list[Step]]] = {
    "before-status-line": ([], []),
    "inside-status-line": ([b"HTTP/1.1 2"], [b"HTTP/1.1 2"]),
    "inside-headers": ([JSON_HEAD[:-9]], [STREAM_HEAD[:-9]]),
    "before-body": ([JSON_HEAD], [STREAM_HEAD]),
    "inside-chunk-size": ([JSON_HEAD, b"1"], [STREAM_HEAD, b"1"]),
    "inside-chunk": ([JSON_HEAD, PART[:-5]], [STREAM_HEAD, CHUNK[:-20]]),
    "inside-chunk-end": ([JSON_HEAD, PART[:-1]], [STREAM_HEAD, CHUNK[:-1]]),
    "between-chunks": ([JSON_HEAD, PART], [STREAM_HEAD, CHUNK]),
    "in-comments": ([JSON_HEAD, b"1\r\n \r\n"], [STREAM_HEAD, b"3\r\n:\n\n\r\n"]),
    "inside-error": (
        [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 10\r\n\r\n12345"],
        [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 10\r\n\r\n12345"],
    ),
}


def ask(gateway: Gateway, lot: Lot, *, stream: bool, request_id: str) -> socket.socket:
    """A request by hand, on a connection of its own."""
    sock = gateway.connect()
    sock.sendall(chat_request(lot.model, request_id, stream=stream))
    return sock


def check_free(gateway: Gateway, lot: Lot) -> None:
    """The client's one permit is there at once."""
    answer = gateway.chat(lot.model)
    assert answer.status == 200
    record = gateway.record_of(answer.headers["x-request-id"])
    assert int(record["waited_ms"]) < NOTICED_S * 1000


def check_noticed(
    gateway: Gateway, upstream: Upstream, lot: Lot, leave: Callable[[], None]
) -> None:
    """Its request is ended at once when the caller leaves, and the client is free."""
    left_at = time.monotonic()
    leave()
    (received,) = upstream.received(lot.key)
    received.wait_ended()
    assert received.aborted
    assert received.ended is not None
    assert received.ended - left_at < NOTICED_S
    assert gateway.record_of(lot.model)["end"] == "caller_gone"
    check_free(gateway, lot)


@pytest.mark.long
@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("state", STATES)
def test_caller_leaves_a_silent_upstream(
    gateway: Gateway, upstream: Upstream, lot: Lot, state: str, stream: bool, leave: str
) -> None:
    """Between any two bytes of an answer that does not go on."""
    reached = Reached()
    upstream.reply(lot.key, raw(*STATES[state][stream], reached.hold()))
    sock = ask(gateway, lot, stream=stream, request_id=lot.model)
    with sock:
        reached.wait_reached()
        check_noticed(gateway, upstream, lot, lambda: LEAVE[leave](sock))


@pytest.mark.parametrize("leave", LEAVE)
def test_caller_leaves_in_mid_stream(
    gateway: Gateway, upstream: Upstream, lot: Lot, leave: str
) -> None:
    """While event after event goes by."""
    upstream.reply(lot.key, endless())
    with ask(gateway, lot, stream=True, request_id=lot.model) as sock:
        got = b""
        while got.count(b"data: ") < 3:
            got += sock.recv(65536)
        check_noticed(gateway, upstream, lot, lambda: LEAVE[leave](sock))


@pytest.mark.parametrize("kind", ["plain"], indirect=True)
def test_caller_half_closes_in_a_flood(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """An upstream that never pauses gives no occasion to wait: the caller is looked for all the
    same, and what it reads does not end as if whole.
    """
    many: list[Step] = [CHUNK * 500] * 20_000
    upstream.reply(lot.key, raw(STREAM_HEAD, *many))
    with ask(gateway, lot, stream=True, request_id=lot.model) as sock:
        assert sock.recv(12) == b"HTTP/1.1 200"
        left_at = time.monotonic()
        half_close(sock)
        end = b""
        try:
            while data := sock.recv(1 << 20):
                end = (end + data)[-16:]
        except ConnectionResetError:
            pass
        assert time.monotonic() - left_at < NOTICED_S
        assert not end.endswith(b"0\r\n\r\n")
        assert gateway.record_of(lot.model)["end"] == "caller_gone"
        check_free(gateway, lot)


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("kind", ["plain"], indirect=True)
def test_caller_leaves_the_queue(
    gateway: Gateway, upstream: Upstream, lot: Lot, stream: bool, leave: str
) -> None:
    """It waits behind another request; that one is not disturbed, and the next does not wait for
    who is gone.
    """
    reached = Reached()
    upstream.reply(lot.key, raw(reached.hold()))
    with ask(gateway, lot, stream=False, request_id=f"{lot.model}-holder") as holder:
        reached.wait_reached()
        with ask(gateway, lot, stream=stream, request_id=lot.model) as sock:
            # Its place in the queue cannot be seen from here: an answer to a later request, on
            # another model, can, and whoever leaves early is just as gone.
            assert gateway.call("GET", "/healthz").status == 200
            left_at = time.monotonic()
            LEAVE[leave](sock)
            record = gateway.record_of(lot.model)
            assert time.monotonic() - left_at < NOTICED_S
            assert (record["end"], record["attempts"]) == ("caller_gone", "0")
        assert [one.aborted for one in upstream.received(lot.key)] == [False]
        fin(holder)
        upstream.received(lot.key)[0].wait_ended()
        check_free(gateway, lot)
    assert len(upstream.received(lot.key)) == 2


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(error(500), id="back-off"),
        pytest.param(error(429, headers={"Retry-After": "60"}), id="cooldown"),
    ],
)
@pytest.mark.parametrize("kind", ["plain"], indirect=True)
def test_caller_leaves_between_attempts(
    gateway: Gateway, upstream: Upstream, lot: Lot, stream: bool, leave: str, failure: Reply
) -> None:
    """In back-off or while its only client cools down: no further attempt is made."""
    upstream.always(lot.key, failure)
    with ask(gateway, lot, stream=stream, request_id=lot.model) as sock:
        upstream.wait_for(1, lot.key, timeout_s=PATIENCE_S)[0].wait_ended(PATIENCE_S)
        left_at = time.monotonic()
        LEAVE[leave](sock)
        record = gateway.record_of(lot.model)
        assert time.monotonic() - left_at < NOTICED_S
        assert record["end"] == "caller_gone"
    assert record["attempts"] == "1"
    assert len(upstream.received(lot.key)) == 1


@pytest.mark.long
def test_requests_of_who_stays_go_on(gateway: Gateway, upstream: Upstream, lot: Lot) -> None:
    """The other way round: a patient caller gets its whole answer after much silence."""
    upstream.reply(lot.key, events(chunk({"content": "a"}, finish="stop"), Pause(0.5), "[DONE]"))
    answer = gateway.chat(lot.model, stream=True)
    assert answer.text == "a"
    assert answer.data[-1] == b"[DONE]"
