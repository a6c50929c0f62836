"""Exchanges on real sockets, plain and TLS 1.3: reuse, pauses, early and broken answers."""

from __future__ import annotations

import contextlib
import gzip
import ssl
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from proxy.errors import UpstreamError, UpstreamInvalid, UpstreamReset, UpstreamTruncated
from proxy.net.transport import Transport
from proxy.net.watch import CallerConnection
from tests.support import calls
from tests.support.calls import fetch, read_all, send
from tests.support.certificates import Authority
from tests.support.rude import RudeUpstream
from tests.support.upstream import (
    CUT,
    RESET,
    Ending,
    Gate,
    Hold,
    Pause,
    Received,
    Reply,
    Step,
    Upstream,
    chat,
    error,
    garbage,
    raw,
    stream,
)

LARGE = b"x" * (32 << 20)


def test_answers_of_all_kinds_leave_the_connection_usable(
    upstream: Upstream, way: Transport
) -> None:
    """Unary, streamed with [DONE], errors: one connection for all of them."""
    answers = [
        chat("a"),
        stream("a", "b"),
        error(429),
        error(400),
        stream("a", framing="length"),
        raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
        raw(b"HTTP/1.1 100 Continue\r\n\r\n", chat("b").wire_bytes()),
        chat("c").compressed(),
    ]
    upstream.reply("k", *answers)
    for answer in answers[:-3]:
        assert fetch(way) == (answer.status, answer.content())
    assert fetch(way) == (204, b"")
    assert fetch(way) == (200, chat("b").content())
    assert fetch(way) == (200, chat("c").content())
    assert upstream.connections == 1


def test_what_comes_behind_an_answer_is_nobodys_answer(upstream: Upstream, way: Transport) -> None:
    """However late it comes: bytes of one caller's answer never become another's."""
    gate = Gate()
    late = chat("not for you").wire_bytes()
    upstream.reply("k", raw(chat("a").wire_bytes(), Hold(gate), late), chat("b"))
    assert fetch(way) == (200, chat("a").content())
    gate.set()
    time.sleep(0.05)  # on loopback it is here by then, or this test shows nothing
    assert fetch(way) == (200, chat("b").content())
    assert upstream.connections == 2


@pytest.mark.long
def test_three_thousand_requests_use_one_connection(plain: Upstream) -> None:
    """Nothing of an exchange stays behind."""
    plain.always("k", stream("a"))
    with contextlib.closing(calls.transport(plain.url)) as way:
        for _ in range(3000):
            reply = send(way)
            data = b""
            until = time.monotonic() + calls.WAIT_S
            assert reply.head(until)
            while b"[DONE]" not in data:
                data += reply.read(until) or b""
            reply.close(linger_s=5.0)
    assert plain.connections == 1


def test_lingering_ends_with_the_answer(upstream: Upstream, way: Transport) -> None:
    """After [DONE] the end of the body makes the connection reusable."""
    gate = Gate()
    upstream.reply("k", stream("a").then(Hold(gate)), chat("b"))
    reply = send(way)
    data = b""
    while b"[DONE]" not in data:
        assert reply.head(time.monotonic() + 9)
        data += reply.read(time.monotonic() + 9) or b""
    timer = threading.Timer(0.02, gate.set)
    timer.start()
    reply.close(linger_s=10.0)
    timer.join()
    fetch(way)
    assert upstream.connections == 1


@pytest.mark.parametrize("linger_s", [0.0, 0.05])
def test_unfinished_answer_closes_the_connection(
    upstream: Upstream, way: Transport, linger_s: float
) -> None:
    """What is still to come must not be taken for the next answer; close is idempotent."""
    upstream.reply("k", stream("a").then(Hold(Gate())), chat("b"))
    reply = send(way)
    assert reply.head(time.monotonic() + 9)
    began = time.monotonic()
    reply.close(linger_s=linger_s)
    reply.close()
    assert time.monotonic() - began < 2
    assert upstream.wait_for()[0].wait_ended().aborted
    assert fetch(way) == (200, chat("b").content())
    assert upstream.connections == 2


def test_closed_connection_does_not_hide_an_idle_one(upstream: Upstream, way: Transport) -> None:
    """What was given up is forgotten, and the next request finds what is kept."""
    upstream.reply("k", chat("a"), stream("a").then(Hold(Gate())), chat("b"))
    kept, given_up = send(way), send(way)
    assert read_all(kept)
    assert given_up.head(time.monotonic() + 9)
    kept.close()
    given_up.close()
    assert fetch(way) == (200, chat("b").content())
    assert upstream.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n"),
        raw(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nx"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nx"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", CUT),
        raw(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", CUT),
        raw(b"HTTP/1.1 200 OK\r\n\r\nok", CUT),
    ],
)
@pytest.mark.parametrize("is_read", [True, False])
def test_connection_out_of_step_is_not_used_again(
    upstream: Upstream, way: Transport, answer: Reply, is_read: bool
) -> None:
    """Bytes behind an answer, read or not, and connections that were to be closed."""
    upstream.reply("k", answer, chat("b"))
    reply = send(way)
    assert reply.head(time.monotonic() + 9)
    if is_read:
        assert read_all(reply) in (b"ok", b"")
    reply.close()
    assert fetch(way) == (200, chat("b").content())
    assert upstream.connections == 2


@pytest.mark.parametrize("how", [CUT, RESET])
def test_stale_connection_is_replaced_once(upstream: Upstream, way: Transport, how: Ending) -> None:
    """A reused one that ends before any byte of the answer: once more on a fresh one."""
    upstream.reply("k", chat("a"), raw(how), chat("b"))
    assert fetch(way) == (200, chat("a").content())
    assert fetch(way) == (200, chat("b").content())
    assert (upstream.connections, len(upstream.received("k"))) == (2, 3)


@pytest.mark.parametrize("how", [CUT, RESET])
def test_connection_closed_while_idle_is_replaced(
    upstream: Upstream, way: Transport, how: Ending
) -> None:
    """The upstream hung up between two requests."""
    answer = chat("a")
    upstream.reply("k", raw(answer.wire_bytes(), how), chat("b"))
    fetch(way)
    upstream.wait_for_connections()
    assert fetch(way) == (200, chat("b").content())


@pytest.mark.parametrize("how", [CUT, RESET])
def test_fresh_connection_is_not_replaced(upstream: Upstream, way: Transport, how: Ending) -> None:
    """The upstream may have worked on it: dispatch counts it."""
    upstream.reply("k", raw(how))
    with pytest.raises(UpstreamReset) as caught:
        fetch(way)
    assert len(upstream.received("k")) == 1
    message = f"{way.host} closed the connection without a whole answer"
    assert caught.value.message.partition(" (")[0] == message
    assert caught.value.code == "upstream_reset"


def test_broken_connection_is_told_with_its_reason(plain: Upstream) -> None:
    """Before an answer and in the middle of one; what had come is there."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
    plain.reply("k", raw(RESET), raw(head, Pause(0.05), RESET))
    with contextlib.closing(calls.transport(plain.url)) as way:
        with pytest.raises(UpstreamReset, match=r"whole answer \(Connection reset by peer\)$"):
            fetch(way)
        reply = send(way)
        assert reply.head(time.monotonic() + 9)
        assert reply.read(time.monotonic() + 9) == b"abc"
        with pytest.raises(UpstreamReset, match=r"mid-answer \(Connection reset by peer\)$"):
            reply.read(time.monotonic() + 9)
        assert not reply.is_whole
        reply.close()


@pytest.mark.parametrize("how", [CUT, RESET])
def test_replacement_is_not_replaced(upstream: Upstream, way: Transport, how: Ending) -> None:
    """Once, not for ever."""
    upstream.reply("k", chat("a"), raw(how), raw(how), chat("b"))
    fetch(way)
    with pytest.raises(UpstreamReset):
        fetch(way)
    assert len(upstream.received("k")) == 3


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize("how", [CUT, RESET])
def test_begun_answer_is_not_asked_for_again(
    upstream: Upstream, way: Transport, how: Ending, begun: bytes
) -> None:
    """Any byte shows that the upstream took the request."""
    upstream.reply("k", chat("a"), raw(begun, Pause(0.05), how), chat("b"))
    fetch(way)
    with pytest.raises(UpstreamReset):
        fetch(way)
    assert len(upstream.received("k")) == 2


@pytest.mark.parametrize(
    "answer",
    [chat("Zoë"), stream("a", "é"), stream("a", "b").compressed(), error(500)],
    ids=["chat", "stream", "gzip", "error"],
)
def test_wait_can_be_taken_up_again_at_any_byte(
    upstream: Upstream, way: Transport, answer: Reply
) -> None:
    """Status line, headers, chunk sizes in pieces: a pause between any two bytes loses nothing."""
    gates: list[Gate] = []
    plain_answer = fetch_once(upstream, way, answer)
    steps: list[Step] = []
    wire = answer.wire_bytes()
    for at in range(len(wire)):
        if at % 7 == 3:
            gates.append(Gate())
            steps.append(Hold(gates[-1]))
        steps.append(wire[at : at + 1])
    upstream.reply("k", raw(*steps))
    reply = send(way)
    waiting = iter(gates)
    got = b""

    def go_on() -> None:
        if gate := next(waiting, None):
            gate.set()

    while not reply.head(time.monotonic() + 0.002):
        assert not reply.head(0.0) or reply.status
        go_on()
    while (data := reply.read(time.monotonic() + 0.002)) != b"":
        got += data or b""
        if data is None:
            go_on()
    reply.close()
    assert (reply.status, got) == plain_answer
    assert upstream.connections == 1


def fetch_once(upstream: Upstream, way: Transport, answer: Reply) -> tuple[int, bytes]:
    upstream.reply("k", answer)
    return fetch(way)


@pytest.mark.parametrize("how", [CUT, RESET])
@pytest.mark.parametrize("answer", [chat("a"), stream("a")], ids=["chat", "stream"])
def test_answer_cut_at_any_border_is_never_whole(
    upstream: Upstream, way: Transport, answer: Reply, how: Ending
) -> None:
    """Cut before its end an answer raises, wherever."""
    for at in answer.borders():
        if at < len(answer.wire_bytes()):
            upstream.reply("k", answer.cut_at(at, how))
            with pytest.raises((UpstreamReset, UpstreamTruncated)):
                fetch(way)


def test_content_before_broken_framing_is_given(upstream: Upstream, way: Transport) -> None:
    """The fault comes after what was whole, though both came in one read."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream.reply("k", raw(head + b"2\r\nok\r\nxyz\r\n"))
    reply = send(way)
    assert reply.head(time.monotonic() + 9)
    assert reply.read(time.monotonic() + 9) == b"ok"
    with pytest.raises(UpstreamInvalid):
        reply.read(time.monotonic() + 9)
    reply.close()


def test_garbage_is_no_answer(upstream: Upstream, way: Transport) -> None:
    """Also on a connection that served before: bytes came, so it is not stale."""
    upstream.reply("k", garbage(), chat("a"), garbage())
    with pytest.raises(UpstreamInvalid):
        fetch(way)
    fetch(way)
    with pytest.raises(UpstreamInvalid):
        fetch(way)
    assert len(upstream.received("k")) == 3


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw-deflate"])
@pytest.mark.parametrize("answer", [stream("a", "b"), error(404)], ids=["stream", "error"])
def test_compression_is_undone(
    upstream: Upstream, way: Transport, answer: Reply, coding: str
) -> None:
    """Although we ask for identity; event by event."""
    upstream.reply("k", answer.compressed(coding))  # type: ignore[arg-type]
    assert fetch(way) == (answer.status, answer.content())
    assert upstream.received("k")[0].header["accept-encoding"] == "identity"


def test_unknown_compression_is_refused(upstream: Upstream, way: Transport) -> None:
    """Of an error's answer the body does not matter that much: it comes as it is."""
    upstream.reply("k", chat("a").with_headers({"Content-Encoding": "br"}))
    with pytest.raises(UpstreamInvalid, match="br"):
        fetch(way)
    upstream.reply("k", error(500).with_headers({"Content-Encoding": "br"}))
    assert fetch(way)[0] == 500


def test_error_that_is_not_compressed_as_it_says_comes_as_it_is(
    upstream: Upstream, way: Transport
) -> None:
    """Its status counts."""
    answer = error(503)
    upstream.reply("k", answer.with_headers({"Content-Encoding": "gzip"}))
    assert fetch(way) == (503, answer.content())


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw-deflate"])
@pytest.mark.parametrize("answer", [chat("a"), stream("a", "b"), error(404)])
def test_rubbish_behind_compressed_data_costs_the_connection_only(
    upstream: Upstream, way: Transport, answer: Reply, coding: str
) -> None:
    """The answer is whole; what else this upstream may say is not to be trusted."""
    compressed = answer.compressed(coding)  # type: ignore[arg-type]
    padded = replace(compressed, body=[*compressed.body, b"\0" * 512])
    upstream.reply("k", padded, chat("b"))
    assert fetch(way) == (answer.status, answer.content())
    assert fetch(way) == (200, chat("b").content())
    assert upstream.connections == 2


def test_compressed_data_is_given_piece_by_piece(upstream: Upstream, way: Transport) -> None:
    """What is left in hand comes without a wait, and before the end, a fault or another read."""
    text = bytes(range(256)) * 4096
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    packed = gzip.compress(text)
    body = b"%x\r\n%b\r\n" % (len(packed), packed)
    gate = Gate()
    upstream.reply("k", raw(head + body, Hold(gate), b"0\r\n\r\n"))
    upstream.reply("k", raw(head + body + b"broken\r\n"))
    reply = send(way)
    assert reply.head(time.monotonic() + 9)
    pieces = [reply.read(time.monotonic() + 9)]
    while piece := reply.read(0.0):
        pieces.append(piece)
    assert piece is None
    assert b"".join(filter(None, pieces)) == text
    assert max(map(len, filter(None, pieces))) <= 64 * 1024
    gate.set()
    assert reply.read(time.monotonic() + 9) == b""
    reply.close()
    reply = send(way)
    assert reply.head(time.monotonic() + 9)
    got = b""
    while len(got) < len(text):
        got += reply.read(time.monotonic() + 9) or b""
    assert got == text
    with pytest.raises(UpstreamInvalid, match="chunk framing"):
        reply.read(time.monotonic() + 9)
    reply.close()
    assert upstream.connections == 1


def test_what_was_compressed_comes_before_its_cut(plain: Upstream) -> None:
    """Some end their streams without the trailer of gzip: their last events count."""
    packer = zlib.compressobj(wbits=31)
    body = packer.compress(b"data: [DONE]") + packer.flush(zlib.Z_SYNC_FLUSH)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    plain.reply("k", raw(head + body))
    with contextlib.closing(calls.transport(plain.url)) as way:
        reply = send(way)
        assert reply.head(time.monotonic() + 9)
        assert reply.read(time.monotonic() + 9) == b"data: [DONE]"
        for _ in range(2):
            with pytest.raises(UpstreamTruncated):
                reply.read(time.monotonic() + 9)
        reply.close()


def test_compressed_nothing_does_not_hold_the_reader(plain: Upstream) -> None:
    """Members without content come without end: the moment to look up is kept all the same."""
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
    plain.reply("k", raw(head, *[gzip.compress(b"") * 3000] * 300))
    with contextlib.closing(calls.transport(plain.url)) as way:
        reply = send(way)
        assert reply.head(time.monotonic() + 9)
        assert reply.read(0.0) is None
        assert reply.read(time.monotonic() + 0.05) is None
        reply.close()


def test_large_request_goes_out_whole(upstream: Upstream, way: Transport) -> None:
    """32 MiB, over a connection that then serves on."""
    upstream.reply("k", chat("a"), chat("b"))
    assert fetch(way, LARGE)[0] == 200
    assert fetch(way)[0] == 200
    assert upstream.received("k")[0].body == LARGE
    assert upstream.connections == 1


@pytest.mark.parametrize("ending", ["close", "stay"])
@pytest.mark.parametrize("is_tls", [False, True])
def test_early_answer_is_read_while_the_request_goes_out(
    authority: Authority, make_way: Callable[..., Transport], is_tls: bool, ending: str
) -> None:
    """413 before the body was read: status and body arrive, the connection is not kept."""
    if is_tls and ending == "close" and ssl.OPENSSL_VERSION_INFO >= (4,):
        pytest.skip("OpenSSL 4 reads nothing more behind a reset that met its write")
    answer = error(413)
    with RudeUpstream(
        answer.wire_bytes(), stays=ending == "stay", tls=authority.server() if is_tls else None
    ) as rude:
        way = make_way(rude.url)
        assert fetch(way, LARGE) == (413, answer.content())
        assert fetch(way, LARGE) == (413, answer.content())
        assert rude.connections == 2


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("begun", [b"", b"a"], ids=["head", "head-and-chunk"])
def test_request_goes_on_behind_an_early_head(
    authority: Authority, make_way: Callable[..., Transport], is_tls: bool, begun: bytes
) -> None:
    """A server may promise success before it has read what it is asked."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(begun) + 3)
    with RudeUpstream(
        head + begun, rest=b"end", tls=authority.server() if is_tls else None
    ) as rude:
        way = make_way(rude.url)
        assert fetch(way, LARGE) == (200, begun + b"end")
        assert fetch(way) == (200, begun + b"end")
        assert rude.connections == 1


def test_wait_in_the_past_only_looks(upstream: Upstream, way: Transport) -> None:
    """`until` may be over already."""
    gate = Gate()
    upstream.reply("k", chat("a").after(Hold(gate)))
    reply = send(way)
    assert reply.head(0.0) is False
    assert reply.status == 0
    gate.set()
    assert reply.head(time.monotonic() + 9)
    assert read_all(reply) == chat("a").content()
    assert reply.read(0.0) == b""
    reply.close()


def test_silence_is_waited_out_no_longer_than_told(upstream: Upstream, way: Transport) -> None:
    """Then it can be waited for again."""
    upstream.reply("k", raw(Hold(Gate())))
    reply = send(way)
    began = time.monotonic()
    assert not reply.head(began + 0.05)
    assert 0.04 < time.monotonic() - began < 2
    reply.close()


def test_request_line_and_headers_are_right(upstream: Upstream, way: Transport) -> None:
    """Host with its port, the length, no header twice; nothing of the environment."""
    upstream.reply("k", chat("a"))
    fetch(way, b'{"a":1}')
    [received] = upstream.received("k")
    assert (received.path, received.method, received.body) == (
        "/v1/chat/completions", "POST", b'{"a":1}',
    )  # fmt: skip
    assert received.headers == [
        ("Host", f"127.0.0.1:{upstream.port}"),
        ("Accept-Encoding", "identity"),
        ("Authorization", "Bearer k"),
        ("Content-Length", "7"),
    ]


def test_threads_share_a_transport(upstream: Upstream, way: Transport) -> None:
    """No answer is another's, and each thread needs one connection at most."""
    answers: dict[str, set[tuple[int, bytes]]] = {}

    def work(name: str) -> None:
        upstream.always(name, chat(name))
        answers[name] = {fetch(way, key=name) for _ in range(30)}

    threads = [threading.Thread(target=work, args=(f"k{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {name: {(200, chat(name).content())} for name in answers}
    assert len(answers) == 8
    assert upstream.connections <= 8


def test_closed_transport_opens_anew_and_keeps_nothing_of_before(
    upstream: Upstream, way: Transport
) -> None:
    """A reply that outlives close() closes its connection."""
    upstream.reply("k", chat("a"), chat("b"))
    reply = send(way)
    read_all(reply)
    way.close()
    reply.close()
    upstream.wait_for_connections()
    assert fetch(way) == (200, chat("b").content())


def test_errors_are_of_our_tree(upstream: Upstream, way: Transport) -> None:
    """Whatever the upstream does."""
    for answer in (raw(RESET), garbage(), raw(b"HTTP/1.1 200 OK\r\n", CUT)):
        upstream.reply("k", answer)
        with pytest.raises(UpstreamError):
            fetch(way)


def test_get_has_no_length(upstream: Upstream, way: Transport) -> None:
    """A request without a body says nothing of one."""
    reply = way.send(
        way.head("GET", "/models", {}),
        b"",
        caller=CallerConnection(None),
        deadline=time.monotonic() + 9,
    )
    assert b"gpt" in read_all(reply)
    reply.close()
    received: Received = upstream.received()[0]
    assert (received.method, received.path) == ("GET", "/v1/models")
    assert "content-length" not in received.header
