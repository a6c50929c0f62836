"""Signals of a `Proxy` tell an application of its calls, and nothing depends on what it does."""

from __future__ import annotations

import dataclasses
import gc
import json
import socket
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import flask
import pytest
from flask import Flask

from proxy import Attempt, Call, Proxy, Usage
from proxy.record.record import MAX_MESSAGE_CHARS, Record
from tests.support.gateway import PATIENCE_S, asked
from tests.support.upstream import HANG, MODEL, Upstream, chat, chunk, error, events, stream
from tests.support.wsgi import werkzeug_server

CHAT = "/llm/v1/chat/completions"
KEYS = ("sk-1-upstream-key", "sk-2-upstream-key")

_theirs: ContextVar[str] = ContextVar("theirs", default="")


class Told:
    """What receivers were told, in order: the signal's name, the call, and the attempt."""

    def __init__(self, proxy: Proxy, app: Flask) -> None:
        self.heard: list[tuple[str, Call, Attempt | None]] = []
        self.over = threading.Event()
        self._proxy = proxy
        self._app = app
        for name in ("call_started", "attempt_ended", "call_ended"):
            getattr(proxy, name).connect(self._receiver(name), weak=False)

    def _receiver(self, name: str) -> Any:
        def receive(app: Flask, *, call: Call, attempt: Attempt | None = None) -> None:
            assert app is self._app
            assert flask.current_app._get_current_object() is app  # type: ignore[attr-defined]
            assert not flask.has_request_context()
            assert self._proxy.gateway._places._lock.acquire(blocking=False)
            self._proxy.gateway._places._lock.release()
            held = [one["in_flight"] for one in self._proxy.gateway.pool.snapshot()]
            assert not any(held), f"{name}: a lease is out"
            if name == "call_ended":
                assert not self._proxy.gateway._places._taken
            self.heard.append((name, call, attempt))
            if name == "call_ended":
                self.over.set()

        return receive

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.heard]

    @property
    def last(self) -> Call:
        assert self.over.wait(PATIENCE_S)
        name, call, _ = self.heard[-1]
        assert name == "call_ended"
        return call


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[Proxy]:
    provider = {"name": "up", "base-url": upstream.url, "api-keys": [*KEYS], "models": [MODEL]}
    made = Proxy({"openai-compatibility": [provider]})
    yield made
    made.gateway.close()


@pytest.fixture
def app(proxy: Proxy) -> Flask:
    app = Flask("theirs")
    proxy.init_app(app, url_prefix="/llm")
    return app


@pytest.fixture
def told(proxy: Proxy, app: Flask) -> Told:
    return Told(proxy, app)


def post(app: Flask, **fields: Any) -> Any:
    headers = {"x-request-id": "req-1"}
    return app.test_client().post(CHAT, json=asked(MODEL, **fields), headers=headers)


def test_an_answered_call(upstream: Upstream, app: Flask, told: Told) -> None:
    """It begins, its attempt ends, it ends; all before the answer is with the caller."""
    upstream.default = chat("Hello", usage=(9, 3))
    assert post(app).status_code == 200
    assert told.names == ["call_started", "attempt_ended", "call_ended"]
    began, (_, _, attempt), ended = told.heard[0][1], told.heard[1], told.heard[2][1]
    assert (began.id, began.model, began.attempts, began.status) == ("req-1", MODEL, (), 0)
    assert (began.end, began.usage, began.times.total_s) == ("", None, None)
    assert (ended.id, ended.endpoint, ended.model, ended.caller) == ("req-1", CHAT, MODEL, "")
    assert (ended.status, ended.end, ended.stream) == (200, "ok", False)
    assert ended.usage == Usage(9, 3, cached_tokens=0, reasoning_tokens=0)
    assert ended.attempts == (attempt,)
    assert attempt is not None
    assert (attempt.client, attempt.model) == ("up/sk-...-key", MODEL)
    assert (attempt.status, attempt.reason, attempt.message) == (200, "ok", "")
    assert attempt.seconds is not None
    assert ended.times.total_s is not None
    assert 0 <= attempt.began_s <= attempt.began_s + attempt.seconds <= ended.times.total_s
    assert ended.times.first_event_s is None
    assert ended.times.arrived > 1.7e9
    assert ended.bytes_in > 0
    assert ended.bytes_out > 0


def test_a_stream(upstream: Upstream, app: Flask, told: Told) -> None:
    """The same, with the time of its first event."""
    upstream.default = stream("Hello", " there")
    assert post(app, stream=True).data.endswith(b"[DONE]\n\n")
    assert told.names == ["call_started", "attempt_ended", "call_ended"]
    assert told.last.stream
    assert told.last.end == "ok"
    assert told.last.times.first_event_s is not None


def test_attempts_that_fail(upstream: Upstream, app: Flask, told: Told) -> None:
    """Each with the upstream's words, masked and bounded."""
    first = error(429, f"slow down, {KEYS[0]}. " + "x" * 2000, code="rate_limit_exceeded")
    upstream.reply(None, first, error(400, "no such parameter", code="bad"))
    assert post(app).status_code == 400
    assert told.names == ["call_started", "attempt_ended", "attempt_ended", "call_ended"]
    call = told.last
    assert (call.status, call.end, call.usage) == (400, "bad", None)
    refused, last = call.attempts
    assert (refused.status, refused.reason) == (429, "rate_limit_exceeded")
    assert refused.message.startswith("slow down, sk-")
    assert KEYS[0] not in refused.message
    assert len(refused.message) == MAX_MESSAGE_CHARS
    assert (last.status, last.reason, last.message) == (400, "bad", "no such parameter")
    assert refused.client != last.client


def test_a_stream_that_breaks(upstream: Upstream, app: Flask, told: Told) -> None:
    """200 was told already; its end and its attempt's say what happened."""
    upstream.default = stream("Hello", finish=None, done=False)
    assert b"upstream_truncated" in post(app, stream=True).data
    call = told.last
    assert (call.status, call.end) == (200, "upstream_truncated")
    [attempt] = call.attempts
    assert (attempt.status, attempt.reason) == (200, "upstream_truncated")
    assert "cut off" in attempt.message


def test_a_call_that_is_refused(app: Flask, told: Told) -> None:
    """It never began: there is its end only."""
    assert app.test_client().post(CHAT, json=asked("none")).status_code == 404
    assert app.test_client().post(CHAT, data="{").status_code == 400
    assert told.names == ["call_started", "call_ended", "call_ended"]
    ends = [(call.status, call.end) for name, call, _ in told.heard if name == "call_ended"]
    assert ends == [(404, "model_not_found"), (400, "invalid_request")]


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_caller_who_leaves(upstream: Upstream, app: Flask, told: Told, is_stream: bool) -> None:
    """Its end is known though nobody reads the answer."""
    upstream.default = (
        events(chunk({"content": "a"}), HANG) if is_stream else chat("Hello").after(HANG)
    )
    with werkzeug_server(app) as port:
        body = json.dumps(asked(MODEL, stream=is_stream)).encode()
        head = f"POST {CHAT} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock:
            sock.sendall(head.encode() + body)
            upstream.wait_for(1)
            while is_stream and b"data: " not in sock.recv(4096):
                pass
        assert told.last.end == "caller_gone"
    [attempt] = told.last.attempts
    assert attempt.reason == "caller_gone"


def test_a_receiver_that_raises(
    upstream: Upstream, proxy: Proxy, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; the answer and other receivers are none the worse."""
    upstream.default = chat("Hello")

    def fail(*_: object, **__: object) -> None:
        raise LookupError("theirs")

    for signal in (proxy.call_started, proxy.attempt_ended, proxy.call_ended):
        signal.connect(fail, weak=False)
    told = Told(proxy, app)
    assert post(app).status_code == 200
    assert told.names == ["call_started", "attempt_ended", "call_ended"]
    assert caplog.text.count("LookupError: theirs") == 3
    caplog.clear()


def test_receivers_do_not_share_a_context(upstream: Upstream, proxy: Proxy, app: Flask) -> None:
    """Each has the application's own, which is torn down behind it: sessions of a database are."""
    upstream.default = chat("Hello")
    seen: list[tuple[bool, str]] = []
    torn: list[object] = []
    app.before_request(lambda: (_theirs.set("request"), None)[1])
    app.teardown_appcontext(torn.append)

    def receive(_: object, **__: object) -> None:
        seen.append((hasattr(flask.g, "mark"), _theirs.get()))
        flask.g.mark = True

    proxy.call_ended.connect(receive)
    proxy.call_ended.connect(lambda *_, **__: receive(None), weak=False)
    assert post(app).status_code == 200
    assert seen == [(False, ""), (False, "")]
    assert len(torn) == 3


def test_a_sender_is_the_application(upstream: Upstream, proxy: Proxy, app: Flask) -> None:
    """Of several that share one proxy each can be listened to alone."""
    upstream.default = chat("Hello")
    other = Flask("other")
    proxy.init_app(other, url_prefix="/llm")
    heard: list[object] = []

    def receive(sender: object, *, call: Call) -> None:
        heard.append(sender)

    proxy.call_ended.connect(receive, sender=other)
    assert post(app).status_code == 200
    assert post(other).status_code == 200
    assert heard == [other]


def test_nothing_is_made_while_nobody_listens(
    upstream: Upstream, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the record's copy."""

    def made(_: object) -> Call:
        raise AssertionError("a call was made")

    monkeypatch.setattr(Record, "call", made)
    upstream.default = chat("Hello")
    assert post(app).status_code == 200


@pytest.mark.long
# The interpreter's own finalizer of a socket says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_who_comes_upon_a_lost_stream_does_not_wait_for_receivers(
    upstream: Upstream, proxy: Proxy, app: Flask
) -> None:
    """A helper thread runs them; in order, and in the application's context as ever."""
    upstream.reply(None, events(chunk({"content": "a"}), HANG), chat("Hello"))
    may_go_on = threading.Event()
    lost: list[str] = []
    over = threading.Event()

    def slow(sender: Flask, *, call: Call, attempt: Attempt | None = None) -> None:
        if call.id != "lost":
            return
        assert may_go_on.wait(PATIENCE_S)
        assert flask.current_app.name == sender.name
        lost.append(f"{attempt and attempt.reason} {call.end}")
        if not attempt:
            over.set()

    proxy.attempt_ended.connect(slow)
    proxy.call_ended.connect(slow)
    client = app.test_client()
    answer = client.post(
        CHAT, json=asked(MODEL, stream=True), headers={"x-request-id": "lost"}, buffered=False
    )
    chunks = answer.iter_encoded()
    assert next(chunks).startswith(b"data: ")
    cycle: list[object] = [answer, chunks]
    cycle.append(cycle)
    del answer, chunks, cycle
    gc.collect()
    assert post(app).status_code == 200
    assert not lost
    may_go_on.set()
    assert over.wait(PATIENCE_S)
    assert lost == ["caller_gone caller_gone", "None caller_gone"]


def test_a_call_is_plain_data(upstream: Upstream, app: Flask, told: Told) -> None:
    """Frozen; as JSON it comes back as it was, and holds no key whatever the caller chose."""
    upstream.default = chat("Hello")
    response = app.test_client().post(CHAT, json=asked(MODEL), headers={"x-request-id": KEYS[0]})
    assert response.status_code == 200
    found = json.loads(json.dumps(dataclasses.asdict(told.last)))
    assert found["attempts"][0]["reason"] == "ok"
    assert KEYS[0] not in json.dumps(found)
    assert found["id"].startswith("sk-")
    with pytest.raises(dataclasses.FrozenInstanceError):
        told.last.status = 1  # type: ignore[misc]
